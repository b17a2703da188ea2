"""What a form of a policy says while it is being filled in. What cannot be read is a hole, never an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from policies.admin.policy_page import known
from policies.changing.known_names import known_names
from policies.describing import wording
from policies.describing.overlaps import overlaps
from policies.describing.warnings import PolicyWarning, warnings
from policies.describing.wording import Holes
from policies.files import documents
from policies.files.file_errors import PolicyFileError
from policies.resolution import StoredPolicy
from policies.rules import LIMITS_MAX, LimitRule, PolicyRule
from tenants.models import Environment
from usage.assessment import PolicyRef
from usage.metrics import Metric

READINGS_MAX = 20
OVERLAPS_SHOWN_MAX = 10
_UNNAMED = "This policy"
# The id of what is being typed: no other policy has it.
_TYPED = "typed"
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)
_CAPS = {
    "cost_usd": "the most that it may cost",
    "input_tokens": "the most that it may read",
    "output_tokens": "the most that it may write",
}
_OTHERS = {
    "kind": "Kind",
    "mode": "Mode",
    "priority": "Priority",
    "scope.user": "User",
    "scope.feature": "Feature",
    "scope.plan": "Plan",
    "models.allow": "Allowed models",
    "models.deny": "Denied models",
    "on_unavailable": "Without counters",
    "on_unsettled": "Holds never reported",
    "unknown_price": "Models without a price",
}

Data = Mapping[str, str]


def show(
    request: HttpRequest, environment: Environment, others: list[StoredPolicy], *, ordinal: int | None
) -> HttpResponse:
    """The fragment beside the form, for the form as it is posted. `ordinal`: of a policy that there is already."""
    rule, numbers, holes = read(request.POST)
    ref = PolicyRef(_TYPED, rule.name, 0, rule.scope.label)
    typed = StoredPolicy(ref=ref, ordinal=_youngest(others) + 1 if ordinal is None else ordinal, rule=rule)
    return render(
        request,
        "console/policies/preview.html",
        {
            "wording": wording.describe(rule, environment.tenant.timezone, holes),
            "warnings": concerns(environment, rule, others, ordinal=ordinal, numbers=numbers),
            "overlaps": overlaps(typed, others)[:OVERLAPS_SHOWN_MAX],
        },
    )


def _youngest(others: list[StoredPolicy]) -> int:
    return max((other.ordinal for other in others), default=0)


def concerns(
    environment: Environment,
    rule: PolicyRule,
    others: list[StoredPolicy],
    *,
    ordinal: int | None,
    numbers: Sequence[int] = (),
) -> list[str]:
    """What is probably not meant. `numbers`: of the rule's limits in the form; else they are counted."""
    found = warnings(rule, others, known(known_names(environment)), ordinal=ordinal)
    return [_text(each, numbers or range(1, len(rule.limits) + 1)) for each in found]


def _text(concern: PolicyWarning, numbers: Sequence[int]) -> str:
    return concern.text if concern.limit is None else f"Limit {numbers[concern.limit]}: {concern.text}"


def read(data: Data) -> tuple[PolicyRule, list[int], Holes]:
    """The policy as far as it can be read, the number in the form of each of its limits, and what cannot be read."""
    rule, caps, others = _without_limits(data)
    limits: list[LimitRule] = []
    numbers: list[int] = []
    unread: list[str] = []
    for number, row in enumerate(_limit_rows(data), start=1):
        limit = _limit(row)
        if limit is None:
            unread.append(f"limit {number}")
        else:
            limits.append(limit)
            numbers.append(number)
    holes = Holes(limits=tuple(unread), caps=tuple(caps), others=tuple(others))
    return replace(rule, limits=tuple(limits)), numbers, holes


def _without_limits(data: Data) -> tuple[PolicyRule, list[str], list[str]]:
    document = _document(data)
    caps: list[str] = []
    others: list[str] = []
    # Each round takes out what was refused.
    for _ in range(READINGS_MAX):
        try:
            return documents.rule_of(document), caps, others
        except PolicyFileError as error:
            for path in {refused.path.partition("[")[0] for refused in error.errors}:
                part, _, name = path.partition(".")
                if name and isinstance(document.get(part), dict):
                    document[part].pop(name, None)
                else:
                    document.pop(part, None)
                    if part == "name":
                        document["name"] = _UNNAMED
                if part == "per_request":
                    caps.append(_CAPS.get(name, path))
                elif part != "name":
                    others.append(_OTHERS.get(path, path))
    return PolicyRule(name=_UNNAMED), caps, others


def _document(data: Data) -> dict[str, Any]:
    scope = {name: text for name in ("user", "feature", "plan") if (text := data.get(f"scope_{name}", ""))}
    models = {
        name: globs
        for name in ("allow", "deny")
        if (globs := [line.strip() for line in data.get(f"models_{name}", "").splitlines() if line.strip()])
    }
    per_request: dict[str, Any] = {
        name: text.strip() if name == "cost_usd" else _whole(text)
        for name in _CAPS
        if (text := data.get(f"per_request_{name}", "")).strip()
    }
    plain = ("kind", "mode", "on_unavailable", "on_unsettled", "unknown_price")
    return {
        "name": data.get("name", "").strip() or _UNNAMED,
        **{name: data[name] for name in plain if data.get(name)},
        **({"priority": _whole(text)} if (text := data.get("priority", "")).strip() else {}),
        "scope": scope,
        "models": models,
        "per_request": per_request,
    }


def _limit_rows(data: Data) -> list[dict[str, str]]:
    """Those that are filled in and not taken out."""
    total = data.get("limits-TOTAL_FORMS", "")
    count = min(int(total), LIMITS_MAX) if _WHOLE.fullmatch(total) else 0
    names = ("metric", "window", "amount", "per", "models", "DELETE")
    rows = [{name: data.get(f"limits-{row}-{name}", "") for name in names} for row in range(count)]
    return [row for row in rows if not row["DELETE"] and (row["metric"] or row["amount"].strip())]


def _limit(row: dict[str, str]) -> LimitRule | None:
    text = row["amount"].strip()
    amount: Any = text if row["metric"] == Metric.COST_USD else _whole(text)
    models = [name.strip() for name in row["models"].split(",") if name.strip()]
    document = {
        "metric": row["metric"],
        "window": row["window"],
        "amount": amount,
        "per": row["per"],
        **({"models": models} if models else {}),
    }
    try:
        (limit,) = documents.rule_of({"name": _UNNAMED, "limits": [document]}).limits
    except PolicyFileError:
        return None
    return limit


def _whole(text: str) -> int | str:
    """The text itself if it is no whole number."""
    try:
        number = Decimal(text.strip())
        return int(number) if _WHOLE.fullmatch(f"{number:.0f}") and number == int(number) else text
    except (InvalidOperation, OverflowError, ValueError):
        return text
