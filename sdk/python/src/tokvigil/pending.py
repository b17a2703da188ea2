"""Usage events that TokVigil has not confirmed yet, in memory and bounded: for clients without a spool."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

from tokvigil import forking
from tokvigil.models import UsageEvent

PENDING_MAX = 10_000


class PendingUsage:
    """Events by request id, oldest first. Safe to share between threads; a forked child begins with none."""

    def __init__(self, events_max: int = PENDING_MAX) -> None:
        self._events: dict[str, UsageEvent] = {}
        self._events_max = events_max
        # Reentrant, because a signal handler may report while its thread is in here.
        self.lock = threading.RLock()
        forking.register(self)

    def hold(self, event: UsageEvent) -> None:
        """An event that this process is still busy with: in memory there is nothing to do before it is added."""

    def withdraw(self, request_id: str) -> None:
        """Forget an event that is only held: in memory it never was."""

    def add(self, event: UsageEvent) -> UsageEvent | None:
        """Keep an event; returns the oldest one if it had to make room."""
        with self.lock:
            self._events.setdefault(event.request_id, event)
            if len(self._events) <= self._events_max:
                return None
            # A signal handler may have made room meanwhile.
            return self._events.pop(next(iter(self._events)), None)

    def replace(self, event: UsageEvent) -> None:
        """Have an event as it is to be sent instead."""
        with self.lock:
            if event.request_id in self._events:
                self._events[event.request_id] = event

    def claim(self, count_max: int) -> tuple[UsageEvent, ...]:
        """The oldest events, to send them. Nobody else can take them: they are in this process only."""
        return self.oldest()[:count_max]

    def put_back(self, request_ids: Collection[str]) -> None:
        """Claimed events that were not sent; in memory they never left."""

    def remove(self, request_ids: Iterable[str]) -> None:
        """Forget events that TokVigil has."""
        with self.lock:
            for request_id in request_ids:
                self._events.pop(request_id, None)

    def give_up(self, request_id: str, reason: str) -> None:
        """Drop an event that will never be taken."""
        self.remove((request_id,))

    def adopt(self) -> None:
        """Memory holds no other process's events."""

    def close(self) -> int:
        """How many events are lost with it."""
        return len(self)

    def oldest(self) -> tuple[UsageEvent, ...]:
        with self.lock:
            return tuple(self._events.values())

    def has_pending(self) -> bool:
        return bool(self._events)

    def count_of(self, request_ids: Iterable[str]) -> int:
        """How many of these reports are still here."""
        return len(self._events.keys() & set(request_ids))

    def restart_in_child(self) -> None:
        """The parent sends its own."""
        self.lock = threading.RLock()
        self._events = {}

    def __len__(self) -> int:
        return len(self._events)
