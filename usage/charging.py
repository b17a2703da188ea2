"""Charging: what the ledger committed goes into the counters, and the holds end.

The ledger comes first. If the counter store is away, or this process dies, between the two, nothing is lost: a
repeated report charges what was not charged yet, and an environment whose charges could not be delivered has its
counters rebuilt from the ledger once the store is back (`recount_needed`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from django.db import DatabaseError

from tenants.models import Environment
from usage import counters, metering
from usage.counter_store import StoreUnavailable
from usage.counters import Settled, Settlement
from usage.ledger import Recorded
from usage.metering import Metering

logger = logging.getLogger("tokvigil.charging")

# An ended reservation is remembered for an hour (prelude.lua); after that a repeated report must not charge again.
REPEATED_CHARGE_MAX_AGE = timedelta(minutes=50)


def charge(recorded: Sequence[Recorded], known: Metering) -> list[Settled | None]:
    """Charges rows of one environment. None: nothing to charge any more, or the store is away and will catch up."""
    fresh = [row for row in recorded if is_fresh(row)]
    try:
        charged = iter(_settle(fresh, known)) if fresh else iter(())
    except StoreUnavailable as error:
        logger.warning("environment %s not charged, to be recounted: %s", known.environment_id, error)
        note_missed(known.environment_id)
        return [None] * len(recorded)
    return [next(charged) if is_fresh(row) else None for row in recorded]


def is_fresh(row: Recorded) -> bool:
    """Whether the counter store still remembers if the row was charged."""
    return not row.duplicate or datetime.now(UTC) - row.recorded_at < REPEATED_CHARGE_MAX_AGE


def _settle(rows: Sequence[Recorded], known: Metering) -> list[Settled]:
    settled: dict[int, Settled] = {}
    for _ in range(metering.RELOADS_MAX):
        waiting = [place for place in range(len(rows)) if place not in settled]
        answers = counters.settle_many([_settlement(rows[place], known) for place in waiting])
        settled |= {
            place: answer
            for place, answer in zip(waiting, answers, strict=True)
            if isinstance(answer, Settled)
        }
        if len(settled) == len(rows):
            return [settled[place] for place in range(len(rows))]
        known = metering.renew(known.environment_id)
    raise StoreUnavailable("the environment changes faster than it can be read")


def _settlement(row: Recorded, known: Metering) -> Settlement:
    report = row.report
    return Settlement(
        environment_id=known.environment_id,
        revision=known.revision,
        request_id=report.request_id,
        counters=known.tracked.at(int(report.charged_at.timestamp() * 1000)).counters(report.subjects),
        movements=row.movements,
    )


def note_missed(environment_id: int) -> None:
    """The counter store could not be told something: have it recounted once it is back."""
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
            counters.distrust(environment_id)
        except StoreUnavailable:
            note_missed(environment_id)
            raise
