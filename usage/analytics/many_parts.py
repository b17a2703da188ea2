"""An answer by few names, inside of which users or runs are so many that their sums cannot all be read.

First the names are ranked, then the parts of each by what ranks them alone. Then one statement reads the steps of the
names and the sums of the parts at the top: Other is what is left. So all figures are of one snapshot; who is at the top
was found a moment before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import connection, transaction

from usage.analytics.cells import Cut, Found, added, cells, less, stepped, summed, whole
from usage.analytics.many_names import MANY, Row, at_the_top, in_period, ranking, read_together
from usage.analytics.questions import DIMENSIONS, PARTS_MAX, Question, Sums
from usage.ledger.rollup_tables import TOTAL_KEY
from usage.ledger.sums import mark_before

# So that the sums of all users inside of all names are put together in memory, not sorted on disk.
_RANKING_MEMORY = "32MB"


class _Top(NamedTuple):
    """The parts that come first inside of a name, in their order, and how many there are, as of names."""

    parts: list[str]
    there_are: int


def suits(question: Question) -> bool:
    """Whether the names and all else that it asks for are known of everybody together."""
    names = [] if question.group is None else [DIMENSIONS[question.group]]
    return bool(names) and question.part in MANY and {*names, *question.filters} <= set(TOTAL_KEY)


def find(environment_id: int, question: Question, cut: Cut) -> tuple[str, list[Found]]:
    """The snapshot, and what was found. Raises DatabaseError."""
    mark = mark_before(environment_id)
    names, count = at_the_top(environment_id, question, mark)
    tops = _tops(environment_id, question, names, are_all=count == len(names), mark=mark)
    seen, rows = _read(environment_id, question, cut, tops, mark)
    places: dict[str | None, int] = {name: place for place, name in enumerate(names, start=1)}
    return seen, list(_found(question, cut, places, count - len(names), tops, rows))


def _tops(
    environment_id: int, question: Question, names: Sequence[str], *, are_all: bool, mark: int
) -> dict[int, _Top]:
    """By the place of their name; those of names beyond the top are ranked together."""
    scored, values = _scored(environment_id, question, names, are_all=are_all, mark=mark)
    tops: dict[int, _Top] = {}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('work_mem', %s, true)", [_RANKING_MEMORY])
        cursor.execute(
            f"""
            WITH scored AS MATERIALIZED ({scored})
            SELECT place, part, parts FROM (
                SELECT place, part, row_number() OVER (PARTITION BY place ORDER BY score DESC, part) AS number
                FROM scored
            ) AS numbered JOIN (SELECT place, count(*) AS parts FROM scored GROUP BY place) AS counted USING (place)
            WHERE number <= {PARTS_MAX} ORDER BY place, number
            """,  # noqa: S608 (our own names and numbers)
            values,
        )
        for place, part, count in cursor.fetchall():
            tops.setdefault(place, _Top([], count)).parts.append(part)
    return tops


def _scored(
    environment_id: int, question: Question, names: Sequence[str], *, are_all: bool, mark: int
) -> tuple[str, list[Any]]:
    """Each part inside of the place of its name. Summed up by name first: to look for the place of each row is slow."""
    ranked, counted, periods = ranking(question)
    rows, values = stepped(
        environment_id, periods, question.group, question.part, question.filters, mark, question.quantity
    )
    is_ranked = f"HAVING {counted} > 0 AND {ranked} IS NOT NULL"
    if are_all:
        sql = f"""
            SELECT coalesce(array_position(%s::text[], name), {question.top + 1}) AS place, part, score FROM (
                SELECT name, part, {ranked} AS score FROM ({rows}) AS stepped GROUP BY 1, 2 {is_ranked}
            ) AS scored
        """  # noqa: S608 (our own names)
    else:
        sql = f"""
            SELECT coalesce(array_position(%s::text[], name), {question.top + 1}) AS place, part, {ranked} AS score
            FROM (
                SELECT name, part, step, {summed(question.quantity)} FROM ({rows}) AS stepped GROUP BY 1, 2, 3
            ) AS summed
            GROUP BY 1, 2 {is_ranked}
        """  # noqa: S608 (our own names and numbers)
    return sql, [list(names), *values]


def _read(
    environment_id: int, question: Question, cut: Cut, tops: Mapping[int, _Top], mark: int
) -> tuple[str, list[Row]]:
    group, part = question.group, question.part
    assert part is not None
    named = {
        **question.filters,
        DIMENSIONS[part]: sorted({part for top in tops.values() for part in top.parts}),
    }
    periods, quantity = whole(question), question.quantity
    of_names = cells(environment_id, cut, group, None, question.filters, mark, quantity)
    of_parts = cells(environment_id, periods, group, part, named, mark, quantity)
    return read_together(
        [("name", "NULL", "step", of_names), ("name", "part", in_period(periods), of_parts)], quantity
    )


def _found(
    question: Question,
    cut: Cut,
    places: Mapping[str | None, int],
    beyond: int,
    tops: Mapping[int, _Top],
    rows: Iterable[Row],
) -> Iterator[Found]:
    of_names = defaultdict(list)
    of_parts = defaultdict(list)
    for row in rows:
        place = places.get(row.name, question.top + 1)
        if row.part is None:
            of_names[place].append(row)
        else:
            of_parts[place, row.part, row.step].append(row.sums)
    for place, of_name in of_names.items():
        sums = {
            period: added(row.sums for row in of_name if (row.step >= cut.first) is period)
            for period in (False, True)
        }
        for row in of_name:
            yield Found(place, None, row.step, row.name or "", _others(beyond, sums[True]), row.sums)
        yield from _parts(place, tops.get(place, _Top([], 0)), sums, of_parts)


def _parts(
    place: int, top: _Top, sums: Mapping[bool, Sums], of_parts: Mapping[tuple[int, str, int], list[Sums]]
) -> Iterator[Found]:
    left = dict(sums)
    for part_place, part in enumerate(top.parts, start=1):
        for period in (False, True):
            used = added(of_parts.get((place, part, int(period)), ()))
            left[period] = less(left[period], used)
            yield Found(place, part_place, int(period), part, 0, used)
    for period in (False, True):
        if left[period]["events"]:
            others = _others(top.there_are - PARTS_MAX, left[True])
            yield Found(place, PARTS_MAX + 1, int(period), "", others, left[period])


def _others(beyond: int, left: Sums) -> int:
    """How many there are beyond the top. One may have come since they were counted."""
    return max(int(left["requests"] > 0), beyond)
