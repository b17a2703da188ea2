"""Rollups: the ledger's sums by quarter hour and by UTC day, so that nobody has to add up millions of rows.

They stand on five levels (usage/ledger/rollup_tables.py).

Which rows they cover is a matter of transactions, not of time, so that a row that comes late lands in its own bucket.
Each environment has a **mark** (`usage_rollup_mark`): a transaction number below which no transaction was under way any
more. All rows of earlier transactions are in the rollups, none of later ones is: those are the **tail**, which readers
read from the ledger itself (usage/ledger/sums.py). A roll adds what lies between the old mark and the new one and moves
the mark, in one transaction. Killed at any point it has done nothing; done twice it finds nothing to do; two at once
wait for each other at the mark. A long writing transaction holds the mark back; then the tail is longer, and right.

Transaction numbers start anew in a database that was restored from a dump. The mark names the cluster whose numbers it
means and the last row id that had been given out; in another cluster rows with a later id are new whatever their
transaction, and the first roll there sets the mark anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from django.db import DatabaseError, connection, transaction

from usage.ledger import quantity_rollups, whole_runs
from usage.ledger.buckets import DAY, Size
from usage.ledger.months import LOCK_TIMEOUT_MS, Monthly, Partition, month_of
from usage.ledger.quantity_rollups import AMOUNT, TWINS, twin
from usage.ledger.rollup_tables import BUCKETS, DAYS, RUN_KEY, SUMS, TABLES, digest

logger = logging.getLogger("tokvigil.rollups")

# Rows added in one transaction, so that a long backlog is worked off in steps that a kill does not undo.
ROWS_MAX = 500_000
# What one run of the beat may take: the worker has other work.
RUN_S_MAX = 20.0
LEDGER = Monthly("usage_event")

# All tables that a roll adds to.
FILLED = (*TABLES, whole_runs.TABLE, *TWINS)
# Rows that a statement sees have lower numbers; those of a cluster before a restore may have higher ones.
NEXT_XID = "(SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint)"


class MonthDetached(Exception):
    """The rows of a month are not in the ledger any more; its rollups cannot be made anew."""


@dataclass(frozen=True, slots=True)
class _Mark:
    # Rows of earlier transactions, and those up to this id, are rolled up.
    xid: int
    floor_id: int
    # The last id given out when the mark was set.
    last_id: int
    # False: the numbers are another cluster's.
    of_this_cluster: bool


def roll_due(seconds_max: float = RUN_S_MAX) -> int:
    """Rolls up what is new, in all environments; the number of rows. One that fails does not keep the others."""
    ends_at = time.monotonic() + seconds_max
    rolled = 0
    for environment_id in due():
        try:
            rolled += roll(environment_id, seconds_max=ends_at - time.monotonic())
        except DatabaseError as error:
            logger.error("environment %s not rolled up, to be tried again: %s", environment_id, error)
    return rolled


def due() -> list[int]:
    """The environments that have rows in the tail."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT environment.id FROM tenants_environment AS environment
            LEFT JOIN usage_rollup_mark AS mark ON mark.environment_id = environment.id
            WHERE mark.cluster <> (SELECT system_identifier FROM pg_control_system()) OR EXISTS (
                SELECT FROM usage_event
                WHERE environment_id = environment.id AND xid >= coalesce(mark.xid, 0) AND xid < {NEXT_XID}
                  AND usage_event.id > coalesce(mark.floor_id, 0)
            ) ORDER BY environment.id
            """  # noqa: S608 (our own text)
        )
        return [environment_id for (environment_id,) in cursor.fetchall()]


def roll(environment_id: int, *, seconds_max: float | None = None) -> int:
    """Rolls up an environment as far as finished transactions go; the number of rows added."""
    begun, rolled, more = time.monotonic(), 0, True
    while more and (seconds_max is None or time.monotonic() - begun < seconds_max):
        added, more = _step(environment_id)
        rolled += added
    return rolled


@transaction.atomic
def _step(environment_id: int) -> tuple[int, bool]:
    """Adds the next rows; how many, and whether there may be more."""
    with connection.cursor() as cursor:
        mark = _locked_mark(cursor, environment_id)
        if not mark.of_this_cluster:
            return _start_anew(cursor, environment_id, mark), True
        finished = _finished_xid(cursor)
        if finished <= mark.xid:
            return 0, False
        until = _bounded(cursor, environment_id, mark, finished)
        which = "xid >= %s AND xid < %s AND id > %s"
        added = _add(cursor, environment_id, which, [mark.xid, until, mark.floor_id])
        _move(cursor, environment_id, until, mark.floor_id)
        return added, until < finished


def _locked_mark(cursor: Any, environment_id: int) -> _Mark:
    cursor.execute(
        """
        INSERT INTO usage_rollup_mark (environment_id, xid, floor_id, last_id, cluster, tables)
        SELECT %s, 0, 0, 0, system_identifier, %s FROM pg_control_system() ON CONFLICT DO NOTHING
        """,
        [environment_id, len(FILLED)],
    )
    cursor.execute(
        """
        SELECT xid, floor_id, last_id, cluster = system_identifier
        FROM usage_rollup_mark, pg_control_system() WHERE environment_id = %s FOR UPDATE OF usage_rollup_mark
        """,
        [environment_id],
    )
    return _Mark(*cursor.fetchone())


def _finished_xid(cursor: Any) -> int:
    """All transactions before this one have ended, so that every later statement sees what they wrote."""
    cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    return int(cursor.fetchone()[0])


def _bounded(cursor: Any, environment_id: int, mark: _Mark, finished: int) -> int:
    """Until which transaction to go, so that it is not many more than ROWS_MAX rows; one at least."""
    cursor.execute(
        """
        SELECT xid FROM usage_event WHERE environment_id = %s AND xid >= %s AND xid < %s AND id > %s
        ORDER BY xid OFFSET %s LIMIT 1
        """,
        [environment_id, mark.xid, finished, mark.floor_id, ROWS_MAX],
    )
    found = cursor.fetchone()
    return finished if found is None else max(int(found[0]), mark.xid + 1)


def _move(cursor: Any, environment_id: int, xid: int, floor_id: int) -> None:
    cursor.execute(
        """
        UPDATE usage_rollup_mark SET xid = %s, floor_id = %s, cluster = system_identifier,
            last_id = coalesce(pg_sequence_last_value('usage_event_id_seq'::regclass), 0)
        FROM pg_control_system() WHERE environment_id = %s
        """,
        [xid, floor_id, environment_id],
    )


def _start_anew(cursor: Any, environment_id: int, mark: _Mark) -> int:
    """After a restore: nobody may write meanwhile, so that what is there is all that the old numbers mean."""
    cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
    cursor.execute("LOCK TABLE usage_event IN SHARE ROW EXCLUSIVE MODE")
    added = _add(
        cursor, environment_id, "id > %s AND (xid >= %s OR id > %s)", [mark.floor_id, mark.xid, mark.last_id]
    )
    cursor.execute("SELECT coalesce(pg_sequence_last_value('usage_event_id_seq'::regclass), 0)")
    (last_id,) = cursor.fetchone()
    _move(cursor, environment_id, _finished_xid(cursor), last_id)
    return added


def _add(
    cursor: Any,
    environment_id: int,
    which: str,
    values: list[Any],
    tables: Collection[str] = (*TABLES, whole_runs.TABLE),
) -> int:
    """Adds the rows to the tables and their twins; how many there were."""
    fresh = f"""
        SELECT {", ".join(f"{bucket} AS {size}" for size, bucket in BUCKETS.items())}, {", ".join(RUN_KEY)},
            {", ".join(f"{expression} AS {name}" for name, expression in SUMS.items())},
            count(quantities) AS with_quantities
        FROM usage_event WHERE environment_id = %s AND {which}
        GROUP BY {", ".join(BUCKETS)}, {", ".join(RUN_KEY)}
    """  # noqa: S608 (the names above are the only input)
    inserts = {table: _insert(table) for table in tables}
    counted = ("events", "with_quantities")
    rows, with_quantities = _insert_all(cursor, environment_id, fresh, values, inserts, counted)
    if with_quantities:
        # Both statements see the same rows: their transactions have ended, or nobody may write meanwhile.
        inserts = {table: quantity_rollups.insert(table) for table in map(twin, tables) if table in TWINS}
        _insert_all(cursor, environment_id, quantity_rollups.fresh(which), values, inserts, (AMOUNT,))
    return rows


def _insert_all(
    cursor: Any,
    environment_id: int,
    fresh: str,
    values: list[Any],
    inserts: Mapping[str, str],
    counted: Collection[str],
) -> list[int]:
    """The sums of the counted columns of `fresh`."""
    into = ",\n".join(f"into_{table} AS ({sql})" for table, sql in inserts.items())
    summed = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in counted)
    cursor.execute(
        f"WITH fresh AS MATERIALIZED ({fresh}), {into} SELECT {summed} FROM fresh",  # noqa: S608
        [environment_id, *values, *[environment_id] * len(inserts)],
    )
    return list(map(int, cursor.fetchone()))


def _insert(table: str) -> str:
    if table == whole_runs.TABLE:
        return whole_runs.INSERT
    size, key = TABLES[table]
    names, sums = ", ".join(key), ", ".join(SUMS)
    return f"""
        INSERT INTO {table} (environment_id, start, digest, {names}, {sums})
        SELECT %s, {size}, {digest(key)}, {names}, {", ".join(f"sum({name})" for name in SUMS)}
        FROM fresh GROUP BY {size}, {names}
        -- As the index has them: a fifth cheaper where rows are many.
        ORDER BY 2, 3
        ON CONFLICT (environment_id, start, digest) DO UPDATE
        SET {", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)}
    """  # noqa: S608 (the names above are the only input)


def rebuild(environment_id: int, first: date, last: date) -> int:
    """Makes the rollups of these UTC days anew from the ledger, first and last included; the number of rows read.

    Raises MonthDetached if rows of these days are not in the ledger any more.
    """
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    end = datetime(last.year, last.month, last.day, tzinfo=UTC) + DAY
    with transaction.atomic(), connection.cursor() as cursor:
        mark = _locked_mark(cursor, environment_id)
        if not mark.of_this_cluster:
            _start_anew(cursor, environment_id, mark)
            mark = _locked_mark(cursor, environment_id)
        _require_attached(cursor, environment_id, start, end)
        cut = [table for table, (size, _) in TABLES.items() if size is not Size.MONTH]
        for table in cut:
            _delete(cursor, table, environment_id, start, end)
            _delete(cursor, twin(table), environment_id, start, end)
        which = "charged_at >= %s AND charged_at < %s AND (id <= %s OR xid < %s)"
        added = _add(cursor, environment_id, which, [start, end, mark.floor_id, mark.xid], cut)
        _make_months(cursor, environment_id, Size.MONTH.start_of(start), Size.MONTH.end_of(end - DAY))
        whole_runs.make_anew(cursor, environment_id, start, end)
        return added


def _delete(cursor: Any, table: str, environment_id: int, start: datetime, end: datetime) -> None:
    cursor.execute(
        f"DELETE FROM {table} WHERE environment_id = %s AND start >= %s AND start < %s",  # noqa: S608
        [environment_id, start, end],
    )


def _make_months(cursor: Any, environment_id: int, start: datetime, end: datetime) -> None:
    """Of days: the rows of other days of these months need not be read."""
    for table, of_days in DAYS.items():
        for made, of, (_, key), summed in (
            (table, of_days, TABLES[table], tuple(SUMS)),
            (twin(table), twin(of_days), TWINS[twin(table)], (AMOUNT,)),
        ):
            names, sums = ", ".join(key), ", ".join(summed)
            _delete(cursor, made, environment_id, start, end)
            cursor.execute(
                f"""
                INSERT INTO {made} (environment_id, start, digest, {names}, {sums})
                SELECT environment_id, date_trunc('month', start, 'UTC'), digest, {names},
                    {", ".join(f"sum({name})" for name in summed)}
                FROM {of} WHERE environment_id = %s AND start >= %s AND start < %s GROUP BY 1, 2, 3, {names}
                """,  # noqa: S608 (the names above are the only input)
                [environment_id, start, end],
            )


def _require_attached(cursor: Any, environment_id: int, start: datetime, end: datetime) -> None:
    cursor.execute(
        "SELECT DISTINCT date_trunc('month', start, 'UTC') FROM usage_total_day"
        " WHERE environment_id = %s AND start >= %s AND start < %s",
        [environment_id, start, end],
    )
    # A later partition of the same month (`_2`) says that the first one was detached.
    attached = {each.name for each in LEDGER.partitions() if not each.leaving}
    for (month,) in cursor.fetchall():
        if f"usage_event_{month_of(month):%Y_%m}" not in attached:
            raise MonthDetached(f"the rows of {month_of(month):%Y-%m} are not in the ledger any more")


def unrolled(partition: Partition) -> list[int]:
    """The environments that have rows in this month that are not rolled up yet."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT DISTINCT event.environment_id FROM {partition.name} AS event
            LEFT JOIN usage_rollup_mark AS mark ON mark.environment_id = event.environment_id
            WHERE event.xid >= coalesce(mark.xid, 0) AND event.id > coalesce(mark.floor_id, 0)
            """  # noqa: S608 (our own name)
        )
        return [environment_id for (environment_id,) in cursor.fetchall()]
