"""What each feature and each key spent in an hour, read from the rows themselves: no rollup knows the key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Spent:
    """Of a feature, which may be empty, by a key, if it is known."""

    feature: str
    api_key_id: int | None
    cost_nano: int
    calls: int


def spent_in(environment_id: int, hour: datetime) -> list[Spent]:
    """From `hour` on, for one hour. Raises DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT feature, api_key_id, coalesce(sum(cost_nano), 0)::bigint, sum(requests)::bigint FROM usage_event
            WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s GROUP BY feature, api_key_id
            """,
            [environment_id, hour, hour + HOUR],
        )
        return [Spent(*found) for found in cursor.fetchall()]
