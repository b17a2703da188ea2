"""A connection to PostgreSQL that never waits without end.

A server that is busy ends its statements itself (`statement_timeout`, `lock_timeout`). One that hangs does not, while
the kernel under it keeps acknowledging what is sent, so that no time-out of TCP applies: only the client's own clock
helps. It is looked at in `wait`, through which psycopg does everything but connecting.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from typing import Any, Self, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus, TransactionStatus

from usage.timebox import patience
from usage.timebox.background import Background, TooSlow
from usage.timebox.gate import Full
from usage.timebox.postgres.availability import Availability, PostgresAway

# For the end of a transaction whose time is over.
LAST_EXCHANGE_S = 0.05
CONNECTS_AT_ONCE_MAX = 8
CONNECTS_WAITING_MAX = 100

RV = TypeVar("RV")
Connected = TypeVar("Connected", bound=psycopg.Connection[Any])

availability = Availability()
# Connects that somebody waits for with a deadline: to look up a name takes as long as it takes.
# Who waits has a place among those who wait for PostgreSQL already.
_connects = Background(
    "postgres-connect",
    threads=CONNECTS_AT_ONCE_MAX,
    waiting_max=CONNECTS_WAITING_MAX,
    awaited=nullcontext,
)


class TimedConnection(psycopg.Connection[Any]):
    """Raises PostgresAway where others would wait on: after `patience_s`, or when the thread's time is over."""

    patience_s: float
    _probe: partial[None]

    @classmethod
    def connect(cls, conninfo: str = "", *, patience_s: float, **kwargs: Any) -> Self:  # type: ignore[override]
        """As psycopg's."""
        probe = partial(_open_and_close, conninfo, kwargs)
        availability.require(probe)
        left_s = _left_s()
        connect: Callable[[], Self] = partial(super().connect, conninfo, **kwargs)
        try:
            connection = connect() if left_s is None else _in_time(connect)
        except psycopg.OperationalError as error:
            availability.failed(error, probe)
            raise
        availability.answered()
        connection.patience_s, connection._probe = patience_s, probe
        return connection

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        in_time_s = self._in_time_s()
        try:
            answer = super().wait(gen, interval, in_time_s if timeout is None else min(timeout, in_time_s))
        except psycopg.errors._WaitTimeout as error:
            if timeout is not None and timeout < in_time_s:
                raise
            self._give_up()
            raise PostgresAway(f"PostgreSQL did not answer within {in_time_s:.2f} s") from error
        except psycopg.Error as error:
            if error.sqlstate is None:
                availability.failed(error, self._probe)
            else:
                availability.answered()
            if self.pgconn.status != ConnStatus.OK and not isinstance(error, psycopg.OperationalError):
                # Such as that its transaction lay open for too long.
                raise PostgresAway(f"PostgreSQL ended the connection: {error}") from error
            raise
        availability.answered()
        return answer

    # Idle, these three ask the server nothing, and are right at any time.

    def set_autocommit(self, value: bool) -> None:
        with self.lock:
            super().wait(self._set_autocommit_gen(value))

    def commit(self) -> None:
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            super().commit()

    def rollback(self) -> None:
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            super().rollback()

    def _in_time_s(self) -> float:
        """How long the next answer may take. Raises PostgresAway if nothing shall be asked any more."""
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            availability.require(self._probe)
            left_s = _left_s()
        else:
            left_s = patience.left_s()
        return self.patience_s if left_s is None else min(self.patience_s, max(left_s, LAST_EXCHANGE_S))

    def _give_up(self) -> None:
        # What it was asked may be under way; the connection is of no use to anybody.
        self.close()
        availability.failed("no answer in time", self._probe)

    @property
    def is_alive(self) -> bool:
        """Whether the server has kept it, as far as can be told without asking: idle, it sends its goodbye only."""
        if self.closed or self.pgconn.status != ConnStatus.OK:
            return False
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return not poll.poll(0)


def _left_s() -> float | None:
    """Of the time of the thread, which may begin to wait now. Raises PostgresAway if it may not."""
    try:
        patience.begin_to_wait()
    except Full as error:
        raise PostgresAway("too many wait for PostgreSQL already") from error
    left_s = patience.left_s()
    if left_s == 0:
        raise PostgresAway("no time is left to ask PostgreSQL")
    return left_s


def _in_time(connect: Callable[[], Connected]) -> Connected:
    try:
        job = _connects.start(group=None, key=object(), work=connect)
        try:
            return job.result()
        except TooSlow:
            job.done.add_done_callback(_close_late)
            raise
    except TooSlow as error:
        raise PostgresAway("PostgreSQL did not let this process in within its time") from error


def _close_late(done: Future[Connected]) -> None:
    if done.exception() is None:
        done.result().close()


def _open_and_close(conninfo: str, kwargs: dict[str, Any]) -> None:
    psycopg.connect(conninfo, **kwargs).close()
