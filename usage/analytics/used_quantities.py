"""Which quantities of the map (usage/quantities.py) were used, and how much of each in a period."""

from __future__ import annotations

from django.db import connection

from usage.ledger import sums
from usage.ledger.buckets import Range
from usage.ledger.quantity_rollups import AMOUNT, QUANTITY
from usage.ledger.sums import Filters
from usage.quantities import MAPPED


def ever(environment_id: int) -> tuple[str, ...]:
    """In the order of the table. A look into the index for each name.

    The first calls that use something are not rolled up for a minute; until then it is left out.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT name FROM unnest(%s::text[]) WITH ORDINALITY AS mapped (name, place) WHERE EXISTS (
                SELECT FROM usage_total_day_quantity WHERE environment_id = %s AND quantity = name
            ) ORDER BY place
            """,
            [list(MAPPED), environment_id],
        )
        return tuple(name for (name,) in cursor.fetchall())


def in_period(environment_id: int, period: Range, filters: Filters | None = None) -> dict[str, int]:
    """In the order of the table, those also that were taken back in full. One statement. Raises DatabaseError."""
    read = sums.quantities(environment_id, [period.start, period.end], (), filters)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {QUANTITY}, sum({AMOUNT}) FROM ({read.sql}) AS used GROUP BY 1",  # noqa: S608 (our own names)
            read.values,
        )
        found = {name: int(amount) for name, amount in cursor.fetchall()}
    return {name: found[name] for name in MAPPED if name in found}
