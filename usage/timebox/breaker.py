"""A circuit breaker: a server that is away costs its callers nothing; one probe at a time finds out that it is back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

OPEN_S = 0.5
FAILURES_TO_OPEN = 3

logger = logging.getLogger("tokvigil.servers")


class Breaker:
    """Opens after failures in a row; then lets one probe at a time through. One per process, shared by its threads.

    A single slow call fails alone: it says little of the next one. `away` makes the exception of a refused call.
    """

    def __init__(
        self,
        server: str,
        away: Callable[[str], Exception],
        *,
        open_s: float = OPEN_S,
        failures_to_open: int = FAILURES_TO_OPEN,
    ) -> None:
        self._server = server
        self._away = away
        self._open_s = open_s
        self._failures_to_open = failures_to_open
        self._failures = 0
        self._open_until: float | None = None
        self._prober: int | None = None
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    def admit(self) -> bool:
        """True if this call is the probe. Raises while open."""
        if self._open_until is None or self._prober == threading.get_ident():
            return False
        with self._lock:
            now = time.monotonic()
            if now < (self._open_until or 0.0):
                raise self.refusal()
            # The others wait for this caller's outcome. (If another's probe has just succeeded, one more is harmless.)
            self._open_until = now + self._open_s
            self._prober = threading.get_ident()
            return True

    def refusal(self) -> Exception:
        return self._away(f"{self._server} was away a moment ago")

    def failed(self, why: object) -> None:
        with self._lock:
            self._failures += 1
            if self._open_until is None and self._failures < self._failures_to_open:
                return
            if self._open_until is None:
                logger.error("%s is away: %s", self._server, why)
            self._open_until = time.monotonic() + self._open_s
            self._prober = None

    def abandoned(self) -> None:
        """The call ended otherwise, and says nothing of the server: the next caller probes."""
        with self._lock:
            if self._prober == threading.get_ident():
                self._open_until, self._prober = time.monotonic(), None

    def succeeded(self) -> None:
        if self._failures == 0 and self._open_until is None:
            return
        with self._lock:
            if self._open_until is not None and self._prober == threading.get_ident():
                logger.warning("%s is back", self._server)
                self._open_until = self._prober = None
            self._failures = 0
