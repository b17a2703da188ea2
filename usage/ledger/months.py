"""Tables that are cut by month (UTC), so that an old month leaves in O(1) and nobody waits for it.

A partition is made beside its table and then attached, and it is detached `CONCURRENTLY`: neither needs a lock that
readers or writers of the table hold, so that a backup under way stops no report. What still has to wait (for another
change of the table, or to detach: for those who read the month) waits `LOCK_TIMEOUT_MS` at most, then lets go and tries
again. A detach that was begun and not ended is ended by the next run.

Only the owner of the tables may make and remove partitions. The application, which owns nothing, has functions of the
owner's that make a month, drop one that is over (never of the ledger) and end a detach. Only the owner begins one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import TypeVar

from django.db import OperationalError, connection, transaction

T = TypeVar("T")

LOCK_TIMEOUT_MS = 2_000
# Where others would queue up behind whoever waits.
SHORT_LOCK_TIMEOUT_MS = 200
TRIES = 4
FIRST_PAUSE_S = 0.5
# One process at a time makes partitions; the others wait for it and then find them made.
_LOCK_ID = 0x746B7667
_MISSING_SQLSTATE = "23514"
_LOCK_TIMEOUT_SQLSTATE = "55P03"


class StillRead(Exception):
    """Somebody reads or changes the table for so long that the partition could not be taken out; try again later."""


def is_missing(error: Exception) -> bool:
    """Whether an insert failed because there is no partition for its month."""
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) == _MISSING_SQLSTATE and "no partition of relation" in str(cause)


def patiently(work: Callable[[], T], *, tries: int = TRIES) -> T:
    """Does work that waits for a lock no longer than its lock_timeout; again after a pause, `tries` times in all.

    Raises OperationalError if the lock could not be had.
    """
    pause_s = FIRST_PAUSE_S
    for _ in range(tries - 1):
        try:
            return work()
        except OperationalError as error:
            if not _timed_out(error):
                raise
        time.sleep(pause_s)
        pause_s *= 2
    return work()


def _unless_busy(work: Callable[[], T], busy: str) -> T:
    """The same; raises StillRead, which says who is in the way."""
    try:
        return patiently(work)
    except OperationalError as error:
        if not _timed_out(error):
            raise
        raise StillRead(busy) from error


def _timed_out(error: OperationalError) -> bool:
    return getattr(error.__cause__, "sqlstate", None) == _LOCK_TIMEOUT_SQLSTATE


def month_of(at: datetime) -> date:
    """The first day of the UTC month."""
    return at.astimezone(UTC).date().replace(day=1)


def of_month(month: date) -> datetime:
    """Its first instant."""
    return datetime(month.year, month.month, 1, tzinfo=UTC)


def months_from(first: date, count: int) -> list[date]:
    number = first.year * 12 + first.month - 1
    return [date(each // 12, each % 12 + 1, 1) for each in range(number, number + count)]


def next_month(month: date) -> date:
    return months_from(month, 2)[1]


@dataclass(frozen=True, slots=True)
class Partition:
    name: str
    month: date
    # A detach was begun: rows of this month are not seen any more, but it is not free yet.
    leaving: bool


@dataclass(frozen=True, slots=True)
class Monthly:
    """A table partitioned by range of a date or time column, with a partition for each month: `table_2026_11`."""

    table: str

    def partitions(self) -> list[Partition]:
        """Those of the table, in order of time."""
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT relname, inhdetachpending FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
                WHERE inhparent = %s::regclass AND relname ~ %s ORDER BY relname
                """,
                [self.table, rf"^{self.table}_\d{{4}}_\d\d"],
            )
            return [Partition(name, self._month(name), leaving) for name, leaving in cursor.fetchall()]

    def tables(self, month: date) -> list[str]:
        """All of this month, those that were detached and not dropped included."""
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT relname FROM pg_class
                WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = %s::regclass)
                  AND relkind = 'r' AND relname ~ %s ORDER BY relname
                """,
                [self.table, rf"^{self.name(month)}(_\d+)?$"],
            )
            return [name for (name,) in cursor.fetchall()]

    def name(self, month: date) -> str:
        return f"{self.table}_{month:%Y_%m}"

    def ensure(self, months: Iterable[date]) -> list[str]:
        """Makes the partitions of these months; the names of the new ones. Raises OperationalError."""
        return [name for month in sorted(set(months)) for name in patiently(partial(self._ensure, month))]

    @transaction.atomic
    def _ensure(self, month: date) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_ID])
            cursor.execute("SELECT usage_make_month(%s, %s)", [self.table, month])
            (name,) = cursor.fetchone()
        return [] if name is None else [name]

    def refuse_rows(self, partition: str, function: str) -> None:
        """As the owner: has a trigger function refuse new rows of a partition, once those being written are in.

        Raises StillRead.
        """
        statement = (
            f"CREATE OR REPLACE TRIGGER {self.table}_closed BEFORE INSERT ON {partition}"
            f" FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
        _unless_busy(lambda: _alone(statement), f"somebody writes to {partition}")

    def take_rows_again(self, partition: str) -> None:
        """As the owner: ends `refuse_rows`."""
        statement = f"DROP TRIGGER IF EXISTS {self.table}_closed ON {partition}"
        _unless_busy(lambda: _alone(statement), f"somebody writes to {partition}")

    def detach(self, partition: str) -> None:
        """As the owner: takes a partition out of the table; its own table stays, with its rows.

        Raises StillRead: it is leaving, and `finish` will end it.
        """
        _unless_busy(
            lambda: self._detach(partition), f"somebody still reads {partition} or changes {self.table}"
        )

    def _detach(self, partition: str) -> None:
        leaving = {each.name: each.leaving for each in self.partitions()}
        if partition in leaving:
            how = "FINALIZE" if leaving[partition] else "CONCURRENTLY"
            _alone(f"ALTER TABLE {self.table} DETACH PARTITION {partition} {how}")

    def drop(self, month: date) -> list[str]:
        """Deletes a month with all its rows; the names of its tables. Raises StillRead.

        Takes a lock that nobody may hold on the table meanwhile, and waits for it no longer than others may for it.
        """
        return _unless_busy(lambda: self._drop(month), f"somebody reads or writes {self.table}")

    @transaction.atomic
    def _drop(self, month: date) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {SHORT_LOCK_TIMEOUT_MS}")
            cursor.execute("SELECT usage_drop_month(%s, %s)", [self.table, month])
            names: list[str] = cursor.fetchone()[0]
            return names

    def finish(self) -> list[str]:
        """Ends the detaches that were begun and not ended; the names. Those that are still read stay for later."""
        ended = []
        for each in self.partitions():
            if each.leaving:
                with suppress(StillRead):
                    _unless_busy(partial(self._finish, each), f"somebody still reads {each.name}")
                    ended.append(each.name)
        return ended

    @transaction.atomic
    def _finish(self, partition: Partition) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            cursor.execute("SELECT usage_finish_detach(%s, %s)", [self.table, partition.name])

    def _month(self, name: str) -> date:
        year, month = name.removeprefix(f"{self.table}_").split("_")[:2]
        return date(int(year), int(month), 1)


def _alone(statement: str) -> None:
    """Outside of any transaction, which `CONCURRENTLY` demands."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        try:
            cursor.execute(statement)
        finally:
            cursor.execute("RESET lock_timeout")
