"""What the counter store could not be told of an environment: noted in PostgreSQL until it is made good.

A table of its own, so that noting a miss never waits for somebody who changes the environment.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError, connection

logger = logging.getLogger("tokvigil.missed")

CHANGE, HOLDS = "change", "holds"

# What could not even be noted, and how often: this process remembers it.
_unnoted: Counter[tuple[int, str]] = Counter()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Miss:
    environment_id: int
    what: str
    times: int
    noted: bool


def note(environment_ids: Sequence[int], what: str) -> None:
    """In the caller's transaction, if there is one. Raises DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO tenants_missed (environment_id, what, times)
            SELECT environment_id, %s, 1 FROM unnest(%s::bigint[]) AS environment_id ORDER BY environment_id
            ON CONFLICT (environment_id, what) DO UPDATE SET times = tenants_missed.times + 1
            """,
            [what, list(environment_ids)],
        )


def note_or_remember(environment_id: int, what: str) -> None:
    """For what is done already, and must not fail for want of a note."""
    try:
        note([environment_id], what)
    except (DatabaseError, InterfaceError) as error:
        logger.error(
            "%s of environment %s was missed, which could not be noted: %s", what, environment_id, error
        )
        with _lock:
            _unnoted[environment_id, what] += 1


def noted(environment_id: int | None = None) -> list[Miss]:
    """What is to be made good, of all environments or of one. Raises DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT environment_id, what, times FROM tenants_missed
            WHERE %s::bigint IS NULL OR environment_id = %s ORDER BY environment_id, what
            """,
            [environment_id, environment_id],
        )
        return [Miss(which, what, times, noted=True) for which, what, times in cursor]


def remembered(environment_id: int | None = None) -> list[Miss]:
    """The same, of what this process could not note."""
    with _lock:
        return [
            Miss(which, what, times, noted=False)
            for (which, what), times in sorted(_unnoted.items())
            if environment_id in (None, which)
        ]


def made_good(miss: Miss) -> None:
    """Clears it, unless it was missed again meanwhile. Raises DatabaseError."""
    if miss.noted:
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM tenants_missed WHERE environment_id = %s AND what = %s AND times = %s",
                [miss.environment_id, miss.what, miss.times],
            )
        return
    with _lock:
        if _unnoted[miss.environment_id, miss.what] == miss.times:
            del _unnoted[miss.environment_id, miss.what]


def forget_all() -> None:
    """As in a new process."""
    with _lock:
        _unnoted.clear()
