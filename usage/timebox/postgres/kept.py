"""Connections that nobody uses at the moment, kept for the next: to make one takes longer than most of what is asked.

There is no waiting here: so many are open as threads use at once (patience.within bounds that), and a few more.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Hashable
from typing import Any

from psycopg.pq import TransactionStatus

from usage.timebox.postgres.connection import TimedConnection

KEPT_MAX = 4
IDLE_S_MAX = 30.0
# Connections that were made alike.
_ALIKE = ("host", "port", "dbname", "user", "password", "options")


class Kept:
    """Of one process, shared by its threads; the one used last comes first."""

    def __init__(self) -> None:
        self._idle: dict[Hashable, deque[tuple[TimedConnection, float]]] = defaultdict(deque)
        self._lock = threading.Lock()

    def take(self, params: dict[str, Any]) -> TimedConnection | None:
        """One that was made with these parameters, and that the server has not ended."""
        with self._lock:
            idle = self._idle[_key(params)]
            while idle:
                connection, _ = idle.pop()
                if connection.is_alive:
                    return connection
                connection.close()
        return None

    def give_back(self, connection: TimedConnection, params: dict[str, Any]) -> None:
        """Closes what cannot be used again, and what is not needed."""
        if not connection.is_alive or connection.info.transaction_status != TransactionStatus.IDLE:
            connection.close()
            return
        now = time.monotonic()
        with self._lock:
            idle = self._idle[_key(params)]
            idle.append((connection, now))
            while len(idle) > KEPT_MAX or idle[0][1] < now - IDLE_S_MAX:
                idle.popleft()[0].close()

    def close_all(self) -> None:
        with self._lock:
            for idle in self._idle.values():
                while idle:
                    idle.pop()[0].close()

    def forget(self) -> None:
        """In a forked child, whose parent uses them."""
        self.__dict__.update(Kept().__dict__)


def _key(params: dict[str, Any]) -> Hashable:
    return tuple(params.get(name) for name in _ALIKE)


kept = Kept()
os.register_at_fork(after_in_child=kept.forget)
