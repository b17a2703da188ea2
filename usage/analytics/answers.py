"""What the ledger answers to a question: lines in their order, with their parts and their course."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from usage.analytics import many_names, many_parts, placing, side_by_side
from usage.analytics.cells import Cut, Found, added, cells, read, sums_of
from usage.analytics.questions import PARTS_MAX, STEPS_MAX, Question, Sums
from usage.instants import from_ms
from usage.ledger.buckets import Range
from usage.ledger.periods import Period
from usage.windows import Window, date_start


class TooManySteps(ValueError):
    """The period has more than STEPS_MAX of them."""

    def __init__(self) -> None:
        super().__init__(f"The period has more than {STEPS_MAX} of these; choose longer ones.")


@dataclass(frozen=True, slots=True)
class Line:
    """What a name used in the period and before it. `name` is empty for calls that have none; None: all others.

    `others`: how many of these made calls in the period; by their rise, in it or before it. `series`: the sums of each
    step. `parts` have no series of their own.
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

    The n-th of these is what the n-th step of the period is compared with; it may be shorter, and there may be more.

    `mark`: the transactions whose rows are in it, as PostgreSQL writes a snapshot.
    """

    steps: tuple[Range, ...]
    steps_before: tuple[Range, ...]
    lines: tuple[Line, ...]
    total: Line
    series_before: tuple[Sums, ...]
    mark: str


def answer(environment_id: int, question: Question, zone: ZoneInfo) -> Answer:
    """Raises TooManySteps, DatabaseError."""
    cut = _cut(question, zone)
    way = next((each for each in (many_names, many_parts) if each.suits(question)), placing)
    mark, found = way.find(environment_id, question, cut)
    return _answer(question, cut, mark, found)


def answers(environment_id: int, questions: Sequence[Question], zone: ZoneInfo) -> list[Answer]:
    """To questions as `side_by_side` takes them, of one snapshot. Raises TooManySteps, DatabaseError."""
    cuts = [_cut(question, zone) for question in questions]
    mark, found = side_by_side.find(environment_id, questions, cuts)
    return [
        _answer(question, cut, mark, rows) for question, cut, rows in zip(questions, cuts, found, strict=True)
    ]


def _cut(question: Question, zone: ZoneInfo) -> Cut:
    now = steps(question.period, question.step, zone)
    if question.step in (Window.WEEK, Window.MONTH):
        return Cut(now, _as_far_into(question, now, zone))
    return Cut(now, steps(question.before, question.step, zone))


def _as_far_into(question: Question, now: Sequence[Range], zone: ZoneInfo) -> tuple[Range, ...]:
    """The period before, cut as many days after its start as the period is: its own weeks begin on other days."""
    before = question.before

    def day(at: datetime) -> date:
        return at.astimezone(zone).date()

    shift = day(question.period.start) - day(before.start)
    cuts = [from_ms(date_start(day(step.end) - shift, zone)) for step in now]
    inside = [at for at in cuts if before.start < at < before.end]
    bounds = [before.start, *dict.fromkeys(inside), before.end]
    return tuple(Range(start, end) for start, end in pairwise(bounds)) or (before,)


def _answer(question: Question, cut: Cut, mark: str, found: Sequence[Found]) -> Answer:
    lines = tuple(_lines(question, cut, found))
    total = Line(
        None,
        0,
        added(line.now for line in lines),
        added(line.before for line in lines),
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


def total(environment_id: int, period: Range, filters: Mapping[str, str]) -> Sums:
    """What all calls of the period that the filters let through used together. Raises DatabaseError."""
    sql, values = cells(environment_id, Cut((period,)), None, None, filters)
    _, rows = read(f"WITH answer AS ({sql})", values)
    return added(sums_of(amounts) for _, _, _, *amounts in rows)


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


def _lines(question: Question, cut: Cut, found: Sequence[Found]) -> Iterator[Line]:
    by_place = defaultdict(list)
    for row in found:
        by_place[row.place].append(row)
    for place, rows in sorted(by_place.items()):
        is_other = place > question.top
        whole = [row for row in rows if row.part_place is None]
        yield Line(
            name=None if is_other else whole[0].name,
            others=_others(whole) if is_other else 0,
            now=added(row.sums for row in whole if row.step >= cut.first),
            before=added(row.sums for row in whole if row.step < cut.first),
            series=_series(cut, whole),
            parts=tuple(_parts([row for row in rows if row.part_place is not None])),
        )


def _others(rows: Sequence[Found]) -> int:
    return max(0, *(row.names for row in rows))


def _parts(rows: Sequence[Found]) -> Iterator[Line]:
    places = sorted({row.part_place for row in rows if row.part_place is not None})
    for place in places:
        of_part = [row for row in rows if row.part_place == place]
        is_other = place > PARTS_MAX
        yield Line(
            name=None if is_other else of_part[0].name,
            others=_others(of_part) if is_other else 0,
            now=added(row.sums for row in of_part if row.step),
            before=added(row.sums for row in of_part if not row.step),
        )


def _series(cut: Cut, rows: Iterable[Found]) -> tuple[Sums, ...]:
    return _by_step(rows, range(cut.first, cut.first + len(cut.now)))


def _by_step(rows: Iterable[Found], numbers: range) -> tuple[Sums, ...]:
    found = defaultdict(list)
    for row in rows:
        if row.part_place is None:
            found[row.step].append(row.sums)
    return tuple(added(found[number]) for number in numbers)
