"""What belongs to an event loop, and ends with it: things made for it, and threads for what would hold it up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from tokvigil import forking

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One thing for each event loop. Its `close` is awaited in its loop: when the loop ends as `asyncio.run` ends it,
    or some time after `close_all`."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._begin()

    def here(self) -> T:
        """That of the running event loop; made when it is asked for first."""
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            with self._making:
                for ended in [each for each in self._by_loop if each.is_closed()]:
                    del self._by_loop[ended]
                made = self._make()
                found = self._by_loop[loop] = (made, _until_its_loop_ends(made, self._close))
        return found[0]

    def close_all(self) -> None:
        """A loop that is closed already has nothing left to close in."""
        # Each loop closes an asynchronous generator that nobody refers to.
        self._by_loop.clear()

    async def close_here(self) -> None:
        found = self._by_loop.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[1].aclose()

    def restart_in_child(self) -> None:
        """The parent's loops are the parent's, and nothing of them is to be closed in its child."""
        self._inherited = self._by_loop
        self._begin()

    def _begin(self) -> None:
        self._making = threading.RLock()
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None]]] = {}


def _until_its_loop_ends(made: T, close: Callable[[T], Awaitable[None]]) -> AsyncGenerator[None]:
    """Every loop ends its asynchronous generators before it is closed, and this is the only moment that it offers."""

    async def wait() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await close(made)

    ending = wait()
    # Its first step waits for nothing, so it needs no task.
    with suppress(StopIteration):
        ending.__anext__().__await__().send(None)
    return ending


class Threads:
    """A few for each event loop. Not the loop's own: an application may have all of those wait for AI calls."""

    def __init__(self, most: int, name: str) -> None:
        self._executors = PerLoop(partial(ThreadPoolExecutor, most, name), _shut_down)
        forking.register(self._executors)

    async def run(self, work: Callable[[], T]) -> T:
        try:
            done = asyncio.get_running_loop().run_in_executor(self._executors.here(), work)
        except RuntimeError:
            # The loop is ending, or the interpreter, and starts no threads.
            return work()
        return await done


async def _shut_down(executor: ThreadPoolExecutor) -> None:
    executor.shutdown(wait=False)


# For work that is all Python: more threads would take the time from the loop.
working = Threads(2, "tokvigil-work")
# For work that waits for something else.
waiting = Threads(4, "tokvigil-wait")
