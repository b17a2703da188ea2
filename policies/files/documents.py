"""The document of a policy, as files, versions, the admin and the API write it: from values to a rule and back."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from policies.files.file_errors import FileError, join_path, quoted, raise_any
from policies.files.strict_yaml import FILE_BYTES_MAX
from policies.rules import (
    COUNT_LIMIT_MAX,
    LIMITS_MAX,
    MODEL_GLOBS_MAX,
    MODELS_OF_LIMIT_BYTES_MAX,
    PRIORITY_MAX,
    Kind,
    LimitRule,
    Mode,
    ModelRules,
    OnUnavailable,
    OnUnsettled,
    PerRequest,
    PolicyRule,
    PolicySet,
    Scope,
    UnknownPrice,
)
from tenants.lengths import NAME_LENGTH_MAX, TITLE_LENGTH_MAX
from usage.amounts import Per
from usage.assessment import LimitKind
from usage.metrics import Metric
from usage.money import NANO, format_usd, format_usd_if_known, parse_usd
from usage.windows import Window
from usage.wording import with_models

VERSION = 1
PLANS_MAX = 1_000
DEPLOYMENTS_MAX = 1_000
Choice = TypeVar("Choice", bound=StrEnum)


def document(rule: PolicyRule) -> dict[str, Any]:
    """One policy as in a file: fit for JSON, money as decimal strings; what says nothing is left out."""
    found: dict[str, Any] = {
        "name": rule.name,
        "scope": {
            name: value
            for name, value in (
                ("user", rule.scope.user),
                ("feature", rule.scope.feature),
                ("plan", rule.scope.plan),
            )
            if value
        },
        "kind": rule.kind.value,
        "mode": rule.mode.value,
        "priority": rule.priority,
        "models": {
            name: list(globs)
            for name, globs in (("allow", rule.models.allow), ("deny", rule.models.deny))
            if globs
        },
        "per_request": _per_request_document(rule.per_request),
        "limits": [
            {
                "metric": limit.metric.value,
                "window": limit.window.value,
                "amount": format_usd(limit.amount) if limit.metric is Metric.COST_USD else limit.amount,
                "per": limit.per.value,
                **({"models": list(limit.models)} if limit.models else {}),
            }
            for limit in rule.limits
        ],
        "on_unavailable": rule.on_unavailable.value,
        "on_unsettled": rule.on_unsettled.value,
        "unknown_price": rule.unknown_price.value,
    }
    return {name: value for name, value in found.items() if value not in ({}, [])}


def _per_request_document(caps: PerRequest) -> dict[str, Any]:
    found = {
        "cost_usd": format_usd_if_known(caps.cost_nano),
        "input_tokens": caps.input_tokens,
        "output_tokens": caps.output_tokens,
    }
    return {name: value for name, value in found.items() if value is not None}


def rule_of(document: Mapping[str, Any]) -> PolicyRule:
    """The policy that a document describes; the opposite of `document`. Raises PolicyFileError."""
    errors: list[FileError] = []
    rule = _policy(dict(document), "", errors)
    raise_any(errors)
    return rule


def plan_name_error(name: str) -> str | None:
    """Why this cannot be the name of a plan."""
    return _text_error(name, NAME_LENGTH_MAX) or _blank_error(name)


def deployment_error(text: str) -> str | None:
    """Why this cannot be the name of a deployment, or of the model behind it."""
    return _text_error(text, NAME_LENGTH_MAX) or _blank_error(text)


class _Fields:
    """The keys of one mapping.

    What is wrong is noted, and a stand-in returned, so that all errors of a file are found.
    """

    def __init__(self, value: Any, path: str, errors: list[FileError], known: Sequence[str]) -> None:
        self.path = path
        self._errors = errors
        self._values: dict[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            errors.append(FileError(path, f"must be a mapping with the keys {', '.join(known)}"))
        for key in self._values:
            if key not in known:
                errors.append(
                    FileError(join_path(path, key), f"unknown key; known here are {', '.join(known)}")
                )

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def at(self, key: str) -> str:
        return join_path(self.path, key)

    def fail(self, key: str, message: str) -> None:
        self._errors.append(FileError(self.at(key), message))

    def take(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def text(self, key: str, length_max: int, *, default: str | None = None) -> str:
        if key not in self and default is not None:
            return default
        value = self.take(key)
        message = _text_error(value, length_max)
        if message:
            self.fail(key, message)
            return ""
        return str(value)

    def choice(self, key: str, kind: type[Choice], default: Choice | None = None) -> Choice:
        """The value, or else the default or any other that lets reading go on."""
        if key not in self and default is not None:
            return default
        value = self.take(key)
        if isinstance(value, str) and value in {choice.value for choice in kind}:
            return kind(value)
        self.fail(key, f"must be one of {', '.join(kind)}")
        return next(iter(kind))

    def whole(self, key: str, least: int, most: int, default: int = 0) -> int:
        value = self.take(key, default)
        if type(value) is int and least <= value <= most:
            return value
        self.fail(key, f"must be a whole number from {least} to {most}, without quotes")
        return default

    def usd(self, key: str) -> int:
        """Nano-USD."""
        value = self.take(key)
        if isinstance(value, float):
            self.fail(key, 'is read inexactly without quotes; write it in quotes, such as "5.00"')
        elif type(value) is int or isinstance(value, str):
            try:
                nano = parse_usd(str(value))
            except ValueError as error:
                self.fail(key, str(error))
            else:
                if Decimal(nano) == Decimal(value) * NANO:
                    return nano
                self.fail(key, "has more than 9 decimals; round it")
        else:
            self.fail(key, 'must be an amount of USD in quotes, such as "5.00"')
        return 0

    def items(self, key: str, most: int) -> list[Any]:
        value = self.take(key, [])
        if not isinstance(value, list):
            self.fail(key, "must be a list")
            return []
        if len(value) > most:
            self.fail(key, f"has {len(value)} entries; at most {most} are allowed")
            return []
        return value

    def texts(self, key: str, most: int, length_max: int) -> tuple[str, ...]:
        """Distinct names without blanks around them."""
        found = []
        for number, value in enumerate(self.items(key, most)):
            message = _text_error(value, length_max) or _blank_error(value)
            if not message and value in found:
                message = f"{quoted(value)} is listed twice; keep one"
            if message:
                self.fail(f"{key}[{number}]", message)
            else:
                found.append(value)
        return tuple(found)


def policy_set_of(value: Any, errors: list[FileError]) -> PolicySet:
    fields = _Fields(value, "", errors, ("version", "plans", "deployments", "policies"))
    if type(fields.take("version")) is not int or fields.take("version") != VERSION:
        fields.fail("version", f"must be {VERSION}; begin the file with `version: {VERSION}`")
    plans = fields.texts("plans", PLANS_MAX, NAME_LENGTH_MAX)
    deployments = _deployments(fields, errors) if "deployments" in fields else None
    # The size of the file bounds the list.
    values = fields.items("policies", FILE_BYTES_MAX)
    policies = []
    first_places: dict[str, str] = {}
    for number, item in enumerate(values):
        path = f"policies[{number}]"
        rule = _policy(item, path, errors)
        policies.append(rule)
        first = first_places.setdefault(rule.name, path)
        if rule.name and first != path:
            message = f"{quoted(rule.name)} is the name of {first} too; names must differ"
            errors.append(FileError(f"{path}.name", message))
        if rule.scope.plan and rule.scope.plan not in plans:
            errors.append(unknown_plan(f"{path}.scope.plan", rule.scope.plan))
    return PolicySet(plans=plans, deployments=deployments, policies=tuple(policies))


def _deployments(fields: _Fields, errors: list[FileError]) -> tuple[tuple[str, str], ...]:
    """By name. Names that differ only in case are one."""
    given = fields.take("deployments")
    if not isinstance(given, dict):
        fields.fail("deployments", "must be a mapping of names to models, such as {team-chat: gpt-4o}")
        return ()
    if len(given) > DEPLOYMENTS_MAX:
        fields.fail("deployments", f"has {len(given)} entries; at most {DEPLOYMENTS_MAX} are allowed")
        return ()
    found: dict[str, tuple[str, str]] = {}
    for name, model in given.items():
        path = join_path("deployments", str(name))
        message = deployment_error(name)
        if not message and name.lower() in found:
            message = f"differs from {quoted(found[name.lower()][0])} only in case; keep one"
        message = message or deployment_error(model)
        if message:
            errors.append(FileError(path, message))
        else:
            found[name.lower()] = (name, model)
    return tuple(sorted(found.values()))


def unknown_plan(path: str, plan: str) -> FileError:
    return FileError(path, f"there is no plan {quoted(plan)}; add it to `plans`, or name one that is there")


def _policy(value: Any, path: str, errors: list[FileError]) -> PolicyRule:
    known = (
        "name", "scope", "kind", "mode", "priority", "models", "per_request", "limits",
        "on_unavailable", "on_unsettled", "unknown_price",
    )  # fmt: skip
    fields = _Fields(value, path, errors, known)
    name = fields.text("name", TITLE_LENGTH_MAX)
    if name and _blank_error(name):
        fields.fail("name", str(_blank_error(name)))
    return PolicyRule(
        name=name,
        scope=_scope(fields.take("scope", {}), fields.at("scope"), errors),
        kind=fields.choice("kind", Kind, Kind.OVERRIDE),
        mode=fields.choice("mode", Mode, Mode.ENFORCE),
        priority=fields.whole("priority", -PRIORITY_MAX, PRIORITY_MAX),
        models=_models(fields.take("models", {}), fields.at("models"), errors),
        per_request=_per_request(fields.take("per_request", {}), fields.at("per_request"), errors),
        limits=_limits(fields, errors),
        on_unavailable=fields.choice("on_unavailable", OnUnavailable, OnUnavailable.BLOCK),
        on_unsettled=fields.choice("on_unsettled", OnUnsettled, OnUnsettled.RELEASE),
        unknown_price=fields.choice("unknown_price", UnknownPrice, UnknownPrice.BLOCK),
    )


def _scope(value: Any, path: str, errors: list[FileError]) -> Scope:
    fields = _Fields(value, path, errors, ("user", "feature", "plan"))
    return Scope(
        user=fields.text("user", NAME_LENGTH_MAX, default=""),
        feature=fields.text("feature", NAME_LENGTH_MAX, default=""),
        plan=fields.text("plan", NAME_LENGTH_MAX, default=""),
    )


def _models(value: Any, path: str, errors: list[FileError]) -> ModelRules:
    fields = _Fields(value, path, errors, ("allow", "deny"))
    return ModelRules(
        allow=fields.texts("allow", MODEL_GLOBS_MAX, NAME_LENGTH_MAX),
        deny=fields.texts("deny", MODEL_GLOBS_MAX, NAME_LENGTH_MAX),
    )


def _per_request(value: Any, path: str, errors: list[FileError]) -> PerRequest:
    fields = _Fields(value, path, errors, ("cost_usd", "input_tokens", "output_tokens"))
    return PerRequest(
        cost_nano=fields.usd("cost_usd") if "cost_usd" in fields else None,
        input_tokens=fields.whole("input_tokens", 0, COUNT_LIMIT_MAX) if "input_tokens" in fields else None,
        output_tokens=fields.whole("output_tokens", 0, COUNT_LIMIT_MAX)
        if "output_tokens" in fields
        else None,
    )


def _limits(policy: _Fields, errors: list[FileError]) -> tuple[LimitRule, ...]:
    found: list[LimitRule] = []
    first_places: dict[LimitKind, str] = {}
    for number, value in enumerate(policy.items("limits", LIMITS_MAX)):
        path = policy.at(f"limits[{number}]")
        errors_before = len(errors)
        limit = _limit(value, path, errors)
        found.append(limit)
        if len(errors) > errors_before:
            continue
        first = first_places.setdefault(limit.kind, path)
        if first != path:
            message = (
                f"a limit of {limit.metric} per {limit.per} and {limit.window}{with_models(limit.models)} is in "
                f"{first} too; keep one"
            )
            errors.append(FileError(path, message))
    return tuple(found)


def _limit(value: Any, path: str, errors: list[FileError]) -> LimitRule:
    fields = _Fields(value, path, errors, ("metric", "window", "amount", "per", "models"))
    metric = fields.choice("metric", Metric)
    window = fields.choice("window", Window)
    if metric is Metric.CONCURRENCY and window is not Window.TOTAL:
        fields.fail("window", "concurrency has no window of its own; write `window: total`")
    if "amount" not in fields:
        fields.fail("amount", "is missing; write how much is allowed (0 means none)")
        amount = 0
    elif metric is Metric.COST_USD:
        amount = fields.usd("amount")
    else:
        amount = fields.whole("amount", 0, COUNT_LIMIT_MAX)
    models = fields.texts("models", MODEL_GLOBS_MAX, NAME_LENGTH_MAX)
    size = sum(len(name.encode()) for name in models)
    if size > MODELS_OF_LIMIT_BYTES_MAX:
        fields.fail(
            "models",
            f"holds {size} bytes; at most {MODELS_OF_LIMIT_BYTES_MAX} are allowed: name several by one pattern",
        )
    if fields.take("models", None) == []:
        fields.fail("models", "names none; name the models to count, or leave it out to count all")
    for number, name in enumerate(models):
        if "," in name:
            fields.fail(f"models[{number}]", "holds a comma; list each name or pattern by itself")
    return LimitRule(
        metric=metric,
        window=window,
        amount=amount,
        per=fields.choice("per", Per, Per.USER),
        # In one order: theirs says nothing.
        models=tuple(sorted(models)),
    )


def _text_error(value: Any, length_max: int) -> str | None:
    if value is None or value == "":
        return "is missing or empty; write a text"
    if not isinstance(value, str):
        return "must be a text; write it in quotes"
    if len(value) > length_max:
        return f"has {len(value)} characters; at most {length_max} are allowed"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        return "holds a control character; leave it out"
    return None


def _blank_error(text: str) -> str | None:
    return None if text == text.strip() else "begins or ends with a blank; leave it out"
