"""Work that waits for nobody: a daemon thread that is there once it is needed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tokvigil import forking

logger = logging.getLogger("tokvigil")

# How long after an error that nobody foresaw the work is tried again.
AFTER_ERROR_S = 10.0
NUDGE_S_MAX = 0.1


class Background:
    """Calls `work` when its time has come, in a thread of its own; `work` says in how many seconds again.

    Safe to share between threads. A forked child gets a thread of its own at the next `within`.
    """

    _due: float | None
    _thread: threading.Thread | None

    def __init__(self, work: Callable[[], float], name: str) -> None:
        self._work = work
        self._name = name
        self._stopped = False
        self._reset()
        forking.register(self)

    def within(self, delay_s: float) -> None:
        """See to it that `work` is called in at most so many seconds. Costs a caller microseconds."""
        due = time.monotonic() + delay_s
        with self._changed:
            if self._stopped or (self._due is not None and self._due <= due and self._thread is not None):
                return
            self._due = due
            if self._thread is None:
                self._start()
            else:
                self._changed.notify()

    def nudge(self) -> None:
        """`within(0)` for code that may hold any lock: nothing is waited for while this one is held, so a moment is
        enough."""
        if self._thread is None or not self._changed.acquire(timeout=NUDGE_S_MAX):
            return
        try:
            self._due = time.monotonic()
            self._changed.notify()
        finally:
            self._changed.release()

    def stop(self, timeout_s: float) -> None:
        """End the thread; waits so long for work under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def restart_in_child(self) -> None:
        """The parent's thread did not come along."""
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._due = None
        self._thread = None

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is shutting down: what is left is done at exit, or by the next process.
            return
        self._thread = thread

    def _run(self) -> None:
        while self._is_due():
            try:
                delay_s = self._work()
            except Exception:
                logger.exception("the background work of TokVigil failed; it goes on")
                delay_s = AFTER_ERROR_S
            self.within(delay_s)

    def _is_due(self) -> bool:
        """Waits until there is work. False: the thread is to end."""
        with self._changed:
            while not self._stopped:
                left_s = None if self._due is None else self._due - time.monotonic()
                if left_s is not None and left_s <= 0:
                    self._due = None
                    return True
                self._changed.wait(left_s)
            return False
