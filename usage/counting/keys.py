"""Names of keys in the counter store; `prelude.lua` says what stands under each.

One environment's keys share a hash tag, so that a cluster serves them together.
"""

from __future__ import annotations

from usage.amounts import digest, subject_digest


def environment_prefix(environment_id: int) -> str:
    return f"tv:{{{environment_id}}}:"


def reservation_key(environment_id: int, request_id: str) -> str:
    return f"{environment_prefix(environment_id)}r:{digest(request_id)}"


def decisions_key(environment_id: int) -> str:
    return f"{environment_prefix(environment_id)}decisions"


def unread_decisions_key(environment_id: int) -> str:
    return f"{environment_prefix(environment_id)}unread"


def user_key(environment_id: int, user_id: str) -> str:
    return f"{environment_prefix(environment_id)}eu:{subject_digest(user_id)}"


def open_keys(environment_id: int) -> tuple[str, str]:
    prefix = environment_prefix(environment_id)
    return f"{prefix}open", f"{prefix}charge"


def concurrency_key(environment_id: int, kind: str, subject: str) -> str:
    return f"{environment_prefix(environment_id)}k:{kind}:{subject_digest(subject)}"


def rate_key(environment_id: int, api_key_id: int) -> str:
    return f"{environment_prefix(environment_id)}rate:{api_key_id}"


def check_key(environment_id: int) -> str:
    """What the last comparison of the counters with the ledger found."""
    return f"{environment_prefix(environment_id)}check"
