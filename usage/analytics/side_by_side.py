"""Several answers about one period, by few names each: one statement reads the rows once for all of them.

    cell     sums by step and by all names that any of them asks for
    named    of each question, the sums by its name and step
    placed   the names of each in their order; those beyond the top are one, Other

So all figures of all answers are of one snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence

from usage.analytics.cells import SUMMED, Cut, Found, numbered, read, sums_of
from usage.analytics.placing import in_order, score
from usage.analytics.questions import DIMENSIONS, Question
from usage.ledger.sums import mark_before


def find(
    environment_id: int, questions: Sequence[Question], cuts: Sequence[Cut]
) -> tuple[str, list[list[Found]]]:
    """The snapshot, and what was found for each question.

    They differ by `group` alone, and by whether there are steps; none has parts. Raises DatabaseError.
    """
    first, *_ = questions
    finest = max(cuts, key=lambda cut: len(cut.before) + len(cut.now))
    groups = sorted({DIMENSIONS[each.group] for each in questions if each.group is not None})
    rows, values = numbered(environment_id, finest, groups, first.filters, mark_before(environment_id))
    names = "".join(f', {name}::text COLLATE "C" AS {name}' for name in groups)
    period = f"CASE WHEN step >= {finest.first} THEN {finest.first} ELSE 1 END"
    name_and_step = [
        (DIMENSIONS[each.group] if each.group else "''", "step" if cut == finest else period)
        for each, cut in zip(questions, cuts, strict=True)
    ]
    asked = ", ".join(f"({number}, {name}, {step})" for number, (name, step) in enumerate(name_and_step))
    by_name = score(first, finest, " OVER (PARTITION BY question, name)")
    sql = f"""
        WITH cell AS MATERIALIZED (
            SELECT step{names}, {SUMMED} FROM ({rows}) AS numbered
            GROUP BY {", ".join(["step", *groups])} HAVING sum(events) > 0
        ),
        named AS MATERIALIZED (
            SELECT question, name, asked.step, {SUMMED}
            FROM cell CROSS JOIN LATERAL (VALUES {asked}) AS asked (question, name, step) GROUP BY 1, 2, 3
        ),
        placed AS ({in_order("named", "name", by_name, first.top, within="question")}),
        answer AS (
            SELECT question, place, step, min(name) AS name, max(beyond) AS names, {SUMMED}
            FROM placed GROUP BY 1, 2, 3
        )
    """  # noqa: S608 (our own names and numbers)
    mark, found = read(sql, values)
    answers: list[list[Found]] = [[] for _ in questions]
    for number, place, step, name, beyond, *amounts in found:
        cut = cuts[number]
        at = step if cut == finest or step < finest.first else cut.first
        answers[number].append(Found(place, None, at, name, beyond, sums_of(amounts)))
    return mark, answers
