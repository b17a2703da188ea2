"""Keep what PostgreSQL holds of an end user beside the counters."""

from __future__ import annotations

from tenants.revisions import environment_key
from usage.counting.keys import user_key
from usage.counting.reserve import UserUnknown
from usage.counting.store import store

USER_RECORD_KEPT_S = 900


def remember_user(environment_id: int, user_id: str, record: str, unknown: UserUnknown) -> bool:
    """Keeps what PostgreSQL held of an end user after the store called it unknown, with no change of it under way.

    False: something changed since. Raises StoreUnavailable.
    """
    keys = [environment_key(environment_id), user_key(environment_id, user_id)]
    return bool(
        store.run("remember_user", keys, [record, USER_RECORD_KEPT_S, unknown.epoch, unknown.turn]) == b"OK"
    )
