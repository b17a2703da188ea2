"""The connection to the counter store: scripts, time box, circuit breaker, and which run of its server answers.

django-redis lends the client. Every call is one script, one round trip, at most `COUNTER_STORE_TIMEOUT_S` long; slow
counts as down. After failures in a row the breaker stays open for a moment, so that a store that is away costs callers
nothing, then one call at a time probes it.

A server that started again may have come back with less than it had, and a replica that took over may lack the latest
writes. So each connection asks once which run of the server it has reached, and every script gets told as its last
argument. An environment's hash says for which run its counters were found complete; scripts refuse any other, and
`sync.lua` has the counters rebuilt, once for each environment and run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any, TypeVar

import hiredis
from django_redis import get_redis_connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from usage.metrics import lua_tables
from usage.timebox.breaker import Breaker

logger = logging.getLogger("tokvigil.counters")

SCRIPTS_FOLDER = Path(__file__).parent

Argument = str | int | bytes
T = TypeVar("T")


class StoreUnavailable(Exception):
    """The counter store is away, or was a moment ago."""


class Unanswered(StoreUnavailable):
    """It was asked and did not answer in time. Nothing is known of whether the call took effect."""


class Script:
    """One Lua file of this folder, after the prelude; the module of the same name calls it."""

    def __init__(self, name: str) -> None:
        files = ("prelude.lua", f"{name}.lua")
        self.text = lua_tables() + "".join((SCRIPTS_FOLDER / file).read_text() for file in files)
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


SCRIPTS = {
    name: Script(name)
    for name in (
        "look_up",
        "reserve",
        "settle",
        "release",
        "extend",
        "carry",
        "seed",
        "sync",
        "distrust",
        "due",
        "sweep",
        "remember_user",
        "rate_limit",
    )
}


def new_breaker() -> Breaker:
    """While it is open, policies' on_unavailable decides."""
    return Breaker("the counter store", StoreUnavailable)


@dataclass(slots=True)
class Line:
    """A connection, and the run of the server that it has reached."""

    connection: Any
    run: str
    idle_since: float


class IdleConnections:
    """Idle connections with the pool's settings, kept outside of the pool.

    The hot path packs one command and reads one answer; going through `Redis.execute_command` costs twice as much
    processor time (`make bench` prints it).
    """

    IDLE_TRUSTED_S = 5.0

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._idle: deque[Line] = deque()

    def execute(self, *command: Argument) -> Any:
        """One command's answer; the run of the server becomes its last argument. Raises RedisError."""
        try:
            line = self._idle.pop()
        except IndexError:
            line = self._connect()
        try:
            if time.monotonic() - line.idle_since > self.IDLE_TRUSTED_S and line.connection.can_read():
                raise RedisConnectionError("closed by the store")
            return self._exchange(line, command)
        except RedisConnectionError:
            # Kept connections die with a restart of the store. Scripts are safe to send again: holds and charges
            # carry their request id.
            self._idle.clear()
            return self._exchange(self._connect(), command)

    def _connect(self) -> Line:
        pool = get_redis_connection(self._alias).connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        try:
            connection.send_command("INFO", "server")
            run = _run_id(connection.read_response())
        except BaseException:
            connection.disconnect()
            raise
        return Line(connection, run, time.monotonic())

    def _exchange(self, line: Line, command: Sequence[Argument]) -> Any:
        packed: bytes = hiredis.pack_command((*command, line.run))  # type: ignore[arg-type]
        try:
            line.connection.send_packed_command([packed], check_health=False)
            answer = line.connection.read_response()
        except ResponseError:
            self._keep(line)
            raise
        except BaseException:
            line.connection.disconnect()
            raise
        self._keep(line)
        return answer

    def _keep(self, line: Line) -> None:
        line.idle_since = time.monotonic()
        self._idle.append(line)


def _run_id(info: bytes) -> str:
    for line in info.splitlines():
        name, _, value = line.partition(b":")
        if name == b"run_id":
            return value.decode()
    raise RedisConnectionError("the counter store does not say which run of its server this is (INFO server)")


class CounterStore:
    def __init__(self, alias: str = "counters") -> None:
        self._alias = alias
        self._lines = IdleConnections(alias)
        self.breaker = new_breaker()
        # Moves the store's clock, in ms; only tests do.
        self.clock_offset_ms = 0
        # Round trips made, for the test that holds evaluate to one.
        self.round_trips = 0
        # How often the store failed this process: after each, it may have missed something (settling/catching_up.py).
        self.outages = 0
        # How far the store's clock is ahead of this process's, once the store had to say.
        self._ahead_ms = 0
        self._learning = threading.Lock()

    @property
    def client(self) -> Any:
        """redis-py's client; its annotations allow for asynchronous answers, so it is Any to the callers."""
        return get_redis_connection(self._alias)

    def own_ms(self) -> int:
        """This process's clock."""
        return time.time_ns() // 1_000_000 + self.clock_offset_ms

    def now_ms(self) -> int:
        """This process's idea of the store's clock; the scripts correct it where it matters."""
        return self.own_ms() + self._ahead_ms

    def learn_clock(self, now_ms: int, asked_own_ms: int) -> None:
        """What the store's clock said just now. A time between question and answer says nothing: the call was slow."""
        with self._learning:
            early, late = now_ms - asked_own_ms, now_ms - self.own_ms()
            # Set, not added to: of threads that learn at once each finds the same.
            self._ahead_ms = min(max(self._ahead_ms, late), early)

    def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """One script, one round trip. Raises StoreUnavailable."""
        script = SCRIPTS[name]
        return self._guarded(
            lambda: self._lines.execute(
                "EVALSHA", script.sha, len(keys), *keys, self.clock_offset_ms, *arguments
            )
        )

    def call(self, use: Callable[[Any], T]) -> T:
        """Runs `use(client)` inside the time box and the breaker. Raises StoreUnavailable."""
        return self._guarded(lambda: use(self.client))

    def _guarded(self, attempt: Callable[[], T]) -> T:
        probing = self.breaker.admit()
        try:
            answer = self._try(attempt)
        except RedisError as error:
            self.outages += 1
            if type(error) is ResponseError and not probing:
                # The store is there, and did not understand: versions that do not fit. No reason to call it away.
                logger.error("the counter store refused a call: %s", error)
            else:
                self.breaker.failed(error)
            raise Unanswered(str(error) or type(error).__name__) from error
        except BaseException:
            self.breaker.abandoned()
            raise
        self.breaker.succeeded()
        return answer

    def _try(self, attempt: Callable[[], T]) -> T:
        self.round_trips += 1
        try:
            return attempt()
        except NoScriptError:
            # It was restarted, or this release's scripts are new to it.
            for script in SCRIPTS.values():
                self.client.script_load(script.text)
            return attempt()


store = CounterStore()
