"""Sums of the ledger over a period: of rollups, and of what they do not cover.

One statement reads all of it, so that all of it is of one snapshot, in which every row is either in the rollups or in
the tail (usage/ledger/rollups.py):

    months, days, quarters   the buckets of the period
    edges                    rows that are rolled up, where the period cuts a bucket
    tail                     rows of the period that are not rolled up yet

The columns decide between the levels of rollups: what is asked of users needs those by user, and of runs those by run.
The first level that has all columns has the fewest rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import DatabaseError, connection

from usage.amounts import Per
from usage.ledger.buckets import Piece, Range, Size, parts, pieces
from usage.ledger.quantity_rollups import ADDED, AMOUNT, HAS_ANY, OF_A_ROW, QUANTITY, twin
from usage.ledger.rollup_tables import RUN_KEY, SUMS, TOTAL_KEY, USER_KEY, WHOLE_RUN_KEY, WHOLE_USER_KEY
from usage.ledger.rollups import NEXT_XID
from usage.ledger.rows import UNPRICED_CALLS

# Which rows belong to a subject, and the values that say so.
COLUMNS: dict[Per, tuple[str, ...]] = {
    Per.USER: ("user_id",),
    Per.USER_FEATURE: ("user_id", "feature"),
    Per.FEATURE: ("feature",),
    Per.PLAN: ("plan",),
    Per.ENVIRONMENT: (),
    Per.RUN: ("run_id",),
}

# Of so many ranges, each is read by a SELECT of its own.
BRANCHES_MAX = 16


@dataclass(frozen=True, slots=True)
class _What:
    """What is summed up, from which table beside that of a level, and what a single row of the ledger adds to each sum.

    `named`: columns by which it is told apart beyond those that are asked for. `beside`, `which`: as the ends of a FROM
    and a WHERE over rows of the ledger.
    """

    sums: tuple[str, ...]
    of_a_row: Mapping[str, str]
    table: Callable[[str], str] = str
    named: tuple[str, ...] = ()
    beside: str = ""
    which: str = ""

    def of_row(self, names: tuple[str, ...]) -> str:
        added = (f"{self.of_a_row.get(name, name)} AS {name}" for name in self.sums)
        return ", ".join(["charged_at AS at", *names, *self.named, *added])

    def of_bucket(self, names: tuple[str, ...], piece: Piece) -> str:
        sign = "-" if piece.taken_off else ""
        return ", ".join([*names, *self.named, *(f"{sign}{name} AS {name}" for name in self.sums)])


_COUNTS = _What(
    tuple(SUMS),
    {
        "events": "1",
        "cost_nano": "coalesce(cost_nano, 0)",
        "unpriced": UNPRICED_CALLS,
    },
)
_QUANTITIES = _What((AMOUNT,), {AMOUNT: ADDED}, twin, (QUANTITY,), f" {OF_A_ROW}", f" AND {HAS_ANY}")


class OtherCluster(DatabaseError):
    """The database was restored from a dump, and the rollups do not know yet which rows they cover."""

    def __init__(self) -> None:
        super().__init__(
            "the rollups are of the database before its restore; manage.py rollup_usage makes them right"
        )


@dataclass(frozen=True, slots=True)
class Level:
    """Which rollups there are of rows that are told apart by `key`, and in which table each size is."""

    key: tuple[str, ...]
    tables: Mapping[Size, str]

    def cut(
        self, bounds: Sequence[datetime], now: datetime, left_out: int
    ) -> tuple[list[Piece], Sequence[Range]]:
        """Into buckets, and the rows at the edges. Only where rows or bounds are many is anything taken off again."""
        if self.key != TOTAL_KEY or len(bounds) > 2:
            return pieces(bounds, list(self.tables), now, left_out)
        cut = parts(bounds)
        ranges = [(Size.DAY, each) for each in cut.days] + [(Size.QUARTER, each) for each in cut.quarters]
        return [Piece(size, each) for size, each in ranges], cut.rows


# The first that has all columns that are asked for is read.
LEVELS = (
    Level(TOTAL_KEY, {Size.DAY: "usage_total_day", Size.QUARTER: "usage_total_quarter"}),
    Level(
        WHOLE_USER_KEY,
        {
            Size.MONTH: "usage_whole_user_month",
            Size.DAY: "usage_whole_user_day",
            Size.QUARTER: "usage_rollup_quarter",
        },
    ),
    Level(WHOLE_RUN_KEY, {Size.DAY: "usage_whole_run_day", Size.QUARTER: "usage_whole_run_quarter"}),
    Level(
        USER_KEY,
        {Size.MONTH: "usage_user_month", Size.DAY: "usage_user_day", Size.QUARTER: "usage_rollup_quarter"},
    ),
    Level(RUN_KEY, {Size.DAY: "usage_rollup_day", Size.QUARTER: "usage_rollup_quarter"}),
)


@dataclass(frozen=True, slots=True)
class Used:
    """What was used in a period, as a text of SQL that can stand in a FROM, and its values.

    Its columns: `at` (when the row was charged, or a time between the same two bounds), the names asked for, and those
    of SUMS. Rows that are taken off again are negative: it is their sums that say what was used, and where `events` sum
    up to nothing, nothing was.
    """

    sql: str
    values: list[Any] = field(default_factory=list)


# What rows must have in a column: this name, or one of these.
Filters = Mapping[str, str | Collection[str]]


def used(
    environment_id: int,
    bounds: Sequence[datetime],
    columns: Iterable[str],
    filters: Filters | None = None,
    *,
    left_out: int = 0,
    mark: int | None = None,
) -> Used:
    """From the first of the bounds until before the last; no row lies across any of them.

    `left_out`: between which two, counted from 1, nothing is asked for. Rows of it may be among them all the same.
    `mark`: what `mark_before` said a moment ago, where a statement is made of more than one of these.
    """
    return _used(_COUNTS, environment_id, bounds, columns, filters, left_out, mark)


def quantities(
    environment_id: int,
    bounds: Sequence[datetime],
    columns: Iterable[str],
    filters: Filters | None = None,
    *,
    left_out: int = 0,
    mark: int | None = None,
) -> Used:
    """What stands in the map of rows (usage/quantities.py): as `used`, with `quantity` and `amount` for SUMS."""
    return _used(_QUANTITIES, environment_id, bounds, columns, filters, left_out, mark)


def has_quantities(environment_id: int, mark: int) -> bool:
    """Whether any stand in a row of the environment, rolled up or not: where none do, nothing more need be read."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT EXISTS (SELECT FROM {twin("usage_total_day")} WHERE environment_id = %s) OR EXISTS (
                SELECT FROM usage_event WHERE environment_id = %s AND xid >= %s AND xid < {NEXT_XID} AND {HAS_ANY}
            )
            """,  # noqa: S608 (our own names)
            [environment_id, environment_id, mark],
        )
        (found,) = cursor.fetchone()
    return bool(found)


def _used(
    what: _What,
    environment_id: int,
    bounds: Sequence[datetime],
    columns: Iterable[str],
    filters: Filters | None,
    left_out: int,
    mark: int | None,
) -> Used:
    matching = _matching(filters or {})
    level, names = _level({*columns, *(filters or ())})
    period = Range(bounds[0], bounds[-1])
    buckets, rows = level.cut(bounds, datetime.now(UTC), left_out)
    if not buckets:
        return _rows_alone(what, environment_id, names, period, matching)
    branches = [
        *_buckets(what, environment_id, level, names, buckets, matching),
        *_edges(what, environment_id, names, rows, matching),
        _tail(
            what,
            environment_id,
            names,
            period,
            matching,
            mark_before(environment_id) if mark is None else mark,
            of_all=level is LEVELS[0],
        ),
    ]
    return together(branches)


def rolled_up(
    environment_id: int, bounds: Sequence[datetime], columns: Collection[str], *, left_out: int
) -> list[Used]:
    """The same of what is rolled up alone, and nothing of what is left out. In parts; there may be none."""
    level, names = _level(columns)
    buckets, rows = level.cut(bounds, datetime.now(UTC), left_out)
    nothing_else = _matching({})
    return [
        *_buckets(_COUNTS, environment_id, level, names, buckets, nothing_else),
        *_edges(_COUNTS, environment_id, names, rows, nothing_else),
    ]


def not_rolled_up(environment_id: int, period: Range, columns: Collection[str], mark: int) -> Used:
    """The same of the tail alone."""
    level, names = _level(columns)
    return _tail(_COUNTS, environment_id, names, period, _matching({}), mark, of_all=level is LEVELS[0])


def together(parts: Sequence[Used]) -> Used:
    return Used(
        " UNION ALL ".join(part.sql for part in parts), [value for part in parts for value in part.values]
    )


def _level(columns: Collection[str]) -> tuple[Level, tuple[str, ...]]:
    """Which one is read, and the columns in its order."""
    level = next(level for level in LEVELS if set(columns) <= set(level.key))
    return level, tuple(name for name in level.key if name in columns)


def _matching(filters: Filters) -> Used:
    """The filters as the end of a WHERE."""
    return Used(
        "".join(
            f" AND {column} = {'%s' if isinstance(value, str) else 'ANY(%s)'}"
            for column, value in filters.items()
        ),
        [value if isinstance(value, str) else list(value) for value in filters.values()],
    )


def _rows_alone(
    what: _What, environment_id: int, names: tuple[str, ...], period: Range, matching: Used
) -> Used:
    where, values = _within("charged_at", environment_id, period, matching)
    sql = f"SELECT {what.of_row(names)} FROM usage_event{what.beside} WHERE {where}{what.which}"  # noqa: S608
    return Used(sql, values)


def _buckets(
    what: _What,
    environment_id: int,
    level: Level,
    names: tuple[str, ...],
    buckets: Sequence[Piece],
    matching: Used,
) -> Iterator[Used]:
    """Few are named each, so that the planner knows how many rows they hold. To plan many takes longer than to read."""
    if len(buckets) <= BRANCHES_MAX:
        for each in buckets:
            at = "start" if each.at is None else "%s::timestamptz"
            given = [] if each.at is None else [each.at]
            where, values = _within("start", environment_id, each.range, matching)
            table = what.table(level.tables[each.size])
            sql = f"SELECT {at} AS at, {what.of_bucket(names, each)} FROM {table} WHERE {where}"  # noqa: S608
            yield Used(sql, [*given, *values])
        return
    together: dict[tuple[str, bool], list[Piece]] = defaultdict(list)
    for each in buckets:
        together[what.table(level.tables[each.size]), each.taken_off].append(each)
    for (table, _), those in together.items():
        yield Used(
            f"""
            SELECT coalesce(at, start) AS at, {what.of_bucket(names, those[0])}
            FROM unnest(%s::timestamptz[], %s::timestamptz[], %s::timestamptz[]) AS part (first, past, at)
            CROSS JOIN LATERAL ({_ranges(table, "start", matching)}) AS bucket
            """,  # noqa: S608 (our own names)
            [
                *_columns([each.range for each in those]),
                [each.at for each in those],
                environment_id,
                *matching.values,
            ],
        )


def _edges(
    what: _What, environment_id: int, names: tuple[str, ...], ranges: Sequence[Range], matching: Used
) -> Iterator[Used]:
    is_rolled_up = f"(id <= {_mark('floor_id')} OR xid < {_mark('xid')})"
    if len(ranges) <= BRANCHES_MAX:
        for each in ranges:
            where, values = _within("charged_at", environment_id, each, matching)
            rows = f"usage_event{what.beside} WHERE {where}{what.which}"
            sql = f"SELECT {what.of_row(names)} FROM {rows} AND {is_rolled_up}"  # noqa: S608
            yield Used(sql, [*values, environment_id, environment_id])
        return
    sql = f"""
        SELECT {what.of_row(names)}
        FROM unnest(%s::timestamptz[], %s::timestamptz[]) AS part (first, past)
        CROSS JOIN LATERAL ({_ranges("usage_event", "charged_at", matching)}) AS edge{what.beside}
        WHERE {is_rolled_up}{what.which}
    """  # noqa: S608 (our own names)
    yield Used(sql, [*_columns(ranges), environment_id, *matching.values, environment_id, environment_id])


def _within(column: str, environment_id: int, period: Range, matching: Used) -> tuple[str, list[Any]]:
    return (
        f"environment_id = %s AND {column} >= %s AND {column} < %s{matching.sql}",
        [environment_id, period.start, period.end, *matching.values],
    )


def _ranges(table: str, column: str, matching: Used) -> str:
    """Each range by the index. Without OFFSET 0 the planner joins, and believes that they hold much of the table."""
    return f"""
        SELECT * FROM {table}
        WHERE environment_id = %s AND {column} >= part.first AND {column} < part.past{matching.sql} OFFSET 0
    """  # noqa: S608 (our own names)


def _tail(
    what: _What,
    environment_id: int,
    names: tuple[str, ...],
    period: Range,
    matching: Used,
    was: int,
    *,
    of_all: bool,
) -> Used:
    """Found by transaction, for all users at once. A user's or a run's own rows are few: the planner may choose.

    The mark as it was a moment ago tells the planner how few rows there are; the one of the snapshot decides.
    """
    fence = "OFFSET 0" if was and of_all else ""
    sql = f"""
        SELECT {what.of_row(names)} FROM (
            SELECT * FROM usage_event
            WHERE environment_id = %s AND xid >= %s AND xid < {NEXT_XID}{matching.sql}{what.which} {fence}
        ) AS tail{what.beside}
        WHERE xid >= {_mark("xid")} AND id > {_mark("floor_id")} AND charged_at >= %s AND charged_at < %s
    """  # noqa: S608 (our own names)
    values = [environment_id, was, *matching.values, environment_id, environment_id]
    return Used(sql, [*values, period.start, period.end])


def _mark(column: str) -> str:
    return f"coalesce((SELECT {column} FROM usage_rollup_mark WHERE environment_id = %s), 0)"  # noqa: S608


def mark_before(environment_id: int) -> int:
    """The transaction before whose rows all are rolled up. It never falls. Raises OtherCluster."""
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


def _columns(ranges: Sequence[Range]) -> list[list[datetime]]:
    return [[each.start for each in ranges], [each.end for each in ranges]]
