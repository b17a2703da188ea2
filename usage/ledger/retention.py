"""Which months of rows are kept, and which have left. Off unless USAGE_KEPT_MONTHS says how many.

What leaves are the rows of a month, never its sums: partitions.detach verifies these against the rows first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from django.conf import settings
from django.db import ProgrammingError, connection

from usage.ledger import partitions
from usage.ledger.months import StillRead, next_month, of_month
from usage.ledger.partitions import REPORTED_WITHIN, NotYet
from usage.ledger.periods import Period
from usage.ledger.rollups import LEDGER

logger = logging.getLogger("tokvigil.retention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The tables that left the ledger, and of the months that should have left why they did not."""

    detached: tuple[str, ...] = ()
    stayed: tuple[str, ...] = ()


def kept_months() -> int | None:
    """How many whole months before the current one keep their rows; None: all."""
    months: int = settings.USAGE_KEPT_MONTHS
    return months or None


def kept_since(now: datetime) -> date | None:
    """The first month (UTC) whose rows are kept; None: all are."""
    kept = kept_months()
    if kept is None:
        return None
    number = now.year * 12 + now.month - 1 - kept
    return date(number // 12, number % 12 + 1, 1)


def due(now: datetime) -> list[date]:
    """The months whose rows should leave, the oldest first."""
    since = kept_since(now)
    if since is None:
        return []
    found = {each.month for each in LEDGER.partitions()}
    return sorted(
        month for month in found if month < since and of_month(next_month(month)) + REPORTED_WITHIN <= now
    )


def apply(now: datetime) -> Outcome:
    """Detaches what is due, as the owner of the ledger. Not inside a transaction."""
    detached: list[str] = []
    stayed: list[str] = []
    for month in due(now):
        try:
            detached += partitions.detach(of_month(month))
        except (NotYet, StillRead) as error:
            stayed.append(f"{month:%Y-%m}: {error}")
        except ProgrammingError as error:
            stayed.append(
                f"{month:%Y-%m}: it takes the owner of the ledger, see MIGRATION_DATABASE_URL: {error}"
            )
            break
    for reason in stayed:
        logger.warning("USAGE_KEPT_MONTHS is %s, but rows stay of %s", kept_months(), reason)
    return Outcome(detached=tuple(detached), stayed=tuple(stayed))


def gone(environment_ids: Iterable[int], period: Period) -> list[date]:
    """The months (UTC) of the period of which these environments have sums, and no rows in the ledger any more."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT (date_trunc('month', start, 'UTC') AT TIME ZONE 'UTC')::date FROM usage_total_day
            WHERE environment_id = ANY(%s) AND start >= %s AND start < %s ORDER BY 1
            """,
            [list(environment_ids), date_start(period.start), period.end],
        )
        # A later partition of the same month (`_2`) has only what came after the rows had left.
        there = {each.name for each in LEDGER.partitions() if not each.leaving}
        return [month for (month,) in cursor.fetchall() if LEDGER.name(month) not in there]


def date_start(at: datetime) -> datetime:
    """The UTC day that an instant is in."""
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
