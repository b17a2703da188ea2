"""The figures of a question as rows of a file: each name and part of each step, without Other, all measures of them.

They are read through a cursor that PostgreSQL keeps beyond its transaction, so that a file of any length needs little
memory, and a slow reader holds no transaction open.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from tenants.exporting import Row
from usage.analytics import used_quantities
from usage.analytics.answers import steps
from usage.analytics.cells import Cut, cells, quantity_cells
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
    of_quantities, more = quantity_cells(environment_id, cut, question.group, question.part, question.filters)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CLOSE ALL")
        cursor.execute(
            f"""
            DECLARE {_CURSOR} NO SCROLL CURSOR WITH HOLD FOR
            WITH cell AS ({sql}), quantity_cell AS ({of_quantities})
            SELECT pg_current_snapshot()::text, step, name, part, {", ".join(SUMS)}, quantities
            FROM (VALUES (true)) AS always LEFT JOIN cell ON true LEFT JOIN quantity_cell USING (name, part, step)
            ORDER BY step, cost_nano DESC, name, part
            """,  # noqa: S608 (our own names)
            [*values, *more],
        )
    # After what is in the file is settled, so that none is left out.
    quantities = used_quantities.in_period(environment_id, question.period, question.filters)
    first = _fetch(1)
    columns = ("from", "to", *named, *(_CALLED.get(name, name) for name in SUMS), *quantities)
    return Export(first[0][0], columns, _rows(first, cut.now, named, quantities, zone))


def _fetch(count: int) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(f"FETCH {count} FROM {_CURSOR}")
        return list(cursor.fetchall())


def _rows(
    first: list[Any],
    stepped: tuple[Range, ...],
    named: tuple[str, ...],
    quantities: Collection[str],
    zone: ZoneInfo,
) -> Iterator[Row]:
    batch = first
    try:
        while batch:
            for _, step, *found in batch:
                # The one row of an answer that is empty.
                if step is not None:
                    yield _row(stepped[step - 1], found, named, quantities, zone)
            batch = _fetch(_BATCH)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"CLOSE {_CURSOR}")


def _row(
    step: Range, found: list[Any], named: tuple[str, ...], quantities: Collection[str], zone: ZoneInfo
) -> Row:
    name, part, *amounts, measured = found
    used = {} if measured is None else json.loads(measured)
    return {
        "from": step.start.astimezone(zone).isoformat(),
        "to": step.end.astimezone(zone).isoformat(),
        # Without a part there is one name, without a group none.
        **{dimension: each or None for dimension, each in zip(named, (name, part), strict=False)},
        **{
            _CALLED.get(column, column): Decimal(format_usd(int(amount)))
            if column == "cost_nano"
            else int(amount)
            for column, amount in zip(SUMS, amounts, strict=True)
        },
        **{quantity: used.get(quantity, 0) for quantity in quantities},
    }
