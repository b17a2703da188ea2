"""What the ledger holds of a request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from django.db import connection

from usage.amounts import Amounts, Movement, Subjects
from usage.metrics import sql_sums


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger holds of a request, all its rows together."""

    request_id: str
    # SHA-256 of the report; None while all that is known is the estimate of its expired hold.
    body_digest: bytes | None
    charged_at: datetime
    recorded_at: datetime
    # None: its rows are out of reach.
    subjects: Subjects | None
    cost_nano: int | None
    # What of its usage has no rate.
    unpriced: tuple[str, ...]
    movements: tuple[Movement, ...]
    # Whether it was there before this call.
    duplicate: bool = True


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def recorded(environment_id: int, request_ids: Sequence[str]) -> set[str]:
    """Those of these requests that it holds, whatever their usage; also of a month that was detached lately."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT request_id FROM usage_request WHERE environment_id = %s AND request_id = ANY(%s)
            UNION SELECT request_id FROM usage_event WHERE environment_id = %s AND request_id = ANY(%s)
            """,
            [environment_id, list(request_ids)] * 2,
        )
        return {request_id for (request_id,) in cursor.fetchall()}


def entries(environment_id: int, request_ids: Sequence[str]) -> dict[str, Recorded]:
    """Those of these requests that it holds. A request's rows share one charged_at, which finds their partition.

    The rows of one whose month was detached are out of reach; that it was recorded is known still.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH request AS (
                SELECT environment_id, request_id, body_digest, charged_at FROM usage_request
                WHERE environment_id = %s AND request_id = ANY(%s)
            )
            SELECT request.request_id, request.body_digest, request.charged_at, event.xid,
                   {sql_sums("event.")}, max(event.recorded_at),
                   max(event.user_id), max(event.feature), max(event.plan), max(event.run_id),
                   (array_agg(event.cost_nano ORDER BY event.id DESC)
                        FILTER (WHERE event.status <> 'reversal'))[1],
                   (array_agg(event.unpriced_quantities ORDER BY event.id DESC)
                        FILTER (WHERE event.status <> 'reversal'))[1],
                   event.model, count(*) FILTER (WHERE event.status <> 'reversal') = 0
            FROM request LEFT JOIN usage_event AS event
              ON event.environment_id = request.environment_id AND event.request_id = request.request_id
             AND event.charged_at = request.charged_at
             -- It is no part of the report, which is answered and charged as it was.
             AND event.status <> 'adjustment'
            GROUP BY request.request_id, request.body_digest, request.charged_at, event.xid, event.model
            -- Not by xid: the estimate of a call may be written by a transaction that began after that of its report.
            ORDER BY request.request_id, max(event.id)
            """,  # noqa: S608 (column names from usage/metrics.py)
            [environment_id, list(request_ids)],
        )
        known: dict[str, Recorded] = {}
        for (
            request_id,
            body_digest,
            charged_at,
            xid,
            *sums,
            recorded_at,
            user_id,
            feature,
            plan,
            run_id,
            cost_nano,
            unpriced,
            model,
            is_taken_back,
        ) in cursor:
            earlier = known.get(request_id)
            known[request_id] = Recorded(
                request_id=request_id,
                body_digest=None if body_digest is None else bytes(body_digest),
                charged_at=charged_at,
                recorded_at=recorded_at or _LONG_AGO,
                subjects=None
                if xid is None
                else Subjects(user_id=user_id, feature=feature, plan=plan, run_id=run_id),
                cost_nano=earlier.cost_nano if earlier and is_taken_back else cost_nano,
                unpriced=earlier.unpriced
                if earlier and is_taken_back
                else tuple(msgspec.json.decode(unpriced or "[]")),
                movements=()
                if xid is None
                else (*(earlier.movements if earlier else ()), Movement(xid, Amounts(*sums), model)),
            )
        return known
