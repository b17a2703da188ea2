"""What a fake TokVigil decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tokvigil import prices, reasons
from tokvigil.errors import ConfigurationError
from tokvigil.estimating import OUTPUT_TOKENS_WITHOUT_CAP
from tokvigil.models import Usage
from tokvigil.question import Question

POLICY = {
    "id": "00000000-0000-7000-8000-000000000000",
    "name": "Fake policy",
    "version": 1,
    "scope": "default",
}
HOLD_S = 600
SECOND_S, DAY_S = 1, 86_400

# The window, and the seconds until the next one: as if this one had just begun.
WINDOWS: dict[str, tuple[str, int | None]] = {
    "MINUTE": ("minute", 60),
    "HOURLY": ("hour", 3_600),
    "DAILY": ("day", DAY_S),
    "WEEKLY": ("week", 7 * DAY_S),
    "MONTHLY": ("month", 30 * DAY_S),
    "TOTAL": ("total", None),
}
METRICS = {"REQUEST_LIMIT": "requests", "TOKEN_LIMIT": "tokens", "BUDGET": "cost_usd"}
# No limit stands behind any other reason.
LIMITS = {
    f"{window}_{metric}_EXCEEDED": (*WINDOWS[window], METRICS[metric])
    for window in WINDOWS
    for metric in METRICS
} | {"CONCURRENCY_LIMIT_EXCEEDED": ("total", SECOND_S, "concurrency")}
BLOCKING = [code for code in reasons.CLASSES if code not in ("ALLOWED", "DEGRADED_ALLOWED")]
WITHOUT_POLICY = frozenset({"NO_POLICY", "ENVIRONMENT_FROZEN", "FEATURE_FROZEN", "USER_BLOCKED"})


@dataclass(frozen=True, slots=True)
class Block:
    """None: as TokVigil would say it for this reason. Raises `ConfigurationError` for a reason that it has not."""

    reason_code: str
    message: str | None = None
    retry_after: int | None = None
    limit: int | Decimal | None = None
    suggested_model: str | None = None

    def __post_init__(self) -> None:
        if self.reason_code not in BLOCKING:
            known = ", ".join(BLOCKING)
            raise ConfigurationError(f"{self.reason_code!r} is no reason to block; these are: {known}")

    def answer(self, user_id: str, now: datetime) -> dict[str, Any]:
        """The fields of an answer to this user that say so."""
        words = self.reason_code.removesuffix("_EXCEEDED").replace("_", " ").capitalize()
        message, retry_after, limit_state = f"{words}.", self.retry_after, []
        if self.reason_code in LIMITS:
            window, seconds, metric = LIMITS[self.reason_code]
            retry_after = seconds if retry_after is None else retry_after
            state = self._reached(window, metric, retry_after, now)
            message = f"{words} of {state['limit']} reached for user {user_id}."
            limit_state = [state]
        reason_class = reasons.class_of(self.reason_code)
        return {
            "allowed": False,
            "reason_code": self.reason_code,
            "reason_class": reason_class,
            "message": message if self.message is None else self.message,
            "policy": None if self.reason_code in WITHOUT_POLICY else POLICY,
            "limit_state": limit_state,
            "retry_after": retry_after,
            "max_output_tokens": None,
            "suggested_model": self.suggested_model,
            "degraded": reason_class == "degraded",
        }

    def _reached(self, window: str, metric: str, ends_in_s: int | None, now: datetime) -> dict[str, Any]:
        """The state of the limit that is reached."""
        full: int | str = 50 if self.limit is None else int(self.limit)
        none: int | str = 0
        if metric == "cost_usd":
            full, none = usd(Decimal(10 if self.limit is None else self.limit)), usd(Decimal(0))
        in_flight = metric == "concurrency"
        return {
            "policy": POLICY["name"],
            "metric": metric,
            "window": window,
            "per": "user",
            "limit": full,
            "used": none if in_flight else full,
            "held": full if in_flight else none,
            "remaining": none,
            "resets_at": None
            if in_flight or ends_in_s is None
            else instant(now + timedelta(seconds=ends_in_s)),
            "exceeded": True,
        }


def decision(question: Question, block: Block | None, cap: int | None, now: datetime) -> dict[str, Any]:
    """The answer of POST /v1/evaluate, with every field it has."""
    output_tokens = OUTPUT_TOKENS_WITHOUT_CAP if cap is None else cap
    usage = Usage(
        input_tokens=question.input_tokens or 0,
        output_tokens=output_tokens,
        service_tier=question.service_tier,
        region=question.region,
    )
    cost_usd = None if question.quantities else prices.cost(question.model, usage, now)
    said: dict[str, Any] = {
        "request_id": question.request_id,
        "allowed": True,
        "reason_code": "ALLOWED",
        "reason_class": "allowed",
        "message": f"Allowed by policy {POLICY['name']}.",
        "policy": POLICY,
        "shadow": None,
        "limit_state": [],
        "retry_after": None,
        "estimated_cost_usd": None if cost_usd is None else usd(cost_usd),
        "reserved": None,
        "expires_at": None,
        "max_output_tokens": cap,
        "suggested_model": None,
        "degraded": False,
        "trace": _trace(question, output_tokens) if question.explain else None,
    }
    if block is not None:
        return said | block.answer(question.user_id, now)
    if not question.dry_run:
        said["reserved"] = {
            "requests": 1,
            "input_tokens": usage.input_tokens,
            "output_tokens": output_tokens,
            "cost_usd": usd(cost_usd or Decimal(0)),
        }
        said["expires_at"] = instant(now + timedelta(seconds=HOLD_S))
    return said


def instant(moment: datetime) -> str:
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def usd(amount: Decimal) -> str:
    """At least two decimals."""
    return max(f"{amount:f}", f"{amount:.2f}", key=len)


def _trace(question: Question, held_output_tokens: int) -> dict[str, Any]:
    return {
        "revision": 1,
        "plan": question.plan or "",
        "plan_source": "request" if question.plan else "none",
        "candidates": [{"policy": POLICY, "kind": "override", "mode": "enforce", "outcome": "applies"}],
        "price": None,
        "held_output_tokens": held_output_tokens,
    }
