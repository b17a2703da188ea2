"""The file of a spool: where it is, what is in it, and whose it is.

It is SQLite in WAL mode with synchronous=NORMAL: a write takes tens of microseconds and survives the death of the
process, though the last ones may not survive a loss of power.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path

logger = logging.getLogger("tokvigil")

FILE_NAME = "usage.sqlite3"
# What TOKVIGIL_SPOOL may say instead of a path.
MEMORY_ONLY = frozenset({"false", "0", "off", "no"})
DEFAULT_FILE = frozenset({"true", "1", "on", "yes"})
# Another process writes for microseconds. One that needs longer is stuck, and callers, event loops among them, are not
# to wait for it; only opening waits longer, because processes that start together open together.
BUSY_TIMEOUT_S = 0.05
OPEN_TIMEOUT_S = 1.0
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


def open_spool(path: Path, timeout_s: float = OPEN_TIMEOUT_S) -> sqlite3.Connection:
    """The file; a spool that is no database any more is moved out of the way."""
    try:
        return _connect(path, timeout_s)
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
        return _connect(path, timeout_s)


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
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
