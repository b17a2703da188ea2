"""The months of the ledger: each is a partition of its own, so an old one leaves in O(1).

Its sums stay: a month is detached only when all of its rows are rolled up (usage/ledger/rollups.py). From then on
totals and `total` limits read them from the rollups, and its rows are in a table of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from audit import roles
from usage.ledger import request_ids, rollups
from usage.ledger.months import Partition, is_missing, month_of, months_from, next_month, of_month
from usage.ledger.rollups import LEDGER

__all__ = ["AHEAD_MONTHS", "NotYet", "detach", "ensure", "ensure_ahead", "is_missing", "keep_up", "names"]

AHEAD_MONTHS = 3
# After its end no report of the month comes any more: one may be 35 days late, and a hold is open for some hours.
REPORTED_WITHIN = timedelta(days=36)
_ROLL_TRIES = 10
_ROLL_PAUSE_S = 0.5


class NotYet(Exception):
    """The month cannot be detached now."""


def ensure(times: Iterable[datetime]) -> list[str]:
    """Makes the partitions that hold these times; the names of the new ones. Raises OperationalError."""
    return LEDGER.ensure(map(month_of, times))


def ensure_ahead(now: datetime, months: int = AHEAD_MONTHS) -> list[str]:
    """Makes the partitions of last month, this one and the next ones. Raises OperationalError."""
    last_month = month_of(datetime(now.year, now.month, 1, tzinfo=UTC) - timedelta(days=1))
    return LEDGER.ensure(months_from(last_month, months + 2))


def keep_up(now: datetime, months: int = AHEAD_MONTHS) -> list[str]:
    """All the ledger's tables need from time to time: partitions ahead, detaches ended, old request ids gone.

    The names of the new partitions of the ledger. Raises OperationalError.
    """
    LEDGER.finish()
    made = ensure_ahead(now, months)
    request_ids.turn(now)
    request_ids.drop_old(now)
    return made


def names() -> list[str]:
    return [each.name for each in LEDGER.partitions() if not each.leaving]


def detach(at: datetime) -> list[str]:
    """Takes the month of this time out of the ledger without touching its rows; the names of its tables, which stay.

    Takes the ledger's owner (MIGRATION_DATABASE_URL), and not inside a transaction. Raises LookupError, NotYet, and
    StillRead: then the month is leaving and the next run ends it.
    """
    month = month_of(at)
    found = [each for each in LEDGER.partitions() if each.month == month]
    if not found:
        raise LookupError(f"there is no partition {LEDGER.name(month)}")
    free_from = of_month(next_month(month)) + REPORTED_WITHIN
    if datetime.now(UTC) < free_from:
        raise NotYet(f"calls of {month:%Y-%m} may still be reported; detach it from {free_from:%Y-%m-%d} on")
    with roles.as_owner():
        for partition in found:
            if not partition.leaving:
                LEDGER.refuse_rows(partition.name, "usage_event_refuse_insert")
                _roll_up(partition)
            LEDGER.detach(partition.name)
    return [partition.name for partition in found]


def _roll_up(partition: Partition) -> None:
    for _ in range(_ROLL_TRIES):
        missing = rollups.unrolled(partition)
        if not missing:
            return
        for environment_id in missing:
            rollups.roll(environment_id)
        time.sleep(_ROLL_PAUSE_S)
    raise NotYet(
        f"{partition.name} is not rolled up: a transaction has been open for long; end it and try again"
    )
