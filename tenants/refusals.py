"""Why a key was refused last, for whoever looks after it. The caller is told the same for every cause.

Kept in the counter store for a day, written at most once a second per key and process, never on the caller's time.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from django_redis import get_redis_connection
from redis.exceptions import RedisError

logger = logging.getLogger("tokvigil.keys")

INTERVAL_S = 1.0
KEPT_S = 24 * 3600


class Refusal(StrEnum):
    REVOKED = "revoked"
    EXPIRED = "expired"
    ADDRESS = "address"
    SECRET = "secret"  # noqa: S105
    SCOPE = "scope"


IN_WORDS = {
    Refusal.REVOKED: "the key is revoked",
    Refusal.EXPIRED: "the key has expired",
    Refusal.ADDRESS: "it came from an address that is not in the allowed networks",
    Refusal.SECRET: "the secret does not match; most often the key was cut when it was pasted",
    Refusal.SCOPE: "the key may not do what was asked of it",
}


@dataclass(frozen=True, slots=True)
class LastRefusal:
    why: Refusal
    at: datetime

    @property
    def in_words(self) -> str:
        return IN_WORDS[self.why]


_noted: dict[int, float] = {}
_writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="refusals")


def note(environment_id: int, api_key_id: int, why: Refusal) -> None:
    now = time.monotonic()
    if now - _noted.get(api_key_id, -INTERVAL_S) >= INTERVAL_S:
        _noted[api_key_id] = now
        _writer.submit(_write, environment_id, api_key_id, f"{why} {datetime.now(UTC).isoformat()}")


def last(environment_id: int, api_key_id: int) -> LastRefusal | None:
    """None also while the store is away."""
    try:
        found = get_redis_connection("counters").get(_name(environment_id, api_key_id))
    except RedisError:
        return None
    if found is None:
        return None
    why, _, at = found.decode().partition(" ")
    return LastRefusal(Refusal(why), datetime.fromisoformat(at))


def _write(environment_id: int, api_key_id: int, text: str) -> None:
    try:
        get_redis_connection("counters").set(_name(environment_id, api_key_id), text, ex=KEPT_S)
    except RedisError as error:
        logger.warning("the refusal of key %s was not noted: %s", api_key_id, error)


def _name(environment_id: int, api_key_id: int) -> str:
    return f"tv:{{{environment_id}}}:refused:{api_key_id}"


def forget_all() -> None:
    """As in a new process."""
    _noted.clear()
