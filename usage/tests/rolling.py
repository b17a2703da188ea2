"""Rolling up in tests: until nothing is left, and what is there then. Holds no test."""

from __future__ import annotations

import time
from typing import Any

from django.db import connection

from usage.ledger import rollups

WITHIN_S = 20


def roll_all(environment_id: int) -> int:
    """Until the tail is empty: a transaction of another test may hold the mark back for a moment."""
    rolled, ends_at = 0, time.monotonic() + WITHIN_S
    while True:
        rolled += rollups.roll(environment_id)
        if environment_id not in rollups.due():
            return rolled
        assert time.monotonic() < ends_at
        time.sleep(0.02)


def stored(environment_id: int) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all rollups, byte for byte."""
    found = {}
    with connection.cursor() as cursor:
        for table in rollups.FILLED:
            cursor.execute(
                f"SELECT {table}::text FROM {table} WHERE environment_id = %s ORDER BY 1",  # noqa: S608
                [environment_id],
            )
            found[table] = cursor.fetchall()
    return found
