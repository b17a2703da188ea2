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
from datetime import UTC, datetime, timedelta

from django.db import DatabaseError, InterfaceError

from tenants.models import Environment
from usage import assessment
from usage.counting import rules, settle
from usage.counting.distrust import distrust
from usage.counting.release import AlreadyCharged, NotOpen, release
from usage.counting.reservations import open_holds
from usage.counting.rules import CountingRules
from usage.counting.settle import Settled, Settlement
from usage.counting.store import StoreUnavailable, store
from usage.counting.tracked import FOREVER_MS
from usage.ledger.reading import Recorded, entries

logger = logging.getLogger("tokvigil.charging")

# An ended reservation is remembered for an hour (prelude.lua); after that a repeated report must not charge again.
REPEATED_CHARGE_MAX_AGE = timedelta(minutes=50)
HOLDS_MAX = 20_000
HOLDS_BATCH_MAX = 500


def charge(recorded: Sequence[Recorded], known: CountingRules) -> dict[str, Settled]:
    """Charges what is recorded in one environment; by request id, those that were charged or found charged.

    Left out: what was recorded too long ago to be charged again; and all, if the counters could not be told, which is
    noted, to be made good for later. Raises nothing: what is recorded stays recorded.
    """
    fresh = [row for row in recorded if is_fresh(row)]
    try:
        return _settle(fresh, known)
    except (StoreUnavailable, DatabaseError, InterfaceError) as error:
        logger.warning("environment %s not charged, to be recounted: %s", known.environment_id, error)
        note_missed(known.environment_id)
        return {}


def is_fresh(row: Recorded) -> bool:
    """Whether the counter store still remembers if the row was charged."""
    return not row.duplicate or _is_young(row.recorded_at)


def _is_young(recorded_at: datetime) -> bool:
    return datetime.now(UTC) - recorded_at < REPEATED_CHARGE_MAX_AGE


def _settle(rows: Sequence[Recorded], known: CountingRules) -> dict[str, Settled]:
    settled: dict[str, Settled] = {}
    waiting = list(rows)
    for _ in range(rules.RELOADS_MAX):
        while waiting:
            now, later = waiting[: settle.SETTLED_AT_ONCE_MAX], waiting[settle.SETTLED_AT_ONCE_MAX :]
            settlements = [_settlement(row, known) for row in now]
            answers = settle.settle_many(known.environment_id, known.revision, settlements)
            if answers is None:
                break
            settled |= zip((row.request_id for row in now), answers, strict=True)
            waiting = later
        else:
            return settled
        known = rules.renew(known.environment_id)
    raise StoreUnavailable("the environment changes faster than it can be read")


def _settlement(row: Recorded, known: CountingRules) -> Settlement:
    charged_to = known.tracked.at(int(row.charged_at.timestamp() * 1000))
    return Settlement(
        request_id=row.request_id,
        counters=() if row.subjects is None else charged_to.counters(row.subjects),
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


def _end(environment_id: int, found: dict[str, Recorded]) -> None:
    young = []
    for request_id, recorded in found.items():
        if recorded.subjects is not None and _is_young(recorded.recorded_at):
            young.append(recorded)
        else:
            # Charged long ago, and its id used again since.
            with suppress(NotOpen, AlreadyCharged):
                release(environment_id, request_id)
    _settle(young, rules.current(environment_id))


def note_missed(environment_id: int) -> None:
    """The counter store could not be told something: have it recounted once it is back."""
    store.behind = True
    try:
        Environment.objects.filter(pk=environment_id, recount_needed=False).update(recount_needed=True)
    except (DatabaseError, InterfaceError) as error:
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
