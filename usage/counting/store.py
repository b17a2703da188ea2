"""The connection to the counter store: scripts, time box, circuit breaker, and what a restart of the store means.

django-redis lends the client. Every call is one script, one round trip, at most `COUNTER_STORE_TIMEOUT_S` long; slow
counts as down. After failures in a row the breaker stays open for a moment, so that a store that is away costs callers
nothing, then one call at a time probes it.

A script the store does not know (NOSCRIPT) means that the store may have restarted, from whatever it had on disk.
Before the scripts are loaded again every environment's counters are distrusted, so none is used until it was rebuilt
from the ledger; and as no script runs before that, no call can slip through between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, TypeVar

import hiredis
from django_redis import get_redis_connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from usage.metrics import lua_tables

logger = logging.getLogger("tokvigil.counters")

SCRIPTS_FOLDER = Path(__file__).parent
BREAKER_OPEN_S = 0.5
FAILURES_TO_OPEN = 3
ENVIRONMENTS_SCAN_COUNT = 1000

Argument = str | int | bytes
T = TypeVar("T")


class StoreUnavailable(Exception):
    """The counter store did not answer in time. Nothing is known of whether the call took effect."""


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
        "seed",
        "sync",
        "distrust",
        "sweep",
        "remember_user",
        "rate_limit",
    )
}


class Breaker:
    """Opens after failures in a row; then lets one probe at a time through. One per process, shared by its threads.

    A single slow call fails alone: it says little of the next one.
    """

    def __init__(self, open_s: float = BREAKER_OPEN_S, failures_to_open: int = FAILURES_TO_OPEN) -> None:
        self._open_s = open_s
        self._failures_to_open = failures_to_open
        self._failures = 0
        self._open_until: float | None = None
        self._prober: int | None = None
        self._lock = threading.Lock()

    def admit(self) -> bool:
        """True if this call is the probe. Raises StoreUnavailable while open."""
        if self._open_until is None or self._prober == threading.get_ident():
            return False
        with self._lock:
            now = time.monotonic()
            if now < (self._open_until or 0.0):
                raise StoreUnavailable("the counter store was away a moment ago")
            # The others wait for this caller's outcome. (If another's probe has just succeeded, one more is harmless.)
            self._open_until = now + self._open_s
            self._prober = threading.get_ident()
            return True

    def failed(self, why: object) -> None:
        with self._lock:
            self._failures += 1
            if self._open_until is None and self._failures < self._failures_to_open:
                return
            if self._open_until is None:
                logger.error("the counter store is away, policies' on_unavailable decides meanwhile: %s", why)
            self._open_until = time.monotonic() + self._open_s
            self._prober = None

    def succeeded(self) -> None:
        if self._failures == 0 and self._open_until is None:
            return
        with self._lock:
            if self._open_until is not None and self._prober == threading.get_ident():
                logger.warning("the counter store is back")
                self._open_until = self._prober = None
            self._failures = 0


class IdleConnections:
    """Idle connections of the pool's kind, kept beside the pool.

    The hot path packs one command and reads one answer; going through `Redis.execute_command` costs twice as much
    processor time (`make bench` prints it).
    """

    IDLE_TRUSTED_S = 5.0

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._idle: deque[tuple[Any, float]] = deque()

    def execute(self, *command: Argument) -> Any:
        """One command's answer. Raises RedisError."""
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
        try:
            connection, idle_since = self._idle.pop()
        except IndexError:
            connection, idle_since = self._connect(), time.monotonic()
        try:
            if time.monotonic() - idle_since > self.IDLE_TRUSTED_S and connection.can_read():
                raise RedisConnectionError("closed by the store")
            return self._exchange(connection, packed)
        except RedisConnectionError:
            # Kept connections die with a restart of the store. Scripts are safe to send again: holds and charges
            # carry their request id.
            self._idle.clear()
            return self._exchange(self._connect(), packed)

    def _connect(self) -> Any:
        pool = get_redis_connection(self._alias).connection_pool
        return pool.connection_class(**pool.connection_kwargs)

    def _exchange(self, connection: Any, packed: bytes) -> Any:
        try:
            connection.send_packed_command([packed], check_health=False)
            answer = connection.read_response()
        except ResponseError:
            self._idle.append((connection, time.monotonic()))
            raise
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append((connection, time.monotonic()))
        return answer


class CounterStore:
    def __init__(self, alias: str = "counters") -> None:
        self._alias = alias
        self._lines = IdleConnections(alias)
        self.breaker = Breaker()
        # Moves the store's clock, in ms; only tests do.
        self.clock_offset_ms = 0
        # Round trips made, for the test that holds evaluate to one.
        self.round_trips = 0
        # Whether this process could not tell the store something; the next call makes good for it first.
        self.behind = False
        # Runs before the first call after an outage: what the store missed meanwhile.
        self.catch_up: Callable[[], None] = lambda: None
        # Told the environments of a store that may have restarted from old data.
        self.restarted: Callable[[Sequence[int]], None] = lambda environment_ids: None
        # How far the store's clock is ahead of this process's, once the store had to say.
        self._ahead_ms = 0

    @property
    def client(self) -> Any:
        """redis-py's client; its annotations allow for asynchronous answers, so it is Any to the callers."""
        return get_redis_connection(self._alias)

    def now_ms(self) -> int:
        """This process's idea of the store's clock; the scripts correct it where it matters."""
        return time.time_ns() // 1_000_000 + self.clock_offset_ms + self._ahead_ms

    def learn_clock(self, now_ms: int, asked_at_ms: int) -> None:
        """What the store's clock said just now. A time between question and answer says nothing: the call was slow."""
        answered_at_ms = self.now_ms()
        if not asked_at_ms <= now_ms <= answered_at_ms:
            self._ahead_ms += now_ms - (asked_at_ms if now_ms < asked_at_ms else answered_at_ms)

    def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """One script, one round trip. Raises StoreUnavailable."""
        script = SCRIPTS[name]
        return self._guarded(
            lambda: self._lines.execute(
                "EVALSHA", script.sha, len(keys), *keys, self.clock_offset_ms, *arguments
            )
        )

    def run_many(self, calls: Sequence[tuple[str, Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Several scripts in one round trip. Raises StoreUnavailable."""

        def pipelined(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for name, keys, arguments in calls:
                pipeline.execute_command(
                    "EVALSHA", SCRIPTS[name].sha, len(keys), *keys, self.clock_offset_ms, *arguments
                )
            answers: list[Any] = pipeline.execute()
            return answers

        return self.call(pipelined)

    def call(self, use: Callable[[Any], T]) -> T:
        """Runs `use(client)` inside the time box and the breaker. Raises StoreUnavailable."""
        return self._guarded(lambda: use(self.client))

    def _guarded(self, attempt: Callable[[], T]) -> T:
        probing = self.breaker.admit()
        try:
            if probing or self.behind:
                self.behind = False
                self.catch_up()
            answer = self._try(attempt)
        except (RedisError, StoreUnavailable) as error:
            if type(error) is ResponseError and not probing:
                # The store is there, and did not understand: versions that do not fit. No reason to call it away.
                logger.error("the counter store refused a call: %s", error)
            else:
                self.breaker.failed(error)
            raise StoreUnavailable(str(error) or type(error).__name__) from error
        except BaseException as error:
            # Not the store's fault, but nobody shall wait for this probe.
            if probing:
                self.breaker.failed(error)
            raise
        self.breaker.succeeded()
        return answer

    def _try(self, attempt: Callable[[], T]) -> T:
        self.round_trips += 1
        try:
            return attempt()
        except NoScriptError:
            self._after_restart()
            return attempt()

    def _after_restart(self) -> None:
        client = self.client
        distrust = SCRIPTS["distrust"]
        keys = list(client.scan_iter(match="tv:{*}:env", count=ENVIRONMENTS_SCAN_COUNT))
        for key in keys:
            client.eval(distrust.text, 1, key, self.clock_offset_ms)
        # `distrust` becomes known to the store by being evaluated; the others, reserve last, only now.
        for name in sorted(SCRIPTS, key=lambda name: name == "reserve"):
            client.script_load(SCRIPTS[name].text)
        # An empty store holds nothing that could be old.
        if keys:
            self.restarted([int(key.split(b"{")[1].split(b"}")[0]) for key in keys])


store = CounterStore()
