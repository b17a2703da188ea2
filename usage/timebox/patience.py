"""How long a thread may wait for PostgreSQL: for one statement, and for all that it asks in a block of code.

The first is told to the server, which ends what takes too long; the client waits a little longer, for a server that
hangs ends nothing. The second is kept by the client alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings

from usage.timebox.gate import Gate

# How much longer than the server itself a client waits for the end of a statement.
GRACE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Of each statement, in seconds. `idle_s` is how long a transaction may lie open between two of them."""

    statement_s: float
    lock_s: float
    idle_s: float


class _Thread(threading.local):
    # When the block must be over, and how long it was given; None: as long as it takes.
    deadline: float | None = None
    given_s: float | None = None
    # Where to take a place before the first wait, and where to wait for what another thread does.
    gate: Gate | None = None
    is_inside: bool = False
    work_gate: Gate | None = None
    patience: Patience | None = None


_thread = _Thread()


@contextmanager
def within(seconds: float, gate: Gate | None = None, work_gate: Gate | None = None) -> Iterator[None]:
    """All waits of this thread for PostgreSQL take at most so long together. Of nested blocks the shorter holds.

    With a gate only so many threads wait at once. A place is taken by the first wait, so who needs nothing needs none.
    With a `work_gate` those who wait for another thread's work take their places there, and leave these to short
    questions.
    """
    outer, outer_given_s = _thread.deadline, _thread.given_s
    deadline = time.monotonic() + seconds
    if outer is None or deadline < outer:
        _thread.deadline, _thread.given_s = deadline, seconds
    if gate is not None:
        _thread.gate, _thread.work_gate = gate, work_gate
    try:
        yield
    finally:
        _thread.deadline, _thread.given_s = outer, outer_given_s
        if gate is not None:
            _leave(gate)


def _leave(gate: Gate) -> None:
    if _thread.is_inside:
        gate.leave()
    _thread.gate, _thread.work_gate, _thread.is_inside = None, None, False


def begin_to_wait() -> None:
    """Whoever makes this thread wait calls it before. Raises Full."""
    if _thread.gate is not None and not _thread.is_inside:
        _thread.gate.enter(left_s())
        _thread.is_inside = True


@contextmanager
def waiting_for_work() -> Iterator[None]:
    """Around a wait for what another thread does. Raises Full."""
    work_gate = _thread.work_gate
    if work_gate is None:
        begin_to_wait()
        yield
        return
    work_gate.enter(left_s())
    if _thread.gate is not None and _thread.is_inside:
        _thread.gate.leave()
        _thread.is_inside = False
    try:
        yield
    finally:
        work_gate.leave()


@contextmanager
def within_share(share: float) -> Iterator[None]:
    """At most this part of what is left; as long as it takes where there is no limit."""
    left = left_s()
    if left is None:
        yield
    else:
        with within(share * left):
            yield


def left_s() -> float | None:
    """Seconds of the block that are left, 0 if it should be over; None outside of any."""
    return None if _thread.deadline is None else max(0.0, _thread.deadline - time.monotonic())


def given_s() -> float | None:
    """Seconds that the block had at its beginning; None outside of any."""
    return _thread.given_s


def is_half_over() -> bool:
    """Whether less than half of what the block was given is left; never outside of any."""
    left, given = left_s(), given_s()
    return left is not None and given is not None and left < given / 2


def of_thread() -> Patience:
    """That of the process (settings.POSTGRES_PATIENCE), unless the thread was given another."""
    patience: Patience = _thread.patience or settings.POSTGRES_PATIENCE
    return patience


def give_thread(patience: Patience) -> None:
    """For a thread that nobody waits for: connections that it opens from now on have this patience."""
    _thread.patience = patience
