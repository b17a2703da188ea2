"""How far a run is: a bar that is redrawn on a terminal, a line at each quarter elsewhere."""

from __future__ import annotations

import threading
import time

from django.core.management.base import OutputWrapper

BAR_WIDTH = 30
REDRAW_S = 0.1
QUARTERS = 4


class Progress:
    """Safe to share between threads."""

    def __init__(self, out: OutputWrapper, what: str, total: int) -> None:
        self._out, self._what, self._total = out, what, total
        self._done = self._quarter = 0
        self._drawn_at = 0.0
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self._done += 1
            if self._out.isatty():
                self._draw()
            elif (quarter := self._done * QUARTERS // self._total) > self._quarter:
                self._quarter = quarter
                self._out.write(f"  {self._what}: {self._done} of {self._total}")

    def _draw(self) -> None:
        now, complete = time.monotonic(), self._done >= self._total
        if now - self._drawn_at < REDRAW_S and not complete:
            return
        self._drawn_at = now
        bar = ("█" * (BAR_WIDTH * self._done // self._total)).ljust(BAR_WIDTH, "░")
        ending = "\n" if complete else ""
        self._out.write(f"\r  {bar} {self._done}/{self._total} {self._what}", ending=ending)
        self._out.flush()
