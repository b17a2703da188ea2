"""A report that comes after its expired hold was charged: it replaces the estimate.

The estimate stays; a reversal with the opposite amounts takes it back, and the report's own row follows, all three in
the windows and of the subjects that the estimate was charged to. Call in a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from django.db import connection

from usage.amounts import Subjects
from usage.ledger.models import Status
from usage.ledger.rows import COLUMNS, NAMES, NEGATED, NewEvent, values


@dataclass(frozen=True, slots=True)
class _Estimate:
    charged_at: datetime
    subjects: Subjects


def replace_estimates(reports: Sequence[NewEvent]) -> set[str]:
    """The request ids of those whose estimate is now replaced."""
    found = _claim([report for report in reports if report.body_digest is not None])
    if found:
        _insert(
            [
                msgspec.structs.replace(
                    report,
                    charged_at=found[report.request_id].charged_at,
                    subjects=found[report.request_id].subjects,
                )
                for report in reports
                if report.request_id in found
            ]
        )
        _reverse(reports[0].environment_id, found)
    return set(found)


def _claim(reports: Sequence[NewEvent]) -> dict[str, _Estimate]:
    """The estimates of those ids that hold but an estimate; from now on the ids are the reports'."""
    if not reports:
        return {}
    request_ids = [report.request_id for report in reports]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH estimate AS (
                SELECT environment_id, request_id FROM usage_request
                WHERE environment_id = %s AND request_id = ANY(%s) AND body_digest IS NULL
                ORDER BY request_id FOR UPDATE
            )
            UPDATE usage_request SET body_digest = report.body_digest
            FROM estimate
            JOIN unnest(%s::text[], %s::bytea[]) AS report (request_id, body_digest) USING (request_id)
            JOIN usage_event AS event USING (environment_id, request_id)
            WHERE usage_request.environment_id = estimate.environment_id
              AND usage_request.request_id = estimate.request_id
              AND usage_request.body_digest IS NULL
              AND event.status = 'unsettled' AND event.charged_at = usage_request.charged_at
            RETURNING usage_request.request_id, event.charged_at,
                      event.user_id, event.feature, event.plan, event.run_id
            """,
            [
                reports[0].environment_id,
                request_ids,
                request_ids,
                [report.body_digest for report in reports],
            ],
        )
        return {
            request_id: _Estimate(
                charged_at, Subjects(user_id=user_id, feature=feature, plan=plan, run_id=run_id)
            )
            for request_id, charged_at, user_id, feature, plan, run_id in cursor.fetchall()
        }


def _insert(reports: Sequence[NewEvent]) -> None:
    columns = zip(*(values(report) for report in reports), strict=True)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO usage_event ({NAMES})
            SELECT * FROM unnest({", ".join(f"%s::{kind}[]" for kind in COLUMNS.values())})
            """,  # noqa: S608 (the names of columns are the only input)
            [list(column) for column in columns],
        )


def _reverse(environment_id: int, estimates: dict[str, _Estimate]) -> None:
    opposite = [f"-{column}" if column in NEGATED else column for column in COLUMNS]
    opposite[list(COLUMNS).index("status")] = f"'{Status.REVERSAL}'"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO usage_event ({NAMES})
            SELECT {", ".join(opposite)} FROM usage_event
            WHERE environment_id = %s AND request_id = ANY(%s) AND charged_at = ANY(%s)
              AND status = '{Status.UNSETTLED}'
            """,  # noqa: S608 (the names of columns are the only input)
            [environment_id, list(estimates), [estimate.charged_at for estimate in estimates.values()]],
        )
