"""Blocked calls that were asked for again under the same request id and blocked again: the last decision stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from django.db import connection

from policies.models import BlockedDecision

# An application asks again within seconds or minutes; with a bound, a month or two are looked into and not all.
AGAIN_WITHIN = timedelta(days=1)
# Beside the environment, so that no other lock is this one.
_LOCK_ID = 0x61736B64

# Which call, and when it was decided: of equal times the entry of the stream tells.
_Call = tuple[int, str]
_When = tuple[datetime, int, str]


def replacing(rows: Sequence[BlockedDecision]) -> list[BlockedDecision]:
    """Those of the rows that are not replaced themselves. Deletes what is stored and replaced by them.

    Inside a transaction. Three statements, two where nothing is replaced. Raises DatabaseError.
    """
    if not rows:
        return []
    _wait_for_others(rows)
    stored = _stored(rows)
    answers: dict[_Call, set[_When]] = defaultdict(set)
    for call, when in [
        *((call, when) for call, when, _ in stored),
        *((_call(row), _when(row)) for row in rows),
    ]:
        answers[call].add(when)
    replaced = {(call, when) for call, whens in answers.items() for when in _replaced(whens)}
    _delete([(pk, when[0]) for call, when, pk in stored if (call, when) in replaced])
    return [row for row in rows if (_call(row), _when(row)) not in replaced]


def _replaced(answers: Iterable[_When]) -> list[_When]:
    """Those with another one shortly after."""
    in_turn = sorted(answers)
    return [one for one, following in pairwise(in_turn) if following[0] - one[0] <= AGAIN_WITHIN]


def _wait_for_others(rows: Iterable[BlockedDecision]) -> None:
    """Who stores decisions of the same environment at the same time comes before or after, not meanwhile."""
    with connection.cursor() as cursor:
        for environment_id in sorted({row.environment_id for row in rows}):
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_LOCK_ID, environment_id % 2**31])


def _stored(rows: Sequence[BlockedDecision]) -> list[tuple[_Call, _When, int]]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT environment_id, request_id, decided_at, stream_id, id FROM blocked_decision
            WHERE environment_id = ANY(%s) AND request_id = ANY(%s) AND decided_at BETWEEN %s AND %s
            """,
            [
                list({row.environment_id for row in rows}),
                list({row.request_id for row in rows}),
                min(row.decided_at for row in rows) - AGAIN_WITHIN,
                max(row.decided_at for row in rows) + AGAIN_WITHIN,
            ],
        )
        return [
            ((environment_id, request_id), (at, len(stream_id), stream_id), pk)
            for environment_id, request_id, at, stream_id, pk in cursor.fetchall()
        ]


def _delete(stored: Sequence[tuple[int, datetime]]) -> None:
    if not stored:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """
            DELETE FROM blocked_decision USING unnest(%s::bigint[], %s::timestamptz[]) AS gone (id, decided_at)
            WHERE blocked_decision.id = gone.id AND blocked_decision.decided_at = gone.decided_at
            """,
            [[pk for pk, _ in stored], [at for _, at in stored]],
        )


def _call(row: BlockedDecision) -> _Call:
    return row.environment_id, row.request_id


def _when(row: BlockedDecision) -> _When:
    return row.decided_at, len(row.stream_id), row.stream_id
