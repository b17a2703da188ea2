"""The values that go in and come out: frozen, typed, money as Decimal.

Reading an answer is tolerant: fields this version does not know are ignored, optional ones may be absent.
Only what a caller must be able to rely on (the verdict, the ids, the amounts) is required, and its absence is
a `MalformedAnswerError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, TypeVar, get_args

from tokvigil import checked
from tokvigil.errors import ConfigurationError, MalformedAnswerError

UsageStatus = Literal["succeeded", "failed", "cancelled", "partial"]
USAGE_STATUSES = frozenset(get_args(UsageStatus))
PARTS = ("cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
COUNTS = ("input_tokens", "output_tokens", *PARTS)
Amount = int | Decimal
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRef:
    """The policy version that made a decision."""

    id: str
    name: str
    version: int
    scope: str

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> PolicyRef:
        return cls(
            id=str(_required(data, "id", (str, int))),
            name=_required(data, "name", str),
            version=_optional(data, "version", int) or 0,
            scope=str(data.get("scope") or ""),
        )


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

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> LimitState:
        metric = _required(data, "metric", str)
        amount = _money if metric == "cost_usd" else _count
        return cls(
            policy=_optional(data, "policy", str) or "",
            metric=metric,
            window=_optional(data, "window", str) or "",
            per=_optional(data, "per", str) or "",
            limit=amount(data.get("limit")),
            used=amount(data.get("used")),
            held=amount(data.get("held", 0)),
            remaining=amount(data.get("remaining")),
            resets_at=_time(data.get("resets_at")),
            exceeded=_optional(data, "exceeded", bool) or False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to "may this AI request go out?". `degraded` is True if it was made without the counters."""

    request_id: str
    allowed: bool
    reason_code: str
    reason_class: str
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

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Decision:
        policy = _optional(data, "policy", dict)
        cost = data.get("estimated_cost_usd")
        return cls(
            request_id=_required(data, "request_id", str),
            allowed=_required(data, "allowed", bool),
            reason_code=_required(data, "reason_code", str),
            reason_class=_optional(data, "reason_class", str) or "",
            message=_optional(data, "message", str) or "",
            policy=PolicyRef.from_wire(policy) if policy is not None else None,
            shadow=_optional(data, "shadow", dict),
            limit_state=_limit_states(data),
            retry_after=_optional(data, "retry_after", int),
            estimated_cost_usd=None if cost is None else _money(cost),
            reserved=_optional(data, "reserved", dict),
            expires_at=_time(data.get("expires_at")),
            max_output_tokens=_optional(data, "max_output_tokens", int),
            suggested_model=_optional(data, "suggested_model", str),
            degraded=_optional(data, "degraded", bool) or False,
            trace=data.get("trace"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The usage meter: the policies in force for a subject and the state of their limits."""

    policies: tuple[PolicyRef, ...]
    limit_state: tuple[LimitState, ...]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Limits:
        policies = _optional(data, "policies", list) or []
        return cls(
            policies=tuple(PolicyRef.from_wire(_object(policy)) for policy in policies),
            limit_state=_limit_states(data),
            raw=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one AI call used, in tokens: input and output are totals, the others are parts of them.

    `source` is "provider" if the provider said so, "estimated" if it did not and the SDK counted.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    source: Literal["provider", "estimated"] = "provider"


def _checked_usage(usage: Usage) -> Usage:
    counts: dict[str, Any] = {
        name: checked.count(name, getattr(usage, name), checked.TOKENS_MAX) for name in COUNTS
    }
    whole = replace(usage, **counts)
    if whole.cached_input_tokens + whole.cache_write_tokens > whole.input_tokens:
        raise ConfigurationError(
            "cached_input_tokens and cache_write_tokens are separate parts of input_tokens, and more together"
        )
    if whole.reasoning_tokens > whole.output_tokens:
        raise ConfigurationError("reasoning_tokens are a part of output_tokens, and more")
    return whole


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
    latency_ms: int | None = None
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
        object.__setattr__(self, "usage", _checked_usage(self.usage))
        if self.latency_ms is not None:
            latency_ms = checked.count("latency_ms", self.latency_ms, checked.LATENCY_MS_MAX)
            object.__setattr__(self, "latency_ms", latency_ms)
        if self.reported_cost_usd is not None:
            cost_usd = checked.cost_usd("reported_cost_usd", self.reported_cost_usd)
            object.__setattr__(self, "reported_cost_usd", cost_usd)
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
            "cached_input_tokens": self.usage.cached_input_tokens or None,
            "cache_write_tokens": self.usage.cache_write_tokens or None,
            "reasoning_tokens": self.usage.reasoning_tokens or None,
            "feature": self.feature,
            "plan": self.plan,
            "run_id": self.run_id,
            "provider": self.provider,
            "latency_ms": self.latency_ms,
            "reported_cost_usd": None if self.reported_cost_usd is None else f"{self.reported_cost_usd:f}",
            "occurred_at": None if self.occurred_at is None else _rfc3339(self.occurred_at),
            "metadata": self.metadata,
        }
        return body | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> UsageEvent:
        """The event that `to_wire` wrote. Raises `MalformedAnswerError`."""
        cost = data.get("reported_cost_usd")
        return cls(
            request_id=_required(data, "request_id", str),
            user_id=_required(data, "user_id", str),
            model=_required(data, "model", str),
            usage=Usage(
                input_tokens=_required(data, "input_tokens", int),
                output_tokens=_required(data, "output_tokens", int),
                cached_input_tokens=_optional(data, "cached_input_tokens", int) or 0,
                cache_write_tokens=_optional(data, "cache_write_tokens", int) or 0,
                reasoning_tokens=_optional(data, "reasoning_tokens", int) or 0,
            ),
            status=_status(data),
            feature=_optional(data, "feature", str),
            plan=_optional(data, "plan", str),
            run_id=_optional(data, "run_id", str),
            provider=_optional(data, "provider", str),
            latency_ms=_optional(data, "latency_ms", int),
            reported_cost_usd=None if cost is None else _money(cost),
            occurred_at=_time(data.get("occurred_at")),
            metadata=_optional(data, "metadata", dict),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReceipt:
    """TokVigil's answer to a usage report. `cost_usd` is None if the model has no price (not `priced`)."""

    request_id: str
    duplicate: bool
    cost_usd: Decimal | None
    priced: bool
    limit_state: tuple[LimitState, ...] = ()

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> UsageReceipt:
        cost = data.get("cost_usd")
        return cls(
            request_id=_required(data, "request_id", str),
            duplicate=_optional(data, "duplicate", bool) or False,
            cost_usd=None if cost is None else _money(cost),
            priced=_optional(data, "priced", bool) if "priced" in data else cost is not None,
            limit_state=_limit_states(data),
        )


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedAnswerError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _required(data: Mapping[str, Any], name: str, kind: type[T] | tuple[type[Any], ...]) -> T:
    if data.get(name) is None:
        raise MalformedAnswerError(f"the answer has no {name!r}")
    value: T = _optional(data, name, kind)
    return value


def _optional(data: Mapping[str, Any], name: str, kind: Any) -> Any:
    value = data.get(name)
    # bool is an int in Python, but `"version": true` is not a version.
    if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise MalformedAnswerError(f"{name!r} in the answer is a {type(value).__name__}")
    return value


def _status(data: Mapping[str, Any]) -> UsageStatus:
    status = _required(data, "status", str)
    if status not in USAGE_STATUSES:
        raise MalformedAnswerError(f"{status!r} is no status of usage")
    return status  # type: ignore[return-value]


def _limit_states(data: Mapping[str, Any]) -> tuple[LimitState, ...]:
    return tuple(LimitState.from_wire(_object(state)) for state in _optional(data, "limit_state", list) or [])


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise MalformedAnswerError(f"expected an integer count, got {value!r}")
    return value


def _money(value: Any) -> Decimal:
    try:
        amount = Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        raise MalformedAnswerError(f"expected a decimal amount, got {value!r}") from None
    if not amount.is_finite():
        raise MalformedAnswerError(f"expected a decimal amount, got {value!r}")
    return amount


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise MalformedAnswerError(f"expected an RFC 3339 time, got {value!r}") from None


def _rfc3339(moment: datetime) -> str:
    """UTC with a Z. A time without a zone is taken as local time, as `datetime.timestamp` does."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
