"""What is done to the rows of a spool's file, each in one statement or one transaction.

`owner` is the process that is busy with an event, NULL if it is to be sent.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tokvigil.errors import TokVigilError
from tokvigil.models import UsageEvent

# Request id and body.
Row = tuple[str, str]
# Destination, request id, owner and body.
WholeRow = tuple[str, str, str | None, str]
# Variables in one statement; SQLite takes 32,766.
IDS_MAX = 1_000


def write(db: sqlite3.Connection, destination: str, event: UsageEvent, owner: str | None) -> bool:
    """The first report counts: a row that is to be sent stays as it is."""
    db.execute(
        "INSERT INTO event (destination, request_id, owner, body) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (destination, request_id) DO UPDATE SET owner = excluded.owner, body = excluded.body"
        " WHERE event.owner IS NOT NULL",
        (destination, event.request_id, owner, body_of(event)),
    )
    return True


def whole(db: sqlite3.Connection, owner: str) -> list[WholeRow]:
    """All that is to be sent, wherever to, and all that is the owner's."""
    return db.execute(
        "SELECT destination, request_id, owner, body FROM event WHERE owner IS NULL OR owner = ?", (owner,)
    ).fetchall()


def owners(db: sqlite3.Connection) -> set[str]:
    found = db.execute("SELECT DISTINCT owner FROM event WHERE owner IS NOT NULL").fetchall()
    return {owner for (owner,) in found}


def insert(db: sqlite3.Connection, rows: Collection[WholeRow]) -> bool:
    """Rows as they were in another file."""
    with _transaction(db):
        db.executemany(
            "INSERT OR IGNORE INTO event (destination, request_id, owner, body) VALUES (?, ?, ?, ?)", rows
        )
    return True


def replace(db: sqlite3.Connection, destination: str, event: UsageEvent) -> bool:
    db.execute(
        "UPDATE event SET body = ? WHERE destination = ? AND request_id = ?",
        (body_of(event), destination, event.request_id),
    )
    return True


def unowned(db: sqlite3.Connection, destination: str, count_max: int) -> list[Row]:
    """To be sent, oldest first."""
    return db.execute(
        "SELECT request_id, body FROM event WHERE destination = ? AND owner IS NULL ORDER BY place LIMIT ?",
        (destination, count_max),
    ).fetchall()


def claim(db: sqlite3.Connection, destination: str, owner: str, count_max: int) -> list[Row]:
    """As `unowned`, and from now on the owner's."""
    with _transaction(db):
        rows = db.execute(
            "SELECT place, request_id, body FROM event WHERE destination = ? AND owner IS NULL"
            " ORDER BY place LIMIT ?",
            (destination, count_max),
        ).fetchall()
        db.executemany("UPDATE event SET owner = ? WHERE place = ?", [(owner, place) for place, _, _ in rows])
    return [(request_id, body) for _, request_id, body in rows]


def set_free(db: sqlite3.Connection, destination: str, request_ids: Collection[str]) -> bool:
    with _transaction(db):
        db.executemany(
            "UPDATE event SET owner = NULL WHERE destination = ? AND request_id = ?",
            [(destination, request_id) for request_id in request_ids],
        )
    return True


def disown(db: sqlite3.Connection, owner: str) -> bool:
    """All that is the owner's is to be sent."""
    db.execute("UPDATE event SET owner = NULL WHERE owner = ?", (owner,))
    return True


def withdraw(db: sqlite3.Connection, destination: str, owner: str, request_id: str) -> bool:
    """Forget what the owner is busy with."""
    db.execute(
        "DELETE FROM event WHERE destination = ? AND request_id = ? AND owner = ?",
        (destination, request_id, owner),
    )
    return True


def settle(db: sqlite3.Connection, destination: str, reasons: Mapping[str, str | None]) -> bool:
    """Forget events, by request id; those with a reason are set aside with it."""
    with _transaction(db):
        db.executemany(
            "INSERT INTO quarantine SELECT destination, request_id, body, ?, ? FROM event"
            " WHERE destination = ? AND request_id = ?",
            [
                (reason, time.time(), destination, request_id)
                for request_id, reason in reasons.items()
                if reason is not None
            ],
        )
        db.executemany(
            "DELETE FROM event WHERE destination = ? AND request_id = ?",
            [(destination, request_id) for request_id in reasons],
        )
    return True


def count(db: sqlite3.Connection, destination: str) -> int:
    """How many are to be sent."""
    (found,) = db.execute(
        "SELECT count(*) FROM event WHERE destination = ? AND owner IS NULL", (destination,)
    ).fetchone()
    return int(found)


def has_unowned(db: sqlite3.Connection, destination: str) -> bool:
    (found,) = db.execute(
        "SELECT EXISTS (SELECT 1 FROM event WHERE destination = ? AND owner IS NULL)", (destination,)
    ).fetchone()
    return bool(found)


def count_of(db: sqlite3.Connection, destination: str, request_ids: Collection[str]) -> int:
    """How many of them are there, whosever they are; of `IDS_MAX` at most."""
    marks = ", ".join("?" * len(request_ids))
    (found,) = db.execute(
        f"SELECT count(*) FROM event WHERE destination = ? AND request_id IN ({marks})",  # noqa: S608
        (destination, *request_ids),
    ).fetchone()
    return int(found)


def body_of(event: UsageEvent) -> str:
    return json.dumps(event.to_wire())


def read(rows: Collection[Row]) -> Iterator[tuple[str, UsageEvent | None]]:
    """By request id; None: it cannot be read."""
    for request_id, body in rows:
        yield request_id, _event(body)


def _event(body: Any) -> UsageEvent | None:
    try:
        data: Mapping[str, Any] = json.loads(body)
        return UsageEvent.from_wire(data)
    except (TypeError, ValueError, AttributeError, TokVigilError):
        return None


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
