"""Usage events on disk until TokVigil has confirmed them, so that no crash loses one.

An event is written before the provider is called, with what the call may use, and again when the provider has answered,
before the answer is handed over. From then on it is pending, and leaves the file when TokVigil has taken it. While a
process is busy with an event, in a call or sending it, the event is that process's own. The operating system ends a
dead process's lock on its owner file, however it died; another process then makes the dead one's events pending as they
stand: a call whose answer was never seen is reported with what was held for it.

Several processes may share one file, and several clients: each sees the events of its own destination only, which is
the control plane and the API key they were made with. The file is SQLite in WAL mode with synchronous=NORMAL: a write
takes tens of microseconds and survives the death of the process, though the last ones may not survive a loss of power.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tokvigil import forking
from tokvigil.errors import TokVigilError
from tokvigil.models import UsageEvent
from tokvigil.pending import PENDING_MAX, PendingUsage

try:
    import fcntl
except ImportError:  # Windows: the events of a dead process wait for `OWNER_STALE_S` instead
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tokvigil")
T = TypeVar("T")

FILE_NAME = "usage.sqlite3"
# Another process writes for microseconds. One that needs longer is stuck, and callers, event loops among them, are not
# to wait for it; only opening waits longer, because processes that start together open together.
BUSY_TIMEOUT_S = 0.05
OPEN_TIMEOUT_S = 1.0
LEAVE_ALONE_S = 1.0
OWNER_STALE_S = 24 * 3600.0
# What TOKVIGIL_SPOOL may say instead of a path.
MEMORY_ONLY = frozenset({"false", "0", "off", "no"})
DEFAULT_FILE = frozenset({"true", "1", "on", "yes"})
# "tokv", in the header of each spool; those of earlier versions have 0 there.
APPLICATION_ID = int.from_bytes(b"tokv")
_SQLITE_HEADER = b"SQLite format 3\0"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    place INTEGER PRIMARY KEY,
    destination TEXT NOT NULL,
    request_id TEXT NOT NULL,
    owner TEXT,
    body TEXT NOT NULL,
    UNIQUE (destination, request_id)
);
CREATE INDEX IF NOT EXISTS event_owner ON event (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS event_pending ON event (destination, place) WHERE owner IS NULL;
CREATE TABLE IF NOT EXISTS quarantine (
    destination TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL
);
"""
_COLUMNS = {
    "event": ["place", "destination", "request_id", "owner", "body"],
    "quarantine": ["destination", "request_id", "body", "reason", "at"],
}


class NotASpoolError(Exception):
    """A file that is somebody else's: it must neither be written nor moved."""


def default_path() -> Path | None:
    """`TOKVIGIL_SPOOL`, else usage.sqlite3 in the user's state directory; None: usage is kept in memory only."""
    named = os.environ.get("TOKVIGIL_SPOOL", "").strip()
    if named.lower() in MEMORY_ONLY:
        return None
    if named and named.lower() not in DEFAULT_FILE:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "tokvigil" / FILE_NAME


class Spool:
    """The events of one destination in one file. Safe to share between threads, and across a fork.

    What cannot be written (full disk, no such directory, a file that is somebody else's) is kept in memory and said in
    the log. Without a path there is only memory.
    """

    _db: sqlite3.Connection | None
    _owned: OwnerFile | None
    # Being sent by this process.
    _claimed: dict[str, UsageEvent]

    def __init__(self, path: str | os.PathLike[str] | None, destination: str) -> None:
        self.path = None if path is None else Path(path)
        self._destination = destination
        self._memory = PendingUsage()
        self._begin()
        forking.register_quiet(self)
        self.adopt()

    def hold(self, event: UsageEvent) -> None:
        """Write an event that this process is still busy with."""
        self._write(event, owner=self._owner)

    def add(self, event: UsageEvent) -> UsageEvent | None:
        """Write an event that is to be sent; returns one that had to make room in memory, if the disk failed."""
        if self._write(event, owner=None):
            return None
        return self._memory.add(event)

    def claim(self, count_max: int) -> tuple[UsageEvent, ...]:
        """The oldest pending events, taken so that no other process sends them too. Unreadable ones are set aside."""
        rows = self._run(lambda db: _claim(db, self._destination, self._owner, count_max))
        if rows is None:
            # The file can perhaps still be read; what is sent twice is counted once.
            rows = self._unowned(count_max)
        self._claimed = {event.request_id: event for event in self._readable(rows)}
        return (*self._claimed.values(), *self._memory.oldest())[:count_max]

    def put_back(self, request_ids: Collection[str]) -> None:
        """Make claimed events pending again, those that are still there."""
        claimed = [request_id for request_id in request_ids if request_id in self._claimed]
        self._run(
            lambda db: db.executemany(
                "UPDATE event SET owner = NULL WHERE destination = ? AND request_id = ?",
                [(self._destination, request_id) for request_id in claimed],
            )
        )
        self._forget(request_ids)

    def remove(self, request_ids: Collection[str]) -> bool:
        """Forget events that TokVigil has. False if that could not be written down."""
        self._memory.remove(request_ids)
        done = self._run(lambda db: _delete(db, self._destination, request_ids))
        self._forget(request_ids)
        return done is not None or self._db is None

    def give_up(self, request_id: str, reason: str) -> None:
        """Set an event aside that will never be taken: it stays in the file, with the reason."""
        self._memory.remove((request_id,))
        self._run(lambda db: _set_aside(db, self._destination, request_id, reason))
        self._forget((request_id,))

    def oldest(self, count_max: int | None = None) -> tuple[UsageEvent, ...]:
        """Pending events, oldest first. One that cannot be read is set aside."""
        unowned = self._readable(self._unowned(PENDING_MAX if count_max is None else count_max))
        return (*self._claimed.values(), *unowned, *self._memory.oldest())[:count_max]

    def __len__(self) -> int:
        found = self._run(
            lambda db: db.execute(
                "SELECT count(*) FROM event WHERE destination = ? AND owner IS NULL", (self._destination,)
            ).fetchone()
        )
        return (found[0] if found else 0) + len(self._claimed) + len(self._memory)

    def adopt(self) -> None:
        """Make the events of processes that died pending."""
        self._renew_owner()
        owners = self._run(
            lambda db: db.execute("SELECT DISTINCT owner FROM event WHERE owner IS NOT NULL").fetchall()
        )
        for (owner,) in owners or ():
            if self.path is not None and owner != self._owner and OwnerFile(self.path, owner).is_dead():
                self._run(
                    lambda db, owner=owner: db.execute(  # type: ignore[misc]
                        "UPDATE event SET owner = NULL WHERE owner = ?", (owner,)
                    )
                )

    def _renew_owner(self) -> None:
        with self._lock:
            try:
                if self._owned is not None:
                    self._owned.renew()
            except OSError as error:
                logger.error("the folder of the spool %s is gone, and is made again: %s", self.path, error)
                self._move_to_new_file()

    def _move_to_new_file(self) -> None:
        """The old one has no name any more, and can still be read."""
        rows = self._run(
            lambda db: db.execute(
                "SELECT destination, request_id, owner, body FROM event WHERE owner IS NULL OR owner = ?",
                (self._owner,),
            ).fetchall()
        )
        self._let_go()
        self._owned = None
        self._run(
            lambda db: db.executemany(
                "INSERT OR IGNORE INTO event (destination, request_id, owner, body) VALUES (?, ?, ?, ?)",
                rows or (),
            )
        )

    def close(self) -> None:
        """Hand over what is held, and let go of the file."""
        self._run(lambda db: db.execute("UPDATE event SET owner = NULL WHERE owner = ?", (self._owner,)))
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None
        if self._owned is not None:
            self._owned.close()

    def hold_for_fork(self) -> None:
        """Nothing is open, and no thread is inside SQLite, when this returns: its own memory of what it has locked in
        the file would mislead the child."""
        self._lock.acquire()
        try:
            self._let_go()
        except BaseException:
            self._lock.release()
            raise

    def _let_go(self) -> None:
        """Of the file, until it is needed again."""
        if self._db is not None:
            self._db.close()
            self._db = None
            self._is_to_open = True

    def go_on_in_parent(self) -> None:
        self._lock.release()

    def restart_in_child(self) -> None:
        """The parent sends its own events; this process opens the file when it has something for it."""
        if self._owned is not None:
            self._owned.drop()
        self._begin()

    def _begin(self) -> None:
        # Reentrant, because a signal handler may report while its thread is in here.
        self._lock = threading.RLock()
        self._owner = uuid.uuid4().hex
        self._owned = None
        self._claimed = {}
        self._db = None
        self._is_to_open = self.path is not None
        self._is_in_use = False
        self._leave_alone_until = 0.0

    def _open_file(self, path: Path) -> None:
        self._is_to_open = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            db = _open(path)
            try:
                # Before any event: one whose owner has no file would be taken for a dead process's.
                self._owned = self._owned or OwnerFile(path, self._owner)
                self._owned.take()
            except OSError:
                db.close()
                raise
            self._db = db
        except NotASpoolError as error:
            logger.error(
                "%s is no spool and is left as it is, usage is kept in memory only: name another file (%s)",
                path,
                error,
            )
        except (OSError, sqlite3.Error) as error:
            if is_locked(error):
                self._is_to_open = True
                self._leave_alone(error)
            else:
                logger.error("the spool %s cannot be used, usage is kept in memory only: %s", path, error)

    def _unowned(self, count_max: int) -> list[tuple[str, str]] | None:
        return self._run(
            lambda db: db.execute(
                "SELECT request_id, body FROM event WHERE destination = ? AND owner IS NULL"
                " ORDER BY place LIMIT ?",
                (self._destination, count_max),
            ).fetchall()
        )

    def _readable(self, rows: list[tuple[str, str]] | None) -> Iterator[UsageEvent]:
        for request_id, body in rows or ():
            event = _read(body)
            if event is None:
                logger.error("usage of request %s in %s cannot be read: set aside", request_id, self.path)
                self.give_up(request_id, "cannot be read")
            else:
                yield event

    def _forget(self, request_ids: Collection[str]) -> None:
        for request_id in request_ids:
            self._claimed.pop(request_id, None)

    def _write(self, event: UsageEvent, *, owner: str | None) -> bool:
        body = json.dumps(event.to_wire())
        done = self._run(
            lambda db: db.execute(
                "INSERT INTO event (destination, request_id, owner, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (destination, request_id) DO UPDATE SET owner = excluded.owner, body = excluded.body",
                (self._destination, event.request_id, owner, body),
            )
        )
        return done is not None

    def _run(self, use: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `use` answers; None, said in the log, if the file cannot be used."""
        with self._lock:
            if time.monotonic() < self._leave_alone_until:
                return None
            if self._is_to_open and self.path is not None:
                self._open_file(self.path)
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


def _without_cursor(answer: T) -> T:
    """A cursor that somebody keeps would keep the file open behind a closed connection, also at a fork."""
    if isinstance(answer, sqlite3.Cursor):
        answer.close()
    return answer


def is_locked(error: Exception) -> bool:
    """Whether another process has the file just now."""
    return getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


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
        if fcntl is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def renew(self) -> None:
        """Should somebody have tidied it away."""
        if self._descriptor is not None and not self._path.exists():
            self.drop()
            self.take()

    def is_dead(self) -> bool:
        """Whether its process ended; its file is then gone."""
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            if fcntl is None:
                if time.time() - os.fstat(descriptor).st_mtime < OWNER_STALE_S:
                    return False
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def drop(self) -> None:
        """In a forked child: let go of the parent's file, which stays the parent's."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def close(self) -> None:
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            self.drop()


def was_spool(path: Path) -> bool:
    """Whether a file that is no usable database shows that it was one: by its header, or by what lies beside it."""
    with path.open("rb") as file:
        if file.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER:
            return True
    beside = (f"{path.name}-wal", f"{path.name}-shm")
    owner = f"{path.name}.owner-"
    return any(file.name in beside or file.name.startswith(owner) for file in path.parent.iterdir())


def check_is_ours(db: sqlite3.Connection) -> None:
    """Raises `NotASpoolError` for a database with anything in it that no version of this module made."""
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    if application_id == APPLICATION_ID:
        return
    if application_id != 0:
        raise NotASpoolError(f"it is a database with the application id {application_id}")
    tables = db.execute(
        "SELECT DISTINCT tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite$_%' ESCAPE '$'"
    )
    for (table,) in tables.fetchall():
        columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        if _COLUMNS.get(table) != columns:
            raise NotASpoolError(f"it is a database with a table {table!r}")


def _open(path: Path) -> sqlite3.Connection:
    """The file; a spool that is no database any more is moved out of the way."""
    try:
        return _connect(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        if not was_spool(path):
            raise NotASpoolError(str(error)) from None
        moved = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
        logger.error("the spool %s is corrupt and was moved to %s: %s", path, moved, error)
        path.rename(moved)
        for rest in ("-wal", "-shm"):
            path.with_name(path.name + rest).unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=OPEN_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        check_is_ours(db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_SCHEMA)
        if db.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT_S * 1000)}")
    except (sqlite3.Error, NotASpoolError):
        db.close()
        raise
    path.chmod(0o600)
    return db


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    if db.in_transaction:
        # In a signal handler, in the middle of another one: part of that.
        yield
        return
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
    except BaseException:
        if db.in_transaction:  # SQLite ends it itself when the disk is full
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _claim(db: sqlite3.Connection, destination: str, owner: str, count_max: int) -> list[tuple[str, str]]:
    with _transaction(db):
        rows = db.execute(
            "SELECT place, request_id, body FROM event WHERE destination = ? AND owner IS NULL"
            " ORDER BY place LIMIT ?",
            (destination, count_max),
        ).fetchall()
        db.executemany("UPDATE event SET owner = ? WHERE place = ?", [(owner, place) for place, _, _ in rows])
    return [(request_id, body) for _, request_id, body in rows]


def _delete(db: sqlite3.Connection, destination: str, request_ids: Collection[str]) -> bool:
    with _transaction(db):
        db.executemany(
            "DELETE FROM event WHERE destination = ? AND request_id = ?",
            [(destination, request_id) for request_id in request_ids],
        )
    return True


def _set_aside(db: sqlite3.Connection, destination: str, request_id: str, reason: str) -> None:
    with _transaction(db):
        db.execute(
            "INSERT INTO quarantine SELECT destination, request_id, body, ?, ? FROM event"
            " WHERE destination = ? AND request_id = ?",
            (reason, time.time(), destination, request_id),
        )
        db.execute("DELETE FROM event WHERE destination = ? AND request_id = ?", (destination, request_id))


def _read(body: Any) -> UsageEvent | None:
    try:
        data: Mapping[str, Any] = json.loads(body)
        return UsageEvent.from_wire(data)
    except (TypeError, ValueError, AttributeError, TokVigilError):
        return None
