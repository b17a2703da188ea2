"""Usage events that TokVigil has not confirmed yet, in memory and bounded: for clients without a spool."""

from __future__ import annotations

import threading

from tokvigil.models import UsageEvent

PENDING_MAX = 10_000


class PendingUsage:
    """Events by request id, oldest first. Safe to share between threads."""

    def __init__(self, events_max: int = PENDING_MAX) -> None:
        self._events: dict[str, UsageEvent] = {}
        self._events_max = events_max
        self._lock = threading.Lock()

    def hold(self, event: UsageEvent) -> None:
        """An event that this process is still busy with: in memory there is nothing to do before it is added."""

    def add(self, event: UsageEvent) -> UsageEvent | None:
        """Keep an event; returns the oldest one if it had to make room."""
        with self._lock:
            self._events.setdefault(event.request_id, event)
            if len(self._events) <= self._events_max:
                return None
            return self._events.pop(next(iter(self._events)))

    def remove(self, request_id: str) -> None:
        with self._lock:
            self._events.pop(request_id, None)

    def give_up(self, request_id: str, reason: str) -> None:
        """Drop an event that will never be taken."""
        self.remove(request_id)

    def adopt(self) -> None:
        """Memory holds no other process's events."""

    def close(self) -> None:
        """Nothing is open."""

    def oldest(self, count_max: int | None = None) -> tuple[UsageEvent, ...]:
        with self._lock:
            return tuple(self._events.values())[:count_max]

    def __len__(self) -> int:
        return len(self._events)
