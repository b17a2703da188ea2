"""Charging: what the ledger committed goes into the counters, and the holds end.

The ledger comes first. If the counter store is away, or this process dies, between the two, nothing is lost: a
repeated report charges what was not charged yet, and an environment whose charges could not be delivered has its
counters rebuilt from the ledger before they are used again (catching_up.py). Holds whose charge was lost on the way are
ended by `settle_reported`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from django.db import DatabaseError, InterfaceError

from tenants import missed
from usage.amounts import Amounts, Movement, Subjects
from usage.counting import rules, settle
from usage.counting.release import AlreadyCharged, NotOpen, end
from usage.counting.reservations import open_holds, readable
from usage.counting.rules import CountingRules
from usage.counting.settle import Charge, Settled, Settlement
from usage.counting.store import StoreUnavailable, store
from usage.counting.sync import JUST_READ
from usage.counting.tracked import FOREVER_MS, Counter, CurrentWindows
from usage.instants import to_ms
from usage.ledger.reading import Recorded, entries

logger = logging.getLogger("tokvigil.charging")

# An ended reservation is remembered for an hour (prelude.lua); after that a repeated report must not charge again.
REPEATED_CHARGE_MAX_AGE = timedelta(minutes=50)
# By what is known, by what was just read, and once more if the store lost its data between.
TRIES_MAX = 3
HOLDS_MAX = 20_000
HOLDS_BATCH_MAX = 500


def charge(recorded: Sequence[Recorded], known: CountingRules, *, states: bool = False) -> dict[str, Settled]:
    """Charges what is recorded in one environment; by request id, those that were charged or found charged.

    `states`: with how their counters stand afterwards.

    Left out: what was recorded too long ago to be charged again; and all, if the counters could not be told, which is
    noted, to be made good for later. Raises nothing: what is recorded stays recorded.
    """
    fresh = [row for row in recorded if is_fresh(row)]
    try:
        return _settle(fresh, known, states=states)
    except (StoreUnavailable, DatabaseError, InterfaceError) as error:
        logger.warning("environment %s not charged, to be recounted: %s", known.environment_id, error)
        note_missed(known.environment_id)
        return {}


def is_fresh(row: Recorded) -> bool:
    """Whether the counter store still remembers if the row was charged."""
    return not row.duplicate or _is_young(row.recorded_at)


def _is_young(recorded_at: datetime) -> bool:
    return datetime.now(UTC) - recorded_at < REPEATED_CHARGE_MAX_AGE


def _settle(rows: Sequence[Recorded], known: CountingRules, *, states: bool = False) -> dict[str, Settled]:
    settled: dict[str, Settled] = {}
    # Those of one end user come together, for each counter is read and written once a script.
    waiting, edition = sorted(rows, key=_user_id), known.edition
    for _ in range(TRIES_MAX):
        while waiting:
            now, later = waiting[: settle.SETTLED_AT_ONCE_MAX], waiting[settle.SETTLED_AT_ONCE_MAX :]
            settlements = [_settlement(row, known) for row in now]
            answers = settle.settle_many(known.environment_id, edition, settlements, states=states)
            if answers is None:
                break
            settled |= zip((row.request_id for row in now), answers, strict=True)
            waiting = later
        else:
            return settled
        known, edition = rules.renew(known.environment_id), JUST_READ
    raise StoreUnavailable("the counter store was emptied or started again, over and over")


def _user_id(row: Recorded) -> str:
    return "" if row.subjects is None else row.subjects.user_id


def _settlement(row: Recorded, known: CountingRules) -> Settlement:
    charged_to = known.tracked.at(to_ms(row.charged_at))
    return Settlement(request_id=row.request_id, charges=tuple(_charges(row, charged_to)))


def _charges(row: Recorded, charged_to: CurrentWindows) -> Iterator[Charge]:
    if row.subjects is None:
        return
    of_xid: dict[int, list[Movement]] = {}
    for movement in row.movements:
        of_xid.setdefault(movement.xid, []).append(movement)
    for xid, movements in of_xid.items():
        if len(movements) == 1:
            [movement] = movements
            yield Charge(xid, movement.amounts, charged_to.counters(row.subjects, movement.model))
        else:
            yield from _of_several_models(xid, movements, row.subjects, charged_to)


def _of_several_models(
    xid: int, movements: Sequence[Movement], subjects: Subjects, charged_to: CurrentWindows
) -> Iterator[Charge]:
    """A transaction that wrote the report of one model and took back the estimate of another."""
    charged: dict[str, tuple[Counter, Amounts]] = {}
    for movement in movements:
        for counter in charged_to.counters(subjects, movement.model):
            _, before = charged.get(counter.key, (counter, Amounts()))
            charged[counter.key] = counter, before.plus(movement.amounts)
    # Marks the transaction as charged, also where nothing counts it.
    yield Charge(xid, Amounts(), ())
    for counter, amounts in charged.values():
        yield Charge(xid, amounts, (counter,))


def settle_reported(environment_id: int, until_ms: int = FOREVER_MS) -> int:
    """Ends open holds whose call is in the ledger, for its charge was lost on the way; how many.

    Only those that expire before `until_ms`. Raises StoreUnavailable, DatabaseError.
    """
    holds = open_holds(environment_id, until_ms, HOLDS_MAX)
    request_ids = [held.request_id for _, held in readable(environment_id, holds)]
    ended = 0
    for first in range(0, len(request_ids), HOLDS_BATCH_MAX):
        found = entries(environment_id, request_ids[first : first + HOLDS_BATCH_MAX])
        _end(environment_id, found)
        ended += len(found)
    return ended


def _end(environment_id: int, found: dict[str, Recorded]) -> None:
    young = []
    for request_id, recorded in found.items():
        if recorded.subjects is not None and _is_young(recorded.recorded_at):
            young.append(recorded)
        else:
            # Charged long ago, and its id used again since.
            with suppress(NotOpen, AlreadyCharged):
                end(environment_id, request_id)
    _settle(young, rules.current(environment_id))


def note_missed(environment_id: int) -> None:
    """The counter store could not be told something: it is made good before the counters are used. Raises nothing."""
    missed.note_or_remember(environment_id, missed.CHANGE)
    store.outages += 1
