"""Tell the store which edition is in force and which pairs it tracks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tenants.revisions import environment_key
from usage.counting.keys import open_keys
from usage.counting.store import store

# In place of an edition or an end user's record: it was read from PostgreSQL since the call began. So all that was
# committed before the call is in it, and what the store knows of it does not matter.
JUST_READ = "*"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the store said of an environment before PostgreSQL was read."""

    turn: str
    # Transactions that may have changed it.
    changing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    # False: something changed since the store was asked.
    taken: bool
    # Whether the counters were of an earlier run of the server, and are now rebuilt before use.
    restarted: bool


def ask(environment_id: int) -> Asked:
    """Before PostgreSQL is read. Raises StoreUnavailable."""
    turn, changing = store.call(
        lambda client: client.hmget(environment_key(environment_id), "turn", "changing")
    )
    return Asked((turn or b"").decode(), tuple((changing or b"").decode().split()))


def sync(
    environment_id: int,
    edition: str,
    pairs: Iterable[str],
    asked: Asked,
    under_way: tuple[str, ...] = (),
    zone: str = "UTC",
) -> Synced:
    """Tells the store the edition in force, the pairs it tracks (`TrackedPairs.told`) and their zone.

    Raises StoreUnavailable.

    All as PostgreSQL had it after the store was asked; `under_way` are those of `asked.changing` that had not ended.
    """
    arguments = [edition, asked.turn, " ".join(under_way), zone, *sorted(pairs)]
    keys = [environment_key(environment_id), *open_keys(environment_id)]
    taken, restarted = store.run("sync", keys, arguments)
    return Synced(taken == b"OK", restarted == 1)
