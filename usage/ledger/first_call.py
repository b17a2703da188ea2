"""When an environment's first call was, of rollups and rows: what lies before it is not known."""

from __future__ import annotations

from datetime import datetime

from django.db import connection


def first_call(environment_id: int) -> datetime | None:
    """To the day: when it was, or the beginning of its day in UTC. None: there were no calls yet."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT least(
                (SELECT min(start) FROM usage_total_day WHERE environment_id = %s),
                (SELECT min(charged_at) FROM usage_event WHERE environment_id = %s)
            )
            """,
            [environment_id, environment_id],
        )
        start: datetime | None = cursor.fetchone()[0]
    return start
