"""Answers to questions about usage, against plain SQL over the ledger in the tenant's zone."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from tenants.models import Environment
from usage.amounts import Amounts, Subjects
from usage.analytics import answers, cells, many_names, many_parts, placing
from usage.analytics.answers import Answer, TooManySteps, answer
from usage.analytics.export import export
from usage.analytics.names import used_in
from usage.analytics.questions import DIMENSIONS, OF_QUANTITIES, PARTS_MAX, Measure, Question, Rank
from usage.analytics.shown_period import Named, ShownPeriod, shown_period
from usage.ledger.buckets import Range
from usage.ledger.rollup_tables import SUMS
from usage.ledger.writing import record
from usage.money import to_nano
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import estimate, report
from usage.windows import Window

BERLIN = ZoneInfo("Europe/Berlin")
# Its clocks were set back on 25 October; the month ends six days later.
FIRST, LAST = date(2026, 10, 20), date(2026, 11, 4)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
PERIOD = shown_period(Named.CUSTOM, NOW, BERLIN, FIRST, LAST)
_MONEY = "coalesce(sum(cost_nano), 0)"
_UNPRICED = (
    "coalesce(sum(CASE status WHEN 'reversal' THEN -1 ELSE 1 END) FILTER (WHERE cost_nano IS NULL), 0)"
)


def fill(environment: Environment, count: int, seed: int) -> None:
    """Calls around the period and the one before it; each seventh was estimated first, and reported late."""
    drawn, other = random.Random(seed), random.Random(f"quantities {seed}")
    estimates, reports = [], []
    for number in range(count):
        fields: dict[str, Any] = {
            "charged_at": PERIOD.before.range.start
            + timedelta(days=-1)
            + timedelta(days=34) * drawn.random(),
            "subjects": Subjects(
                user_id=drawn.choice(["ana", "ben", "cem"]),
                feature=drawn.choice(["", "chat", "code", "sum"]),
                plan=drawn.choice(["", "pro", "free"]),
                run_id=drawn.choice(["", "", "r-1", "r-2"]),
            ),
            "model": drawn.choice(["m", "n", "o", "p", "q", "r", "s"]),
        }
        cost = drawn.choice([None, 7, 10**9])
        name = f"{seed}-{number}"
        if drawn.random() < 1 / 7:
            made = {**fields, "quantities": {"web_searches": 2}}
            estimates.append(estimate(environment, name, cost_nano=drawn.choice([None, 5]), **made))
        fields["quantities"] = other.choice([None, None, {"images": 2}, {"web_searches": 3, "images": 1}])
        used = Amounts(drawn.choice([0, 1, 1]), drawn.randrange(100), drawn.randrange(100), cost or 0)
        reports.append(report(environment, name, used=used, priced=cost is not None, **fields))
    record(estimates)
    record(reports)


def plain(
    environment: Environment, period: Range, names: tuple[str, ...], where: str = "true"
) -> dict[Any, dict[str, int]]:
    """Added up by plain SQL, by the columns or expressions `names`."""
    grouped = ", ".join(names) or "()"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {"".join(f"{name}, " for name in names)} count(*), sum(requests), sum(input_tokens),
                sum(output_tokens), {_MONEY}, sum(cached_input_tokens), sum(cache_write_tokens),
                sum(reasoning_tokens), {_UNPRICED}
            FROM usage_event
            WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s AND {where}
            GROUP BY {grouped} HAVING count(*) > 0
            """,  # noqa: S608 (our own names)
            [environment.pk, period.start, period.end],
        )
        columns = ("events", "requests", "input_tokens", "output_tokens", "cost_nano", "cached_input_tokens",
                   "cache_write_tokens", "reasoning_tokens", "unpriced")  # fmt: skip
        found = {}
        for row in cursor.fetchall():
            sums = dict(zip(columns, map(int, row[len(names) :]), strict=True))
            found[row[: len(names)]] = {name: sums[name] for name in SUMS}
    return found


def plain_quantities(
    environment: Environment, period: Range, names: tuple[str, ...], where: str = "true"
) -> dict[Any, dict[str, int]]:
    """Likewise, of what stands in the map."""
    named = "".join(f"{name}, " for name in names)
    found: dict[Any, dict[str, int]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {named}each.key, sum((CASE status WHEN 'reversal' THEN -1 ELSE 1 END) * each.value::int)
            FROM usage_event, jsonb_each_text(coalesce(quantities, '{{}}')) AS each
            WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s AND {where} GROUP BY {named}each.key
            """,  # noqa: S608 (our own names)
            [environment.pk, period.start, period.end],
        )
        for *key, quantity, amount in cursor.fetchall():
            found[tuple(key)][quantity] = int(amount)
    return found


def question(period: ShownPeriod = PERIOD, **fields: Any) -> Question:
    return Question(period=period.days.range, before=period.before.range, **fields)


def added(each: Any) -> dict[str, int]:
    found: dict[str, int] = dict.fromkeys(SUMS, 0)
    for sums in each:
        for name in SUMS:
            found[name] += sums[name]
    return found


@pytest.fixture
def filled(environment: Environment) -> Environment:
    """Partly rolled up, as it is at any moment."""
    fill(environment, 150, seed=1)
    roll_all(environment.pk)
    fill(environment, 100, seed=2)
    return environment


@pytest.mark.parametrize("step", [None, Window.DAY])
def test_every_answer_is_what_plain_sql_sums_up(filled: Environment, step: Window | None) -> None:
    """By each two names, with and without filters, of the period and the one before it."""
    for group in (None, *DIMENSIONS):
        for part in (None, *DIMENSIONS):
            if part == group or (part and not group):
                continue
            for filters, where in (
                ({}, "true"),
                ({"feature": "", "model": "m"}, "feature = '' AND model = 'm'"),
            ):
                found = answer(
                    filled.pk,
                    question(group=group, part=part, filters=filters, top=3, step=step),
                    BERLIN,
                )
                _is_plain(found, filled, group, part, where)


def _is_plain(
    found: Answer, environment: Environment, group: str | None, part: str | None, where: str
) -> None:
    names = (DIMENSIONS[group],) if group else ()
    for now, period in ((True, PERIOD.days.range), (False, PERIOD.before.range)):
        expected = plain(environment, period, names, where)
        total = found.total.now if now else found.total.before
        assert total == added(expected.values())
        shown = set()
        for line in found.lines:
            sums = line.now if now else line.before
            if line.name is not None:
                shown.add((line.name,) if group else ())
                assert sums == expected.get((line.name,) if group else (), added([]))
            else:
                assert sums == added(sums for name, sums in expected.items() if name not in shown)
            if part:
                assert sums == added((each.now if now else each.before) for each in line.parts)
    for line in found.lines:
        assert added(line.series) == line.now
    assert added(found.series_before) == found.total.before


SEARCHES = OF_QUANTITIES["web_searches"]


@pytest.mark.parametrize("rank", list(Rank))
@pytest.mark.parametrize("step", [None, Window.DAY])
def test_quantities_in_every_answer_are_what_plain_sql_sums_up(
    filled: Environment, step: Window | None, rank: Rank
) -> None:
    """Over the day on which clocks were set back and the end of the month; taken back late, and half rolled up."""
    filters, where = {"feature": "", "plan": "pro"}, "feature = '' AND plan = 'pro'"
    for group in (None, *DIMENSIONS):
        for part in (None, "model", "user"):
            for given, sql in (({}, "true"), (filters, where)):
                if part == group or (part and not group):
                    continue
                asked = question(
                    group=group, part=part, filters=given, top=2, step=step, measure=SEARCHES, rank=rank
                )
                _are_plain(answer(filled.pk, asked, BERLIN), filled, group, part, sql)


def _are_plain(
    found: Answer, environment: Environment, group: str | None, part: str | None, where: str
) -> None:
    names = (DIMENSIONS[group],) if group else ()
    for now, period in ((True, PERIOD.days.range), (False, PERIOD.before.range)):
        expected = {
            key: used.get("web_searches", 0)
            for key, used in plain_quantities(environment, period, names, where).items()
        }
        assert SEARCHES.of(found.total.now if now else found.total.before) == sum(expected.values()) > 0
        rest = sum(expected.values())
        for line in found.lines:
            amount = SEARCHES.of(line.now if now else line.before)
            if line.name is not None:
                assert amount == expected.get((line.name,) if group else (), 0)
                rest -= amount
            else:
                assert amount == rest
            if part:
                assert amount == sum(SEARCHES.of(each.now if now else each.before) for each in line.parts)
    for line in found.lines:
        assert sum(map(SEARCHES.of, line.series)) == SEARCHES.of(line.now)
    assert sum(map(SEARCHES.of, found.series_before)) == SEARCHES.of(found.total.before)


def test_names_are_ranked_by_a_quantity(filled: Environment) -> None:
    for group in ("model", "user", "run"):
        found = answer(filled.pk, question(group=group, measure=SEARCHES, top=100), BERLIN)
        amounts = [SEARCHES.of(line.now) for line in found.lines]
        assert amounts == sorted(amounts, reverse=True)
        assert amounts[0] > amounts[-1]


def test_a_day_of_a_quantity_is_one_of_the_zone(filled: Environment) -> None:
    found = answer(filled.pk, question(step=Window.DAY, measure=SEARCHES), BERLIN)
    day = "date_trunc('day', charged_at, 'Europe/Berlin')"
    expected = plain_quantities(filled, PERIOD.days.range, (day,))
    assert {
        step.start: SEARCHES.of(sums)
        for step, sums in zip(found.steps, found.total.series, strict=True)
        if SEARCHES.of(sums)
    } == {at: used["web_searches"] for (at,), used in expected.items() if used.get("web_searches")}


def test_a_file_has_a_column_for_each_quantity_that_was_used_and_sums_to_the_answer(
    filled: Environment,
) -> None:
    for asked in (
        question(group="model", part="feature", step=Window.DAY, measure=SEARCHES),
        question(group="user", filters={"plan": "pro"}),
        question(),
    ):
        file = export(filled.pk, asked, BERLIN)
        assert file.columns[-2:] == ("images", "web_searches")
        rows = list(file.rows)
        where = "plan = 'pro'" if asked.filters else "true"
        (expected,) = plain_quantities(filled, PERIOD.days.range, (), where).values()
        assert {name: sum(int(str(row[name])) for row in rows) for name in expected} == expected
    nothing = export(filled.tenant.environments.get(slug="dev").pk, question(), BERLIN)
    assert "web_searches" not in nothing.columns


@pytest.mark.parametrize("measure", [Measure.COST, Measure.TOKENS])
@pytest.mark.parametrize("rank", list(Rank))
@pytest.mark.parametrize("filters", [{}, {"user_id": "ana"}, {"user_id": "nobody"}])
def test_answers_side_by_side_are_those_that_are_given_alone(
    filled: Environment, filters: dict[str, str], rank: Rank, measure: Measure
) -> None:
    """Of a whole period, and of a running one, after which there is a gap until the period begins."""
    running = shown_period(Named.THIS_MONTH, datetime(2026, 10, 28, 9, 20, tzinfo=UTC), BERLIN)
    assert running.before.range.end < running.days.range.start
    for period in (PERIOD, running):
        asked = [
            question(period, group=group, step=step, filters=filters, rank=rank, measure=measure, top=3)
            for group, step in (("plan", Window.DAY), (None, Window.DAY), ("model", None), ("feature", None))
        ]
        found = answers.answers(filled.pk, asked, BERLIN)
        alone = [answer(filled.pk, each, BERLIN) for each in asked]
        assert [replace(each, mark="") for each in found] == [replace(each, mark="") for each in alone]
        assert len({each.mark for each in found}) == 1


def test_a_period_of_one_step_is_compared_by_the_steps_before_it_in_any_order(filled: Environment) -> None:
    # October has a day that November does not have: it is a step of its own.
    days = shown_period(Named.LAST_MONTH, datetime(2026, 12, 5, tzinfo=UTC), BERLIN)
    asked = [question(days, group="plan"), question(days, step=Window.MONTH)]
    found = answers.answers(filled.pk, asked, BERLIN)
    alone = [answer(filled.pk, each, BERLIN) for each in asked]
    assert (len(found[1].steps), len(found[1].steps_before)) == (1, 2)
    assert all(each["requests"] for each in found[1].series_before)
    assert [replace(each, mark="") for each in found] == [replace(each, mark="") for each in alone]


@pytest.mark.parametrize(
    ("step", "expression"),
    [
        (Window.HOUR, "date_trunc('hour', charged_at)"),
        (Window.DAY, "date_trunc('day', charged_at, 'Europe/Berlin')"),
        (Window.WEEK, "date_trunc('week', charged_at, 'Europe/Berlin')"),
        (Window.MONTH, "date_trunc('month', charged_at, 'Europe/Berlin')"),
    ],
)
def test_steps_are_those_that_plain_sql_cuts_in_the_zone(
    filled: Environment, step: Window, expression: str
) -> None:
    found = answer(filled.pk, question(step=step), BERLIN)
    expected = plain(filled, PERIOD.days.range, (expression,))
    series = {max(at, PERIOD.start): sums for (at,), sums in expected.items()}
    stepped = zip(found.steps, found.total.series, strict=True)
    assert {each.start: sums for each, sums in stepped if sums["events"]} == series
    assert all(earlier.end == later.start for earlier, later in pairwise(found.steps))


def test_the_hours_of_the_day_on_which_clocks_are_set_back_are_25(filled: Environment) -> None:
    day = shown_period(Named.CUSTOM, NOW, BERLIN, date(2026, 10, 25))
    assert len(answer(filled.pk, question(day, step=Window.HOUR), BERLIN).steps) == 25


def test_names_beyond_the_top_are_one_other_with_how_many_they_are(filled: Environment) -> None:
    found = answer(filled.pk, question(group="model", part="user", top=2), BERLIN)
    assert [line.name is None for line in found.lines] == [False, False, True]
    assert found.lines[-1].others == 5
    assert len(found.lines[-1].parts) == 3


def test_parts_beyond_the_first_are_one_other_too(filled: Environment) -> None:
    found = answer(filled.pk, question(group="user", part="model"), BERLIN)
    for line in found.lines:
        assert [part.name is None for part in line.parts] == [*[False] * PARTS_MAX, True]
        assert line.parts[-1].others == 2


@pytest.mark.parametrize("rank", list(Rank))
def test_names_are_ranked_by_what_is_asked_for(filled: Environment, rank: Rank) -> None:
    found = answer(filled.pk, question(group="model", rank=rank, measure=Measure.INPUT_TOKENS), BERLIN)

    def key(line: answers.Line) -> float:
        now, before = line.now["input_tokens"], line.before["input_tokens"]
        calls = line.now["requests"]
        return {
            Rank.AMOUNT: now, Rank.RISE: now - before, Rank.CALLS: calls,
            Rank.PER_CALL: now / calls if calls else float("-inf"),
        }[rank]  # fmt: skip

    order = [key(line) for line in found.lines]
    assert order == sorted(order, reverse=True)


def test_a_running_period_is_compared_with_what_was_used_until_the_same_time(
    environment: Environment,
) -> None:
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    for name, at in (("a", now), ("b", now - timedelta(days=1, hours=1)), ("c", now - timedelta(hours=23))):
        record([report(environment, name, charged_at=at)])
    found = answer(environment.pk, question(shown_period(Named.TODAY, now, BERLIN)), BERLIN)
    assert (found.total.now["requests"], found.total.before["requests"]) == (1, 1)


def test_an_environment_without_calls_is_answered_with_nothing_and_a_mark(environment: Environment) -> None:
    found = answer(environment.pk, question(group="user", step=Window.DAY), BERLIN)
    assert found.lines == ()
    assert found.total.now == cells.NOTHING
    assert len(found.total.series) == len(found.steps) == 16
    assert found.mark.count(":") == 2


def test_a_mark_says_which_rows_of_the_ledger_were_summed_up(filled: Environment) -> None:
    found = answer(filled.pk, question(), BERLIN)
    record([report(filled, "later", charged_at=PERIOD.start)])
    seen = f"pg_visible_in_snapshot(xid::text::xid8, '{found.mark}')"
    assert added(plain(filled, PERIOD.days.range, (), seen).values()) == found.total.now
    assert answer(filled.pk, question(), BERLIN).total.now != found.total.now


def test_rows_of_other_environments_are_not_in_an_answer(filled: Environment) -> None:
    other = filled.tenant.environments.get(slug="dev")
    assert answer(other.pk, question(), BERLIN).total.now == cells.NOTHING


def test_more_steps_than_can_be_shown_are_refused(environment: Environment) -> None:
    year = shown_period(Named.CUSTOM, NOW, BERLIN, date(2026, 1, 1), date(2026, 12, 31))
    with pytest.raises(TooManySteps, match="choose longer ones"):
        answer(environment.pk, question(year, step=Window.HOUR), BERLIN)


@pytest.mark.parametrize("step", [None, Window.DAY])
def test_an_export_has_every_name_and_sums_to_the_answer(filled: Environment, step: Window | None) -> None:
    asked = question(group="model", part="feature", top=2, step=step)
    found, file = answer(filled.pk, asked, BERLIN), export(filled.pk, asked, BERLIN)
    rows = list(file.rows)
    assert {str(row["model"]) for row in rows} == set("mnopqrs")
    assert None in {row["feature"] for row in rows}
    total = found.total.now
    assert sum(int(str(row["calls"])) for row in rows) == total["requests"]
    assert sum(to_nano(Decimal(str(row["cost_usd"]))) for row in rows) == total["cost_nano"]
    assert len(file.mark.split(":")) == 3
    by_model: dict[str, int] = defaultdict(int)
    for row in rows:
        by_model[str(row["model"])] += int(str(row["output_tokens"]))
    for line in found.lines[:2]:
        assert by_model[str(line.name)] == line.now["output_tokens"]


def test_an_export_of_nothing_has_no_rows_and_a_mark(environment: Environment) -> None:
    file = export(environment.pk, question(group="user"), BERLIN)
    assert list(file.rows) == []
    assert file.columns[:3] == ("from", "to", "user")
    assert file.mark


def test_an_export_that_nobody_read_to_its_end_is_not_in_the_way_of_the_next(filled: Environment) -> None:
    next(export(filled.pk, question(group="user"), BERLIN).rows)
    assert len(list(export(filled.pk, question(group="user"), BERLIN).rows)) == 3


def test_names_that_were_used_are_offered_in_order(filled: Environment) -> None:
    found = used_in(filled.pk, PERIOD.days.range)
    assert found.feature == ("chat", "code", "sum")
    assert found.plan == ("free", "pro")
    assert found.model == tuple("mnopqrs")


@pytest.mark.parametrize("measure", [Measure.COST, SEARCHES])
@pytest.mark.parametrize("rank", list(Rank))
@pytest.mark.parametrize("top", [1, 2, 10])
@pytest.mark.parametrize("group", ["user", "run"])
def test_users_and_runs_are_ranked_and_put_together_as_all_other_names_are(
    filled: Environment, group: str, rank: Rank, top: int, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = question(group=group, part="model", rank=rank, top=top, step=Window.WEEK, measure=measure)
    found = answer(filled.pk, asked, BERLIN)
    monkeypatch.setattr(many_names, "find", placing.find)
    as_others = answer(filled.pk, asked, BERLIN)

    assert (found.lines, found.total, found.series_before) == (
        as_others.lines,
        as_others.total,
        as_others.series_before,
    )


@pytest.mark.parametrize("rank", list(Rank))
@pytest.mark.parametrize("top", [1, 3, 10])
@pytest.mark.parametrize("part", ["user", "run"])
@pytest.mark.parametrize("measure", [Measure.COST, SEARCHES])
def test_users_and_runs_inside_of_names_are_ranked_and_put_together_as_all_other_parts_are(
    filled: Environment, part: str, rank: Rank, top: int, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "PARTS_MAX", 2)
    monkeypatch.setattr(many_parts, "PARTS_MAX", 2)
    monkeypatch.setattr(answers, "PARTS_MAX", 2)
    asked = question(group="model", part=part, rank=rank, top=top, step=Window.WEEK, measure=measure)
    found = answer(filled.pk, asked, BERLIN)
    monkeypatch.setattr(many_parts, "find", placing.find)
    as_others = answer(filled.pk, asked, BERLIN)

    assert [line.parts[-1].name for line in found.lines] == [None] * len(found.lines)
    assert (found.lines, found.total, found.series_before) == (
        as_others.lines,
        as_others.total,
        as_others.series_before,
    )


def test_others_are_counted_once_however_many_steps_there_are(environment: Environment) -> None:
    """Each in a step of its own."""
    for day in range(1, 6):
        at = datetime(2026, 10, day, 12, tzinfo=UTC)
        for group in ("user", "model"):
            used = Subjects(user_id=f"u{day}")
            record([report(environment, f"{group}{day}", charged_at=at, model=f"m{day}", subjects=used)])
    period = shown_period(Named.CUSTOM, NOW, BERLIN, date(2026, 10, 1), date(2026, 10, 31))
    for group in ("user", "model"):
        found = answer(environment.pk, question(period, group=group, top=2, step=Window.DAY), BERLIN)
        assert [line.others for line in found.lines] == [0, 0, 3]


@pytest.mark.parametrize("group", ["user", "model"])
def test_others_are_those_with_calls_in_the_period(environment: Environment, group: str) -> None:
    """And by their rise those that stopped too."""
    before, now = PERIOD.before.range.start, PERIOD.start
    for name, ats in {"a": [now, before], "b": [now], "c": [now], "gone": [before], "left": [before]}.items():
        for number, at in enumerate(ats):
            used = Subjects(user_id=name)
            record([report(environment, f"{name}{number}", charged_at=at, model=name, subjects=used)])

    two = answer(environment.pk, question(group=group, top=2, part="plan"), BERLIN)
    assert [(line.name, line.others) for line in two.lines] == [("a", 0), ("b", 0), (None, 1)]
    assert two.total.before["requests"] == 3
    all_of_them = answer(environment.pk, question(group=group, top=5), BERLIN)
    assert [(line.name, line.others) for line in all_of_them.lines] == [
        ("a", 0), ("b", 0), ("c", 0), (None, 0),
    ]  # fmt: skip
    assert all_of_them.lines[-1].before["requests"] == 2
    rising = answer(environment.pk, question(group=group, top=3, rank=Rank.RISE), BERLIN)
    assert rising.lines[-1].others == 2


def test_who_used_something_only_in_the_hours_that_are_taken_off_again_is_not_there(
    environment: Environment,
) -> None:
    """The last hour of October in UTC belongs to November in Berlin; the month is read without it."""
    inside, outside = datetime(2026, 10, 31, 22, 30, tzinfo=UTC), datetime(2026, 10, 31, 23, 30, tzinfo=UTC)
    for user, at in (("in", inside), ("out", outside)):
        record([report(environment, user, charged_at=at, subjects=Subjects(user_id=user))])
    roll_all(environment.pk)
    october = shown_period(Named.CUSTOM, NOW, BERLIN, date(2026, 10, 1), date(2026, 10, 31))

    for part in (None, "feature", "run"):
        found = answer(environment.pk, question(october, group="user", part=part), BERLIN)
        assert [(line.name, line.now["events"]) for line in found.lines] == [("in", 1)]
    exported = export(environment.pk, question(october, group="user"), BERLIN)
    assert [row["user"] for row in exported.rows] == ["in"]
