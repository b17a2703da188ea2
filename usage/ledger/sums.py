"""Sums of the ledger over a period: of rollups, and of what they do not cover.

One statement reads all of it, so that all of it is of one snapshot, in which every row is either in the rollups or in
the tail (usage/ledger/rollups.py):

    days, quarter hours   the whole buckets of the period
    edges                 rows that are rolled up, where the period cuts a bucket
    tail                  rows of the period that are not rolled up yet

The columns of a subject decide between the two levels of rollups: what is asked of a user or a run needs those by user.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import DatabaseError, connection

from usage.amounts import Amounts, Per, Subjects
from usage.ledger.buckets import Parts, Range, parts
from usage.ledger.rollups import NEXT_XID, SUMS, TOTAL_KEY, USER_KEY
from usage.metrics import COLUMNS as COUNTED
from usage.metrics import sql_sums

# Which rows belong to a subject, and the values that say so.
COLUMNS: dict[Per, tuple[str, ...]] = {
    Per.USER: ("user_id",),
    Per.USER_FEATURE: ("user_id", "feature"),
    Per.FEATURE: ("feature",),
    Per.PLAN: ("plan",),
    Per.ENVIRONMENT: (),
    Per.RUN: ("run_id",),
}
# xmin, xmax and the transactions under way: which transactions the sums have seen.
Snapshot = tuple[int, int, str]

# What a single row adds to each sum.
_OF_A_ROW = {
    "events": "1",
    "cost_nano": "coalesce(cost_nano, 0)",
    "unpriced": "CASE WHEN cost_nano IS NOT NULL THEN 0 WHEN status = 'reversal' THEN -1 ELSE 1 END",
}


class OtherCluster(DatabaseError):
    """The database was restored from a dump, and the rollups do not know yet which rows they cover."""

    def __init__(self) -> None:
        super().__init__(
            "the rollups are of the database before its restore; manage.py rollup_usage makes them right"
        )


@dataclass(frozen=True, slots=True)
class Used:
    """What was used in a period, as a text of SQL that can stand in a FROM, and its values.

    Its columns: `at` (the row's time, or the start of its bucket), the names asked for, and those of SUMS.
    """

    sql: str
    values: list[Any] = field(default_factory=list)


def used(environment_id: int, bounds: Sequence[datetime], columns: Iterable[str]) -> Used:
    """From the first of the bounds until before the last; no bucket lies across any of them."""
    wanted = set(columns)
    level, key = ("usage_total", TOTAL_KEY) if wanted <= set(TOTAL_KEY) else ("usage_rollup", USER_KEY)
    cut = parts(bounds)
    if not cut.days and not cut.quarters:
        return _rows_alone(environment_id, key, Range(bounds[0], bounds[-1]))
    return _rolled_up(environment_id, level, key, cut, Range(bounds[0], bounds[-1]))


def _rows_alone(environment_id: int, key: tuple[str, ...], period: Range) -> Used:
    return Used(
        f"""
        SELECT {_row(key)} FROM usage_event
        WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s
        """,  # noqa: S608 (our own names)
        [environment_id, period.start, period.end],
    )


def _rolled_up(environment_id: int, level: str, key: tuple[str, ...], cut: Parts, period: Range) -> Used:
    branches = [
        *_buckets(environment_id, f"{level}_day", key, cut.days),
        *_buckets(environment_id, f"{level}_quarter", key, cut.quarters),
        *_edges(environment_id, key, cut.rows),
        _tail(environment_id, key, period),
    ]
    return Used(
        " UNION ALL ".join(branch.sql for branch in branches),
        [value for branch in branches for value in branch.values],
    )


def _buckets(environment_id: int, table: str, key: tuple[str, ...], ranges: tuple[Range, ...]) -> list[Used]:
    if not ranges:
        return []
    sql = f"""
        SELECT start AS at, {", ".join(key)}, {", ".join(SUMS)}
        FROM unnest(%s::timestamptz[], %s::timestamptz[]) AS part (first, past)
        JOIN {table} ON start >= part.first AND start < part.past
        WHERE environment_id = %s
    """  # noqa: S608 (our own names)
    return [Used(sql, [*_columns(ranges), environment_id])]


def _edges(environment_id: int, key: tuple[str, ...], ranges: tuple[Range, ...]) -> list[Used]:
    """Each range by the index. Without OFFSET 0 the planner joins, and believes that they hold much of the ledger."""
    if not ranges:
        return []
    sql = f"""
        SELECT {_row(key)}
        FROM unnest(%s::timestamptz[], %s::timestamptz[]) AS part (first, past)
        CROSS JOIN LATERAL (
            SELECT * FROM usage_event
            WHERE environment_id = %s AND charged_at >= part.first AND charged_at < part.past OFFSET 0
        ) AS edge
        WHERE id <= {_mark("floor_id")} OR xid < {_mark("xid")}
    """  # noqa: S608 (our own names)
    return [Used(sql, [*_columns(ranges), environment_id, environment_id, environment_id])]


def _tail(environment_id: int, key: tuple[str, ...], period: Range) -> Used:
    """Found by transaction, for all users at once. A user's or a run's own rows are few: the planner may choose.

    The mark as it was a moment ago tells the planner how few rows there are; the one of the snapshot decides.
    """
    was = _mark_before(environment_id)
    fence = "OFFSET 0" if was and key == TOTAL_KEY else ""
    sql = f"""
        SELECT {_row(key)} FROM (
            SELECT * FROM usage_event WHERE environment_id = %s AND xid >= %s AND xid < {NEXT_XID} {fence}
        ) AS tail
        WHERE xid >= {_mark("xid")} AND id > {_mark("floor_id")} AND charged_at >= %s AND charged_at < %s
    """  # noqa: S608 (our own names)
    return Used(sql, [environment_id, was, environment_id, environment_id, period.start, period.end])


def _mark(column: str) -> str:
    return f"coalesce((SELECT {column} FROM usage_rollup_mark WHERE environment_id = %s), 0)"  # noqa: S608


def _mark_before(environment_id: int) -> int:
    """Raises OtherCluster."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT xid, cluster = system_identifier FROM usage_rollup_mark, pg_control_system()
            WHERE environment_id = %s
            """,
            [environment_id],
        )
        found = cursor.fetchone()
    if found is None:
        return 0
    xid, of_this_cluster = found
    if not of_this_cluster:
        raise OtherCluster
    return int(xid)


def _row(key: tuple[str, ...]) -> str:
    return ", ".join(["charged_at AS at", *key, *(f"{_OF_A_ROW.get(name, name)} AS {name}" for name in SUMS)])


def _columns(ranges: tuple[Range, ...]) -> list[list[datetime]]:
    return [[each.start for each in ranges], [each.end for each in ranges]]


def of_subject(
    environment_id: int, per: Per, subjects: Subjects, start: datetime, end: datetime
) -> tuple[Snapshot, Amounts]:
    """What one subject used, and the snapshot that it was read at. Raises DatabaseError."""
    columns = COLUMNS[per]
    rows = used(environment_id, [start, end], columns)
    where = " AND ".join(["true", *(f"{column} = %s" for column in columns)])
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT pg_current_snapshot()::text, {sql_sums()} FROM ({rows.sql}) AS used WHERE {where}",  # noqa: S608
            [*rows.values, *(getattr(subjects, column) for column in columns)],
        )
        found = cursor.fetchone()
    assert found is not None
    return _snapshot(found[0]), Amounts(*found[1:])


def of_users(
    environment_id: int, users: Collection[str], start: datetime, end: datetime
) -> dict[str, Amounts]:
    """What each of these users used; those who used nothing are left out. Raises DatabaseError."""
    rows = used(environment_id, [start, end], COLUMNS[Per.USER])
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT user_id, {sql_sums()} FROM ({rows.sql}) AS used WHERE user_id = ANY(%s) GROUP BY user_id",  # noqa: S608
            [*rows.values, list(users)],
        )
        return {user: Amounts(*found) for user, *found in cursor.fetchall()}


def of_all(
    environment_id: int, per: Per, start: datetime, end: datetime
) -> tuple[Snapshot, dict[str, Amounts]]:
    """What every subject of this kind used, by its name, and the snapshot. Raises DatabaseError."""
    columns = COLUMNS[per]
    rows = used(environment_id, [start, end], columns)
    names = "".join(f", {column}" for column in columns)
    grouped = ", ".join(columns) or "()"
    with connection.cursor() as cursor:
        # One row at least, for the snapshot must be that of the same statement also where it finds nothing.
        cursor.execute(
            f"""
            WITH subject AS (
                SELECT {sql_sums()}{names} FROM ({rows.sql}) AS used GROUP BY {grouped} HAVING count(*) > 0
            )
            SELECT pg_current_snapshot()::text, subject.* FROM (VALUES (true)) AS always LEFT JOIN subject ON true
            """,  # noqa: S608 (our own names)
            rows.values,
        )
        rows_found = cursor.fetchall()
    amounts = {}
    for _, *found in rows_found:
        summed, named = found[: len(COUNTED)], dict(zip(columns, found[len(COUNTED) :], strict=True))
        subject = None if summed[0] is None else Subjects(**{"user_id": "", **named}).name(per)
        if subject is not None:
            amounts[subject] = Amounts(*summed)
    return _snapshot(rows_found[0][0]), amounts


def _snapshot(text: str) -> Snapshot:
    xmin, xmax, under_way = text.split(":")
    return int(xmin), int(xmax), under_way
