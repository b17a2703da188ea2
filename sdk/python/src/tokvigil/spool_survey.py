"""What is in a spool, for people: looks, and moves nothing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tokvigil.owner_file import OwnerFile
from tokvigil.spool_file import BUSY_TIMEOUT_S, check_is_ours

REASONS_MAX = 5
OTHERS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Events of one destination, but for `of_others`, which wait for clients with another key or address.

    `of_others` is their number by destination, the largest `OTHERS_MAX`; `unnamed_others` says how many more
    destinations there are, and how many events for them. `quarantined` is the number of events set aside, by reason;
    the commonest `REASONS_MAX`.
    """

    pending: int = 0
    under_way: int = 0
    of_dead_processes: int = 0
    of_others: Mapping[str, int]
    unnamed_others: tuple[int, int] = (0, 0)
    oldest_at: datetime | None = None
    quarantined: Mapping[str, int]


def survey(path: Path, destination: str) -> Survey:
    """Raises `OSError` and `sqlite3.Error` if nothing can be written there, `NotASpoolError` if it must not be."""
    if not path.exists():
        _check_directory(path.parent)
        return Survey(of_others={}, quarantined={})
    with closing(
        sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S)
    ) as db:
        db.isolation_level = None
        check_is_ours(db)
        db.execute("BEGIN IMMEDIATE")  # fails if it cannot be written
        try:
            return _survey(db, path, destination)
        finally:
            db.execute("ROLLBACK")


def _survey(db: sqlite3.Connection, path: Path, destination: str) -> Survey:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'event'").fetchone():
        return Survey(of_others={}, quarantined={})
    owned = db.execute(
        "SELECT owner, count(*) FROM event WHERE destination = ? AND owner IS NOT NULL GROUP BY owner",
        (destination,),
    ).fetchall()
    dead = sum(count for owner, count in owned if OwnerFile(path, owner).is_dead())
    pending, oldest = db.execute(
        "SELECT count(*), min(CASE WHEN json_valid(body) THEN json_extract(body, '$.occurred_at') END)"
        " FROM event WHERE destination = ? AND owner IS NULL",
        (destination,),
    ).fetchone()
    others = db.execute(
        "SELECT destination, count(*) FROM event WHERE destination <> ? AND owner IS NULL GROUP BY destination"
        " ORDER BY count(*) DESC, destination",
        (destination,),
    ).fetchall()
    unnamed = others[OTHERS_MAX:]
    quarantined = db.execute(
        "SELECT reason, count(*) FROM quarantine WHERE destination = ? GROUP BY reason"
        " ORDER BY count(*) DESC, reason LIMIT ?",
        (destination, REASONS_MAX),
    ).fetchall()
    return Survey(
        pending=pending,
        under_way=sum(count for _, count in owned) - dead,
        of_dead_processes=dead,
        of_others=dict(others[:OTHERS_MAX]),
        unnamed_others=(len(unnamed), sum(count for _, count in unnamed)),
        oldest_at=_time(oldest),
        quarantined=dict(quarantined),
    )


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None


def _check_directory(directory: Path) -> None:
    """Whether a client can make it, and a file in it."""
    nearest = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is no directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"{nearest} cannot be written")
