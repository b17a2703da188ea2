"""Turn holds into what the ledger recorded, each exactly once. Runs after the ledger's transaction committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tenants.revisions import environment_key
from usage.amounts import Amounts, Pair
from usage.counting.keys import open_keys, reservation_key
from usage.counting.store import store
from usage.counting.tracked import Counter
from usage.metrics import COUNTED

# More in one script would keep every other caller waiting for it.
SETTLED_AT_ONCE_MAX = 50

_pack = msgspec.msgpack.Encoder().encode


class Charge(msgspec.Struct, frozen=True):
    """What counters take of what one transaction of the ledger wrote. Each has one charge at most of a transaction."""

    xid: int
    amounts: Amounts
    counters: tuple[Counter, ...]


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger charged for a request, oldest first."""

    request_id: str
    charges: tuple[Charge, ...]

    @property
    def counters(self) -> dict[str, Counter]:
        return {counter.key: counter for charge in self.charges for counter in charge.counters}


class CounterState(msgspec.Struct, frozen=True):
    used: Amounts
    held: Amounts


class Settled(msgspec.Struct, frozen=True):
    """Whether anything was charged that had not been before; and, if asked for, how the counters stand now."""

    charged: bool
    states: dict[Pair, CounterState] = msgspec.field(default_factory=dict)


def settle_many(
    environment_id: int, edition: str, settlements: Sequence[Settlement], *, states: bool = False
) -> list[Settled] | None:
    """One script for at most SETTLED_AT_ONCE_MAX. None: the edition is not in force, and nothing was done.

    `states`: with how the counters stand afterwards. Raises StoreUnavailable.
    """
    counters = {key: counter for settlement in settlements for key, counter in settlement.counters.items()}
    places = {key: place for place, key in enumerate(counters, start=1)}
    keys = [
        environment_key(environment_id),
        *open_keys(environment_id),
        *counters,
        *(reservation_key(environment_id, settlement.request_id) for settlement in settlements),
    ]
    call = {
        "revision": edition,
        "states": states,
        "counters": [counter.slot.arguments for counter in counters.values()],
        "reports": [
            [
                (str(charge.xid), tuple(charge.amounts), [places[counter.key] for counter in charge.counters])
                for charge in settlement.charges
            ]
            for settlement in settlements
        ],
    }
    answer = store.run("settle", keys, [_pack(call)])
    if answer[0] == b"STALE":
        return None
    _, charged, numbers = answer
    found = _states(tuple(counters), numbers)
    return [
        Settled(flag == 1, {each.slot.pair: found[key] for key, each in settlement.counters.items() if found})
        for flag, settlement in zip(charged, settlements, strict=True)
    ]


def _states(keys: Sequence[str], numbers: list[Any]) -> dict[str, CounterState]:
    """By key; none if they were not asked for."""
    width = len(COUNTED)
    found = {}
    for place, key in enumerate(keys if numbers else ()):
        first = 2 * width * place
        used, held = numbers[first : first + width], numbers[first + width : first + 2 * width]
        found[key] = CounterState(Amounts(*map(int, used)), Amounts(*map(int, held)))
    return found
