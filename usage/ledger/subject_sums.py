"""What subjects used in a period: one, some users, or all of a kind; of all models or some. The counters' truth."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from django.db import connection

from usage.amounts import Amounts, Per, Subjects
from usage.ledger import sums
from usage.metrics import COLUMNS as COUNTED
from usage.metrics import sql_sums

# xmin, xmax and the transactions under way: which transactions the sums have seen.
Snapshot = tuple[int, int, str]
# Whether a model counts, by its name.
Counts = Callable[[str], bool]


def of_subject(
    environment_id: int,
    per: Per,
    subjects: Subjects,
    start: datetime,
    end: datetime,
    counts: Counts | None = None,
) -> tuple[Snapshot, Amounts]:
    """What one subject used, and the snapshot that it was read at. Raises DatabaseError.

    `counts`: of the models that count, if not of all.
    """
    named = {column: getattr(subjects, column) for column in sums.COLUMNS[per]}
    snapshot, found = _summed(environment_id, (), named, start, end, counts)
    return snapshot, found.get((), Amounts())


def of_users(
    environment_id: int,
    users: Collection[str],
    start: datetime,
    end: datetime,
    models: Collection[str] | None = None,
) -> dict[str, Amounts]:
    """What each of these users used, of these models or of all; who used nothing is left out. Raises DatabaseError."""
    filters = {"user_id": users} if models is None else {"user_id": users, "model": models}
    rows = sums.used(environment_id, [start, end], sums.COLUMNS[Per.USER], filters)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT user_id, {sql_sums()} FROM ({rows.sql}) AS used"  # noqa: S608
            " GROUP BY user_id HAVING sum(events) > 0",
            rows.values,
        )
        return {user: Amounts(*found) for user, *found in cursor.fetchall()}


def of_all(
    environment_id: int, per: Per, start: datetime, end: datetime, counts: Counts | None = None
) -> tuple[Snapshot, dict[str, Amounts]]:
    """What every subject of this kind used, by its name, and the snapshot. `counts`: as above. Raises DatabaseError."""
    columns = sums.COLUMNS[per]
    snapshot, found = _summed(environment_id, columns, {}, start, end, counts)
    amounts = {}
    for names, summed in found.items():
        subject = Subjects(**{"user_id": "", **dict(zip(columns, names, strict=True))}).name(per)
        if subject is not None:
            amounts[subject] = summed
    return snapshot, amounts


def _summed(
    environment_id: int,
    columns: tuple[str, ...],
    filters: sums.Filters,
    start: datetime,
    end: datetime,
    counts: Counts | None,
) -> tuple[Snapshot, dict[tuple[str, ...], Amounts]]:
    """The sums by these columns. Which models count is asked of those that are found, for the statement must be one."""
    by = columns if counts is None else (*columns, "model")
    rows = sums.used(environment_id, [start, end], by, filters)
    names = "".join(f", {column}" for column in by)
    grouped = ", ".join(by) or "()"
    with connection.cursor() as cursor:
        # One row at least, for the snapshot must be that of the same statement also where it finds nothing.
        cursor.execute(
            f"""
            WITH subject AS (
                SELECT {sql_sums()}{names} FROM ({rows.sql}) AS used GROUP BY {grouped} HAVING sum(events) > 0
            )
            SELECT pg_current_snapshot()::text, subject.* FROM (VALUES (true)) AS always LEFT JOIN subject ON true
            """,  # noqa: S608 (our own names)
            rows.values,
        )
        rows_found = cursor.fetchall()
    found: dict[tuple[str, ...], Amounts] = {}
    for _, *values in rows_found:
        summed, named = values[: len(COUNTED)], values[len(COUNTED) :]
        if summed[0] is None or (counts is not None and not counts(named.pop())):
            continue
        key = tuple(named)
        found[key] = Amounts(*summed).plus(found[key]) if key in found else Amounts(*summed)
    return _snapshot(rows_found[0][0]), found


def _snapshot(text: str) -> Snapshot:
    xmin, xmax, under_way = text.split(":")
    return int(xmin), int(xmax), under_way
