"""A defect of the SDK must not reach the application: its AI call goes on as if the SDK were not there.

What a signal handler of the application raises in the middle of the SDK's code, as a time limit does, is no defect.
"""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("tokvigil")

KINDS_MAX = 100
_said: set[tuple[str, str]] = set()


OURS = "this is a defect of tokvigil, please report it"


def say(what: str, error: Exception, whose: str = OURS) -> None:
    """Log a defect: with its traceback the first time, for debugging from then on.

    Raises the error itself if a signal handler has raised it.
    """
    if _is_of_signal_handler(error):
        raise error
    kind = (what, type(error).__name__)
    if kind in _said or len(_said) >= KINDS_MAX:
        logger.debug("%s: %r", what, error)
        return
    _said.add(kind)
    logger.error("%s; %s", what, whose, exc_info=error)


def _is_of_signal_handler(error: Exception) -> bool:
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


@contextmanager
def defects(what: str, whose: str = OURS) -> Iterator[None]:
    """Whatever goes wrong inside is logged, and goes no further."""
    try:
        yield
    except Exception as error:
        say(what, error, whose)
