"""Code that waits, written once for callers that block and for callers that await.

Such code is a generator: it yields what it waits for, and goes on with what came of it. That is a request to be
answered, seconds to pass, or work that takes so long that an event loop has a thread do it. `run` and `run_async` drive
it. TokVigil's own errors of the waiting are raised inside it, at the yield. Any other exception is somebody else's, a
signal handler's or a cancellation: it ends the generator, which clears up, and passes to the caller as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from tokvigil import event_loops
from tokvigil.errors import ConfigurationError, TokVigilError

if TYPE_CHECKING:
    from tokvigil.links import Answer, Request

T = TypeVar("T")
Work: TypeAlias = Callable[[], Any]
Steps: TypeAlias = Generator["Request | float | Work", Any, T]


def run(steps: Steps[T], send: Callable[[Request], Answer]) -> T:
    resume: Callable[[], Any] = partial(next, steps)
    try:
        while True:
            try:
                wanted = resume()
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            try:
                answer = None
                if isinstance(wanted, float):
                    time.sleep(wanted)
                elif callable(wanted):
                    answer = wanted()
                else:
                    answer = send(wanted)
            except TokVigilError as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, answer)
    finally:
        steps.close()


async def run_async(steps: Steps[T], send: Callable[[Request], Awaitable[Answer]]) -> T:
    _check_is_asyncio()
    resume: Callable[[], Any] = partial(next, steps)
    try:
        while True:
            try:
                wanted = resume()
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            try:
                answer = None
                if isinstance(wanted, float):
                    await asyncio.sleep(wanted)
                elif callable(wanted):
                    answer = await event_loops.working.run(wanted)
                else:
                    answer = await send(wanted)
            except TokVigilError as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, answer)
    finally:
        steps.close()


def _check_is_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "TokVigil's async clients need asyncio, and this runs in something else: under trio, call TokVigil, the "
            "client that blocks, in a thread"
        ) from None
