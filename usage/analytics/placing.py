"""An answer where names are few enough to be read all: one statement, of which all figures are of one snapshot.

    cell     sums by name and step
    placed   the names in their order; those beyond the top are one, Other
    parted   sums by name, part and period, and the parts inside of each name in their order
    answer   a row for each name and step, and one for each part in the period and before it

Rows of the answer are at most (top + 1) x (2 x STEPS_MAX + 2 x (PARTS_MAX + 1)), whatever the ledger holds.
"""

from __future__ import annotations

from typing import Any

from usage.analytics.cells import Cut, Found, cells, read, summed, sums_of, whole
from usage.analytics.questions import PARTS_MAX, Question, Rank
from usage.ledger.sums import mark_before

_BELOW_ANY_MEAN = 10**24


def find(environment_id: int, question: Question, cut: Cut) -> tuple[str, list[Found]]:
    """The snapshot, and what was found. Raises DatabaseError."""
    sql, values = _statement(environment_id, question, cut)
    mark, rows = read(sql, values)
    return mark, [
        Found(place, part_place, step, name, names, sums_of(amounts))
        for place, part_place, step, name, names, *amounts in rows
    ]


def _statement(environment_id: int, question: Question, cut: Cut) -> tuple[str, list[Any]]:
    mark = mark_before(environment_id)
    cell, values = cells(environment_id, cut, question.group, None, question.filters, mark, question.quantity)
    before, parts, part_values = _parts(environment_id, question, mark)
    sql = f"""
        WITH cell AS MATERIALIZED ({cell}),
        placed AS ({in_order("cell", "name", _score(question, cut, "name"), question.top)}),
        {before}
        answer AS (
            SELECT place, NULL::bigint AS part_place, step, min(name) AS name, max(beyond) AS names,
                {summed(question.quantity)}
            FROM placed GROUP BY 1, 3
            {parts}
        )
    """  # noqa: S608 (our own names and numbers)
    return sql, [*values, *part_values]


def _parts(environment_id: int, question: Question, mark: int) -> tuple[str, str, list[Any]]:
    """What stands before the answer, what in it, and the values."""
    if question.part is None:
        return "", "", []
    cut = whole(question)
    cell, values = cells(
        environment_id, cut, question.group, question.part, question.filters, mark, question.quantity
    )
    # Of these cells the names have the same sums, and so the same places.
    places = in_order("part_cell", "name", _score(question, cut, "name"), question.top)
    parts = in_order(
        "part_of", "part", _score(question, cut, "place, part"), PARTS_MAX, called="part_", within="place"
    )
    before = f"""
        part_cell AS MATERIALIZED ({cell}),
        part_of AS ({places}),
        parted AS ({parts}),
    """
    of_parts = f"""
        UNION ALL
        SELECT place, part_place, CASE WHEN step >= {cut.first} THEN 1 ELSE 0 END, min(part), max(part_beyond),
            {summed(question.quantity)}
        FROM parted GROUP BY 1, 2, 3
    """  # noqa: S608 (our own names)
    return before, of_parts, values


def in_order(cells: str, name: str, score: str, most: int, *, called: str = "", within: str = "") -> str:
    """The cells with the `place` of their name, the highest score first, and how many names are `beyond` the most.

    A name without a score made no call in the period: it comes after the most, and is not counted.

    By windows, not by joins: the planner would believe that few rows meet, and compare all with all.
    """
    inside = f"PARTITION BY {within}" if within else ""
    return f"""
        SELECT *, CASE WHEN {called}score IS NULL THEN {most + 1} ELSE least({called}number, {most + 1}) END
                AS {called}place,
            coalesce(max({called}number) FILTER (WHERE {called}score IS NOT NULL) OVER ({inside}), 0) - {most}
                AS {called}beyond
        FROM (
            SELECT *, dense_rank() OVER ({inside} ORDER BY {called}score DESC NULLS LAST, {name}) AS {called}number
            FROM (SELECT *, {score} AS {called}score FROM {cells}) AS scored
        ) AS numbered
    """  # noqa: S608 (our own names and numbers)


def _score(question: Question, cut: Cut, of: str) -> str:
    """By which a name or a part is ranked: an expression over its cells."""
    return score(question, cut, f" OVER (PARTITION BY {of})")


def score(question: Question, cut: Cut, over: str = "") -> str:
    """By which cells that are put together are ranked."""
    amount = " + ".join(question.measure.columns)

    def now(column: str) -> str:
        return f"sum({column}) FILTER (WHERE step >= {cut.first}){over}"

    calls = now("requests")
    # Below what any mean is; among these the one with most calls comes first.
    few = f"WHEN {calls} > 0 THEN {calls} - {_BELOW_ANY_MEAN}"
    return {
        Rank.AMOUNT: now(amount),
        Rank.RISE: f"sum(CASE WHEN step >= {cut.first} THEN {amount} ELSE -({amount}) END){over}",
        Rank.CALLS: calls,
        Rank.PER_CALL: f"CASE WHEN {calls} >= {max(1, question.calls_min)} THEN {now(amount)} / {calls} {few} END",
    }[question.rank]
