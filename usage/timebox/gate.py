"""How many may do something at once, where to wait for a place would take the thread that others need."""

from __future__ import annotations

import threading


class Full(Exception):
    """All places are taken by those who take long."""


class Gate:
    """Whoever finds no place waits a moment for one. While nobody leaves, others are refused at once."""

    def __init__(self, places: int, wait_s: float) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._wait_s = wait_s
        self._stuck = False

    def enter(self, within_s: float | None = None) -> None:
        """Waits no longer than `within_s`. Raises Full."""
        if self._places.acquire(blocking=False):
            return
        if self._stuck:
            raise Full
        wait_s = self._wait_s if within_s is None else min(within_s, self._wait_s)
        if not self._places.acquire(timeout=wait_s):
            # Who had hardly time to wait has not seen whether somebody leaves.
            if wait_s > self._wait_s / 2:
                self._stuck = True
            raise Full

    def leave(self) -> None:
        self._stuck = False
        self._places.release()
