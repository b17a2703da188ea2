"""An answer by user or by run: they may be so many that their steps cannot all be read.

First they are ranked by their sums of both periods, which stand in few rows. Then one statement reads the steps and
parts of those at the top, and those of all together: Other is what is left. So all figures are of one snapshot; who is
at the top was found a moment before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db import connection

from usage.analytics import many_runs
from usage.analytics.cells import Cut, Found, added, cells, columns, less, read, stepped, sums_of, whole
from usage.analytics.placing import score
from usage.analytics.questions import DIMENSIONS, PARTS_MAX, Question, Rank, Sums
from usage.ledger.rollup_tables import TOTAL_KEY
from usage.ledger.sums import Filters, mark_before

MANY = ("user", "run")


def suits(question: Question) -> bool:
    """Whether all else that it asks for is known of all of them together."""
    parts = [] if question.part is None else [DIMENSIONS[question.part]]
    return question.group in MANY and {*parts, *question.filters} <= set(TOTAL_KEY)


def find(environment_id: int, question: Question, cut: Cut) -> tuple[str, list[Found]]:
    """The snapshot, and what was found. Raises DatabaseError."""
    mark = mark_before(environment_id)
    names, count = at_the_top(environment_id, question, mark)
    seen, rows = _read(environment_id, question, cut, names, mark)
    return seen, list(_found(question, cut, names, count - len(names), rows))


def at_the_top(environment_id: int, question: Question, mark: int) -> tuple[list[str], int]:
    """The names that come first, in their order, and how many there are: those with calls in the period.

    By their rise, those with calls in the period before too.
    """
    if many_runs.suits(question):
        return many_runs.at_the_top(environment_id, question, mark)
    ranked, counted, periods = ranking(question)
    rows, values = stepped(
        environment_id, periods, question.group, None, question.filters, mark, question.quantity
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT name, count(*) OVER () FROM ({rows}) AS stepped GROUP BY name
            HAVING {counted} > 0 AND {ranked} IS NOT NULL ORDER BY {ranked} DESC, name LIMIT %s
            """,  # noqa: S608 (our own names)
            [*values, question.top],
        )
        found = cursor.fetchall()
    return [name for name, _ in found], found[0][1] if found else 0


class Ranking(NamedTuple):
    """`score`: by which names are ranked; `counted`: above 0 of a name that is counted; both over rows of `periods`."""

    score: str
    counted: str
    periods: Cut


def ranking(question: Question) -> Ranking:
    """The period before is read where it is ranked by the rise alone."""
    periods = whole(question) if question.rank is Rank.RISE else Cut((question.period,))
    return Ranking(score(question, periods), "sum(events)", periods)


class Row(NamedTuple):
    """`name`: None for all together. `part`: None where a row is of a step; then it is 1 in the period, 0 before it."""

    name: str | None
    part: str | None
    step: int
    sums: Sums


def _read(
    environment_id: int, question: Question, cut: Cut, names: Sequence[str], mark: int
) -> tuple[str, list[Row]]:
    group = question.group
    assert group is not None
    named = {**question.filters, DIMENSIONS[group]: names}
    periods = whole(question)
    step = in_period(periods)

    def of(cut: Cut, group: str | None, part: str | None, filters: Filters) -> tuple[str, list[Any]]:
        return cells(environment_id, cut, group, part, filters, mark, question.quantity)

    asked = [
        ("name", "NULL", "step", of(cut, group, None, named)),
        ("NULL", "NULL", "step", of(cut, None, None, question.filters)),
    ]
    if question.part is not None:
        asked += [
            ("name", "part", step, of(periods, group, question.part, named)),
            ("NULL", "part", step, of(periods, None, question.part, question.filters)),
        ]
    return read_together(asked, question.quantity)


def read_together(
    asked: Iterable[tuple[str, str, str, tuple[str, list[Any]]]], quantity: str | None
) -> tuple[str, list[Row]]:
    """The cells, each with what their rows have as name, part and step; and the snapshot of the one statement."""
    asked = list(asked)
    summed_up = ", ".join(columns(quantity))
    selects = " UNION ALL ".join(
        f"SELECT {name}::text AS name, {part}::text AS part, {step} AS step, {summed_up} FROM ({sql}) AS cell"  # noqa: S608
        for name, part, step, (sql, _) in asked
    )
    values: list[Any] = [value for *_, (_, of_cells) in asked for value in of_cells]
    seen, rows = read(f"WITH answer AS ({selects})", values)
    return seen, [Row(name, part, step, sums_of(amounts)) for name, part, step, *amounts in rows]


def in_period(periods: Cut) -> str:
    """What a row of a part has as its step."""
    return f"CASE WHEN step >= {periods.first} THEN 1 ELSE 0 END"


@dataclass(slots=True)
class _Uses:
    """Of one name, or of all: by step, and by part and period."""

    steps: dict[int, Sums] = field(default_factory=lambda: defaultdict(lambda: added(())))
    parts: dict[tuple[str, int], Sums] = field(default_factory=lambda: defaultdict(lambda: added(())))

    def take_off(self, other: _Uses) -> None:
        for step, sums in other.steps.items():
            self.steps[step] = less(self.steps[step], sums)
        for part, sums in other.parts.items():
            self.parts[part] = less(self.parts[part], sums)


def _found(
    question: Question, cut: Cut, names: Sequence[str], beyond: int, rows: Iterable[Row]
) -> Iterator[Found]:
    uses: dict[str | None, _Uses] = defaultdict(_Uses)
    for row in rows:
        if row.part is None:
            uses[row.name].steps[row.step] = row.sums
        else:
            uses[row.name].parts[row.part, row.step] = row.sums
    others = uses[None]
    for place, name in enumerate(names, start=1):
        others.take_off(uses[name])
        yield from _of(question, place, name, 0, uses[name])
    # One may have come since they were counted.
    has_calls = any(sums["requests"] for step, sums in others.steps.items() if step >= cut.first)
    yield from _of(question, question.top + 1, "", max(int(has_calls), beyond), others)


def _of(question: Question, place: int, name: str, names: int, uses: _Uses) -> Iterator[Found]:
    for step, sums in uses.steps.items():
        if sums["events"]:
            yield Found(place, None, step, name, names, sums)
    used = [
        part
        for part in {part for part, _ in uses.parts}
        if any(uses.parts[part, at]["events"] for at in (0, 1))
    ]
    used.sort(key=lambda part: (_order(question, uses.parts[part, 1], uses.parts[part, 0]), part))
    count = sum(_is_ranked(question, uses.parts[part, 1]) for part in used)
    for number, part in enumerate(used, start=1):
        # As `placing` has it: what has no calls in the period comes after the most, and is not counted.
        part_place = min(number, PARTS_MAX + 1) if number <= count else PARTS_MAX + 1
        for period in (0, 1):
            yield Found(place, part_place, period, part, count - PARTS_MAX, uses.parts[part, period])


def _is_ranked(question: Question, now: Sums) -> bool:
    """Whether `score` is known."""
    if question.rank is Rank.RISE:
        return True
    return bool(now["events"]) and (question.rank is not Rank.PER_CALL or now["requests"] != 0)


def _order(question: Question, now: Sums, before: Sums) -> tuple[bool, float]:
    """As `score` has it, the highest first; what has none comes last."""
    amount = question.measure.of
    if question.rank is Rank.RISE:
        return False, amount(before) - amount(now)
    if not _is_ranked(question, now):
        return True, 0
    if question.rank is Rank.PER_CALL:
        return False, -amount(now) / now["requests"]
    return False, -(now["requests"] if question.rank is Rank.CALLS else amount(now))
