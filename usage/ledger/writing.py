"""The ledger: what every call used, written once.

`record` takes reports through plain SQL in one transaction: it claims the request ids, then inserts the rows of the
claimed ones. A claim that another transaction holds makes it wait for that one's outcome, and the ids are claimed in
sorted order, so that writers never deadlock. When it returns the rows are committed. Charging the counters comes after
(usage/settling/charging.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.db.utils import IntegrityError

from usage.amounts import Amounts, Movement, Subjects
from usage.ledger import partitions
from usage.ledger.models import Status
from usage.ledger.reading import Entry, entries
from usage.prices.cost import TokenUse

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A usage report, ready to be written: priced, and placed in time."""

    environment_id: int
    request_id: str
    # SHA-256 of the body as sent; None for an estimate, which a report may replace.
    body_digest: bytes | None
    charged_at: datetime
    occurred_at: datetime | None
    subjects: Subjects
    model: str
    provider: str
    status: Status
    tokens: TokenUse
    cost_nano: int | None
    price_id: int | None = None
    reported_cost_nano: int | None = None
    latency_ms: int | None = None
    policy_id: UUID | None = None
    policy_version: int | None = None
    api_key_id: int | None = None
    metadata: dict[str, Any] | None = None

    @property
    def counts_as_request(self) -> bool:
        """A call that failed or was cancelled before it used a token consumes no quota."""
        used_nothing = self.tokens.input_tokens == 0 and self.tokens.output_tokens == 0
        return not (used_nothing and self.status in (Status.FAILED, Status.CANCELLED))

    @property
    def amounts(self) -> Amounts:
        return Amounts(
            1 if self.counts_as_request else 0,
            self.tokens.input_tokens,
            self.tokens.output_tokens,
            self.cost_nano or 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A report that is in the ledger, by this call or by an earlier one."""

    report: Report
    duplicate: bool
    recorded_at: datetime
    movements: tuple[Movement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflicting:
    """The request_id is in the ledger with another body; nothing was changed."""

    report: Report


Outcome = Recorded | Conflicting


def digest_of(body: msgspec.Struct) -> bytes:
    """The same for bodies that say the same, in whatever order and with whatever white space."""
    return sha256(msgspec.json.encode(body, order="sorted")).digest()


def record(reports: Sequence[Report]) -> list[Outcome]:
    """Writes the reports of one environment; one outcome each, in order. Request ids must differ from each other."""
    try:
        return _record(reports)
    except IntegrityError as error:
        if not partitions.is_missing(error):
            raise
    partitions.ensure({report.charged_at for report in reports})
    return _record(reports)


@transaction.atomic
def _record(reports: Sequence[Report]) -> list[Outcome]:
    claimed = _claim(reports)
    estimates = _claim_estimates([report for report in reports if report.request_id not in claimed])
    new = claimed | estimates.keys()
    _insert(
        [
            estimates.get(report.request_id, _NO_ESTIMATE).place(report)
            for report in reports
            if report.request_id in new
        ]
    )
    if estimates:
        _reverse(reports[0].environment_id, estimates)
    known = entries(reports[0].environment_id, [report.request_id for report in reports])
    return [_outcome(report, report.request_id in new, known[report.request_id]) for report in reports]


def _outcome(report: Report, new: bool, found: Entry) -> Outcome:
    # An estimate of a call that was reported meanwhile is not written; what was reported stands for it.
    if not new and report.body_digest is not None and found.body_digest != report.body_digest:
        return Conflicting(report=report)
    # A duplicate is answered, and if need be charged, as what was written first.
    written = replace(
        report,
        charged_at=found.charged_at,
        subjects=found.subjects or report.subjects,
        cost_nano=found.cost_nano,
    )
    return Recorded(
        report=written, duplicate=not new, recorded_at=found.recorded_at, movements=found.movements
    )


@dataclass(frozen=True, slots=True)
class _Estimate:
    """The charged estimate that a late report replaces: in its windows, for its subjects."""

    charged_at: datetime | None = None
    subjects: Subjects | None = None

    def place(self, report: Report) -> Report:
        if self.charged_at is None or self.subjects is None:
            return report
        return replace(report, charged_at=self.charged_at, subjects=self.subjects)


_NO_ESTIMATE = _Estimate()


def _claim(reports: Sequence[Report]) -> set[str]:
    """The request ids that are new, now claimed by this transaction."""
    ordered = sorted(reports, key=lambda report: report.request_id)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO usage_request (environment_id, request_id, body_digest, charged_at)
            SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bytea[], %s::timestamptz[])
            ON CONFLICT DO NOTHING
            RETURNING request_id
            """,
            [
                [report.environment_id for report in ordered],
                [report.request_id for report in ordered],
                [report.body_digest for report in ordered],
                [report.charged_at for report in ordered],
            ],
        )
        return {request_id for (request_id,) in cursor.fetchall()}


def _claim_estimates(reports: Sequence[Report]) -> dict[str, _Estimate]:
    """Of the ids that are not new, those that hold but an estimate, and are now claimed."""
    taking = {report.request_id: report for report in reports if report.body_digest is not None}
    if not taking:
        return {}
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
                next(iter(taking.values())).environment_id,
                list(taking),
                list(taking),
                [report.body_digest for report in taking.values()],
            ],
        )
        return {
            request_id: _Estimate(
                charged_at, Subjects(user_id=user_id, feature=feature, plan=plan, run_id=run_id)
            )
            for request_id, charged_at, user_id, feature, plan, run_id in cursor.fetchall()
        }


_COLUMNS: dict[str, str] = {
    "environment_id": "bigint",
    "request_id": "text",
    "charged_at": "timestamptz",
    "occurred_at": "timestamptz",
    "user_id": "text",
    "feature": "text",
    "plan": "text",
    "run_id": "text",
    "model": "text",
    "provider": "text",
    "status": "text",
    "requests": "smallint",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cached_input_tokens": "bigint",
    "cache_write_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "cost_nano": "bigint",
    "reported_cost_nano": "bigint",
    "price_id": "bigint",
    "latency_ms": "int",
    "policy_id": "uuid",
    "policy_version": "int",
    "api_key_id": "bigint",
    "metadata": "jsonb",
}

_INSERT = f"""
    INSERT INTO usage_event ({", ".join(_COLUMNS)})
    SELECT * FROM unnest({", ".join(f"%s::{kind}[]" for kind in _COLUMNS.values())})
"""  # noqa: S608 (the names above are the only input)


def _insert(reports: Sequence[Report]) -> None:
    if not reports:
        return
    rows = [_row(report) for report in reports]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [list(column) for column in zip(*rows, strict=True)])


def _row(report: Report) -> tuple[Any, ...]:
    subjects, tokens, amounts = report.subjects, report.tokens, report.amounts
    return (
        report.environment_id,
        report.request_id,
        report.charged_at,
        report.occurred_at,
        subjects.user_id,
        subjects.feature,
        subjects.plan,
        subjects.run_id,
        report.model,
        report.provider,
        str(report.status),
        amounts.requests,
        tokens.input_tokens,
        tokens.output_tokens,
        tokens.cached_input_tokens,
        tokens.cache_write_tokens,
        tokens.reasoning_tokens,
        report.cost_nano,
        report.reported_cost_nano,
        report.price_id,
        report.latency_ms,
        report.policy_id,
        report.policy_version,
        report.api_key_id,
        None if report.metadata is None else json.dumps(report.metadata),
    )


def _reverse(environment_id: int, estimates: dict[str, _Estimate]) -> None:
    """Takes estimates back: a row with the opposite amounts, in the windows the estimate was charged to."""
    negated = {"requests", "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens"}
    negated |= {"reasoning_tokens", "cost_nano"}
    values = [f"-{column}" if column in negated else column for column in _COLUMNS]
    values[list(_COLUMNS).index("status")] = f"'{Status.REVERSAL}'"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO usage_event ({", ".join(_COLUMNS)})
            SELECT {", ".join(values)} FROM usage_event
            WHERE environment_id = %s AND request_id = ANY(%s) AND charged_at = ANY(%s)
              AND status = '{Status.UNSETTLED}'
            """,  # noqa: S608 (the names above are the only input)
            [environment_id, list(estimates), [estimate.charged_at for estimate in estimates.values()]],
        )
