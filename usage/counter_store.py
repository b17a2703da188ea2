"""The connection to the counter store: scripts, time box, circuit breaker, and what a restart of the store means.

django-redis lends the client. Every call is one script, one round trip, at most `COUNTER_STORE_TIMEOUT_S` long; slow
counts as down. After a failure the breaker stays open for a moment, so that a store that is away costs callers nothing,
then one call at a time probes it.

A script the store does not know (NOSCRIPT) means that the store may have restarted, from whatever it had on disk. Before
the scripts are loaded again every environment's counters are distrusted, so none is used until it was rebuilt from the
ledger; and as no script runs before that, no call can slip through between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

from django_redis import get_redis_connection
from redis import Redis
from redis.exceptions import NoScriptError, RedisError

LUA = Path(__file__).parent / "lua"
BREAKER_OPEN_S = 0.5
ENVIRONMENTS_SCAN_COUNT = 1000

Argument = str | int | bytes


class StoreUnavailable(Exception):
    """The counter store did not answer in time. Nothing is known of whether the call took effect."""


class Script:
    """One file of `lua/`, after the prelude."""

    def __init__(self, name: str) -> None:
        self.text = (LUA / "prelude.lua").read_text() + (LUA / f"{name}.lua").read_text()
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


SCRIPTS = {
    name: Script(name)
    for name in ("reserve", "settle", "release", "extend", "seed", "sync", "distrust", "sweep", "remember_user", "rate_limit")
}


class Breaker:
    """Opens on a failure; lets one probe through when its time is over. One per process, shared by its threads."""

    def __init__(self, open_s: float = BREAKER_OPEN_S) -> None:
        self._open_s = open_s
        self._closed_again_at: float | None = None
        self._lock = threading.Lock()

    def admit(self) -> None:
        """Raises StoreUnavailable while open."""
        if self._closed_again_at is None:
            return
        with self._lock:
            now = time.monotonic()
            if self._closed_again_at is not None:
                if now < self._closed_again_at:
                    raise StoreUnavailable("the counter store was away a moment ago")
                # This caller probes; the others wait for its outcome.
                self._closed_again_at = now + self._open_s

    def failed(self) -> None:
        self._closed_again_at = time.monotonic() + self._open_s

    def succeeded(self) -> None:
        if self._closed_again_at is not None:
            self._closed_again_at = None


class CounterStore:
    def __init__(self, alias: str = "counters") -> None:
        self._alias = alias
        self.breaker = Breaker()
        # Moves the store's clock, in ms; only tests do.
        self.clock_offset_ms = 0
        # Round trips made, for the test that holds evaluate to one.
        self.round_trips = 0

    @property
    def client(self) -> Redis:
        client: Redis = get_redis_connection(self._alias)
        return client

    def now_ms(self) -> int:
        """This process's idea of the store's clock; the scripts correct it where it matters."""
        return time.time_ns() // 1_000_000 + self.clock_offset_ms

    def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """One script, one round trip. Raises StoreUnavailable."""
        script = SCRIPTS[name]
        return self.call(
            lambda client: client.execute_command(
                "EVALSHA", script.sha, len(keys), *keys, self.clock_offset_ms, *arguments
            )
        )

    def run_many(self, calls: Sequence[tuple[str, Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Several scripts in one round trip. Raises StoreUnavailable."""

        def pipelined(client: Redis) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for name, keys, arguments in calls:
                pipeline.execute_command(
                    "EVALSHA", SCRIPTS[name].sha, len(keys), *keys, self.clock_offset_ms, *arguments
                )
            answers: list[Any] = pipeline.execute()
            return answers

        answers: list[Any] = self.call(pipelined)
        return answers

    def call(self, use: Any) -> Any:
        """Runs `use(client)` inside the time box and the breaker. Raises StoreUnavailable."""
        self.breaker.admit()
        try:
            self.round_trips += 1
            try:
                answer = use(self.client)
            except NoScriptError:
                self._after_restart()
                answer = use(self.client)
        except RedisError as error:
            self.breaker.failed()
            raise StoreUnavailable(str(error) or type(error).__name__) from error
        self.breaker.succeeded()
        return answer

    def _after_restart(self) -> None:
        client = self.client
        distrust = SCRIPTS["distrust"]
        for key in client.scan_iter(match="tv:{*}:env", count=ENVIRONMENTS_SCAN_COUNT):
            client.eval(distrust.text, 1, key, self.clock_offset_ms)
        # `distrust` becomes known to the store by being evaluated; the others, reserve last, only now.
        for name in sorted(SCRIPTS, key=lambda name: name == "reserve"):
            client.script_load(SCRIPTS[name].text)


store = CounterStore()
