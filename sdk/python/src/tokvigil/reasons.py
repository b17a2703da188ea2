"""Why TokVigil allows or blocks a call: every reason code, its class, and which classes pass by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

# exhausted: a limit is used up. transient: calls in flight take up the room. too_large: this call is larger than any
# call may be. forbidden and frozen: somebody must change something. degraded: decided without TokVigil's counters.
ReasonClass = Literal["allowed", "exhausted", "transient", "too_large", "forbidden", "frozen", "degraded"]
# A newer TokVigil may send a code that is not here: keep a default branch.
ReasonCode = Literal[
    "ALLOWED",
    "NO_POLICY",
    "DEGRADED_ALLOWED",
    "DEGRADED_BLOCKED",
    "ENVIRONMENT_FROZEN",
    "FEATURE_FROZEN",
    "USER_BLOCKED",
    "MODEL_NOT_ALLOWED",
    "MODEL_DENIED",
    "PRICE_UNKNOWN",
    "REQUEST_TOKENS_EXCEEDED",
    "REQUEST_COST_EXCEEDED",
    "CONCURRENCY_LIMIT_EXCEEDED",
    "MINUTE_REQUEST_LIMIT_EXCEEDED",
    "MINUTE_TOKEN_LIMIT_EXCEEDED",
    "MINUTE_BUDGET_EXCEEDED",
    "HOURLY_REQUEST_LIMIT_EXCEEDED",
    "HOURLY_TOKEN_LIMIT_EXCEEDED",
    "HOURLY_BUDGET_EXCEEDED",
    "DAILY_REQUEST_LIMIT_EXCEEDED",
    "DAILY_TOKEN_LIMIT_EXCEEDED",
    "DAILY_BUDGET_EXCEEDED",
    "WEEKLY_REQUEST_LIMIT_EXCEEDED",
    "WEEKLY_TOKEN_LIMIT_EXCEEDED",
    "WEEKLY_BUDGET_EXCEEDED",
    "MONTHLY_REQUEST_LIMIT_EXCEEDED",
    "MONTHLY_TOKEN_LIMIT_EXCEEDED",
    "MONTHLY_BUDGET_EXCEEDED",
    "TOTAL_REQUEST_LIMIT_EXCEEDED",
    "TOTAL_TOKEN_LIMIT_EXCEEDED",
    "TOTAL_BUDGET_EXCEEDED",
]
# Of a block that names no reason that can be read.
UNREADABLE = "UNREADABLE"
# The limits of windows are exhausted; these are all other reasons.
_OTHERS: Mapping[ReasonCode, ReasonClass] = {
    "ALLOWED": "allowed",
    "NO_POLICY": "forbidden",
    "DEGRADED_ALLOWED": "degraded",
    "DEGRADED_BLOCKED": "degraded",
    "ENVIRONMENT_FROZEN": "frozen",
    "FEATURE_FROZEN": "frozen",
    "USER_BLOCKED": "forbidden",
    "MODEL_NOT_ALLOWED": "forbidden",
    "MODEL_DENIED": "forbidden",
    "PRICE_UNKNOWN": "forbidden",
    "REQUEST_TOKENS_EXCEEDED": "too_large",
    "REQUEST_COST_EXCEEDED": "too_large",
    "CONCURRENCY_LIMIT_EXCEEDED": "transient",
}
CLASSES: Mapping[ReasonCode, ReasonClass] = {
    code: _OTHERS.get(code, "exhausted") for code in get_args(ReasonCode)
}
# Blocks of these classes pass without anybody doing anything, even where nobody can say when.
PASSING_CLASSES: frozenset[ReasonClass] = frozenset({"transient", "degraded"})


def class_of(code: str) -> ReasonClass:
    """The class of a reason; "forbidden" for a code that only a newer TokVigil knows: it is no reason to wait."""
    return CLASSES.get(cast("ReasonCode", code), "forbidden")
