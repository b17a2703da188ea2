"""Who used most in a period, of those whom a question is about: the subjects that a limit will stop first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from usage.amounts import Amounts, Per, Subjects
from usage.ledger import sums
from usage.metrics import COLUMNS, METRICS, Metric

KINDS_OF_CALL_MAX = 500
# Of all subjects, so many times those asked for are looked at before the calls of all are.
FIRST_TIMES = 4


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


Answers = dict[Question, list[tuple[Subjects, Amounts]]]


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
) -> Answers:
    """Of each question the `most` subjects that used most, each with all it used in the period.

    A subject is in it for any call of the kinds, and then with its other calls too: so its counter counts. `models`:
    whose calls count alone, if not those of all.
    Three statements, and one more for questions about so few that they are not among the first of all.
    Raises DatabaseError.
    """
    asked = [question for question in questions if question.kinds]
    found: Answers = {question: [] for question in questions}
    if asked:
        mark = sums.mark_before(environment_id)
        at = _At(environment_id, per, (start, end), most, list(left_out), models, mark)
        told = _among_first(at, asked)
        found |= told | _of_all(at, [question for question in asked if question not in told])
    return found


@dataclass(frozen=True, slots=True)
class _At:
    environment_id: int
    per: Per
    bounds: tuple[datetime, datetime]
    most: int
    left_out: list[str]
    models: Collection[str] | None
    mark: int

    @property
    def columns(self) -> tuple[str, ...]:
        return sums.COLUMNS[self.per]

    def used(self, columns: Collection[str], filters: sums.Filters | None = None) -> sums.Used:
        of_models = {} if self.models is None else {"model": self.models}
        filters = {**(filters or {}), **of_models}
        return sums.used(self.environment_id, self.bounds, columns, filters, mark=self.mark)


@dataclass(slots=True)
class _First:
    """The subjects that used most of a metric, by their names. `are_all`: there are no others."""

    subjects: dict[tuple[str, ...], Amounts]
    are_all: bool


def _among_first(at: _At, asked: Sequence[Question]) -> Answers:
    """Of the questions that it can be told of: sums of subjects are few, and their calls by kind are many."""
    ranks = list(dict.fromkeys((question.metric, question.leaves_out) for question in asked))
    firsts = dict(zip(ranks, _first(at, ranks), strict=True))
    numbers = {kinds: number for number, kinds in enumerate({question.kinds for question in asked})}
    met = _met(at, numbers, {names for first in firsts.values() for names in first.subjects})
    found: Answers = {}
    for question in asked:
        first, number = firsts[question.metric, question.leaves_out], numbers[question.kinds]
        those = [names for names in first.subjects if (number, *names) in met][: at.most]
        if first.are_all or len(those) == at.most:
            found[question] = [(_subjects(at, names), first.subjects[names]) for names in those]
    return found


def _first(at: _At, ranks: Sequence[tuple[Metric, bool]]) -> list[_First]:
    whole = at.used(at.columns)
    looked_at = FIRST_TIMES * at.most
    rows = [(number, metric.value, leaves_out) for number, (metric, leaves_out) in enumerate(ranks)]
    found = [_First({}, are_all=True) for _ in ranks]
    with connection.cursor() as cursor:
        cursor.execute(
            _first_sql(at.columns, whole.sql), [*whole.values, *_columns(rows), at.left_out, looked_at + 1]
        )
        for number, *values in cursor.fetchall():
            first = found[number]
            if len(first.subjects) == looked_at:
                first.are_all = False
            else:
                names = tuple(values[: len(at.columns)])
                first.subjects[names] = Amounts(*values[len(at.columns) :])
    return found


def _met(
    at: _At, numbers: dict[frozenset[tuple[str, str]], int], subjects: Collection[tuple[str, ...]]
) -> set[tuple[Any, ...]]:
    """Which of the subjects made calls of which kinds: the number of the kinds, and the names of the subject."""
    if not subjects:
        return set()
    named = {
        column: sorted(set(names))
        for column, names in zip(at.columns, zip(*subjects, strict=True), strict=True)
    }
    used = at.used({*at.columns, "feature", "plan"}, named)
    subject, key = ", ".join(f"{name} AS of_{name}" for name in at.columns), _key(at.columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT kinds, {subject} FROM ({used.sql}) AS used
            JOIN unnest(%s::int[], %s::text[], %s::text[]) AS kind (kinds, feature, plan) USING (feature, plan)
            GROUP BY kinds, {key} HAVING sum(events) > 0
            """,  # noqa: S608 (our own names)
            [*used.values, *_kinds(numbers)],
        )
        return set(cursor.fetchall())


def _of_all(at: _At, asked: Sequence[Question]) -> Answers:
    found: Answers = {question: [] for question in asked}
    if not asked:
        return found
    # Many questions are about the same kinds of calls.
    groups = {kinds: number for number, kinds in enumerate({question.kinds for question in asked})}
    whole = at.used(at.columns)
    by_kind = at.used({*at.columns, "feature", "plan"})
    rows = [
        (number, question.metric.value, groups[question.kinds], question.leaves_out)
        for number, question in enumerate(asked)
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            _sql(at.columns, whole.sql, by_kind.sql),
            [*whole.values, *_kinds(groups), *by_kind.values, *_columns(rows), at.left_out, at.most],
        )
        for number, *values in cursor.fetchall():
            names, amounts = values[: len(at.columns)], values[len(at.columns) :]
            found[asked[number]].append((_subjects(at, names), Amounts(*amounts)))
    return found


def _subjects(at: _At, names: Iterable[str]) -> Subjects:
    return Subjects(**{"user_id": "", **dict(zip(at.columns, names, strict=True))})


def _kinds(numbers: dict[frozenset[tuple[str, str]], int]) -> list[list[Any]]:
    return _columns((number, *kind) for kinds, number in numbers.items() for kind in kinds)


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _key(columns: tuple[str, ...]) -> str:
    """The subject's columns are `of_..` beside the feature of the kind of call."""
    return ", ".join(f"of_{name}" for name in columns)


def _subject(columns: tuple[str, ...]) -> str:
    # Names in the order of their bytes: comparing them by a language's rules takes most of the time.
    return ", ".join(f'{name} COLLATE "C" AS of_{name}' for name in columns)


def _whole(columns: tuple[str, ...], rows: str) -> str:
    """What each subject used."""
    totals = ", ".join(f"sum({column})::bigint AS {column}" for column in COLUMNS)
    return f"""
        SELECT NULL::int AS kinds, {_subject(columns)}, {totals} FROM ({rows}) AS used
        WHERE {_has_subject(columns)} GROUP BY {_key(columns)} HAVING sum(events) > 0
    """  # noqa: S608 (our own names)


def _has_subject(columns: tuple[str, ...]) -> str:
    return " AND ".join(f"{name} <> ''" for name in columns)


def _place(columns: tuple[str, ...]) -> str:
    """Of a subject among those of the same question."""
    amount = " ".join(f"WHEN '{row.metric}' THEN {' + '.join(row.columns)}" for row in METRICS.values())
    return f"row_number() OVER (PARTITION BY number ORDER BY CASE metric {amount} END DESC, {_key(columns)}) AS place"


def _is_in(columns: tuple[str, ...]) -> str:
    user = "of_user_id" if "user_id" in columns else "NULL"
    return f"NOT (leaves_out AND coalesce({user} = ANY(%s::text[]), false))"


def _first_sql(columns: tuple[str, ...], whole: str) -> str:
    key = _key(columns)
    return f"""
        WITH whole AS ({_whole(columns, whole)}), ranked AS (
            SELECT number, {key}, {", ".join(COLUMNS)}, {_place(columns)}
            FROM whole CROSS JOIN unnest(%s::int[], %s::text[], %s::boolean[]) AS rank (number, metric, leaves_out)
            WHERE {_is_in(columns)}
        )
        SELECT number, {key}, {", ".join(COLUMNS)} FROM ranked WHERE place <= %s ORDER BY number, place
    """  # noqa: S608 (our own names)


def _sql(columns: tuple[str, ...], whole: str, by_kind: str) -> str:
    """Kinds are named by number."""
    key = _key(columns)
    nothing = ", ".join(f"NULL::bigint AS {column}" for column in COLUMNS)
    # Over a window, not by a join: the planner would believe that few rows meet, and compare all with all.
    of_subject = ", ".join(
        f"(sum({column}) OVER (PARTITION BY {key}))::bigint AS {column}" for column in COLUMNS
    )
    return f"""
        WITH whole AS ({_whole(columns, whole)}), kind AS (
            SELECT * FROM unnest(%s::int[], %s::text[], %s::text[]) AS kind (kinds, feature, plan)
        ), met AS (
            SELECT kinds, {_subject(columns)}, {nothing} FROM ({by_kind}) AS used JOIN kind USING (feature, plan)
            WHERE {_has_subject(columns)} GROUP BY kinds, {key} HAVING sum(events) > 0
        ), used AS (
            SELECT kinds, {key}, {of_subject} FROM (TABLE whole UNION ALL TABLE met) AS either
        ), question AS (
            SELECT * FROM unnest(%s::int[], %s::text[], %s::int[], %s::boolean[])
                AS question (number, metric, kinds, leaves_out)
        ), ranked AS (
            SELECT number, {key}, {", ".join(COLUMNS)}, {_place(columns)}
            FROM question JOIN used USING (kinds) WHERE {_is_in(columns)}
        )
        SELECT number, {key}, {", ".join(COLUMNS)} FROM ranked WHERE place <= %s ORDER BY number, place
    """  # noqa: S608 (our own names)
