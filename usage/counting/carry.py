"""Have calls in flight hold in the windows of the tenant's new time zone.

Until they do nothing is held in the environment: else a change of the zone would let through as much again as is in
flight.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tenants.revisions import environment_key
from usage.assessment import Assessment
from usage.counting.reservations import Reservation, all_holds, readable
from usage.counting.store import store
from usage.counting.tracked import Counter, TrackedPairs

# More in one script would keep every other caller waiting for it.
CARRIED_AT_ONCE_MAX = 50

_pack = msgspec.msgpack.Encoder().encode


def carry(environment_id: int, tracked: TrackedPairs, token: str) -> None:
    """`token` is the one that the reserve script named. Safe to run by many at once. Raises StoreUnavailable.

    A hold that this version cannot read stays where it is.
    """
    holds = readable(environment_id, all_holds(environment_id))
    for first in range(0, len(holds), CARRIED_AT_ONCE_MAX):
        if not _carry(environment_id, tracked, token, holds[first : first + CARRIED_AT_ONCE_MAX]):
            return
    _carry(environment_id, tracked, token, [], last=True)


def _carry(
    environment_id: int,
    tracked: TrackedPairs,
    token: str,
    holds: Sequence[tuple[Reservation, Assessment]],
    *,
    last: bool = False,
) -> bool:
    """False: the zone has changed once more."""
    counters: dict[str, Counter] = {}
    places = []
    for hold, held in holds:
        found = tracked.at(hold.at_ms).counters(held.subjects, held.model)
        counters |= {counter.key: counter for counter in found}
        places.append([list(counters).index(counter.key) + 1 for counter in found])
    call = {
        "token": token,
        "holds": places,
        "forget_at": [counter.slot.arguments[1] for counter in counters.values()],
        "last": last,
    }
    keys = [environment_key(environment_id), *(hold.key for hold, _ in holds), *counters]
    return bool(store.run("carry", keys, [_pack(call)]) == b"OK")
