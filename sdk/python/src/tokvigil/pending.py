"""Usage events that TokVigil has not confirmed yet, in memory and bounded.

A durable spool can take this class's place: add what could not be sent, remove what is confirmed.
"""

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

    def oldest(self, count_max: int | None = None) -> tuple[UsageEvent, ...]:
        with self._lock:
            return tuple(self._events.values())[:count_max]

    def __len__(self) -> int:
        return len(self._events)
