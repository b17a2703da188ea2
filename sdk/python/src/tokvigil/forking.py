"""What a forked child must make anew: locks that a thread of the parent may have held, threads, connections."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    def restart_in_child(self) -> None: ...


_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()


def register(forkable: Forkable) -> None:
    """From now on `restart_in_child` is called in every forked child, as long as the object lives."""
    _forkables.add(forkable)


def _restart_all() -> None:
    for forkable in list(_forkables):
        forkable.restart_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all)
