"""The reason codes of a decision: part of the contract. Their order is the order in which they win."""

from __future__ import annotations

from enum import StrEnum

from usage.metrics import WINDOWED
from usage.windows import Window

# The lengths of the columns that store codes and classes.
REASON_CODE_LENGTH_MAX = 40
REASON_CLASS_LENGTH_MAX = 12


class ReasonClass(StrEnum):
    ALLOWED = "allowed"
    DEGRADED = "degraded"
    FROZEN = "frozen"
    FORBIDDEN = "forbidden"
    TOO_LARGE = "too_large"
    TRANSIENT = "transient"
    EXHAUSTED = "exhausted"


class Reason(StrEnum):
    ALLOWED = "ALLOWED"
    NO_POLICY = "NO_POLICY"
    DEGRADED_ALLOWED = "DEGRADED_ALLOWED"
    DEGRADED_BLOCKED = "DEGRADED_BLOCKED"
    ENVIRONMENT_FROZEN = "ENVIRONMENT_FROZEN"
    FEATURE_FROZEN = "FEATURE_FROZEN"
    USER_BLOCKED = "USER_BLOCKED"
    MODEL_NOT_ALLOWED = "MODEL_NOT_ALLOWED"
    MODEL_DENIED = "MODEL_DENIED"
    PRICE_UNKNOWN = "PRICE_UNKNOWN"
    REQUEST_TOKENS_EXCEEDED = "REQUEST_TOKENS_EXCEEDED"
    REQUEST_COST_EXCEEDED = "REQUEST_COST_EXCEEDED"
    CONCURRENCY_LIMIT_EXCEEDED = "CONCURRENCY_LIMIT_EXCEEDED"


CLASSES = {
    Reason.ALLOWED: ReasonClass.ALLOWED,
    Reason.NO_POLICY: ReasonClass.FORBIDDEN,
    Reason.DEGRADED_ALLOWED: ReasonClass.DEGRADED,
    Reason.DEGRADED_BLOCKED: ReasonClass.DEGRADED,
    Reason.ENVIRONMENT_FROZEN: ReasonClass.FROZEN,
    Reason.FEATURE_FROZEN: ReasonClass.FROZEN,
    Reason.USER_BLOCKED: ReasonClass.FORBIDDEN,
    Reason.MODEL_NOT_ALLOWED: ReasonClass.FORBIDDEN,
    Reason.MODEL_DENIED: ReasonClass.FORBIDDEN,
    Reason.PRICE_UNKNOWN: ReasonClass.FORBIDDEN,
    Reason.REQUEST_TOKENS_EXCEEDED: ReasonClass.TOO_LARGE,
    Reason.REQUEST_COST_EXCEEDED: ReasonClass.TOO_LARGE,
    Reason.CONCURRENCY_LIMIT_EXCEEDED: ReasonClass.TRANSIENT,
}

_CLASSES_BY_CODE = {reason.value: reason_class for reason, reason_class in CLASSES.items()}

# Reasons that depend only on the model.
BY_MODEL = frozenset({Reason.MODEL_NOT_ALLOWED, Reason.MODEL_DENIED, Reason.PRICE_UNKNOWN})


def class_of(code: str) -> ReasonClass:
    """The class of a reason that needs no counter; one that only a later version knows is no reason to wait."""
    return _CLASSES_BY_CODE.get(code, ReasonClass.FORBIDDEN)


# As people say it; in capitals, as codes do.
WINDOW_ADJECTIVES = {
    Window.MINUTE: "Minute",
    Window.HOUR: "Hourly",
    Window.DAY: "Daily",
    Window.WEEK: "Weekly",
    Window.MONTH: "Monthly",
    Window.TOTAL: "Total",
}
WINDOW_CODES = {
    (window, row.metric): f"{adjective.upper()}_{row.code}_EXCEEDED"
    for window, adjective in WINDOW_ADJECTIVES.items()
    for row in WINDOWED
}
ALL_CODES = (*(reason.value for reason in Reason), *dict.fromkeys(WINDOW_CODES.values()))

_RANKS = {reason: rank for rank, reason in enumerate(Reason)}


def rank(reason: Reason) -> int:
    """The lower one wins."""
    return _RANKS[reason]


def without_policy(plan: str) -> str:
    """The beginning of a sentence. A plan that no policy names is often a misspelt one, so it is named."""
    asked = f" (its plan is {plan})" if plan else ""
    return f"No policy of a user, feature or plan matches this call{asked}, and there is no default policy"
