"""The months of the ledger: each is a partition of its own, so an old one leaves in O(1).

Its sums stay: a month is detached only when all of its rows are rolled up (usage/ledger/rollups.py) and the rollups
were compared with them. From then on totals and `total` limits read it from the rollups, and its rows are in a table
of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from django.db import transaction

from audit import log as audit_log
from audit import roles
from audit.log import Target
from tenants.models import Environment
from usage.ledger import request_ids, rollups, verifying
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
                _verify(partition)
            LEDGER.detach(partition.name)
    names = [partition.name for partition in found]
    with transaction.atomic():
        audit_log.log(
            "ledger.detached", Target("usage.ledger", f"{month:%Y-%m}"), tenant_id=None, tables=names
        )
    return names


def _verify(partition: Partition) -> None:
    """Raises NotYet."""
    found = verifying.flaws(partition.month)
    if not found:
        return
    LEDGER.take_rows_again(partition.name)
    flaw = found[0]
    environment = Environment.objects.select_related("tenant").filter(pk=flaw.environment_id).first()
    whose = environment or f"environment {flaw.environment_id}"
    raise NotYet(
        f"its rollups do not say what its rows say: {flaw.table} of {whose} at {flaw.start:%Y-%m-%d %H:%M}Z. Make them"
        f" anew with `rollup_usage {whose} --from {flaw.start:%Y-%m-%d} --to {flaw.start:%Y-%m-%d}`, then try again"
    )


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
