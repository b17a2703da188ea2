"""Ctrl-C and SIGTERM: one and the same here, held back while a process starts, ignored while everything stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


def raise_as_ctrl_c() -> None:
    """Both signals raise KeyboardInterrupt from here on."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell without job control starts background processes with it ignored.
    for number in INTERRUPTIONS:
        signal.signal(number, interrupt)


def ignore() -> None:
    """From here on things are being stopped, within a time of their own; a second Ctrl-C would leave some running."""
    for number in INTERRUPTIONS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """They take effect at the end of the block, which must be short.

    For the moment between the start of a process and the note of its number: if it is interrupted there, nobody knows
    of the process.
    """
    # Only the main thread is ever interrupted.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number)) for number in INTERRUPTIONS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
