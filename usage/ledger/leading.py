"""Who used most in a period, of those whom a question is about: the subjects that a limit will stop first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from usage.amounts import Amounts, Per, Subjects
from usage.ledger import sums
from usage.metrics import COLUMNS, METRICS, Metric

KINDS_OF_CALL_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Who used most of `metric`, of the subjects that made calls of these kinds: each a feature and a plan."""

    metric: Metric
    kinds: frozenset[tuple[str, str]]
    # Whether users are left out that the caller says to leave out.
    leaves_out: bool = False


@contextmanager
def at_most(milliseconds: int) -> Iterator[None]:
    """Each statement inside. One that takes longer raises OperationalError and undoes nothing outside."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        (before,) = cursor.fetchone() or ("0",)
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(max(1, milliseconds))])
        yield
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [before])


def kinds_of_call(environment_id: int, start: datetime, end: datetime) -> list[tuple[str, str]]:
    """The features and plans that calls had together, the most frequent first; no more than KINDS_OF_CALL_MAX."""
    used = sums.used(environment_id, [start, end], ("feature", "plan"))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT feature, plan FROM ({used.sql}) AS used GROUP BY feature, plan
            ORDER BY sum(events) DESC, feature, plan LIMIT %s
            """,  # noqa: S608 (our own names)
            [*used.values, KINDS_OF_CALL_MAX],
        )
        found: list[tuple[str, str]] = cursor.fetchall()
        return found


def leading(
    environment_id: int,
    per: Per,
    start: datetime,
    end: datetime,
    questions: Collection[Question],
    *,
    most: int,
    left_out: Iterable[str] = (),
    models: Collection[str] | None = None,
) -> dict[Question, list[tuple[Subjects, Amounts]]]:
    """Of each question the `most` subjects that used most, each with all it used in the period. Two statements.

    A subject is in it for any call of the kinds, and then with its other calls too: so its counter counts. `models`:
    whose calls count alone, if not those of all.
    Raises DatabaseError.
    """
    asked = list(questions)
    found: dict[Question, list[tuple[Subjects, Amounts]]] = {question: [] for question in asked}
    # Many questions are about the same kinds of calls.
    groups = {kinds: number for number, kinds in enumerate({question.kinds for question in asked})}
    kinds = [(number, *kind) for of_group, number in groups.items() for kind in of_group]
    if not kinds:
        return found
    columns = sums.COLUMNS[per]
    mark = sums.mark_before(environment_id)
    filters = {} if models is None else {"model": models}
    whole = sums.used(environment_id, [start, end], columns, filters, mark=mark)
    by_kind = sums.used(environment_id, [start, end], {*columns, "feature", "plan"}, filters, mark=mark)
    rows = [
        (number, question.metric.value, groups[question.kinds], question.leaves_out)
        for number, question in enumerate(asked)
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            _sql(columns, whole.sql, by_kind.sql),
            [*whole.values, *_columns(kinds), *by_kind.values, *_columns(rows), list(left_out), most],
        )
        for number, *values in cursor.fetchall():
            subject = Subjects(**{"user_id": "", **dict(zip(columns, values, strict=False))})
            found[asked[number]].append((subject, Amounts(*values[len(columns) :])))
    return found


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _sql(columns: tuple[str, ...], whole: str, by_kind: str) -> str:
    """The subject's columns are `of_..` beside the feature of the kind of call. Kinds are named by number."""
    # Names in the order of their bytes: comparing them by a language's rules takes most of the time.
    subject = ", ".join(f'{name} COLLATE "C" AS of_{name}' for name in columns)
    has_subject = " AND ".join(f"{name} <> ''" for name in columns)
    key = ", ".join(f"of_{name}" for name in columns)
    totals = ", ".join(f"sum({column})::bigint AS {column}" for column in COLUMNS)
    nothing = ", ".join(f"NULL::bigint AS {column}" for column in COLUMNS)
    # Over a window, not by a join: the planner would believe that few rows meet, and compare all with all.
    of_subject = ", ".join(
        f"(sum({column}) OVER (PARTITION BY {key}))::bigint AS {column}" for column in COLUMNS
    )
    amount = " ".join(f"WHEN '{row.metric}' THEN {' + '.join(row.columns)}" for row in METRICS.values())
    user = "of_user_id" if "user_id" in columns else "NULL"
    return f"""
        WITH whole AS (
            SELECT NULL::int AS kinds, {subject}, {totals} FROM ({whole}) AS used
            WHERE {has_subject} GROUP BY {key} HAVING sum(events) > 0
        ), kind AS (
            SELECT * FROM unnest(%s::int[], %s::text[], %s::text[]) AS kind (kinds, feature, plan)
        ), met AS (
            SELECT kinds, {subject}, {nothing} FROM ({by_kind}) AS used JOIN kind USING (feature, plan)
            WHERE {has_subject} GROUP BY kinds, {key} HAVING sum(events) > 0
        ), used AS (
            SELECT kinds, {key}, {of_subject} FROM (TABLE whole UNION ALL TABLE met) AS either
        ), question AS (
            SELECT * FROM unnest(%s::int[], %s::text[], %s::int[], %s::boolean[])
                AS question (number, metric, kinds, leaves_out)
        ), ranked AS (
            SELECT number, {key}, {", ".join(COLUMNS)}, row_number() OVER (
                PARTITION BY number ORDER BY CASE metric {amount} END DESC, {key}
            ) AS place
            FROM question JOIN used USING (kinds)
            WHERE NOT (leaves_out AND coalesce({user} = ANY(%s::text[]), false))
        )
        SELECT number, {key}, {", ".join(COLUMNS)} FROM ranked WHERE place <= %s ORDER BY number, place
    """  # noqa: S608 (our own names)
