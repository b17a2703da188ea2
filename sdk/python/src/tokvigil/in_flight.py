"""Calls between their decision and their report: keeps their holds open, and their places while a provider's SDK
pauses between two attempts."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from tokvigil import forking

if TYPE_CHECKING:
    from tokvigil.open_call import OpenCall

# TokVigil keeps a hold for 10 minutes unless told that the call goes on.
EXTEND_EVERY_S = 240.0
# After an extension that did not succeed.
EXTEND_AGAIN_S = 60.0
# What goes on for longer is a guard that somebody forgot to leave: its hold must not stand in the way for ever.
EXTEND_S_MAX = 6 * 3600.0
# The providers' SDKs wait up to 60 s before they try again.
RETRY_WITHIN_S = 75.0


class InFlight:
    """Safe to share between threads. `clock` is in seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.is_closing = False
        self._reset()
        forking.register(self)

    def let_none_begin(self) -> None:
        """From now on; those that have begun are still open."""
        with self._lock:
            self.is_closing = True

    def began(self, call: OpenCall) -> bool:
        """False: none may begin any more."""
        now = self._clock()
        with self._lock:
            if self.is_closing:
                return False
            self._open[call.request_id] = call
            self._extend_at[call.request_id] = now + EXTEND_EVERY_S
            self._extend_until[call.request_id] = now + EXTEND_S_MAX
        return True

    def ended(self, request_id: str) -> None:
        with self._lock:
            self._open.pop(request_id, None)
        self.stop_extending(request_id)

    def open_calls(self) -> list[OpenCall]:
        with self._lock:
            return list(self._open.values())

    def defer(self, request_id: str, act: Callable[[], object]) -> None:
        """Keep what is to be done for a call until `do_deferred`. Takes no lock: objects are collected at any time,
        also in a thread that holds one. A forked child that loses its copy of a parent's call does nothing for it.
        """
        if request_id in self._open:
            self._deferred.put(act)

    def do_deferred(self) -> None:
        """When it returns, everything is done that was deferred before."""
        with self._doing:
            while True:
                try:
                    act = self._deferred.get_nowait()
                except Empty:
                    return
                act()

    def due_for_extension(self) -> list[str]:
        """The request ids of calls that have been going on since their last extension, longest first."""
        now = self._clock()
        with self._lock:
            for request_id in [each for each, until in self._extend_until.items() if until <= now]:
                self.stop_extending(request_id)
            due = [request_id for request_id, at in self._extend_at.items() if at <= now]
            return sorted(due, key=self._extend_at.__getitem__)

    def extend_in(self, request_id: str, seconds: float) -> None:
        """It is due again after so long, if it still goes on."""
        with self._lock:
            if request_id in self._extend_at:
                self._extend_at[request_id] = self._clock() + seconds

    def stop_extending(self, request_id: str) -> None:
        with self._lock:
            self._extend_at.pop(request_id, None)
            self._extend_until.pop(request_id, None)

    def pause(self, key: Hashable, call: OpenCall) -> None:
        """An attempt failed and the provider's SDK will try again: `resume` finds the call by the same key."""
        with self._lock:
            self._paused.setdefault(key, deque()).append((call, self._clock() + RETRY_WITHIN_S))

    def resume(self, key: Hashable) -> OpenCall | None:
        """The call that an attempt goes on with."""
        with self._lock:
            waiting = self._paused.get(key)
            if not waiting:
                return None
            call, _ = waiting.popleft()
            if not waiting:
                del self._paused[key]
            return call

    def given_up(self, *, all_of_them: bool = False) -> list[OpenCall]:
        """Paused calls that nobody came back for."""
        now = self._clock()
        over = []
        with self._lock:
            for key, waiting in list(self._paused.items()):
                while waiting and (all_of_them or waiting[0][1] <= now):
                    over.append(waiting.popleft()[0])
                if not waiting:
                    del self._paused[key]
        return over

    def next_due_s(self) -> float | None:
        """Seconds until there is something to do for a call; None while there is none."""
        with self._lock:
            times = [*self._extend_at.values(), *(waiting[0][1] for waiting in self._paused.values())]
        return max(0.0, min(times) - self._clock()) if times else None

    def restart_in_child(self) -> None:
        """The parent's calls are the parent's."""
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[str, OpenCall] = {}
        self._extend_at: dict[str, float] = {}
        self._extend_until: dict[str, float] = {}
        self._paused: dict[Hashable, deque[tuple[OpenCall, float]]] = {}
        self._doing = threading.RLock()
        self._deferred: SimpleQueue[Callable[[], object]] = SimpleQueue()
