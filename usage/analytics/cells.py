"""The sums that answers are made of: by names and the numbers of steps, of rollups and tail alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from usage.analytics.questions import DIMENSIONS, Question, Sums
from usage.ledger import sums
from usage.ledger.buckets import Range
from usage.ledger.quantity_rollups import AMOUNT, QUANTITY
from usage.ledger.rollup_tables import SUMS
from usage.ledger.sums import Filters, Used

NOTHING: Sums = dict.fromkeys(SUMS, 0)


def columns(quantity: str | None) -> tuple[str, ...]:
    """Those of SUMS, and the amount of the quantity that a question is about."""
    return tuple(SUMS) if quantity is None else (*SUMS, AMOUNT)


def summed(quantity: str | None) -> str:
    """Of rows that are put together."""
    return ", ".join(f"sum({name}) AS {name}" for name in columns(quantity))


SUMMED = summed(None)


@dataclass(frozen=True, slots=True)
class Cut:
    """Both periods in steps, and what lies between them, which is left out. Steps are numbered from 1."""

    now: tuple[Range, ...]
    before: tuple[Range, ...] = ()

    @property
    def bounds(self) -> list[datetime]:
        starts = [step.start for step in (*self.before, *self.now)]
        between = [self.before[-1].end] if self.has_gap else []
        return [*starts[: len(self.before)], *between, *starts[len(self.before) :], self.now[-1].end]

    @property
    def has_gap(self) -> bool:
        return bool(self.before) and self.before[-1].end < self.now[0].start

    @property
    def gap(self) -> int:
        """The number of what lies between; 0: nothing does."""
        return len(self.before) + 1 if self.has_gap else 0

    @property
    def first(self) -> int:
        """Of the period."""
        return len(self.before) + 1 + self.has_gap


class Found(NamedTuple):
    """A row of an answer: what a name at a place used in a step. `names`: how many there are beyond the top.

    A row of a part has the step 0 before the period, and 1 in it.
    """

    place: int
    part_place: int | None
    step: int
    name: str
    names: int
    sums: Sums


def whole(question: Question) -> Cut:
    """Both periods as one step each: what is asked of them as a whole is read from larger buckets."""
    return Cut((question.period,), (question.before,))


def cells(
    environment_id: int,
    cut: Cut,
    group: str | None,
    part: str | None,
    filters: Filters,
    mark: int | None = None,
    quantity: str | None = None,
) -> tuple[str, list[Any]]:
    """A text of SQL and its values: sums by `name`, `part` and the number of the `step`. `mark`: see sums.used."""
    rows, values = stepped(environment_id, cut, group, part, filters, mark, quantity)
    sql = f"""
        SELECT name, part, step, {summed(quantity)} FROM ({rows}) AS stepped GROUP BY 1, 2, 3 HAVING sum(events) > 0
    """  # noqa: S608 (our own names)
    return sql, values


def quantity_cells(
    environment_id: int, cut: Cut, group: str | None, part: str | None, filters: Filters
) -> tuple[str, list[Any]]:
    """What else was used, all by `name`, `part` and `step`: `quantities`, a map of what is not zero."""
    read = sums.quantities(environment_id, cut.bounds, _names(group, part), filters, left_out=cut.gap)
    rows, values = _numbered(read, cut)
    name, said = _said(group, part)
    sql = f"""
        SELECT name, part, step, jsonb_object_agg({QUANTITY}, {AMOUNT}) AS quantities FROM (
            SELECT {name} AS name, {said} AS part, step, {QUANTITY}, sum({AMOUNT}) AS {AMOUNT}
            FROM ({rows}) AS named GROUP BY 1, 2, 3, 4 HAVING sum({AMOUNT}) <> 0
        ) AS measured GROUP BY 1, 2, 3
    """  # noqa: S608 (our own names)
    return sql, values


def stepped(
    environment_id: int,
    cut: Cut,
    group: str | None,
    part: str | None,
    filters: Filters,
    mark: int | None = None,
    quantity: str | None = None,
) -> tuple[str, list[Any]]:
    """The same of the rows that are summed up, some of them negative.

    Names are in the order of their bytes: comparing them by a language's rules takes most of the time.
    """
    rows, values = numbered(environment_id, cut, _names(group, part), filters, mark, quantity)
    name, said = _said(group, part)
    summed_up = ", ".join(columns(quantity))
    return f"SELECT {name} AS name, {said} AS part, step, {summed_up} FROM ({rows}) AS named", values  # noqa: S608


def _names(group: str | None, part: str | None) -> list[str]:
    return [DIMENSIONS[each] for each in (group, part) if each is not None]


def _said(group: str | None, part: str | None) -> list[str]:
    return [f'{DIMENSIONS[each]}::text COLLATE "C"' if each else "''" for each in (group, part)]


def numbered(
    environment_id: int,
    cut: Cut,
    names: Collection[str],
    filters: Filters,
    mark: int | None = None,
    quantity: str | None = None,
) -> tuple[str, list[Any]]:
    """The rows that are summed up, with these names, those of `columns` and the number of the step."""
    used = sums.used(environment_id, cut.bounds, names, filters, left_out=cut.gap, mark=mark)
    if quantity is not None:
        used = _beside(used, environment_id, cut, names, filters, mark, quantity)
    return _numbered(used, cut)


def _beside(
    used: Used,
    environment_id: int,
    cut: Cut,
    names: Collection[str],
    filters: Filters,
    mark: int | None,
    quantity: str,
) -> Used:
    """With rows that say how much of the quantity there was, and nothing else."""
    read = sums.quantities(environment_id, cut.bounds, names, filters, left_out=cut.gap, mark=mark)
    named = "".join(f"{name}, " for name in names)
    nothing = ", ".join(f"0 AS {name}" for name in SUMS)
    sql = f"""
        SELECT at, {named}{", ".join(SUMS)}, 0 AS {AMOUNT} FROM ({used.sql}) AS used
        UNION ALL SELECT at, {named}{nothing}, {AMOUNT} FROM ({read.sql}) AS measured WHERE {QUANTITY} = %s
    """  # noqa: S608 (our own names)
    return Used(sql, [*used.values, *read.values, quantity])


def _numbered(used: Used, cut: Cut) -> tuple[str, list[Any]]:
    if len(cut.bounds) == 2:
        return f"SELECT 1 AS step, used.* FROM ({used.sql}) AS used", used.values  # noqa: S608 (our own names)
    sql = f"""
        SELECT * FROM (SELECT width_bucket(at, %s::timestamptz[]) AS step, used.* FROM ({used.sql}) AS used) AS numbered
        WHERE step <> %s
    """  # noqa: S608 (our own names)
    return sql, [cut.bounds[:-1], *used.values, cut.gap]


def read(sql: str, values: Iterable[Any]) -> tuple[str, list[tuple[Any, ...]]]:
    """The rows of `answer`, whose last columns are those of `columns`, and the snapshot of the same statement."""
    with connection.cursor() as cursor:
        # One row at least, for the snapshot must be known also where nothing is found.
        cursor.execute(
            f"""
            {sql}
            SELECT pg_current_snapshot()::text, answer.* FROM (VALUES (true)) AS always LEFT JOIN answer ON true
            """,  # noqa: S608 (our own text)
            list(values),
        )
        rows = cursor.fetchall()
    return rows[0][0], [row[1:] for row in rows if row[-1] is not None]


def sums_of(amounts: Iterable[Any]) -> Sums:
    """Of `columns`, with or without a quantity."""
    return dict(zip((*SUMS, AMOUNT), map(int, amounts), strict=False))


def added(each: Iterable[Sums]) -> Sums:
    found = dict(NOTHING)
    for one in each:
        for column, number in one.items():
            found[column] = found.get(column, 0) + number
    return found


def less(these: Sums, those: Mapping[str, int]) -> Sums:
    return {column: these.get(column, 0) - those.get(column, 0) for column in {**these, **those}}
