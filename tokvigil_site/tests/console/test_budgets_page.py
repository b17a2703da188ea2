"""The page of monthly budgets: this month's course and forecast, all months, and those that are closed."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from policies import budgets
from policies.alerting import watching
from policies.models import ClosedMonth, MonthlyBudget, Policy
from tenants.models import Environment, Tenant
from tokvigil_site.testing import apply_policies, limits, set_clock
from tokvigil_site.tests.alerting.conftest import new_rule
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.test_usage_summary import use
from usage.counting.store import store
from usage.money import NANO
from usage.tests.rolling import roll_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_store")]

BUDGETS = reverse("admin:budgets")
BERLIN = ZoneInfo("Europe/Berlin")
# In a month in which the clocks were set back.
NOW = datetime(2026, 10, 29, 12, tzinfo=BERLIN)
QUERIES_MAX = 90


@pytest.fixture(autouse=True)
def in_october() -> None:
    set_clock(NOW)


@pytest.fixture
def budgeted(prod: Environment) -> Environment:
    text = "plans: [free]\n" + limits(
        "{metric: cost_usd, window: month, amount: '100', per: environment}",
        "{metric: cost_usd, window: day, amount: '50', per: environment}",
        name="All together",
    )
    text += (
        "  - name: Free plan\n    scope: {plan: free}\n    limits:\n"
        "      - {metric: cost_usd, window: month, amount: '10', per: user}\n"
    )
    apply_policies(prod, text)
    return prod


def spend(environment: Environment, at: datetime, usd: str, user: str = "ana") -> None:
    use(environment, at, user=user, cost_nano=int(Decimal(usd) * NANO), feature="chat", plan="free")


def look(client: Client, environment: Environment, **asked: Any) -> Any:
    answer = client.get(BUDGETS, {"environment": str(environment), **asked})
    assert answer.status_code == 200, answer
    return answer


def text(answer: Any) -> str:
    return " ".join(unescape(answer.content.decode()).split())


def of(answer: Any, policy: str) -> Any:
    return next(each for each in answer.context["burn_downs"] if each.row.policy == policy)


def test_this_month_by_local_day_also_when_the_clocks_are_set_back(
    mia: Client, budgeted: Environment
) -> None:
    # The first and the last instant of 25 October, a day of 25 hours, and what lies beside it.
    start = datetime(2026, 10, 25, tzinfo=BERLIN)
    end = datetime(2026, 10, 26, tzinfo=BERLIN)
    spend(budgeted, start - timedelta(microseconds=1), "1")
    spend(budgeted, start, "2")
    spend(budgeted, end.astimezone(UTC) - timedelta(microseconds=1), "4")
    spend(budgeted, end, "8")
    # Of the month before.
    spend(budgeted, datetime(2026, 10, 1, tzinfo=BERLIN) - timedelta(microseconds=1), "16")
    roll_all(budgeted.pk)
    spend(budgeted, datetime(2026, 10, 29, 11, tzinfo=BERLIN), "0.5")

    answer = look(mia, budgeted)

    course = of(answer, "All together").course
    by_day = {
        day.astimezone(BERLIN).day: spent for day, spent in zip(course.days, course.spent, strict=False)
    }
    assert {day: Decimal(spent) / NANO for day, spent in by_day.items() if spent} == {
        24: 1, 25: 6, 26: 8, 29: Decimal("0.5"),
    }  # fmt: skip
    assert len(course.days) == 31
    assert course.in_all == Decimal("15.5") * NANO
    months = {row.found.month: row.found.spent for row in answer.context["months"]}
    assert len(months) == 2
    assert months[date(2026, 10, 1)] == Decimal("15.5") * NANO
    assert months[date(2026, 9, 1)] == 16 * NANO
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT date_trunc('month', charged_at AT TIME ZONE 'Europe/Berlin')::date, sum(cost_nano)"
            " FROM usage_event WHERE environment_id = %s GROUP BY 1",
            [budgeted.pk],
        )
        assert dict(cursor.fetchall()) == months


def test_the_forecast_goes_on_with_the_average_day_and_its_band_with_quartiles(
    mia: Client, budgeted: Environment
) -> None:
    for day, usd in zip(range(24, 29), ["1", "2", "3", "4", "5"], strict=True):
        spend(budgeted, datetime(2026, 10, day, 12, tzinfo=BERLIN), usd)

    answer = look(mia, budgeted)

    found = of(answer, "All together").course.forecast
    # Half of the 29th, the 30th and the 31st are left: 2.5 days at $3, between $2 and $4.
    assert found.days == 5
    # Time goes on while the page is made.
    cents = [round(amount / NANO, 2) for amount in (found.low, found.middle, found.high)]
    assert cents == [20, 22.5, 25]
    assert "Forecast: $22.50 at the end of the month, between $20.00 and $25.00." in text(answer)
    # Ana has $10 a month and spent 15; for all together it is enough.
    assert of(answer, "Free plan").state == ("full", "Used up")
    assert of(answer, "All together").state is None


def test_a_budget_that_will_not_last_says_so(mia: Client, budgeted: Environment) -> None:
    for day in range(2, 29):
        spend(budgeted, datetime(2026, 10, day, 12, tzinfo=BERLIN), "0.36")
    assert of(look(mia, budgeted), "Free plan").state == ("near", "Will not last")


def test_the_page_has_one_date_on_which_a_budget_runs_out(mia: Client, budgeted: Environment) -> None:
    for day in range(2, 29):
        spend(budgeted, datetime(2026, 10, day, 12, tzinfo=BERLIN), "0.3" if day < 15 else "0.4")
    # $9.50 of $10 are spent; the 14 days before cost 40 cents each, and half of today is left.
    answer = look(mia, budgeted)
    row = next(each for each in answer.context["budgets"] if each.policy == "Free plan")
    assert row.runs_out.at == datetime(2026, 10, 30, 18, tzinfo=BERLIN)
    assert row.runs_out.says == "runs out Friday 30 October about 18:00 by the forecast"
    assert "27 days" not in text(answer)
    overview = mia.get(reverse("admin:index"), {"environment": str(budgeted)}).context
    of_limits = [each.runs_out.says for each in overview["limits"] if each.policy == "Free plan"]
    assert [overview["next_out"].runs_out.says, *of_limits] == [row.runs_out.says] * 2
    assert of(answer, "All together").levels == ("$100.00", "$50.00", "$0.00")


def test_all_pages_and_the_alert_have_one_date_on_which_a_shared_budget_runs_out(
    mia: Client, budgeted: Environment
) -> None:
    # $94 of $100 are spent, $91 of them in the last 14 days: $6.50 a day. At the month's own pace it would last.
    spend(budgeted, datetime(2026, 10, 2, 12, tzinfo=BERLIN), "3")
    for day in range(15, 29):
        spend(budgeted, datetime(2026, 10, day, 12, tzinfo=BERLIN), "6.5")
    new_rule(budgeted, "limit.runs_out", per="environment")
    says = "runs out Friday 30 October about 10:15 by the forecast"

    row = next(each for each in look(mia, budgeted).context["budgets"] if each.policy == "All together")
    listed = mia.get(reverse("admin:limits"), {"environment": str(budgeted), "order": "runs-out"})
    of_limit = mia.get(row.url)
    of_user = mia.get(reverse("admin:end_user"), {"environment": str(budgeted), "user_id": "zed"})
    (told,) = watching.watch(budgeted)

    assert row.runs_out.says == says
    limit = next(
        each for each in listed.context["limits"] if each.policy == "All together" and "month" in each.words
    )
    assert (limit.runs_out.says, limit.group) == (says, "Runs out before it resets, the first at the top")
    assert of_limit.context["tight"][0].runs_out.says == says
    assert [each.runs_out.says for each in of_user.context["limits"] if "$100.00" in each.title] == [says]
    assert told.data["runs_out_at"].startswith("2026-10-30T09:09")
    assert "By the forecast it runs out" in told.text


def test_of_a_budget_with_few_days_no_page_and_no_alert_says_when_it_ends(
    mia: Client, budgeted: Environment
) -> None:
    spend(budgeted, datetime(2026, 10, 29, 11, tzinfo=BERLIN), "97")
    new_rule(budgeted, "limit.runs_out", per="environment")
    row = next(each for each in look(mia, budgeted).context["budgets"] if each.policy == "All together")
    assert row.runs_out.says == "too little to tell when it runs out"
    listed = mia.get(reverse("admin:limits"), {"environment": str(budgeted), "order": "runs-out"})
    limit = next(each for each in listed.context["limits"] if "$100.00" in each.words)
    assert (limit.runs_out.says, limit.group) == (row.runs_out.says, "Without a forecast")
    assert all(each.data["window"] != "month" for each in watching.watch(budgeted))


def test_shared_budgets_of_other_environments_that_end_early_are_listed_first(
    mia: Client, budgeted: Environment, dev: Environment, other: Tenant, sign_in: SignIn
) -> None:
    spend(budgeted, datetime(2026, 10, 2, 12, tzinfo=BERLIN), "3")
    for day in range(15, 29):
        spend(budgeted, datetime(2026, 10, day, 12, tzinfo=BERLIN), "6.5")
    (found,) = look(mia, dev).context["elsewhere"]
    assert (found.environment, found.row.policy) == (budgeted, "All together"), "not what one user has alone"
    assert found.row.runs_out.says == "runs out Friday 30 October about 10:15 by the forecast"
    assert mia.get(found.url).context["environment"] == budgeted
    assert look(mia, budgeted).context["elsewhere"] == []
    assert sign_in("sam", other).get(BUDGETS).context["elsewhere"] == []


def test_a_budget_that_the_band_leaves_room_may_not_last(mia: Client, budgeted: Environment) -> None:
    for day in range(2, 29):
        spend(budgeted, datetime(2026, 10, day, 12, tzinfo=BERLIN), "0.05" if day % 2 else "0.65")
    found = of(look(mia, budgeted), "Free plan")
    assert found.course.forecast.low < found.course.limit < found.course.forecast.middle
    assert found.state == ("near", "May not last")
    # The band goes below zero, and is drawn as far as it goes.
    assert found.levels[0] == "$10.00"
    assert found.levels[2].startswith("−$1.")
    assert found.zero
    assert found.band.split()[-1].endswith(",200.00")


def test_a_month_says_whether_it_is_closed_due_or_open(mia: Client, budgeted: Environment) -> None:
    spend(budgeted, datetime(2026, 8, 20, tzinfo=BERLIN), "1")
    spend(budgeted, datetime(2026, 9, 20, tzinfo=BERLIN), "1")
    said = text(look(mia, budgeted))
    assert "not closed yet" in said
    assert "open until" in said
    ClosedMonth.objects.create(environment=budgeted, month=date(2026, 8, 1))
    said = text(look(mia, budgeted))
    assert "not closed yet" not in said
    assert 'data-label="closing:">closed <time' in said


def test_with_few_days_there_is_no_forecast(mia: Client, budgeted: Environment) -> None:
    spend(budgeted, datetime(2026, 10, 28, 12, tzinfo=BERLIN), "1")
    answer = look(mia, budgeted)
    assert of(answer, "All together").course.forecast is None
    assert "no forecast before 3 whole days" in text(answer)


def test_only_limits_on_cost_by_month_are_budgets_and_a_plan_has_its_own(
    mia: Client, budgeted: Environment
) -> None:
    answer = look(mia, budgeted)
    assert sorted(row.words for row in answer.context["budgets"]) == [
        "$10.00 a month, each user",
        "$100.00 a month, everybody together",
    ]
    of_plan = look(mia, budgeted, plan="free")
    assert [row.policy for row in of_plan.context["budgets"]] == ["Free plan"]


def test_closed_months_stand_against_their_budgets_and_lead_to_their_subjects(
    mia: Client, budgeted: Environment
) -> None:
    september = datetime(2026, 9, 30, 23, 59, tzinfo=BERLIN)
    spend(budgeted, september, "12")
    spend(budgeted, september, "3", user="bob")
    Policy.objects.filter(environment=budgeted).update(created_at=september - timedelta(days=60))
    closed = ClosedMonth.objects.create(environment=budgeted, month=date(2026, 9, 1))
    policy = Policy.objects.get(environment=budgeted, name="Free plan")
    for user, spent in [("ana", 12), ("bob", 3)]:
        MonthlyBudget.objects.create(
            closed_month=closed, policy_id=policy.pk, policy_name=policy.name, policy_version=1, per="user",
            user_id=user, feature="", plan="", run_id="", budget_usd=10, spent_usd=spent, requests=1, unpriced=0,
        )  # fmt: skip

    answer = look(mia, budgeted)

    (row,) = answer.context["closed"]
    assert (row.found.subjects, row.found.exceeded) == (2, 1)
    assert (row.spent, row.fullest, row.budget) == ("$15.00", "$12.00", "$10.00")
    listed = mia.get(row.url)
    assert listed.status_code == 200
    assert listed.context["cl"].result_count == 2
    (exported,) = json.loads(mia.get(dict(answer.context["exports"]["closed"])["JSON"]).getvalue())["rows"]
    assert (exported["spent_usd"], exported["exceeded"]) == ("15.000000000", 1)
    months = {each.found.month: each.found for each in answer.context["months"]}
    assert months[date(2026, 9, 1)].closed_at is not None
    assert months[date(2026, 10, 1)].closes_at == budgets.settled_from(date(2026, 10, 1), BERLIN)


def test_the_files_sum_to_the_page(mia: Client, budgeted: Environment) -> None:
    for day in (3, 17, 28):
        spend(budgeted, datetime(2026, 10, day, 12, tzinfo=BERLIN), f"0.{day:09d}")
    answer = look(mia, budgeted)
    files = {table: dict(each)["JSON"] for table, each in answer.context["exports"].items()}

    this_month = json.loads(mia.get(files["this_month"]).getvalue())
    all_together = [row for row in this_month["rows"] if row["policy"] == "All together"]
    assert sum(Decimal(row["spent_usd"]) for row in all_together) == Decimal("0.000000048")
    assert of(answer, "All together").course.in_all == 48
    assert this_month["about"]["time_zone"] == "Europe/Berlin"
    months = json.loads(mia.get(files["months"]).getvalue())["rows"]
    assert sum(Decimal(row["spent_usd"]) for row in months) == Decimal("0.000000048")


def test_another_tenants_budgets_are_not_there(other: Tenant, sign_in: SignIn, budgeted: Environment) -> None:
    answer = look(sign_in("sam", other), budgeted)
    assert answer.context["environment"].tenant == other
    assert answer.context["budgets"] == []


@pytest.mark.parametrize("asked", [{"table": "months"}, {"table": "hopes", "format": "csv"}, {"hope": "1"}])
def test_a_question_that_there_is_not_is_refused(
    mia: Client, prod: Environment, asked: dict[str, str]
) -> None:
    assert mia.get(BUDGETS, {"environment": str(prod), **asked}).status_code == 400


def test_the_page_costs_a_bounded_number_of_queries(mia: Client, budgeted: Environment) -> None:
    for number in range(20):
        spend(budgeted, NOW - timedelta(days=number), "1", user=f"user-{number}")
    assert store.now_ms() > 0
    look(mia, budgeted)
    with CaptureQueriesContext(connection) as captured:
        look(mia, budgeted)
    assert len(captured) < QUERIES_MAX
