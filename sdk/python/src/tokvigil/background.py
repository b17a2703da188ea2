"""Work that nobody waits for: a daemon thread that exists once it is needed, and ends with its owner."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import Protocol

from tokvigil import forking

logger = logging.getLogger("tokvigil")

# After an error that nobody foresaw the work is tried again in so many seconds.
AFTER_ERROR_S = 10.0
NUDGE_S_MAX = 0.1


class Worker(Protocol):
    def work(self) -> float:
        """Does what is due; returns in how many seconds there is something to do again."""


class Background:
    """Calls `worker.work` when its time has come, in a thread of its own. The thread does not keep the worker alive: it
    ends when the worker is collected.

    Safe to share between threads. A forked child gets a thread of its own at the next `within`.
    """

    def __init__(self, worker: Worker, name: str) -> None:
        self._worker = weakref.ref(worker, self._notify)
        self._name = name
        self._stopped = False
        self.restart_in_child()
        forking.register(self)

    def restart_in_child(self) -> None:
        """The parent's thread did not come along."""
        self._changed = threading.Condition()
        self._due: float | None = None
        self._thread: threading.Thread | None = None

    def within(self, delay_s: float) -> None:
        """See to it that the work is done in at most so many seconds. Costs a caller microseconds."""
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
        """`within(0)` for code that may hold any lock: this one is only ever held for a moment."""
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

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        # First, or a signal handler in the middle of the start would make another one.
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is shutting down: what is left is done at exit, or by the next process.
            self._thread = None

    def _notify(self, _: object = None) -> None:
        self.nudge()

    def _run(self) -> None:
        while self._is_due():
            worker = self._worker()
            if worker is None:
                return
            try:
                delay_s = worker.work()
            except Exception:
                logger.exception("the background work of TokVigil failed; it goes on")
                delay_s = AFTER_ERROR_S
            del worker
            self.within(delay_s)

    def _is_due(self) -> bool:
        """Waits until there is work. False: the thread is to end."""
        with self._changed:
            while not self._stopped and self._worker() is not None:
                left_s = None if self._due is None else self._due - time.monotonic()
                if left_s is not None and left_s <= 0:
                    self._due = None
                    return True
                self._changed.wait(left_s)
            return False
