"""Whether PostgreSQL answers. While it does not, callers fail at once, and a thread looks whether it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg

from usage.timebox.breaker import Breaker

# Callers go on this long after it is back, at most, and the time of a connect.
PROBE_EVERY_S = 0.25


class PostgresAway(psycopg.OperationalError):
    """PostgreSQL did not answer in time. Nothing is known of whether the statement took effect."""


class Availability:
    """One per process, shared by its threads. A `probe` opens a connection and closes it, or raises."""

    def __init__(self) -> None:
        self._breaker = Breaker("PostgreSQL", PostgresAway, open_s=PROBE_EVERY_S)
        self._prober: threading.Thread | None = None
        self._lock = threading.Lock()

    def require(self, probe: Callable[[], None]) -> None:
        """Raises PostgresAway while it is away."""
        if self._breaker.is_open:
            # Here too, for after a fork the thread is the parent's.
            self._have_probed(probe)
            raise self._breaker.refusal()

    def answered(self) -> None:
        self._breaker.succeeded()

    def failed(self, why: object, probe: Callable[[], None]) -> None:
        self._breaker.failed(why)
        if self._breaker.is_open:
            self._have_probed(probe)

    def _have_probed(self, probe: Callable[[], None]) -> None:
        with self._lock:
            if self._prober is None or not self._prober.is_alive():
                self._prober = threading.Thread(
                    target=self._probe, args=(probe,), name="postgres-probe", daemon=True
                )
                self._prober.start()

    def _probe(self, probe: Callable[[], None]) -> None:
        while self._breaker.is_open:
            time.sleep(PROBE_EVERY_S)
            try:
                self._breaker.admit()
            except PostgresAway:
                continue
            try:
                probe()
            except Exception as error:
                self._breaker.failed(error)
            else:
                self._breaker.succeeded()
