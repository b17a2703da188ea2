"""Tell the store which revision is in force and which pairs it tracks."""

from __future__ import annotations

from tenants.revisions import environment_key
from usage.amounts import Pair
from usage.counting.store import store


def sync(environment_id: int, revision: int, pairs: frozenset[Pair], zone: str = "UTC") -> bool:
    """Tells the store the revision in force, the pairs it tracks and their zone. False: a later revision is known."""
    keys = [environment_key(environment_id)]
    return bool(store.run("sync", keys, [revision, zone, *sorted(map(str, pairs))]) == b"OK")
