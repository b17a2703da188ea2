"""What a fork must find at rest, and what a forked child must make anew: locks that a thread of the parent may have
held, threads, connections, files.

Python tells of its own forks. Of one in C it may not, as of the workers of uWSGI: they notice by their process id.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Protocol

logger = logging.getLogger("tokvigil")


class Forkable(Protocol):
    def restart_in_child(self) -> None: ...


class Quiet(Forkable, Protocol):
    """Whose threads must not be in the middle of something at a fork: a file that one is opening would be open, and
    locked, in the child for good."""

    def hold_for_fork(self) -> None:
        """Holds all of it or, if it raises, nothing."""

    def go_on_in_parent(self) -> None: ...


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()
_quiet: weakref.WeakSet[Quiet] = weakref.WeakSet()
# What each fork under way holds: one of several at once, a signal handler's, may begin in the middle of another.
_held: list[list[Quiet]] = []
# Reentrant for the same reason. It guards the sets too.
_forking = threading.RLock()
# The process for which all was made anew.
_process_id = os.getpid()
_noticing = threading.RLock()


def register(forkable: Forkable) -> None:
    """From now on `restart_in_child` is called in every forked child, as long as the object lives."""
    notice()
    with _forking:
        _forkables.add(forkable)


def register_quiet(quiet: Quiet) -> None:
    """As `register`; and before each fork it is held."""
    notice()
    with _forking:
        _forkables.add(quiet)
        _quiet.add(quiet)


def notice() -> None:
    """Called before a process uses what it may have inherited: makes it anew if a fork has told nobody."""
    if os.getpid() != _process_id:
        with _noticing:
            if os.getpid() != _process_id:
                _restart_all()


def _hold_all() -> None:
    notice()
    _forking.acquire()
    held: list[Quiet] = []
    _held.append(held)
    for quiet in list(_quiet):
        quiet.hold_for_fork()
        held.append(quiet)


def _go_on() -> None:
    try:
        for quiet in _held.pop():
            quiet.go_on_in_parent()
    finally:
        _forking.release()


def _restart_all() -> None:
    global _forking, _noticing, _process_id
    _forking, _noticing = threading.RLock(), threading.RLock()
    _held.clear()
    for forkable in list(_forkables):
        forkable.restart_in_child()
    _process_id = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_all, after_in_parent=_go_on, after_in_child=_restart_all)
