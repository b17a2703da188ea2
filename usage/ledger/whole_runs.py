"""One row for each run: its first and its last UTC day, and the sums of all its days (`usage_whole_run`).

Most runs begin and end inside of a period. What such a run used there is this row, and nothing has to be added up. The
rows are derived from the days of runs (`usage_whole_run_day`), and can be made anew of them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from usage.ledger.rollup_tables import SUMS, WHOLE_RUN_KEY, digest

TABLE = "usage_whole_run"
DAYS = "usage_whole_run_day"
_SUMS = ", ".join(SUMS)
_ADDED = ", ".join(f"sum({name})" for name in SUMS)

# Adds what a roll found.
INSERT = f"""
    INSERT INTO {TABLE} (environment_id, digest, run_id, first_day, last_day, {_SUMS})
    SELECT %s, {digest(WHOLE_RUN_KEY)}, run_id, min(day), max(day), {_ADDED} FROM fresh GROUP BY run_id
    -- As the index has them.
    ORDER BY 2
    ON CONFLICT (environment_id, digest) DO UPDATE
    SET first_day = least({TABLE}.first_day, excluded.first_day),
        last_day = greatest({TABLE}.last_day, excluded.last_day),
        {", ".join(f"{name} = {TABLE}.{name} + excluded.{name}" for name in SUMS)}
"""  # noqa: S608 (our own names)

# What the days of runs say that have one between two times, or whose row says so.
OF_DAYS = f"""
    SELECT environment_id, digest, run_id, min(start) AS first_day, max(start) AS last_day,
        {", ".join(f"sum({name}) AS {name}" for name in SUMS)}
    FROM {DAYS} JOIN (
        SELECT environment_id, run_id FROM {TABLE} WHERE last_day >= %(start)s AND first_day < %(end)s
        UNION
        SELECT environment_id, run_id FROM {DAYS} WHERE start >= %(start)s AND start < %(end)s
    ) AS run USING (environment_id, run_id)
"""  # noqa: S608 (our own names)


def make_anew(cursor: Any, environment_id: int, start: datetime, end: datetime) -> None:
    """Of their days: the rows of the runs that had a day between the two, or have one now."""
    values = {"environment_id": environment_id, "start": start, "end": end}
    cursor.execute(
        f"""
        INSERT INTO {TABLE} (environment_id, digest, run_id, first_day, last_day, {_SUMS})
        {OF_DAYS} WHERE environment_id = %(environment_id)s GROUP BY 1, 2, 3
        ON CONFLICT (environment_id, digest) DO UPDATE
        SET {", ".join(f"{name} = excluded.{name}" for name in ("run_id", "first_day", "last_day", *SUMS))}
        """,  # noqa: S608 (our own names)
        values,
    )
    cursor.execute(
        f"""
        DELETE FROM {TABLE} AS run
        WHERE environment_id = %(environment_id)s AND last_day >= %(start)s AND first_day < %(end)s AND NOT EXISTS (
            SELECT FROM {DAYS} AS day
            WHERE day.environment_id = run.environment_id AND day.run_id = run.run_id
        )
        """,  # noqa: S608 (our own names)
        values,
    )
