"""Models without a price that calls used lately: what they cost is in no sum."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError, connection

from usage.ledger import sums
from usage.ledger.leading import at_most

logger = logging.getLogger("tokvigil.prices")

ROWS_MAX = 200
LEDGER_MS_MAX = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedUse:
    """Of a model by a feature, which may be empty. `first_at` is the start of its day or quarter hour."""

    model: str
    feature: str
    calls: int
    first_at: datetime
    blocked: bool = False


def recorded_unpriced(environment_id: int, since: datetime, now: datetime) -> list[UnpricedUse]:
    """The most frequent; none if it takes too long to find out."""
    try:
        return found_unpriced(environment_id, since, now)
    except DatabaseError as error:
        logger.warning("unpriced models of environment %s: %s", environment_id, error)
        return []


def found_unpriced(environment_id: int, since: datetime, now: datetime) -> list[UnpricedUse]:
    """The most frequent. Raises DatabaseError, also if it takes too long."""
    used = sums.used(environment_id, [since, now + timedelta(days=1)], ("model", "feature"))
    with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT model, feature, sum(unpriced)::bigint, min(at) FROM ({used.sql}) AS used WHERE unpriced > 0
            GROUP BY model, feature ORDER BY sum(unpriced) DESC, model, feature LIMIT %s
            """,  # noqa: S608 (our own names)
            [*used.values, ROWS_MAX],
        )
        return [
            UnpricedUse(model=model, feature=feature, calls=calls, first_at=first_at)
            for model, feature, calls, first_at in cursor.fetchall()
        ]
