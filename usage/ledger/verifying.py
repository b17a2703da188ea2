"""Whether the rollups of a month say what its rows say, each bucket of all tables: before its rows may leave.

The row of a whole run is compared with its days in the month of its last one: those before it were compared before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from django.db import connection

from usage.ledger import whole_runs
from usage.ledger.buckets import Size
from usage.ledger.months import next_month, of_month
from usage.ledger.quantity_rollups import ADDED, AMOUNT, HAS_ANY, OF_A_ROW, TWINS
from usage.ledger.rollup_tables import BUCKETS, SUMS, TABLES
from usage.ledger.rollups import LEDGER

FLAWS_MAX = 3


@dataclass(frozen=True, slots=True)
class Flaw:
    """Of an environment: a bucket whose sums are not those of its rows, or a day of a run whose own row is wrong."""

    table: str
    environment_id: int
    start: datetime


def flaws(month: date) -> list[Flaw]:
    """The first of them, none if all is right. Of a month whose rows are all rolled up. Reads all of its rows."""
    tables = LEDGER.tables(month)
    of_buckets = [flaw for table in TABLES for flaw in _flaws(table, month, tables)]
    of_quantities = [flaw for table in TWINS for flaw in _flaws_of_quantities(table, month, tables)]
    return [*of_buckets, *of_quantities, *_flaws_of_whole_runs(month)][:FLAWS_MAX]


def _flaws(table: str, month: date, tables: list[str]) -> list[Flaw]:
    size, key = TABLES[table]
    return _flaws_of_sums(table, key, _rows(size, tables), SUMS, month)


def _flaws_of_quantities(table: str, month: date, tables: list[str]) -> list[Flaw]:
    size, key = TWINS[table]
    rows = f"{_rows(size, tables)} {OF_A_ROW} WHERE {HAS_ANY}"
    return _flaws_of_sums(table, key, rows, {AMOUNT: f"sum({ADDED})"}, month)


def _rows(size: Size, tables: list[str]) -> str:
    """As what stands in a FROM, each with the start of its bucket."""
    # A month whose first partition was detached may have got another: the rollups have the rows of both.
    rows = " UNION ALL ".join(f"SELECT * FROM {each}" for each in tables)  # noqa: S608 (our own names)
    return f"(SELECT *, {BUCKETS[size]} AS start FROM ({rows}) AS event) AS event"  # noqa: S608 (our own names)


def _flaws_of_sums(
    table: str, key: tuple[str, ...], rows: str, sums: Mapping[str, str], month: date
) -> list[Flaw]:
    grouped = ", ".join(("environment_id", "start", *key))
    summed = ", ".join(f"{expression} AS {name}" for name, expression in sums.items())
    of_rows = f"SELECT {grouped}, {summed} FROM {rows} GROUP BY {grouped}"  # noqa: S608 (our own names)
    said = f"SELECT {grouped}, {', '.join(sums)} FROM {table} WHERE start >= %(start)s AND start < %(end)s"  # noqa: S608
    return _differing(table, of_rows, said, month, "start")


def _flaws_of_whole_runs(month: date) -> list[Flaw]:
    """Of those that ended in it."""
    names = ", ".join(("environment_id", "digest", "run_id", "first_day", "last_day", *SUMS))
    of_days = f"{whole_runs.OF_DAYS} GROUP BY 1, 2, 3 HAVING max(start) >= %(start)s AND max(start) < %(end)s"
    said = f"SELECT {names} FROM {whole_runs.TABLE} WHERE last_day >= %(start)s AND last_day < %(end)s"  # noqa: S608
    return _differing(whole_runs.TABLE, of_days, said, month, "last_day")


def _differing(table: str, expected: str, said: str, month: date, at: str) -> list[Flaw]:
    """Where the table does not say what is expected, both as selects of the same columns. `at`: when, of such a row."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH expected AS MATERIALIZED ({expected}), said AS MATERIALIZED ({said})
            SELECT DISTINCT environment_id, {at} FROM (
                (TABLE expected EXCEPT ALL TABLE said) UNION ALL (TABLE said EXCEPT ALL TABLE expected)
            ) AS flaw
            -- What is left of others is nobody's.
            WHERE environment_id IN (SELECT id FROM tenants_environment) ORDER BY 1, 2 LIMIT %(most)s
            """,  # noqa: S608 (our own names)
            {"start": of_month(month), "end": of_month(next_month(month)), "most": FLAWS_MAX},
        )
        return [Flaw(table, environment_id, start) for environment_id, start in cursor.fetchall()]
