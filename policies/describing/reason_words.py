"""Each reason of a decision in a few words for people: the one table that every page takes them from. Pure."""

from __future__ import annotations

from policies.reasons import WINDOW_ADJECTIVES, WINDOW_CODES, Reason
from usage.metrics import METRICS

_OTHERS = {
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
_COUNTED = {"REQUEST_LIMIT": "request limit", "TOKEN_LIMIT": "token limit", "BUDGET": "budget"}
# By code; limits first.
_WORDS = {
    **{
        code: f"{WINDOW_ADJECTIVES[window]} {_COUNTED[METRICS[metric].code or '']} exceeded"
        for (window, metric), code in WINDOW_CODES.items()
    },
    **{reason.value: words for reason, words in _OTHERS.items()},
}
_NEVER_BLOCKS = {Reason.ALLOWED.value, Reason.DEGRADED_ALLOWED.value}


def of_code(reason_code: str) -> str:
    """`Daily request limit exceeded`. A code that only a later version knows is its own word."""
    return _WORDS.get(reason_code, reason_code)


def of_blocks() -> list[tuple[str, str]]:
    """Each code that a blocked call can have, and its words; limits first."""
    return [(code, words) for code, words in _WORDS.items() if code not in _NEVER_BLOCKS]
