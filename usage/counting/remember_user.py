"""Keep what PostgreSQL holds of an end user beside the counters."""

from __future__ import annotations

from tenants.revisions import environment_key
from usage.counting.keys import user_key
from usage.counting.store import store

USER_RECORD_KEPT_S = 900


def remember_user(environment_id: int, user_id: str, record: str, epoch: int | None) -> None:
    """Keeps what PostgreSQL holds of an end user beside the counters.

    `epoch` is the one the store named when it did not know the user; None says that the user was changed just now.
    """
    keys = [environment_key(environment_id), user_key(environment_id, user_id)]
    store.run("remember_user", keys, [record, USER_RECORD_KEPT_S, "" if epoch is None else epoch])
