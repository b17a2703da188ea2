"""Free expired reservations whose policy says release."""

from __future__ import annotations

from usage.counting.keys import open_keys
from usage.counting.store import store


def sweep(environment_id: int, most: int) -> int:
    return int(store.run("sweep", open_keys(environment_id), [most]))
