"""The figures of a question as rows of a file: each name and part of each step, without Other, all measures of them.

They are read through a cursor that PostgreSQL keeps beyond its transaction, so that a file of any length needs little
memory, and a slow reader holds no transaction open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from tenants.exporting import Row
from usage.analytics.answers import steps
from usage.analytics.cells import Cut, cells
from usage.analytics.questions import Question
from usage.ledger.buckets import Range
from usage.ledger.rollup_tables import SUMS
from usage.money import format_usd

_BATCH = 1_000
_CURSOR = "usage_export"
# How a file calls the sums of the ledger.
_CALLED = {
    "events": "ledger_rows",
    "requests": "calls",
    "cost_nano": "cost_usd",
    "unpriced": "calls_without_price",
}


@dataclass(frozen=True, slots=True)
class Export:
    """`mark`: the transactions whose rows are in it. `rows` have these columns; what a call has none of is None."""

    mark: str
    columns: tuple[str, ...]
    rows: Iterator[Row]


def export(environment_id: int, question: Question, zone: ZoneInfo) -> Export:
    """Of the period alone. The thread that asks must read the rows. Raises TooManySteps, DatabaseError."""
    cut = Cut(steps(question.period, question.step, zone))
    named = tuple(name for name in (question.group, question.part) if name is not None)
    sql, values = cells(environment_id, cut, question.group, question.part, question.filters)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CLOSE ALL")
        cursor.execute(
            f"""
            DECLARE {_CURSOR} NO SCROLL CURSOR WITH HOLD FOR
            WITH cell AS ({sql})
            SELECT pg_current_snapshot()::text, step, name, part, {", ".join(SUMS)}
            FROM (VALUES (true)) AS always LEFT JOIN cell ON true ORDER BY step, cost_nano DESC, name, part
            """,  # noqa: S608 (our own names)
            values,
        )
    first = _fetch(1)
    columns = ("from", "to", *named, *(_CALLED.get(name, name) for name in SUMS))
    return Export(first[0][0], columns, _rows(first, cut.now, columns, zone))


def _fetch(count: int) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(f"FETCH {count} FROM {_CURSOR}")
        return list(cursor.fetchall())


def _rows(
    first: list[Any], stepped: tuple[Range, ...], columns: tuple[str, ...], zone: ZoneInfo
) -> Iterator[Row]:
    batch = first
    try:
        while batch:
            for _, step, *found in batch:
                # The one row of an answer that is empty.
                if step is not None:
                    yield _row(stepped[step - 1], found, columns, zone)
            batch = _fetch(_BATCH)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"CLOSE {_CURSOR}")


def _row(step: Range, found: list[Any], columns: tuple[str, ...], zone: ZoneInfo) -> Row:
    name, part, *amounts = found
    bounds = [at.astimezone(zone).isoformat() for at in (step.start, step.end)]
    named = [each or None for each in (name, part)][: len(columns) - len(bounds) - len(SUMS)]
    sums = [
        Decimal(format_usd(int(amount))) if column == "cost_nano" else int(amount)
        for column, amount in zip(SUMS, amounts, strict=True)
    ]
    return dict(zip(columns, [*bounds, *named, *sums], strict=True))
