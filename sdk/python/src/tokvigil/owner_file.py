"""Whether the process that an event of the spool belongs to is still there.

The operating system ends a process's lock on its owner file, however the process died.
"""

from __future__ import annotations

import glob
import os
import time
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: the events of a dead process wait for `OWNER_STALE_S` instead
    fcntl = None  # type: ignore[assignment]

OWNER_STALE_S = 24 * 3600.0
# A file that is no older may be on its way to being locked.
OWNER_NEW_S = 60.0


def owners_with_files(spool: Path) -> set[str]:
    """The owners whose files have been there for a while, alive or dead."""
    prefix = f"{spool.name}.owner-"
    found = set()
    for file in spool.parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > OWNER_NEW_S:
                found.add(file.name.removeprefix(prefix))
    return found


class OwnerFile:
    """A file that a process keeps locked for as long as it lives."""

    def __init__(self, spool: Path, owner: str) -> None:
        self._path = spool.with_name(f"{spool.name}.owner-{owner}")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Does nothing if it is taken already."""
        if self._descriptor is not None:
            return
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.drop()
            raise

    def renew(self) -> None:
        """Should somebody have tidied it away."""
        if self._descriptor is not None and not self._path.exists():
            self.drop()
            self.take()

    def is_dead(self) -> bool:
        """Whether its process ended. One that cannot be asked is taken for alive."""
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            if fcntl is None:
                return time.time() - os.fstat(descriptor).st_mtime >= OWNER_STALE_S
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def remove(self) -> None:
        """Of a dead process, once nothing is its own any more."""
        self._path.unlink(missing_ok=True)

    def drop(self) -> None:
        """In a forked child: let go of the parent's file, which stays the parent's."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def close(self) -> None:
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            self.drop()
