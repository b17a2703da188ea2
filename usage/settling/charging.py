"""Charging: what the ledger committed goes into the counters, and the holds end.

The ledger comes first. If the counter store is away, or this process dies, between the two, nothing is lost: a
repeated report charges what was not charged yet, and an environment whose charges could not be delivered has its
counters rebuilt from the ledger once the store is back (`recount_needed`). Holds whose charge was lost on the way are
ended by `settle_reported`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import DatabaseError

from tenants.models import Environment
from usage import assessment
from usage.amounts import Movement, Subjects
from usage.counting import rules, settle
from usage.counting.distrust import distrust
from usage.counting.release import AlreadyCharged, NotOpen, release
from usage.counting.reservations import open_holds
from usage.counting.rules import CountingRules
from usage.counting.settle import Settled, Settlement
from usage.counting.store import StoreUnavailable, store
from usage.counting.tracked import FOREVER_MS
from usage.ledger.reading import Entry, entries
from usage.ledger.writing import Recorded

logger = logging.getLogger("tokvigil.charging")

# An ended reservation is remembered for an hour (prelude.lua); after that a repeated report must not charge again.
REPEATED_CHARGE_MAX_AGE = timedelta(minutes=50)
HOLDS_MAX = 20_000
HOLDS_BATCH_MAX = 500


def charge(recorded: Sequence[Recorded], known: CountingRules) -> list[Settled | None]:
    """Charges rows of one environment. None: nothing to charge any more, or the store is away and will catch up."""
    fresh = [row for row in recorded if is_fresh(row)]
    try:
        charged = iter(_settle([_charge_of(row) for row in fresh], known))
    except StoreUnavailable as error:
        logger.warning("environment %s not charged, to be recounted: %s", known.environment_id, error)
        note_missed(known.environment_id)
        return [None] * len(recorded)
    return [next(charged) if is_fresh(row) else None for row in recorded]


def is_fresh(row: Recorded) -> bool:
    """Whether the counter store still remembers if the row was charged."""
    return not row.duplicate or _is_young(row.recorded_at)


def _is_young(recorded_at: datetime) -> bool:
    return datetime.now(UTC) - recorded_at < REPEATED_CHARGE_MAX_AGE


@dataclass(frozen=True, slots=True)
class _Charge:
    """What the ledger says of one request, and where it belongs."""

    request_id: str
    subjects: Subjects
    charged_at: datetime
    movements: tuple[Movement, ...]


def _charge_of(row: Recorded) -> _Charge:
    report = row.report
    return _Charge(report.request_id, report.subjects, report.charged_at, row.movements)


def _settle(rows: Sequence[_Charge], known: CountingRules) -> list[Settled]:
    if not rows:
        return []
    settled: dict[int, Settled] = {}
    for _ in range(rules.RELOADS_MAX):
        waiting = [place for place in range(len(rows)) if place not in settled]
        answers = settle.settle_many([_settlement(rows[place], known) for place in waiting])
        settled |= {
            place: answer
            for place, answer in zip(waiting, answers, strict=True)
            if isinstance(answer, Settled)
        }
        if len(settled) == len(rows):
            return [settled[place] for place in range(len(rows))]
        known = rules.renew(known.environment_id)
    raise StoreUnavailable("the environment changes faster than it can be read")


def _settlement(row: _Charge, known: CountingRules) -> Settlement:
    return Settlement(
        environment_id=known.environment_id,
        revision=known.revision,
        request_id=row.request_id,
        counters=known.tracked.at(int(row.charged_at.timestamp() * 1000)).counters(row.subjects),
        movements=row.movements,
    )


def settle_reported(environment_id: int, until_ms: int = FOREVER_MS) -> int:
    """Ends open holds whose call is in the ledger, for its charge was lost on the way; how many.

    Only those that expire before `until_ms`. Raises StoreUnavailable, DatabaseError.
    """
    holds = open_holds(environment_id, until_ms, HOLDS_MAX)
    request_ids = [assessment.unpack(hold.assessment).request_id for hold in holds]
    ended = 0
    for first in range(0, len(request_ids), HOLDS_BATCH_MAX):
        found = entries(environment_id, request_ids[first : first + HOLDS_BATCH_MAX])
        _end(environment_id, found)
        ended += len(found)
    return ended


def _end(environment_id: int, found: dict[str, Entry]) -> None:
    charges = []
    for request_id, entry in found.items():
        if entry.subjects is not None and _is_young(entry.recorded_at):
            charges.append(_Charge(request_id, entry.subjects, entry.charged_at, entry.movements))
        else:
            # Charged long ago, and its id used again since.
            with suppress(NotOpen, AlreadyCharged):
                release(environment_id, request_id)
    _settle(charges, rules.current(environment_id))


def note_missed(environment_id: int) -> None:
    """The counter store could not be told something: have it recounted once it is back."""
    store.behind = True
    try:
        Environment.objects.filter(pk=environment_id, recount_needed=False).update(recount_needed=True)
    except DatabaseError as error:
        logger.error("environment %s needs a recount, which could not be noted: %s", environment_id, error)


def catch_up() -> None:
    """Distrusts the counters of environments that missed something. Raises StoreUnavailable."""
    try:
        missed = list(Environment.objects.filter(recount_needed=True).values_list("pk", flat=True))
    except DatabaseError as error:
        logger.warning("not known which environments need a recount: %s", error)
        return
    for environment_id in missed:
        # First the flag: what is missed from now on sets it again.
        Environment.objects.filter(pk=environment_id).update(recount_needed=False)
        try:
            distrust(environment_id)
            settle_reported(environment_id)
        except StoreUnavailable:
            note_missed(environment_id)
            raise


def catch_up_after_restart(environment_ids: Sequence[int]) -> None:
    """The store may have come back from old data, in which holds are open that ended since. Raises StoreUnavailable."""
    try:
        Environment.objects.filter(pk__in=environment_ids).update(recount_needed=True)
        catch_up()
    except DatabaseError as error:
        logger.warning("holds that ended before a restart of the store stay until they expire: %s", error)
