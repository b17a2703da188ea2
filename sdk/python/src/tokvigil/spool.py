"""Usage events on disk until TokVigil has confirmed them, so that no crash loses one.

An event is written before the provider is called, with what the call may use, and again when the provider has answered,
before the answer is handed over. From then on it is pending, and leaves the file when TokVigil has taken it. While a
process is busy with an event, in a call or sending it, the event is that process's own. The operating system ends a
dead process's lock on its owner file, however it died; another process then makes the dead one's events pending as they
stand: a call whose answer was never seen is reported with what was held for it.

Several processes may share one file, and several clients: each sees the events of its own destination only, which is
the control plane and the API key they were made with.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tokvigil import forking, spool_rows
from tokvigil.errors import TokVigilError
from tokvigil.models import UsageEvent
from tokvigil.owner_file import OwnerFile, owners_with_files
from tokvigil.pending import PENDING_MAX, PendingUsage
from tokvigil.spool_file import BUSY_TIMEOUT_S, OPEN_TIMEOUT_S, NotASpoolError, open_spool

logger = logging.getLogger("tokvigil")
T = TypeVar("T")

# A file that another process keeps locked is not tried again for so long.
LEAVE_ALONE_S = 1.0
# And one that cannot be opened: no disk, no permission, too many open files.
OPEN_AGAIN_S = 60.0


class SpoolBusyError(TokVigilError):
    """Others keep the spool's file; a moment later it can be read again."""


class Spool:
    """The events of one destination in one file. Safe to share between threads, and across a fork.

    What cannot be written (full disk, no such directory, a file that is somebody else's) is kept in memory and said in
    the log. What fell into memory returns to the file once that can be written.
    """

    _db: sqlite3.Connection | None
    _owned: OwnerFile | None
    # Being sent by this process.
    _claimed: dict[str, UsageEvent]
    # Settled, and the file could not be told yet: why it is set aside, None if TokVigil has it.
    _settled: dict[str, str | None]

    def __init__(self, path: str | os.PathLike[str], destination: str) -> None:
        self.path = Path(path)
        self._destination = destination
        self._memory = PendingUsage()
        self._begin()
        forking.register_quiet(self)
        self.adopt()

    def hold(self, event: UsageEvent) -> None:
        """Write an event that this process is still busy with."""
        self._write(event, owner=self._owner)

    def withdraw(self, request_id: str) -> None:
        """Forget an event that is only held."""
        self._run(lambda db: spool_rows.withdraw(db, self._destination, self._owner, request_id))

    def add(self, event: UsageEvent) -> UsageEvent | None:
        """Write an event that is to be sent; returns one that had to make room in memory, if the disk failed."""
        if self._write(event, owner=None):
            return None
        return self._memory.add(event)

    def replace(self, event: UsageEvent) -> None:
        """Have a claimed event as it is to be sent instead."""
        if event.request_id in self._claimed:
            self._claimed[event.request_id] = event
        self._memory.replace(event)
        self._run(lambda db: spool_rows.replace(db, self._destination, event))

    def claim(self, count_max: int) -> tuple[UsageEvent, ...]:
        """The oldest pending events, taken so that no other process sends them too. Unreadable ones are set aside.

        Raises `SpoolBusyError` if others keep the file, so that nobody knows what is pending.
        """
        # What could not be put back the last time.
        self.put_back(list(self._claimed))
        self._write_down_what_is_in_memory()
        self._tell_the_file()
        rows = self._run(lambda db: spool_rows.claim(db, self._destination, self._owner, count_max))
        if rows is None:
            # The file can perhaps still be read; what is sent twice is counted once.
            rows = self._unowned(count_max + len(self._settled))
        if rows is None and self._is_usable and not (self._claimed or self._memory.has_pending()):
            raise SpoolBusyError(f"the spool {self.path} cannot be read just now")
        for request_id, event in spool_rows.read(rows or ()):
            if request_id in self._settled:
                continue
            if event is None:
                logger.error("usage of request %s in %s cannot be read: set aside", request_id, self.path)
                self.give_up(request_id, "cannot be read")
            else:
                self._claimed.setdefault(request_id, event)
        return (*self._claimed.values(), *self._memory.oldest())[:count_max]

    def put_back(self, request_ids: Collection[str]) -> None:
        """Make claimed events pending again, those that are still there."""
        claimed = [request_id for request_id in request_ids if request_id in self._claimed]
        if not claimed:
            return
        if self._run(lambda db: spool_rows.set_free(db, self._destination, claimed)):
            self._forget(claimed)

    def remove(self, request_ids: Collection[str]) -> None:
        """Forget events that TokVigil has."""
        self._settle(dict.fromkeys(request_ids))

    def give_up(self, request_id: str, reason: str) -> None:
        """Set an event aside that will never be taken: it stays in the file, with the reason."""
        self._settle({request_id: reason})

    def oldest(self) -> tuple[UsageEvent, ...]:
        """Pending events that can be read, oldest first."""
        unowned = [
            event for _, event in spool_rows.read(self._unowned(PENDING_MAX) or ()) if event is not None
        ]
        return (*self._claimed.values(), *unowned, *self._memory.oldest())

    def has_pending(self) -> bool:
        """Whether there is something to send, or nobody knows. However much that is, it takes microseconds."""
        if self._claimed or self._memory.has_pending():
            return True
        is_there = self._run(lambda db: spool_rows.has_unowned(db, self._destination))
        return self._is_usable if is_there is None else is_there

    def count_of(self, request_ids: Collection[str]) -> int | None:
        """How many of these reports (`spool_rows.IDS_MAX` at most) are still here, whoever is sending them; None if the
        file cannot be read just now."""
        waiting = tuple({request_id for request_id in request_ids if request_id not in self._settled})
        found = self._run(lambda db: spool_rows.count_of(db, self._destination, waiting))
        if found is None and self._is_usable:
            return None
        return (found or 0) + self._memory.count_of(waiting)

    def __len__(self) -> int:
        """As far as the file can be read."""
        if self._settled:
            unowned = self._unowned(PENDING_MAX) or ()
            found: int | None = sum(request_id not in self._settled for request_id, _ in unowned)
        else:
            found = self._run(lambda db: spool_rows.count(db, self._destination))
        return (found or 0) + len(self._claimed) + len(self._memory)

    def adopt(self) -> None:
        """Make the events of processes that died pending."""
        self._renew_owner()
        owners = self._run(spool_rows.owners)
        # Some have died with nothing here but their file.
        known = (owners or set()) | owners_with_files(self.path)
        for owner in known - {self._owner}:
            if OwnerFile(self.path, owner).is_dead():
                self._take_over(owner)

    def _take_over(self, dead: str) -> None:
        if self._run(lambda db: spool_rows.disown(db, dead)):
            with suppress(OSError):
                OwnerFile(self.path, dead).remove()

    def _renew_owner(self) -> None:
        with self.lock:
            try:
                if self._owned is not None:
                    self._owned.renew()
                is_gone = self._db is not None and _identity(self.path) != self._identity
            except OSError:
                is_gone = True
            if is_gone:
                self._move_to_new_file()

    def _move_to_new_file(self) -> None:
        """The old one has no name any more, and can still be read. The rows of other destinations come along."""
        logger.error("the spool %s is gone, and is made again", self.path)
        rows = self._run(lambda db: spool_rows.whole(db, self._owner))
        if rows is None:
            return
        self._let_go()
        if self._run(lambda db: spool_rows.insert(db, rows)):
            return
        mine = [
            (request_id, body)
            for where, request_id, owner, body in rows
            if where == self._destination and owner is None
        ]
        for _, event in spool_rows.read(mine):
            if event is not None:
                self._memory.add(event)

    def close(self) -> int:
        """Hand over what is held, and let go of the file. Returns how many events no disk took: they are lost."""
        self._leave_alone_until = 0.0
        self._write_down_what_is_in_memory()
        self._tell_the_file()
        self._run(lambda db: spool_rows.disown(db, self._owner))
        with self.lock:
            self._let_go()
            self._is_to_open = False
            self._cannot_be_opened = True
        if self._owned is not None:
            self._owned.close()
        return len(self._memory)

    def hold_for_fork(self) -> None:
        """Nothing is open, and no thread is inside SQLite, when this returns: its own memory of what it has locked in
        the file would mislead the child."""
        self.lock.acquire()
        try:
            self._let_go()
        except BaseException:
            self.lock.release()
            raise

    def _let_go(self) -> None:
        """Of the file, until it is needed again."""
        if self._db is not None:
            self._db.close()
            self._db = None
            self._is_to_open = True

    def go_on_in_parent(self) -> None:
        self.lock.release()

    def restart_in_child(self) -> None:
        """The parent sends its own events; this process opens the file when it has something for it."""
        if self._owned is not None:
            self._owned.drop()
        self._begin()

    def _begin(self) -> None:
        # Reentrant, because a signal handler may report while its thread is in here.
        self.lock = threading.RLock()
        self._owner = uuid.uuid4().hex
        self._owned = None
        self._claimed = {}
        self._settled = {}
        self._db = None
        self._identity = (0, 0)
        self._is_to_open = True
        self._cannot_be_opened = False
        self._is_in_use = False
        self._leave_alone_until = 0.0

    def _open_file(self) -> None:
        self._is_to_open = False
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Processes that start together open together; later, others must not be waited for.
            db = open_spool(path, OPEN_TIMEOUT_S if self._owned is None else BUSY_TIMEOUT_S)
            try:
                # Before any event: one whose owner has no file would be taken for a dead process's.
                self._owned = self._owned or OwnerFile(path, self._owner)
                self._owned.take()
                self._owned.renew()
                self._identity = _identity(path)
            except OSError:
                db.close()
                raise
            self._db = db
            self._cannot_be_opened = False
        except NotASpoolError as error:
            self._cannot_be_opened = True
            logger.error(
                "%s is no spool and is left as it is, usage is kept in memory only: name another file (%s)",
                path,
                error,
            )
        except (OSError, sqlite3.Error) as error:
            self._is_to_open = True
            if is_locked(error):
                self._leave_alone(error)
                return
            logger.error(
                "the spool %s cannot be used, usage is kept in memory; it is tried again in %.0f s: %s",
                path,
                OPEN_AGAIN_S,
                error,
            )
            self._cannot_be_opened = True
            self._leave_alone_until = time.monotonic() + OPEN_AGAIN_S

    @property
    def _is_usable(self) -> bool:
        """If not now, then in a moment."""
        return not self._cannot_be_opened

    def _unowned(self, count_max: int) -> list[spool_rows.Row] | None:
        return self._run(lambda db: spool_rows.unowned(db, self._destination, count_max))

    def _write(self, event: UsageEvent, *, owner: str | None) -> bool:
        """False if it could not be written."""
        if event.request_id in self._claimed:
            return True
        return self._run(lambda db: spool_rows.write(db, self._destination, event, owner)) is not None

    def _settle(self, reasons: Mapping[str, str | None]) -> None:
        self._memory.remove(reasons)
        self._forget(reasons)
        self._settled.update(reasons)
        self._tell_the_file()

    def _forget(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self._claimed.pop(request_id, None)

    def _write_down_what_is_in_memory(self) -> None:
        for event in self._memory.oldest():
            if not self._write(event, owner=None):
                return
            self._memory.remove((event.request_id,))

    def _tell_the_file(self) -> None:
        """What has been settled."""
        reasons = dict(self._settled)
        if not reasons or self._run(lambda db: spool_rows.settle(db, self._destination, reasons)):
            told: Iterable[str] = reasons
        else:
            # Sent again when it is forgotten here, and counted once all the same.
            told = list(reasons)[: max(0, len(reasons) - PENDING_MAX)]
        for request_id in told:
            self._settled.pop(request_id, None)

    def _run(self, use: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `use` answers; None, said in the log, if the file cannot be used."""
        with self.lock:
            if time.monotonic() < self._leave_alone_until:
                return None
            if self._is_to_open:
                self._open_file()
            if self._db is None:
                return None
            nested, self._is_in_use = self._is_in_use, True
            try:
                if self._db.in_transaction and not nested:
                    # Whoever began it was interrupted, by Ctrl-C for one.
                    self._db.execute("ROLLBACK")
                return _without_cursor(use(self._db))
            except sqlite3.Error as error:
                self._leave_alone(error)
                return None
            finally:
                self._is_in_use = nested

    def _leave_alone(self, error: Exception) -> None:
        """For a moment: an event loop must not wait for a file that others keep locked, call after call."""
        logger.error("the spool %s failed, usage is kept in memory meanwhile: %s", self.path, error)
        if is_locked(error):
            self._leave_alone_until = time.monotonic() + LEAVE_ALONE_S


def _identity(path: Path) -> tuple[int, int]:
    """Of the file that has this name now."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _without_cursor(answer: T) -> T:
    """A cursor that somebody keeps would keep the file open behind a closed connection, also at a fork."""
    if isinstance(answer, sqlite3.Cursor):
        answer.close()
    return answer


def is_locked(error: Exception) -> bool:
    """Whether another process has the file just now."""
    extended_code = getattr(error, "sqlite_errorcode", 0)
    return extended_code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
