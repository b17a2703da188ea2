"""Calls that went out and are not reported yet: their holds are kept open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tokvigil import forking

# TokVigil keeps a hold for 10 minutes unless it is told that the call goes on.
EXTEND_EVERY_S = 240.0
# After an extension that failed.
EXTEND_AGAIN_S = 60.0
# A call that goes on for longer is a guard that somebody forgot to leave: its hold must not stay for ever.
EXTEND_S_MAX = 6 * 3600.0


class OpenCall(Protocol):
    @property
    def request_id(self) -> str: ...

    def end_as_it_stands(self) -> None: ...

    def end_late(self) -> None: ...


@dataclass(slots=True)
class _Hold:
    call: OpenCall
    extend_at: float
    extend_until: float


class Holds:
    """Safe to share between threads. `clock` is in seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.is_closing = False
        self.restart_in_child()
        forking.register(self)

    def restart_in_child(self) -> None:
        """The parent's calls are the parent's."""
        self._lock = threading.RLock()
        self._holds: dict[str, _Hold] = {}

    def let_none_begin(self) -> None:
        """From now on. Calls that have begun stay open."""
        with self._lock:
            self.is_closing = True

    def began(self, call: OpenCall) -> bool:
        """False: no call may begin any more."""
        now = self._clock()
        with self._lock:
            if self.is_closing:
                return False
            self._holds[call.request_id] = _Hold(call, now + EXTEND_EVERY_S, now + EXTEND_S_MAX)
        return True

    def ended(self, request_id: str) -> None:
        with self._lock:
            self._holds.pop(request_id, None)

    def has(self, request_id: str) -> bool:
        """Takes no lock."""
        return request_id in self._holds

    def open_calls(self) -> list[OpenCall]:
        with self._lock:
            return [hold.call for hold in self._holds.values()]

    def due(self) -> list[str]:
        """The request ids of holds to extend now, the longest due first."""
        now = self._clock()
        with self._lock:
            due = [
                (hold.extend_at, request_id)
                for request_id, hold in self._holds.items()
                if hold.extend_at <= now < hold.extend_until
            ]
        return [request_id for _, request_id in sorted(due)]

    def extend_in(self, request_id: str, seconds: float) -> None:
        """It is due again after so long, if its call still goes on."""
        with self._lock:
            hold = self._holds.get(request_id)
            if hold is not None:
                hold.extend_at = self._clock() + seconds

    def stop_extending(self, request_id: str) -> None:
        """Its hold is gone; its call may go on."""
        with self._lock:
            hold = self._holds.get(request_id)
            if hold is not None:
                hold.extend_until = 0.0

    def next_due_s(self) -> float | None:
        """Seconds until a hold is to be extended; None if none is."""
        now = self._clock()
        with self._lock:
            times = [
                hold.extend_at
                for hold in self._holds.values()
                if max(now, hold.extend_at) < hold.extend_until
            ]
        return max(0.0, min(times) - now) if times else None
