"""Runs are ranked by their whole rows as they are by adding up all buckets of the period."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from django.db import connection

from tenants.models import Environment
from usage.amounts import Amounts, Subjects
from usage.analytics import many_names, many_runs
from usage.analytics.questions import OF_CALLS, OF_QUANTITIES, Question, Rank
from usage.ledger import rollups
from usage.ledger.buckets import Range
from usage.ledger.rollup_tables import SUMS
from usage.ledger.sums import mark_before
from usage.ledger.writing import record
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import estimate, report

# Clocks in Berlin were set back on the 25th.
SINCE = datetime(2026, 10, 18, tzinfo=UTC)
DAYS = 16
RUNS = 70
# Midnights of Berlin, before and after that, of Kolkata and of UTC; and hours at which nothing begins.
STARTS = [
    datetime(2026, 10, 20, 22, tzinfo=UTC),
    datetime(2026, 10, 25, 23, tzinfo=UTC),
    datetime(2026, 10, 20, 18, 30, tzinfo=UTC),
    datetime(2026, 10, 21, tzinfo=UTC),
    datetime(2026, 10, 22, 9, 7, 3, 5, tzinfo=UTC),
]
LENGTHS = [
    timedelta(hours=5), timedelta(hours=24), timedelta(hours=25), timedelta(hours=49), timedelta(days=3),
    timedelta(days=4, hours=1), timedelta(days=5, hours=7, minutes=20, seconds=1), timedelta(days=40),
]  # fmt: skip


def fill(environment: Environment, count: int, seed: int) -> None:
    """Calls of runs of a day, of a few days and of all days, and of none; some that were estimated first."""
    drawn = random.Random(seed)
    estimates, reports = [], []
    for number in range(count):
        run = drawn.randrange(RUNS)
        begins = timedelta(days=DAYS * (run * 7 % RUNS) / RUNS)
        lasts = timedelta(hours=[0.2, 3, 3, 30, 24 * DAYS][run % 5])
        fields: dict[str, Any] = {
            "charged_at": SINCE + min(begins + lasts * drawn.random(), timedelta(days=DAYS)),
            "subjects": Subjects(user_id=drawn.choice("ab"), run_id=drawn.choice(["", *4 * [f"r-{run}"]])),
            "model": drawn.choice("mn"),
        }
        cost = drawn.choice([None, 0, 7, 10**9])
        name = f"{seed}-{number}"
        if drawn.random() < 1 / 5:
            estimates.append(estimate(environment, name, cost_nano=drawn.choice([None, 5]), **fields))
        used = Amounts(drawn.choice([0, 0, 1]), drawn.randrange(3), drawn.randrange(3), cost or 0)
        reports.append(report(environment, name, used=used, priced=cost is not None, **fields))
    record(estimates)
    record(reports)


@pytest.fixture
def filled(environment: Environment) -> Environment:
    """Rolled up in two steps, the second of which changes rows of the first; and not all of it."""
    for seed, count in enumerate((250, 150, 60)):
        if seed:
            roll_all(environment.pk)
        fill(environment, count, seed)
    return environment


def asked(period: Range, **fields: Any) -> Question:
    before = Range(period.start - timedelta(days=3), period.start)
    return Question(period=period, before=before, group="run", **fields)


def by_adding_up(
    environment: Environment, question: Question, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], int]:
    with monkeypatch.context() as patched:
        patched.setattr(many_runs, "suits", lambda question: False)
        return many_names.at_the_top(environment.pk, question, mark_before(environment.pk))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("start", STARTS)
def test_runs_are_ranked_as_by_adding_up_all_buckets(
    filled: Environment, start: datetime, length: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in Rank:
        for measure in (*OF_CALLS, OF_QUANTITIES["images"]):
            for top in (1, 4, 100):
                question = asked(Range(start, start + length), rank=rank, measure=measure, top=top)
                found = many_names.at_the_top(filled.pk, question, mark_before(filled.pk))
                assert found == by_adding_up(filled, question, monkeypatch)


def test_the_periods_above_have_runs_of_all_kinds(filled: Environment) -> None:
    """Else it says little that they are ranked alike."""
    roll_all(filled.pk)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*), count(*) FILTER (WHERE first_day = last_day), count(*) FILTER (WHERE first_day < last_day),
                count(*) FILTER (WHERE requests = 0), count(*) FILTER (WHERE unpriced > 0)
            FROM usage_whole_run WHERE environment_id = %s
            """,
            [filled.pk],
        )
        (kinds,) = cursor.fetchall()
    assert min(kinds) > 5


def test_a_run_that_lies_in_the_period_is_read_from_its_whole_row(filled: Environment) -> None:
    """Else all of the above says nothing of it."""
    roll_all(filled.pk)
    question = asked(Range(SINCE, SINCE + timedelta(days=DAYS + 1)), top=1)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE usage_whole_run SET cost_nano = 10^12 WHERE environment_id = %s AND run_id = 'r-3'",
            [filled.pk],
        )
    (first,), _ = many_names.at_the_top(filled.pk, question, mark_before(filled.pk))
    assert first == "r-3"


def whole_runs(environment: Environment) -> list[tuple[Any, ...]]:
    names = ", ".join(("run_id", "first_day", "last_day", *SUMS))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {names} FROM usage_whole_run WHERE environment_id = %s ORDER BY run_id",  # noqa: S608
            [environment.pk],
        )
        return list(cursor.fetchall())


def of_ledger(environment: Environment) -> list[tuple[Any, ...]]:
    day = "date_trunc('day', charged_at, 'UTC')"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT run_id, min({day}), max({day}), {", ".join(SUMS.values())}
            FROM usage_event WHERE environment_id = %s GROUP BY run_id ORDER BY run_id
            """,  # noqa: S608 (our own names)
            [environment.pk],
        )
        return list(cursor.fetchall())


def test_a_whole_row_is_what_the_ledger_says_of_a_run(filled: Environment) -> None:
    roll_all(filled.pk)
    assert whole_runs(filled) == of_ledger(filled)
    record(
        [
            report(
                filled,
                "late",
                charged_at=SINCE - timedelta(days=2),
                subjects=Subjects(user_id="a", run_id="r-1"),
            )
        ]
    )
    roll_all(filled.pk)
    assert whole_runs(filled) == of_ledger(filled)


def test_the_migration_makes_the_rows_that_rolls_would_have_made(filled: Environment) -> None:
    """Of the days that the version before has rolled up."""
    roll_all(filled.pk)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM usage_whole_run")
        cursor.execute(import_module("usage.migrations.0012_whole_runs").FILL)
    assert whole_runs(filled) == of_ledger(filled)


class TestMadeAnew:
    FIRST, LAST = date(2026, 10, 22), date(2026, 10, 24)

    def test_whole_rows_of_these_days_are_right_again_and_others_are_left_alone(
        self, filled: Environment
    ) -> None:
        roll_all(filled.pk)
        right = whole_runs(filled)
        outside = "last_day < '2026-10-22 00:00+00'"
        with connection.cursor() as cursor:
            for change in (
                "cost_nano = cost_nano + 1",
                "first_day = first_day - interval '30 days'",
                "run_id = 'x' || run_id",
            ):
                cursor.execute(
                    f"UPDATE usage_whole_run SET {change} WHERE environment_id = %s AND NOT {outside}",  # noqa: S608
                    [filled.pk],
                )
                rollups.rebuild(filled.pk, self.FIRST, date(2026, 11, 10))
                assert whole_runs(filled) == right
            cursor.execute(
                f"UPDATE usage_whole_run SET cost_nano = -1 WHERE environment_id = %s AND {outside}",  # noqa: S608
                [filled.pk],
            )
            left_wrong = cursor.rowcount
        rollups.rebuild(filled.pk, self.FIRST, self.LAST)
        costs = [dict(zip(SUMS, row[3:], strict=True))["cost_nano"] for row in whole_runs(filled)]
        assert costs.count(-1) == left_wrong > 5

    def test_a_run_without_a_day_any_more_is_gone(self, filled: Environment) -> None:
        roll_all(filled.pk)
        right = whole_runs(filled)
        with connection.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO usage_whole_run (environment_id, digest, run_id, first_day, last_day, events, requests,
                    input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, cost_nano,
                    unpriced)
                SELECT environment_id, 'x', 'nobody', day, day, 1, 1, 1, 1, 0, 0, 0, 1, 0
                FROM usage_rollup_mark, (VALUES ('2026-10-23 00:00+00'::timestamptz)) AS days (day)
                WHERE environment_id = %s
                """,
                [filled.pk],
            )
        rollups.rebuild(filled.pk, self.FIRST, self.LAST)
        assert whole_runs(filled) == right
