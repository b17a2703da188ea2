"""Doing many things with a few threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

T = TypeVar("T")


def for_each(items: Iterable[T], work: Callable[[T], object], *, threads: int) -> None:
    """Returns when all are done. If one fails, or on Ctrl-C, what has not begun is left and the error raised."""
    waiting, taking, stopped = iter(items), threading.Lock(), threading.Event()

    def run() -> None:
        try:
            while not stopped.is_set():
                with taking:
                    item = next(waiting, stopped)
                if item is stopped:
                    return
                work(item)  # type: ignore[arg-type]
        except BaseException:
            stopped.set()
            raise
        finally:
            connections.close_all()

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(run) for _ in range(threads)]
        try:
            for each in running:
                each.result()
        finally:
            stopped.set()
