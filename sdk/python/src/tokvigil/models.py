"""The values that go in and come out: frozen, typed, money as Decimal.

Reading an answer is tolerant: fields that this version does not know are ignored, and a field that cannot be read is
left out and named in the log. A decision needs only its verdict, its reason and its id; without these three it is a
`UnreachableError`. A block needs its verdict alone: it must stay a block, whatever else is wrong with the answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, Self, TypeVar, get_args

from tokvigil import checked, reasons
from tokvigil.errors import ConfigurationError, UnreachableError
from tokvigil.frozen_mapping import FrozenMapping
from tokvigil.json_values import decimal, is_false, present
from tokvigil.quantities import CACHED_OF, DEFAULT_TIER, NAMES, OF_OUTPUT, SERVICE_TIERS
from tokvigil.reasons import ReasonClass, ReasonCode
from tokvigil.retries import WAIT_S_MAX

logger = logging.getLogger("tokvigil")

UsageStatus = Literal["succeeded", "failed", "cancelled", "partial"]
USAGE_STATUSES = frozenset(get_args(UsageStatus))
COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
Amount = int | Decimal
# A field that cannot be read is named in the log this often.
SAY_EVERY_S = 60.0
T = TypeVar("T")
# A type of JSON values, or a function that raises ValueError.
Kind = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRef:
    """The policy version that made a decision."""

    id: str
    name: str
    version: int
    scope: str

    @classmethod
    def from_wire(cls, fields: Fields) -> Self | None:
        """None without an id and a name."""
        said = fields.read(_POLICY)
        return None if fields.lacks(said, "id", "name") else cls(**{"version": 0, "scope": "", **said})


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """One limit and where its counter stands. Costs are Decimal USD, everything else is an integer count."""

    policy: str
    metric: str
    window: str
    per: str
    limit: Amount
    used: Amount
    held: Amount
    remaining: Amount
    resets_at: datetime | None
    exceeded: bool
    # What boosts add to the limit now, which is in it; None: no boost runs.
    boosted_by: Amount | None = None
    # Patterns of the models that it counts; empty: of all.
    models: tuple[str, ...] = ()

    @classmethod
    def from_wire(cls, fields: Fields) -> Self | None:
        """None without a metric and its amounts."""
        kinds = _COST_LIMIT if fields.data.get("metric") == "cost_usd" else _COUNT_LIMIT
        said = fields.read(kinds)
        if fields.lacks(said, "metric", "limit", "used", "remaining"):
            return None
        return cls(**{**_UNSAID_OF_LIMIT, **said})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to "may this AI request go out?". `degraded` is True if it was made without the counters."""

    request_id: str
    allowed: bool
    reason_code: ReasonCode
    reason_class: ReasonClass
    message: str = ""
    policy: PolicyRef | None = None
    shadow: Mapping[str, Any] | None = None
    limit_state: tuple[LimitState, ...] = ()
    retry_after: int | None = None
    estimated_cost_usd: Decimal | None = None
    reserved: Mapping[str, Any] | None = None
    expires_at: datetime | None = None
    max_output_tokens: int | None = None
    suggested_model: str | None = None
    degraded: bool = False
    trace: Any = None

    def to_wire(self) -> dict[str, Any]:
        """As JSON, as `from_wire` reads it; what is None is left out, and the trace."""
        said = asdict(replace(self, trace=None))
        return {name: _as_json(value) for name, value in said.items() if value is not None}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], asked: str | None = None) -> Self:
        """On the request `asked`, unless the answer names one. Raises `UnreachableError` without a verdict, its reason
        and its id; a block says its verdict in any form of false, or by its reason, and may lack the others."""
        fields = Fields(data)
        unsaid: dict[str, Any] = {}
        if _says_no(data):
            unsaid = {"allowed": False, "reason_code": reasons.UNREADABLE} | present({"request_id": asked})
        said = unsaid | fields.read(_DECISION, required=[name for name in _VERDICT if name not in unsaid])
        said.setdefault("reason_class", reasons.class_of(said["reason_code"]))
        decision = cls(
            policy=fields.part("policy", PolicyRef.from_wire),
            limit_state=fields.parts("limit_state", LimitState.from_wire),
            trace=data.get("trace"),
            **said,
        )
        fields.say_what_is_left_out(f"the decision on request {decision.request_id}")
        return decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The usage meter: the policies in force for a subject and the state of their limits."""

    policies: tuple[PolicyRef, ...]
    limit_state: tuple[LimitState, ...]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        fields = Fields(data)
        limits = cls(
            policies=fields.parts("policies", PolicyRef.from_wire),
            limit_state=fields.parts("limit_state", LimitState.from_wire),
            raw=data,
        )
        fields.say_what_is_left_out("the limits")
        return limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one AI call used, in tokens: input and output are totals, the others are parts of them.

    `cache_write_tokens` are those kept for minutes; `quantities` has what is kept for an hour, audio, images, searches
    and whatever else is billed, by the names of TokVigil's API, without zeros. `service_tier` and `region` are those
    that served the call, None where they make no price; `reported_cost_usd` is what the provider says it cost.
    `other_models` has what other models used for the same answer, by their names: it is reported beside the call.

    `source` is "provider" if the provider said so, "estimated" if it did not and the SDK counted. `doubtful` says what
    in the provider's figures cannot be, and was left out or cut.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    quantities: Mapping[str, int] = FrozenMapping()
    service_tier: str | None = None
    region: str | None = None
    reported_cost_usd: Decimal | None = None
    other_models: Mapping[str, Usage] = FrozenMapping()
    source: Literal["provider", "estimated"] = "provider"
    doubtful: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.quantities, FrozenMapping):
            said = {name: amount for name, amount in self.quantities.items() if amount != 0}
            object.__setattr__(self, "quantities", FrozenMapping(said))
        if not isinstance(self.other_models, FrozenMapping):
            object.__setattr__(self, "other_models", FrozenMapping(self.other_models))


def checked_usage(usage: Usage) -> Usage:
    """With counts that are ints. Raises `ConfigurationError` for what TokVigil does not take."""
    counts: dict[str, Any] = {
        name: checked.count(name, getattr(usage, name), checked.TOKENS_MAX) for name in COUNTS
    }
    cost_usd = usage.reported_cost_usd
    whole = replace(
        usage,
        **counts,
        quantities=checked_quantities(usage.quantities),
        service_tier=checked_tier(usage.service_tier),
        region=checked.name("region", usage.region),
        reported_cost_usd=None if cost_usd is None else checked.cost_usd("reported_cost_usd", cost_usd),
        other_models={
            checked.model(model): checked_usage(used) for model, used in usage.other_models.items()
        },
    )
    if reason := contradiction(whole):
        raise ConfigurationError(reason)
    return whole


def checked_quantities(said: Mapping[str, Any]) -> dict[str, int]:
    """Without zeros. Raises `ConfigurationError` for a name that TokVigil does not have, and for what is no amount."""
    for name in said:
        checked.one_of("a name in quantities", name, NAMES)
    amounts = {
        name: checked.count(f"quantities[{name!r}]", amount, checked.TOKENS_MAX)
        for name, amount in said.items()
    }
    return {name: amount for name, amount in amounts.items() if amount}


def checked_tier(said: Any) -> str | None:
    """None for the default one, which says nothing. Raises `ConfigurationError` for one that TokVigil does not have."""
    if said is None:
        return None
    checked.one_of("service_tier", said, SERVICE_TIERS)
    return None if said == DEFAULT_TIER else str(said)


def contradiction(usage: Usage) -> str | None:
    """Why no call can have used this: a part is larger than its total. None: it can."""
    cached, amounts = usage.cached_input_tokens, usage.quantities
    if cached > usage.input_tokens:
        return "cached_input_tokens must not exceed input_tokens: they are a part of them"
    for part, cached_part in CACHED_OF.items():
        if amounts.get(cached_part, 0) > min(cached, amounts.get(part, 0)):
            return f"{cached_part} must not exceed cached_input_tokens, nor {part}: they are a part of both"
    if input_parts(usage) > usage.input_tokens:
        return (
            "cache_write_tokens and cached_input_tokens together must not exceed input_tokens, nor with audio, images "
            "and video that were not cached: they are separate parts of them"
        )
    if output_parts(usage) > usage.output_tokens:
        return (
            "reasoning_tokens must not exceed output_tokens, nor with audio, images, video and citations: they are "
            "separate parts of them"
        )
    return None


def input_parts(usage: Usage) -> int:
    """Tokens of the input that are more than fresh text, each counted once."""
    amounts = usage.quantities
    fresh = sum(amounts.get(part, 0) - amounts.get(cached, 0) for part, cached in CACHED_OF.items())
    written = usage.cache_write_tokens + amounts.get("cache_write_1h_tokens", 0)
    return usage.cached_input_tokens + written + fresh + amounts.get("input_video_tokens", 0)


def output_parts(usage: Usage) -> int:
    """Tokens of the output that are more than text, each counted once."""
    return usage.reasoning_tokens + sum(usage.quantities.get(name, 0) for name in OF_OUTPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent:
    """One usage report as it goes over the wire.

    The same event may be sent any number of times: TokVigil counts a request_id once and compares the body,
    so an event is never changed after its first attempt. A field that cannot be one is a `ConfigurationError` that
    names it, before anything is written down. A time without a zone is local time.
    """

    request_id: str
    user_id: str
    model: str
    usage: Usage
    status: UsageStatus = "succeeded"
    feature: str | None = None
    plan: str | None = None
    run_id: str | None = None
    provider: str | None = None
    # The name that was asked for, if another model answered: `model` is the one that did.
    requested_model: str | None = None
    latency_ms: int | None = None
    # That of the usage, unless it is said here.
    reported_cost_usd: Decimal | None = None
    occurred_at: datetime | None = None
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        checked.request_id(self.request_id)
        checked.model(self.model)
        checked.one_of("status", self.status, USAGE_STATUSES)
        object.__setattr__(self, "user_id", checked.user_id(self.user_id))
        if not isinstance(self.usage, Usage):
            raise ConfigurationError(f"usage is a Usage, and this is a {type(self.usage).__name__}")
        object.__setattr__(self, "usage", checked_usage(self.usage))
        if self.latency_ms is not None:
            latency_ms = checked.count("latency_ms", self.latency_ms, checked.LATENCY_MS_MAX)
            object.__setattr__(self, "latency_ms", latency_ms)
        cost_usd = self.usage.reported_cost_usd
        if self.reported_cost_usd is not None:
            cost_usd = checked.cost_usd("reported_cost_usd", self.reported_cost_usd)
            object.__setattr__(self, "usage", replace(self.usage, reported_cost_usd=cost_usd))
        object.__setattr__(self, "reported_cost_usd", cost_usd)
        if self.requested_model is not None:
            checked.model(self.requested_model)
        if self.occurred_at is not None:
            checked.instant("occurred_at", self.occurred_at)
        for said in ("feature", "plan", "run_id", "provider"):
            object.__setattr__(self, said, checked.name(said, getattr(self, said)))
        object.__setattr__(self, "metadata", checked.metadata(self.metadata))

    def to_wire(self) -> dict[str, Any]:
        """The JSON body of POST /v1/usage; what is None or zero is left out."""
        body: dict[str, Any] = {
            "request_id": self.request_id,
            "user_id": self.user_id,
            "model": self.model,
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
            "status": self.status,
        }
        optional = {
            **parts_to_wire(self.usage),
            "feature": self.feature,
            "plan": self.plan,
            "run_id": self.run_id,
            "provider": self.provider,
            "requested_model": self.requested_model,
            "latency_ms": self.latency_ms,
            "occurred_at": None if self.occurred_at is None else _rfc3339(self.occurred_at),
            "metadata": self.metadata,
        }
        return body | present(optional)


def parts_to_wire(usage: Usage) -> dict[str, Any]:
    """What a report says of a usage beside its totals. None where it says nothing: an older TokVigil takes a report of
    text alone."""
    cost_usd = usage.reported_cost_usd
    return {
        "cached_input_tokens": usage.cached_input_tokens or None,
        "cache_write_tokens": usage.cache_write_tokens or None,
        "reasoning_tokens": usage.reasoning_tokens or None,
        "service_tier": usage.service_tier,
        "region": usage.region,
        "quantities": dict(usage.quantities) or None,
        "reported_cost_usd": None if cost_usd is None else f"{cost_usd:f}",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """TokVigil's answer to a usage report. `cost_usd` is None if the model has no price. Not `priced`: it has none, or
    none for the quantities that `unpriced` names."""

    request_id: str
    duplicate: bool
    cost_usd: Decimal | None
    priced: bool
    unpriced: tuple[str, ...] = ()
    limit_state: tuple[LimitState, ...] = ()

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """Raises `UnreachableError` without a request_id."""
        fields = Fields(data)
        said = fields.read(_RECEIPT, required=("request_id",))
        cost_usd = said.get("cost_usd")
        receipt = cls(
            request_id=said["request_id"],
            duplicate=said.get("duplicate", False),
            cost_usd=cost_usd,
            priced=said.get("priced", cost_usd is not None),
            unpriced=said.get("unpriced", ()),
            limit_state=fields.parts("limit_state", LimitState.from_wire),
        )
        fields.say_what_is_left_out(f"the receipt for request {receipt.request_id}")
        return receipt


class Fields:
    """The fields of a JSON object. The names of those that cannot be read are in `left_out`."""

    def __init__(self, data: Mapping[str, Any], path: str = "", left_out: set[str] | None = None) -> None:
        self.data = data
        self._path = path
        self.left_out: set[str] = set() if left_out is None else left_out

    def read(self, kinds: Mapping[str, Kind], required: Collection[str] = ()) -> dict[str, Any]:
        """Those that are said and can be read. Raises `UnreachableError` without one that is required."""
        data, found = self.data, {}
        for name, kind in kinds.items():
            value = data.get(name)
            # The type itself: bool is an int in Python, but `"version": true` is not a version.
            if type(value) is kind:
                found[name] = value
            elif value is not None:
                try:
                    found[name] = _converted(value, kind)
                except ValueError:
                    self.left_out.add(self._path + name)
        for name in required:
            if name not in found:
                raise UnreachableError(f"the answer has no {name!r} that can be read", reason="answer")
        return found

    def lacks(self, found: Mapping[str, Any], *names: str) -> bool:
        """Whether one of them was not read: then the whole cannot be read."""
        lacking = [self._path + name for name in names if name not in found]
        self.left_out.update(lacking)
        return bool(lacking)

    def part(self, name: str, convert: Callable[[Fields], T | None]) -> T | None:
        data = self.read({name: dict}).get(name)
        return None if data is None else convert(Fields(data, f"{self._path}{name}.", self.left_out))

    def parts(self, name: str, convert: Callable[[Fields], T | None]) -> tuple[T, ...]:
        """Those that can be read."""
        found = []
        for item in self.read({name: list}).get(name, ()):
            if not isinstance(item, dict):
                self.left_out.add(self._path + name)
            elif (part := convert(Fields(item, f"{self._path}{name}.", self.left_out))) is not None:
                found.append(part)
        return tuple(found)

    def say_what_is_left_out(self, what: str) -> None:
        """In one line of the log. A field is named once a minute: the next answer has it too."""
        if not self.left_out:
            return
        now = time.monotonic()
        due = sorted(name for name in self.left_out if now >= _say_again_from.get(name, now))
        if due:
            _say_again_from.update(dict.fromkeys(due, now + SAY_EVERY_S))
            logger.warning("in %s, these fields cannot be read and are left out: %s", what, ", ".join(due))


# By the name of a field: names of our own, so their number is bounded.
_say_again_from: dict[str, float] = {}


def _converted(value: Any, kind: Kind) -> Any:
    """Raises ValueError for a value of another kind."""
    if isinstance(kind, type):
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return kind(value)


def _id(value: Any) -> str:
    if type(value) not in (str, int):
        raise ValueError(f"{value!r} is no id")
    return str(value)


def _money(value: Any) -> Decimal:
    amount = None if isinstance(value, bool) else decimal(value)
    if amount is None:
        raise ValueError("it is no decimal amount")
    return amount


def _wait_s(value: Any) -> int:
    if type(value) is not int or abs(value) > WAIT_S_MAX:
        raise ValueError(f"{value!r} is no number of seconds")
    return value


def _request_id(value: Any) -> str:
    if type(value) is not str or not value:
        raise ValueError(f"{value!r} is no request id")
    return value


def _whole(value: Any) -> int:
    """Also one that is written as 50.0 or "50": a cap that is not read is no cap."""
    if type(value) is int and value >= 0:
        return value
    number = None if isinstance(value, bool) else decimal(value)
    if number is None or number < 0 or number != number.to_integral_value():
        raise ValueError(f"{value!r} is no count")
    return int(number)


def _reserved(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no object")
    return {name: _whole(said) if name.endswith("_tokens") else said for name, said in value.items()}


def _says_no(data: Mapping[str, Any]) -> bool:
    """Also where the verdict cannot be read, but its reason is one of a block."""
    allowed = data.get("allowed")
    if isinstance(allowed, bool) or is_false(allowed):
        return is_false(allowed)
    known = reasons.CLASSES.get(data.get("reason_code"))  # type: ignore[arg-type]
    return data.get("reason_class") in _OF_BLOCKS or known in _OF_BLOCKS


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{value!r} are no names")
    return tuple(value)


def _time(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except TypeError:
        raise ValueError(f"{value!r} is no time") from None


_POLICY: Mapping[str, Kind] = {"id": _id, "name": str, "version": int, "scope": str}
_LIMIT: Mapping[str, Kind] = {
    "policy": str,
    "metric": str,
    "window": str,
    "per": str,
    "resets_at": _time,
    "exceeded": bool,
    "models": _names,
}
_AMOUNTS = ("limit", "used", "held", "remaining", "boosted_by")
_COUNT_LIMIT: Mapping[str, Kind] = {**_LIMIT, **dict.fromkeys(_AMOUNTS, int)}
_COST_LIMIT: Mapping[str, Kind] = {**_LIMIT, **dict.fromkeys(_AMOUNTS, _money)}
_UNSAID_OF_LIMIT = {"policy": "", "window": "", "per": "", "held": 0, "resets_at": None, "exceeded": False}
_DECISION: Mapping[str, Kind] = {
    "request_id": _request_id,
    "allowed": bool,
    "reason_code": str,
    "reason_class": str,
    "message": str,
    "shadow": dict,
    "retry_after": _wait_s,
    "estimated_cost_usd": _money,
    "reserved": _reserved,
    "expires_at": _time,
    "max_output_tokens": _whole,
    "suggested_model": str,
    "degraded": bool,
}
_OF_BLOCKS = frozenset(get_args(ReasonClass)) - {"allowed", "degraded"}
_VERDICT = ("request_id", "allowed", "reason_code")
_RECEIPT: Mapping[str, Kind] = {
    "request_id": str,
    "duplicate": bool,
    "cost_usd": _money,
    "priced": bool,
    "unpriced": _names,
}


def _as_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    return value


def _rfc3339(moment: datetime) -> str:
    """UTC with a Z. A time without a zone is taken as local time, as `datetime.timestamp` does."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
