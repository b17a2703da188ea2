"""Which runs come first, where all calls of a period are asked for. Most lie in it whole, so that nothing is added up.

    inside   runs whose first and last UTC day lie in the period, as far as they are rolled up: a row each
    late     what is not rolled up yet, by run
    changed  those of `inside` that have something late
    mixed    the other runs of the period: of `late` and `changed`, of the days that the period cuts, and of single days
             of the runs that were there before or after it
    first    those of `inside` that come first: so many that without `changed` there are enough

All of it is one statement, and so of one snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection

from usage.analytics.cells import SUMMED
from usage.analytics.questions import DIMENSIONS, Question, Rank
from usage.ledger import sums, whole_runs
from usage.ledger.buckets import Range, parts
from usage.ledger.rollup_tables import SUMS, WHOLE_RUN_KEY, digest

GROUP = "run"
_SUMS = ", ".join(SUMS)
# In the order of its bytes: comparing by a language's rules takes most of the time.
_NAME = f'{DIMENSIONS[GROUP]}::text COLLATE "C"'


def suits(question: Question) -> bool:
    """Whether rows of whole runs say what it asks for."""
    is_all = question.group == GROUP and not question.filters and question.quantity is None
    return is_all and question.rank is not Rank.RISE and bool(_whole_days(question.period))


def at_the_top(environment_id: int, question: Question, mark: int) -> tuple[list[str], int]:
    """The names of the runs that come first, in their order, and how many runs there are."""
    (days,) = _whole_days(question.period)
    late = sums.not_rolled_up(environment_id, question.period, WHOLE_RUN_KEY, mark)
    others = _others(environment_id, question.period, days)
    score = _score(question)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH inside AS NOT MATERIALIZED (
                SELECT {_NAME} AS name, {score} AS score, {whole_runs.TABLE}.* FROM {whole_runs.TABLE}
                WHERE environment_id = %s AND first_day >= %s AND last_day < %s
            ),
            late AS MATERIALIZED (
                SELECT run_id, {digest(WHOLE_RUN_KEY)} AS digest, {SUMMED} FROM ({late.sql}) AS late GROUP BY run_id
            ),
            changed AS MATERIALIZED (SELECT inside.* FROM inside JOIN late USING (digest)),
            mixed AS MATERIALIZED (
                SELECT name, {score} AS score FROM (
                    SELECT {_NAME} AS name, {SUMMED} FROM (
                        SELECT run_id, {_SUMS} FROM late UNION ALL SELECT run_id, {_SUMS} FROM changed
                        UNION ALL SELECT run_id, {_SUMS} FROM ({others.sql}) AS other
                    ) AS used GROUP BY 1 HAVING sum(events) > 0
                ) AS summed WHERE {score} IS NOT NULL
            ),
            first AS (
                SELECT name, score FROM inside WHERE score IS NOT NULL
                ORDER BY score DESC, name LIMIT %s + (SELECT count(*) FROM changed)
            )
            SELECT name, (SELECT count(*) FROM inside WHERE score IS NOT NULL)
                - (SELECT count(score) FROM changed) + (SELECT count(*) FROM mixed)
            FROM (
                SELECT name, score FROM first WHERE name NOT IN (SELECT name FROM changed)
                UNION ALL SELECT name, score FROM mixed
            ) AS run
            ORDER BY score DESC, name LIMIT %s
            """,  # noqa: S608 (our own names)
            [environment_id, days.start, days.end, *late.values, *others.values, question.top, question.top],
        )
        found = cursor.fetchall()
    return [name for name, _ in found], found[0][1] if found else 0


def _whole_days(period: Range) -> Sequence[Range]:
    """The UTC days that lie in it, as one range; none if it has none."""
    return parts([period.start, period.end]).days


def _score(question: Question) -> str:
    """As placing.score has it, over the columns of a row that is summed up."""
    amount = " + ".join(question.measure.columns)
    return {
        Rank.AMOUNT: amount,
        Rank.CALLS: "requests",
        Rank.PER_CALL: f"({amount})::numeric / nullif(requests, 0)",
    }[question.rank]


def _others(environment_id: int, period: Range, days: Range) -> sums.Used:
    """What is rolled up of the runs that do not lie in the days: of the edges of the period, and of these days."""
    bounds = sorted({period.start, days.start, days.end, period.end})
    edges = sums.rolled_up(environment_id, bounds, WHOLE_RUN_KEY, left_out=bounds.index(days.start) + 1)
    return sums.together([*edges, _days_of_long_ones(environment_id, days)])


def _days_of_long_ones(environment_id: int, days: Range) -> sums.Used:
    """Of the runs that were there before the days or after them too; each by the index, for such runs are few."""
    return sums.Used(
        f"""
        SELECT day.start AS at, day.run_id, {", ".join(f"day.{name}" for name in SUMS)} FROM {whole_runs.TABLE} AS run
        CROSS JOIN LATERAL (
            SELECT * FROM {whole_runs.DAYS} AS of_all
            WHERE of_all.environment_id = run.environment_id AND of_all.run_id = run.run_id
              AND start >= %s AND start < %s OFFSET 0
        ) AS day
        WHERE run.environment_id = %s AND first_day < last_day
          AND (first_day < %s AND last_day >= %s OR first_day < %s AND last_day >= %s)
        """,  # noqa: S608 (our own names)
        [days.start, days.end, environment_id, days.start, days.start, days.end, days.end],
    )
