"""The reason of a decision in two or three words, for people. Pure."""

from __future__ import annotations

from policies.reasons import WINDOW_ADJECTIVES, WINDOW_CODES, Reason, ReasonClass
from usage.metrics import METRICS

_TITLES = {
    Reason.ALLOWED: "Allowed",
    Reason.NO_POLICY: "No policy",
    Reason.DEGRADED_ALLOWED: "Allowed without counters",
    Reason.DEGRADED_BLOCKED: "Blocked without counters",
    Reason.ENVIRONMENT_FROZEN: "Environment frozen",
    Reason.FEATURE_FROZEN: "Feature frozen",
    Reason.USER_BLOCKED: "User blocked",
    Reason.MODEL_NOT_ALLOWED: "Model not allowed",
    Reason.MODEL_DENIED: "Model denied",
    Reason.PRICE_UNKNOWN: "Model without a price",
    Reason.REQUEST_TOKENS_EXCEEDED: "Call too long",
    Reason.REQUEST_COST_EXCEEDED: "Call too dear",
    Reason.CONCURRENCY_LIMIT_EXCEEDED: "Too many calls at once",
}
_COUNTED = {"REQUEST_LIMIT": "requests", "TOKEN_LIMIT": "tokens", "BUDGET": "budget"}
# `Daily requests`, by the codes of limits.
_LIMITS = {
    code: f"{WINDOW_ADJECTIVES[window]} {_COUNTED[METRICS[metric].code or '']}"
    for (window, metric), code in WINDOW_CODES.items()
}
_ENDINGS = {
    ReasonClass.TOO_LARGE: "allow less than this call",
    ReasonClass.TRANSIENT: "held by calls in flight",
}
# By code: a later version may know more of them.
_titles = {reason.value: words for reason, words in _TITLES.items()}
_NEVER_BLOCKS = {Reason.ALLOWED.value, Reason.DEGRADED_ALLOWED.value}


def title(reason_code: str, reason_class: str) -> str:
    """`Daily requests used up`"""
    if reason_code in _LIMITS:
        return f"{_LIMITS[reason_code]} {_ENDINGS.get(ReasonClass(reason_class), 'used up')}"
    return _titles.get(reason_code, reason_code)


def of_code(reason_code: str) -> str:
    """Of all blocks with this code, whatever their class: `Daily requests limit`"""
    if reason_code in _LIMITS:
        return f"{_LIMITS[reason_code]} limit"
    return _titles.get(reason_code, reason_code)


def of_blocks() -> list[tuple[str, str]]:
    """Each code that a blocked call can have, and its words; limits first."""
    others = [code for code in _titles if code not in _NEVER_BLOCKS]
    return [(code, of_code(code)) for code in (*_LIMITS, *others)]
