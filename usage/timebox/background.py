"""Work that goes on when those who asked for it can wait no longer: whoever asks next finds it done."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent import futures
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django.db import OperationalError, connection

from usage.timebox import patience
from usage.timebox.gate import Full
from usage.timebox.patience import Patience

T = TypeVar("T")

logger = logging.getLogger("tokvigil.servers")


class TooSlow(OperationalError):
    """The work is not done in time. It goes on, unless there was too much of it to begin with."""


@dataclass(slots=True)
class Job(Generic[T]):
    group: Hashable
    key: Hashable
    work: Callable[[], T]
    awaited: Callable[[], AbstractContextManager[None]]
    begun: float = field(default_factory=time.monotonic)
    done: Future[T] = field(default_factory=Future)

    def result(self) -> T:
        """What the work returns or raises. Raises TooSlow.

        A thread whose time is limited (`patience.within`) waits at most until the job is as old as that limit: for work
        that takes long only its first callers wait.
        """
        if not self.done.done() and self._wait_s() != 0:
            self._await()
        if not self.done.done():
            raise TooSlow("not done in time, but under way")
        return self.done.result()

    def _await(self) -> None:
        try:
            with self.awaited():
                # What is left once there is a place to wait in.
                futures.wait([self.done], self._wait_s())
        except Full as error:
            raise TooSlow("too many wait already") from error

    def _wait_s(self) -> float | None:
        left_s, given_s = patience.left_s(), patience.given_s()
        if left_s is None or given_s is None:
            return None
        return max(0.0, min(left_s, given_s - (time.monotonic() - self.begun)))

    def run(self) -> None:
        try:
            self.done.set_result(self.work())
        except BaseException as error:
            self.done.set_exception(error)


class Background:
    """At most `threads` at a time, and of one group at most `threads_per_group`; groups take turns.

    Callers wait inside of `awaited`.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int,
        waiting_max: int,
        threads_per_group: int | None = None,
        of_threads: Patience | None = None,
        awaited: Callable[[], AbstractContextManager[None]] = patience.waiting_for_work,
    ) -> None:
        self._name = name
        self._threads = threads
        self._threads_per_group = threads_per_group or threads
        self._waiting_max = waiting_max
        self._patience = of_threads
        self._awaited = awaited
        self._lock = threading.Lock()
        # Waiting or under way.
        self._jobs: dict[Hashable, Job[Any]] = {}
        # Those that wait, by group; the first group's turn is next.
        self._waiting: OrderedDict[Hashable, deque[Job[Any]]] = OrderedDict()
        self._under_way: Counter[Hashable] = Counter()
        self._alive = 0

    def start(self, group: Hashable, key: Hashable, work: Callable[[], T]) -> Job[T]:
        """The job of this key: the one that waits or is under way, else a new one. Raises TooSlow if too many wait."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None:
                return job
            if len(self._jobs) >= self._waiting_max:
                raise TooSlow("too much work waits already")
            job = self._jobs[key] = Job(group, key, work, self._awaited)
            self._waiting.setdefault(group, deque()).append(job)
            if self._alive < self._threads:
                self._alive += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            return job

    def _work(self) -> None:
        if self._patience is not None:
            patience.give_thread(self._patience)
        try:
            while (job := self._next()) is not None:
                job.run()
                self._ended(job)
        finally:
            connection.close()

    def _next(self) -> Job[Any] | None:
        """None ends the thread: nothing waits that it may do."""
        with self._lock:
            job = self._take()
            if job is None:
                self._alive -= 1
            return job

    def _take(self) -> Job[Any] | None:
        for group, jobs in self._waiting.items():
            if self._under_way[group] < self._threads_per_group:
                job = jobs.popleft()
                self._under_way[group] += 1
                del self._waiting[group]
                if jobs:
                    self._waiting[group] = jobs
                return job
        return None

    def _ended(self, job: Job[Any]) -> None:
        with self._lock:
            del self._jobs[job.key]
            self._under_way[job.group] -= 1
            if not self._under_way[job.group]:
                del self._under_way[job.group]
