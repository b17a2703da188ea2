"""What a fake TokVigil decides, and about whose calls."""

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
LIMITS = {
    f"{window}_{metric}_EXCEEDED": (*WINDOWS[window], METRICS[metric])
    for window in WINDOWS
    for metric in METRICS
} | {"CONCURRENCY_LIMIT_EXCEEDED": ("total", SECOND_S, "concurrency")}
# No limit stands behind these.
WITHOUT_LIMIT = [
    code for code in reasons.CLASSES if code not in LIMITS and code not in ("ALLOWED", "DEGRADED_ALLOWED")
]
WITHOUT_POLICY = frozenset({"NO_POLICY", "ENVIRONMENT_FROZEN", "FEATURE_FROZEN", "USER_BLOCKED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Which calls something is about; None: all of them."""

    user_id: str | None = None
    feature: str | None = None
    model: str | None = None

    def includes(self, question: Question) -> bool:
        return (
            self.user_id in (None, question.user_id)
            and self.feature in (None, question.feature)
            and self.model in (None, question.model)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """None: as TokVigil would say it for this reason. Raises `ConfigurationError` for a reason that it has
    not."""

    reason_code: str
    message: str | None = None
    retry_after: int | None = None
    limit: int | Decimal | None = None
    suggested_model: str | None = None

    def __post_init__(self) -> None:
        if self.reason_code not in LIMITS and self.reason_code not in WITHOUT_LIMIT:
            known = ", ".join((*WITHOUT_LIMIT, *LIMITS))
            raise ConfigurationError(f"{self.reason_code!r} is no reason to block; these are: {known}")

    @property
    def reason_class(self) -> str:
        return reasons.class_of(self.reason_code)

    @property
    def seconds(self) -> int | None:
        """Until the same call may pass."""
        if self.retry_after is not None or self.reason_code not in LIMITS:
            return self.retry_after
        return LIMITS[self.reason_code][1]

    def says(self, user_id: str) -> str:
        if self.message is not None:
            return self.message
        words = self.reason_code.removesuffix("_EXCEEDED").replace("_", " ").capitalize()
        if self.reason_code not in LIMITS:
            return f"{words}."
        return f"{words} of {self._amount()} reached for user {user_id}."

    def limit_state(self, now: datetime) -> list[dict[str, Any]]:
        """The limit that is reached, if one is."""
        if self.reason_code not in LIMITS:
            return []
        window, _, metric = LIMITS[self.reason_code]
        is_money, is_concurrency = metric == "cost_usd", metric == "concurrency"
        full, none = self._amount(), _usd(Decimal(0)) if is_money else 0
        ends = (
            None if self.seconds is None or is_concurrency else instant(now + timedelta(seconds=self.seconds))
        )
        return [
            {
                "policy": POLICY["name"],
                "metric": metric,
                "window": window,
                "per": "user",
                "limit": full,
                "used": none if is_concurrency else full,
                "held": full if is_concurrency else none,
                "remaining": none,
                "resets_at": ends,
                "exceeded": True,
            }
        ]

    def _amount(self) -> int | str:
        if LIMITS[self.reason_code][2] == "cost_usd":
            return _usd(Decimal(10 if self.limit is None else self.limit))
        return 50 if self.limit is None else int(self.limit)


class Script:
    """The last thing said about a call holds for it."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Whose, Block | None]] = []
        self._caps: list[tuple[Whose, int]] = []

    def allow(self, whose: Whose) -> None:
        self._blocks.append((whose, None))

    def block(self, whose: Whose, block: Block) -> None:
        self._blocks.append((whose, block))

    def cap(self, whose: Whose, max_output_tokens: int) -> None:
        self._caps.append((whose, max_output_tokens))

    def block_of(self, question: Question) -> Block | None:
        return next((block for whose, block in reversed(self._blocks) if whose.includes(question)), None)

    def decide(self, question: Question, now: datetime) -> dict[str, Any]:
        """The answer of POST /v1/evaluate, with every field it has."""
        block = self.block_of(question)
        cap = self._cap_of(question)
        output_tokens = OUTPUT_TOKENS_WITHOUT_CAP if cap is None else cap
        usage = Usage(input_tokens=question.input_tokens or 0, output_tokens=output_tokens)
        cost_usd = prices.cost(question.model, usage, now)
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
            "estimated_cost_usd": None if cost_usd is None else _usd(cost_usd),
            "reserved": None,
            "expires_at": None,
            "max_output_tokens": cap,
            "suggested_model": None,
            "degraded": False,
            "trace": _trace(question, output_tokens) if question.explain else None,
        }
        if block is not None:
            return said | _blocked(block, question, now)
        if question.dry_run:
            return said
        return said | {
            "reserved": {
                "requests": 1,
                "input_tokens": usage.input_tokens,
                "output_tokens": output_tokens,
                "cost_usd": _usd(cost_usd or Decimal(0)),
            },
            "expires_at": instant(now + timedelta(seconds=HOLD_S)),
        }

    def _cap_of(self, question: Question) -> int | None:
        scripted = next((cap for whose, cap in reversed(self._caps) if whose.includes(question)), None)
        return min((cap for cap in (question.max_output_tokens, scripted) if cap is not None), default=None)


def instant(moment: datetime) -> str:
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _blocked(block: Block, question: Question, now: datetime) -> dict[str, Any]:
    return {
        "allowed": False,
        "reason_code": block.reason_code,
        "reason_class": block.reason_class,
        "message": block.says(question.user_id),
        "policy": None if block.reason_code in WITHOUT_POLICY else POLICY,
        "limit_state": block.limit_state(now),
        "retry_after": block.seconds,
        "max_output_tokens": None,
        "suggested_model": block.suggested_model,
        "degraded": block.reason_class == "degraded",
    }


def _trace(question: Question, held_output_tokens: int) -> dict[str, Any]:
    return {
        "revision": 1,
        "plan": question.plan or "",
        "plan_source": "request" if question.plan else "none",
        "candidates": [{"policy": POLICY, "kind": "override", "mode": "enforce", "outcome": "applies"}],
        "price": None,
        "held_output_tokens": held_output_tokens,
    }


def _usd(amount: Decimal) -> str:
    """At least two decimals."""
    return max(f"{amount:f}", f"{amount:.2f}", key=len)
