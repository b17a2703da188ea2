"""The reason codes of a decision: part of the contract. Their order is the order in which they win."""

from __future__ import annotations

from enum import StrEnum

from usage.amounts import Metric
from usage.windows import Window


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

# Why no call of a model may go out, whatever it asks for.
BY_MODEL = frozenset({Reason.MODEL_NOT_ALLOWED, Reason.MODEL_DENIED, Reason.PRICE_UNKNOWN})

_WINDOW_NAMES = {
    Window.MINUTE: "MINUTE",
    Window.HOUR: "HOURLY",
    Window.DAY: "DAILY",
    Window.WEEK: "WEEKLY",
    Window.MONTH: "MONTHLY",
    Window.TOTAL: "TOTAL",
}
_METRIC_NAMES = {
    Metric.REQUESTS: "REQUEST_LIMIT",
    Metric.TOKENS: "TOKEN_LIMIT",
    Metric.INPUT_TOKENS: "TOKEN_LIMIT",
    Metric.OUTPUT_TOKENS: "TOKEN_LIMIT",
    Metric.COST_USD: "BUDGET",
}
WINDOW_CODES = {
    (window, metric): f"{window_name}_{metric_name}_EXCEEDED"
    for window, window_name in _WINDOW_NAMES.items()
    for metric, metric_name in _METRIC_NAMES.items()
}
ALL_CODES = (*(reason.value for reason in Reason), *dict.fromkeys(WINDOW_CODES.values()))

_RANKS = {reason: rank for rank, reason in enumerate(Reason)}


def rank(reason: Reason) -> int:
    """The lower one wins."""
    return _RANKS[reason]
