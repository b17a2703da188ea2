"""Count the calls of an API key."""

from __future__ import annotations

from usage.counting.keys import rate_key
from usage.counting.store import store


def count_call(environment_id: int, api_key_id: int, per_minute: int) -> int:
    """Counts one call of an API key; how long to wait, in ms (0: go ahead). Raises StoreUnavailable."""
    if per_minute < 1:
        raise ValueError("A key that is held back may call at least 1 time a minute.")
    return int(store.run("rate_limit", [rate_key(environment_id, api_key_id)], [per_minute]))
