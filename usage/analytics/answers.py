"""What the ledger answers to a question: one statement, of which all figures are of one snapshot.

    cell     sums by name, part and step, of rollups and tail alike (usage/ledger/sums.py)
    named    the names in their order; those beyond the top are one, Other
    parted   the same of the parts inside of each name
    answer   a row for each name and step, and one for each part in the period and before it

Rows of the answer are at most (top + 1) x (2 x STEPS_MAX + 2 x (PARTS_MAX + 1)), whatever the ledger holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection

from usage.analytics.questions import DIMENSIONS, PARTS_MAX, STEPS_MAX, Question, Rank, Sums
from usage.instants import from_ms
from usage.ledger import sums
from usage.ledger.buckets import Range
from usage.ledger.periods import Period
from usage.ledger.rollups import SUMS
from usage.windows import Window

NOTHING: Sums = dict.fromkeys(SUMS, 0)


class TooManySteps(ValueError):
    """The period has more than STEPS_MAX of them."""

    def __init__(self) -> None:
        super().__init__(f"The period has more than {STEPS_MAX} of these; choose longer ones.")


@dataclass(frozen=True, slots=True)
class Line:
    """What a name used in the period and before it. `name` is empty for calls that have none; None: all others.

    `others`: how many these are. `series`: the sums of each step. `parts` have no series of their own.
    """

    name: str | None
    others: int
    now: Sums
    before: Sums
    series: tuple[Sums, ...] = ()
    parts: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """`lines` are in order and make up the total. `series_before`: the steps of the period before, all names together.

    `mark`: the transactions whose rows are in it, as PostgreSQL writes a snapshot.
    """

    steps: tuple[Range, ...]
    steps_before: tuple[Range, ...]
    lines: tuple[Line, ...]
    total: Line
    series_before: tuple[Sums, ...]
    mark: str


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


class _Found(NamedTuple):
    """A row of the answer. A row of a part has the step 0 before the period, and 1 in it."""

    place: int
    part_place: int | None
    step: int
    name: str
    names: int
    sums: Sums


def answer(environment_id: int, question: Question, zone: ZoneInfo) -> Answer:
    """Raises TooManySteps, DatabaseError."""
    cut = Cut(
        now=steps(question.period, question.step, zone), before=steps(question.before, question.step, zone)
    )
    mark, found = _read(environment_id, question, cut)
    lines = tuple(_lines(question, cut, found))
    total = Line(
        None,
        0,
        _added(line.now for line in lines),
        _added(line.before for line in lines),
        _series(cut, found),
    )
    return Answer(
        steps=cut.now,
        steps_before=cut.before,
        lines=lines,
        total=total,
        series_before=_by_step(found, range(1, len(cut.before) + 1)),
        mark=mark,
    )


def steps(period: Range, step: Window | None, zone: ZoneInfo) -> tuple[Range, ...]:
    """The windows of the zone that the period touches, cut at its ends; without a step, the period.

    Raises TooManySteps.
    """
    if step is None or period.start == period.end:
        return (period,)
    found = []
    for span in Period(period.start, period.end).spans(step, zone):
        assert span.end is not None
        found.append(Range(max(from_ms(span.start), period.start), min(from_ms(span.end), period.end)))
        if len(found) > STEPS_MAX:
            raise TooManySteps
    return tuple(found)


def _lines(question: Question, cut: Cut, found: Sequence[_Found]) -> Iterator[Line]:
    by_place = defaultdict(list)
    for row in found:
        by_place[row.place].append(row)
    for place, rows in sorted(by_place.items()):
        is_other = place > question.top
        whole = [row for row in rows if row.part_place is None]
        yield Line(
            name=None if is_other else whole[0].name,
            others=max(row.names for row in whole) if is_other else 0,
            now=_added(row.sums for row in whole if row.step >= cut.first),
            before=_added(row.sums for row in whole if row.step < cut.first),
            series=_series(cut, whole),
            parts=tuple(_parts([row for row in rows if row.part_place is not None])),
        )


def _parts(rows: Sequence[_Found]) -> Iterator[Line]:
    places = sorted({row.part_place for row in rows if row.part_place is not None})
    for place in places:
        of_part = [row for row in rows if row.part_place == place]
        is_other = place > PARTS_MAX
        yield Line(
            name=None if is_other else of_part[0].name,
            others=max(row.names for row in of_part) if is_other else 0,
            now=_added(row.sums for row in of_part if row.step),
            before=_added(row.sums for row in of_part if not row.step),
        )


def _series(cut: Cut, rows: Iterable[_Found]) -> tuple[Sums, ...]:
    return _by_step(rows, range(cut.first, cut.first + len(cut.now)))


def _by_step(rows: Iterable[_Found], numbers: range) -> tuple[Sums, ...]:
    found = defaultdict(list)
    for row in rows:
        if row.part_place is None:
            found[row.step].append(row.sums)
    return tuple(_added(found[number]) for number in numbers)


def _added(each: Iterable[Sums]) -> Sums:
    found = dict(NOTHING)
    for one in each:
        for column, number in one.items():
            found[column] += number
    return found


def _read(environment_id: int, question: Question, cut: Cut) -> tuple[str, list[_Found]]:
    sql, values = _statement(environment_id, question, cut)
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows = cursor.fetchall()
    # One row at least, for the snapshot must be that of the same statement also where it finds nothing.
    found = [
        _Found(place, part_place, step, name, names, dict(zip(SUMS, map(int, amounts), strict=True)))
        for _, place, part_place, step, name, names, *amounts in rows
        if place is not None
    ]
    return rows[0][0], found


_SUMMED = ", ".join(f"sum({name}) AS {name}" for name in SUMS)

_PARTS = f"""
    UNION ALL
    SELECT place, part_place, CASE WHEN step >= {{first}} THEN 1 ELSE 0 END, min(part), count(DISTINCT part),
        {_SUMMED}
    FROM placed JOIN parted USING (place, part) GROUP BY 1, 2, 3
"""  # noqa: S608 (our own names)


def _statement(environment_id: int, question: Question, cut: Cut) -> tuple[str, list[Any]]:
    cell, values = cells(environment_id, question, cut)
    top, first = int(question.top), cut.first
    rank = _rank(question, first)
    sql = f"""
        WITH cell AS MATERIALIZED ({cell}),
        named AS (
            SELECT name, least(row_number() OVER (ORDER BY {rank} DESC NULLS LAST, name), {top + 1}) AS place
            FROM cell GROUP BY name
        ),
        placed AS (SELECT place, cell.* FROM cell JOIN named USING (name)),
        parted AS (
            SELECT place, part,
                least(row_number() OVER (PARTITION BY place ORDER BY {rank} DESC NULLS LAST, part), {PARTS_MAX + 1})
                    AS part_place
            FROM placed GROUP BY place, part
        ),
        answer AS (
            SELECT place, NULL::bigint AS part_place, step, min(name), count(DISTINCT name), {_SUMMED}
            FROM placed GROUP BY 1, 3
            {_PARTS.format(first=first) if question.part else ""}
        )
        SELECT pg_current_snapshot()::text, answer.* FROM (VALUES (true)) AS always LEFT JOIN answer ON true
        """  # noqa: S608 (our own names and numbers)
    return sql, values


def cells(environment_id: int, question: Question, cut: Cut) -> tuple[str, list[Any]]:
    """A text of SQL and its values: sums by `name`, `part` and the number of the `step`."""
    bounds = cut.bounds
    used = sums.used(environment_id, bounds, question.columns)
    name, part = (f"{DIMENSIONS[each]}::text" if each else "''" for each in (question.group, question.part))
    where = " AND ".join(["step <> %s", *(f"{column} = %s" for column in question.filters)])
    sql = f"""
        SELECT {name} AS name, {part} AS part, step, {_SUMMED}
        FROM (SELECT width_bucket(at, %s::timestamptz[]) AS step, used.* FROM ({used.sql}) AS used) AS stepped
        WHERE {where} GROUP BY 1, 2, 3
    """  # noqa: S608 (our own names)
    return sql, [bounds[:-1], *used.values, cut.gap, *question.filters.values()]


def _rank(question: Question, first: int) -> str:
    """Of a name or a part: an expression over its cells."""
    amount = " + ".join(question.measure.columns)
    now = f"FILTER (WHERE step >= {first})"
    return {
        Rank.AMOUNT: f"sum({amount}) {now}",
        Rank.RISE: f"sum(CASE WHEN step >= {first} THEN {amount} ELSE -({amount}) END)",
        Rank.CALLS: f"sum(requests) {now}",
        Rank.PER_CALL: f"sum({amount}) {now} / nullif(sum(requests) {now}, 0)",
    }[question.rank]
