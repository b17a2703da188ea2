"""Whether the rollups of a month say what its rows say, each bucket of all tables: before its rows may leave."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from django.db import connection

from usage.ledger.months import next_month, of_month
from usage.ledger.rollup_tables import BUCKETS, SUMS, TABLES
from usage.ledger.rollups import LEDGER

FLAWS_MAX = 3


@dataclass(frozen=True, slots=True)
class Flaw:
    """A bucket of an environment whose sums are not those of its rows."""

    table: str
    environment_id: int
    start: datetime


def flaws(month: date) -> list[Flaw]:
    """The first of them, none if all is right. Of a month whose rows are all rolled up. Reads all of its rows."""
    tables = LEDGER.tables(month)
    return [flaw for table in TABLES for flaw in _flaws(table, month, tables)][:FLAWS_MAX]


def _flaws(table: str, month: date, tables: list[str]) -> list[Flaw]:
    size, key = TABLES[table]
    names = ", ".join(("environment_id", "start", *key, *SUMS))
    grouped = ", ".join(("environment_id", "start", *key))
    summed = ", ".join(f"{expression} AS {name}" for name, expression in SUMS.items())
    # A month whose first partition was detached may have got another: the rollups have the rows of both.
    rows = " UNION ALL ".join(f"SELECT * FROM {each}" for each in tables)  # noqa: S608 (our own names)
    of_rows = f"SELECT {grouped}, {summed} FROM (SELECT *, {BUCKETS[size]} AS start FROM ({rows}) AS event) AS event"  # noqa: S608
    said = f"SELECT {names} FROM {table} WHERE start >= %s AND start < %s"  # noqa: S608 (our own names)
    bounds = [of_month(month), of_month(next_month(month))]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH of_rows AS MATERIALIZED ({of_rows} GROUP BY {grouped}), said AS MATERIALIZED ({said})
            SELECT DISTINCT environment_id, start FROM (
                (TABLE of_rows EXCEPT ALL TABLE said) UNION ALL (TABLE said EXCEPT ALL TABLE of_rows)
            ) AS flaw
            -- What is left of others is nobody's.
            WHERE environment_id IN (SELECT id FROM tenants_environment) ORDER BY environment_id, start LIMIT %s
            """,  # noqa: S608 (our own names)
            [*bounds, FLAWS_MAX],
        )
        return [Flaw(table, environment_id, start) for environment_id, start in cursor.fetchall()]
