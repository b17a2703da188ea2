"""Keep a long call's hold."""

from __future__ import annotations

from usage.counting.keys import open_keys, reservation_key
from usage.counting.release import NotOpen
from usage.counting.store import store


def extend(environment_id: int, request_id: str, hold_ms: int) -> int:
    """Keeps a hold for this long from now on; the new deadline in ms. Raises NotOpen."""
    keys = [reservation_key(environment_id, request_id), *open_keys(environment_id)]
    deadline = int(store.run("extend", keys, [hold_ms]))
    if deadline == 0:
        raise NotOpen
    return deadline
