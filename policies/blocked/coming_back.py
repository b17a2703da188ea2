"""Whether users whose calls were blocked had a call allowed afterwards, be it another one.

Most callers give a new call a new request_id, so that what became of the same request says little of the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection

from policies.blocked.counts import Question

# The newest blocked calls of the question, and of each of a few users, that are looked up.
LOOKED_UP_MAX = 1_000
OF_A_USER_MAX = 100

_NEWEST = "SELECT user_id, decided_at FROM blocked_decision WHERE {where} ORDER BY decided_at DESC LIMIT %s"
_OF_USERS = """
    SELECT asked.user_id, decided_at FROM unnest(%s::text[]) AS asked (user_id) CROSS JOIN LATERAL (
        SELECT decided_at FROM blocked_decision
        WHERE blocked_decision.user_id = asked.user_id AND {where} ORDER BY id DESC LIMIT %s
    ) AS decided
"""
_BACK = """
    SELECT user_id, bool_or(next_at IS NOT NULL),
           coalesce(bool_or((next_at AT TIME ZONE %s)::date = (decided_at AT TIME ZONE %s)::date), false)
    FROM ({blocked}) AS blocked LEFT JOIN LATERAL (
        SELECT min(charged_at) AS next_at FROM usage_event
        WHERE environment_id = %s AND usage_event.user_id = blocked.user_id AND status <> 'reversal'
          AND charged_at > decided_at AND charged_at <= decided_at + interval '24 hours'
    ) AS later ON true
    GROUP BY user_id
"""


@dataclass(frozen=True, slots=True)
class Back:
    """A user with blocked calls, and whether one of these was followed by an allowed call of the user."""

    user_id: str
    within_24_h: bool
    same_day: bool


def newest(question: Question, zone: ZoneInfo) -> list[Back]:
    """Of the newest blocked calls, each user once. Raises DatabaseError."""
    where, values = _where(question)
    return _read(_NEWEST.format(where=where), [*values, LOOKED_UP_MAX], question, zone)


def of_users(question: Question, zone: ZoneInfo, users: Sequence[str]) -> dict[str, Back]:
    """Of their newest blocked calls. Raises DatabaseError."""
    where, values = _where(question)
    found = _read(_OF_USERS.format(where=where), [list(users), *values, OF_A_USER_MAX], question, zone)
    return {each.user_id: each for each in found}


def _where(question: Question) -> tuple[str, list[Any]]:
    columns = {"policy": "coalesce(policy_id::text, '')"}
    named = [f"{columns.get(name, name)} = %s" for name in question.filters]
    period = question.period
    return (
        " AND ".join(["environment_id = %s AND decided_at >= %s AND decided_at < %s", *named]),
        [question.environment_id, period.start, period.end, *question.filters.values()],
    )


def _read(blocked: str, values: list[Any], question: Question, zone: ZoneInfo) -> list[Back]:
    with connection.cursor() as cursor:
        cursor.execute(_BACK.format(blocked=blocked), [zone.key, zone.key, *values, question.environment_id])
        return [Back(*row) for row in cursor.fetchall()]
