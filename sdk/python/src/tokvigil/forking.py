"""What a forked child must make anew: locks that a thread of the parent may have held, threads, connections."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    def restart_in_child(self) -> None: ...


class Quiet(Forkable, Protocol):
    """Whose threads must not be in the middle of something at a fork, because a library's own locks stay locked in the
    child for good: SQLite's, OpenSSL's."""

    def hold_for_fork(self) -> None: ...
    def go_on_in_parent(self) -> None: ...


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()
_quiet: weakref.WeakSet[Quiet] = weakref.WeakSet()
# Those that this fork holds: more may be made before it is done.
_held: list[Quiet] = []
_forking = threading.Lock()


def register(forkable: Forkable) -> None:
    """From now on `restart_in_child` is called in every forked child, as long as the object lives."""
    _forkables.add(forkable)


def register_quiet(quiet: Quiet) -> None:
    """As `register`; and before each fork it is held."""
    register(quiet)
    _quiet.add(quiet)


def _hold_all() -> None:
    _forking.acquire()
    _held.extend(_quiet)
    for quiet in _held:
        quiet.hold_for_fork()


def _go_on() -> None:
    while _held:
        _held.pop().go_on_in_parent()
    _forking.release()


def _restart_all() -> None:
    _held.clear()
    _forking.release()
    for forkable in list(_forkables):
        forkable.restart_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_all, after_in_parent=_go_on, after_in_child=_restart_all)
