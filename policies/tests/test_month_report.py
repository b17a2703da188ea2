"""The month-end report: its figures are the ledger's, tables sum up to the total, and it says what is not final."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from policies import budgets, month_report
from policies.month_report import Budget, MonthReport, State
from policies.tests.test_budgets import (
    BERLIN,
    IN_JUNE_SETTLED,
    JUNE,
    LAST_OF_MAY,
    MAY,
    POLICIES,
    publish,
    use,
)
from tenants.models import Environment
from usage.amounts import Subjects
from usage.analytics import month_figures
from usage.analytics.month_figures import Figures, Kind, Table
from usage.ledger import partitions
from usage.ledger.models import Status
from usage.ledger.periods import of_month
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import estimate, one, report

APRIL = datetime(2021, 4, 20, 12, tzinfo=UTC)
IN_JUNE = datetime(2021, 6, 10, tzinfo=UTC)
IN_MAY = datetime(2021, 5, 20, tzinfo=UTC)
GROUPS = {Kind.PLAN: "plan", Kind.FEATURE: "feature", Kind.MODEL: "model"}


@pytest.fixture
def used(environment: Environment) -> Environment:
    """May with April before it, in Berlin: edges, a reversal, a late report, calls without a price; half rolled up."""
    publish(environment, POLICIES, datetime(2021, 4, 1, tzinfo=UTC))
    partitions.ensure([APRIL, LAST_OF_MAY, JUNE])
    use(environment, APRIL, "ann", "1.000000001", feature="chat", plan="free")
    use(environment, LAST_OF_MAY, "ann", "2.5", feature="chat", plan="free")
    use(environment, LAST_OF_MAY, "bob", None, feature="sum", plan="pro")
    subjects = Subjects(user_id="bob", feature="chat", plan="pro", run_id="")
    one(estimate(environment, "late", charged_at=LAST_OF_MAY, subjects=subjects, cost_nano=9 * 10**9))
    roll_all(environment.pk)
    one(report(environment, "late", charged_at=LAST_OF_MAY, subjects=subjects, cost_nano=7))
    use(environment, LAST_OF_MAY - timedelta(days=3), "cy", "0.25", feature="", plan="")
    use(environment, JUNE, "ann", "40", feature="chat", plan="free")
    return environment


def of_tenant(environment: Environment) -> list[Environment]:
    return list(environment.tenant.environments.select_related("tenant").order_by("pk"))


def made(environment: Environment, now: datetime = IN_JUNE, month: date = MAY) -> MonthReport:
    return month_report.report(of_tenant(environment), month, now)


def table(found: MonthReport, kind: Kind) -> Table:
    return next(each for each in found.figures.tables if each.kind is kind)


def ledger(environment: Environment, month: date, group: str) -> dict[str, tuple[Any, ...]]:
    period = of_month(month, BERLIN)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {group}, sum(requests), sum(input_tokens), sum(output_tokens), sum(coalesce(cost_nano, 0)),
                sum(CASE WHEN cost_nano IS NOT NULL THEN 0 WHEN status = '{Status.REVERSAL}' THEN -1 ELSE 1 END)
            FROM usage_event WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s GROUP BY 1
            """,  # noqa: S608 (our own names)
            [environment.pk, period.start, period.end],
        )
        return {name: tuple(map(int, figures)) for name, *figures in cursor.fetchall()}


def plain(figures: Figures) -> tuple[int, ...]:
    return tuple(getattr(figures, name) for name in month_figures._NAMES)


@pytest.mark.parametrize("kind", list(GROUPS))
def test_every_line_is_the_ledgers_in_both_months(used: Environment, kind: Kind) -> None:
    lines = table(made(used), kind).lines
    for month, side in ((MAY, "now"), (date(2021, 4, 1), "before")):
        found = {line.key.name: plain(getattr(line, side)) for line in lines}
        expected = ledger(used, month, GROUPS[kind])
        assert {name: figures for name, figures in found.items() if any(figures)} == expected


def test_the_total_and_the_users_are_the_ledgers(used: Environment) -> None:
    found = made(used)
    assert plain(found.figures.total.now) == ledger(used, MAY, "'Total'")["Total"]
    assert found.figures.total.now.cost_nano == 2_750_000_007
    users = {line.key.name: plain(line.now) for line in table(found, Kind.USER).lines}
    assert users == ledger(used, MAY, "user_id")
    assert [line.key.environment for line in table(found, Kind.USER).lines] == ["prod"] * 3


def test_what_was_used_beside_text_tokens_is_the_ledgers_in_both_months(used: Environment) -> None:
    dev = used.tenant.environments.get(slug="dev")
    for number, (environment, at, quantities) in enumerate(
        [
            (used, APRIL, {"web_searches": 4}),
            (used, LAST_OF_MAY, {"web_searches": 1, "images": 2}),
            (dev, LAST_OF_MAY, {"web_searches": 8}),
            (used, JUNE, {"web_searches": 100}),
        ]
    ):
        one(report(environment, f"kind-{number}", charged_at=at, quantities=quantities))
        if number in (1, 2):
            roll_all(environment.pk)
    found = made(used)
    assert found.figures.quantities == {"images": (2, 0), "web_searches": (9, 4)}
    shown = [row for row in month_report.rows(found) if row["section"] == "quantity"]
    assert [(row["name"], row["amount"], row["amount_month_before"], row["calls"]) for row in shown] == [
        ("images", 2, 0, None),
        ("web_searches", 9, 4, None),
    ]


@pytest.mark.parametrize("kind", list(Kind))
def test_each_table_sums_up_to_the_total_also_where_lines_are_left_out(
    used: Environment, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setattr(month_figures, "LINES_MAX", 1)
    found = made(used)
    shown = table(found, kind)
    for side in ("now", "before"):
        total = Figures()
        for line in (*shown.lines, *([shown.others] if shown.others else [])):
            total = total.plus(getattr(line, side))
        assert total == getattr(found.figures.total, side)


def test_environments_of_a_tenant_are_together_and_another_tenants_are_not(
    used: Environment, other_environment: Environment
) -> None:
    dev = used.tenant.environments.get(slug="dev")
    use(dev, LAST_OF_MAY, "ann", "3", feature="chat", plan="free")
    use(other_environment, LAST_OF_MAY, "ann", "500", feature="chat", plan="free")
    found = made(used)
    assert found.figures.total.now.cost_nano == 5_750_000_007
    assert [(line.key.name, line.now.cost_nano) for line in table(found, Kind.ENVIRONMENT).lines] == [
        ("dev", 3_000_000_000),
        ("prod", 2_750_000_007),
    ]
    assert {line.key.environment for line in table(found, Kind.USER).lines if line.key.name == "ann"} == {
        "dev",
        "prod",
    }


def test_models_without_a_price_are_named(used: Environment) -> None:
    found = made(used).figures
    assert found.total.now.unpriced == 1
    assert found.unpriced == (("gpt-5", 1),)


@pytest.mark.parametrize(
    ("now", "state"),
    [(IN_MAY, State.SO_FAR), (IN_JUNE, State.NOT_FINAL), (IN_JUNE_SETTLED, State.FINAL)],
)
def test_it_says_how_final_it_is(used: Environment, now: datetime, state: State) -> None:
    assert made(used, now).state is state


def test_a_month_that_is_not_over_is_compared_with_the_same_days_of_the_month_before(
    used: Environment,
) -> None:
    # Of the call on 20 April at 14:00 in Berlin.
    a_moment = timedelta(milliseconds=1)
    before, after = made(used, APRIL + timedelta(days=30)), made(used, APRIL + timedelta(days=30) + a_moment)
    for found, cost in ((before, 0), (after, 1_000_000_001)):
        assert found.figures.total.before.cost_nano == cost
        assert [
            line.before.cost_nano for line in table(found, Kind.PLAN).lines if line.key.name == "free"
        ] == [cost]
    assert after.about["compared_until"] == "2021-04-20T14:00:00+02:00"
    assert made(used).figures.total.before.cost_nano == 1_000_000_001


@pytest.mark.parametrize(
    ("month", "now", "until"),
    [
        (date(2021, 3, 1), datetime(2021, 3, 30, 12, tzinfo=UTC), "2021-03-01T00:00:00+01:00"),
        (date(2021, 3, 1), datetime(2021, 3, 28, 12, tzinfo=UTC), "2021-02-28T14:00:00+01:00"),
        (date(2021, 1, 1), datetime(2021, 1, 2, 12, tzinfo=UTC), "2020-12-02T13:00:00+01:00"),
        (date(2021, 1, 1), datetime(2021, 2, 2, 12, tzinfo=UTC), "2021-01-01T00:00:00+01:00"),
    ],
)
def test_days_that_the_month_before_does_not_have_are_its_end(month: date, now: datetime, until: str) -> None:
    end = month_report.compared_with(month, now, BERLIN).end
    assert end.astimezone(BERLIN).isoformat() == until


def test_beside_a_month_in_which_calls_began_nothing_can_be_compared(used: Environment) -> None:
    assert not made(used).is_comparable
    use(used, datetime(2021, 4, 1, 0, 30, tzinfo=BERLIN), "ann", "0.1", feature="chat", plan="free")
    assert made(used).is_comparable


def test_a_budget_is_near_as_a_limit_is() -> None:
    assert [
        Budget(environment="prod", policy="", whose="", amount_nano=100, spent_nano=spent, unpriced=0).is_near
        for spent in (79, 80, 100)
    ] == [False, True, True]


def test_budgets_that_are_not_closed_stand_as_closing_would_write_them(used: Environment) -> None:
    before = made(used).budgets
    budgets.close_over(used, IN_JUNE_SETTLED)
    after = made(used, IN_JUNE_SETTLED)
    assert before == after.budgets
    assert [(each.policy, each.whose, each.exceeded, each.share) for each in before.shown] == [
        ("All", "everybody together", False, "91 %"),
        ("Ann", "user ann in chat", False, "2 %"),
    ]
    assert [slug for slug, _ in after.closed] == ["prod"]


def test_a_closed_month_shows_what_was_closed_not_what_policies_say_now(used: Environment) -> None:
    budgets.close_over(used, IN_JUNE_SETTLED)
    publish(used, "version: 1\nplans: [free, pro]\npolicies: []\n", datetime.now(UTC))
    assert made(used, IN_JUNE_SETTLED).budgets.count > 0


def test_of_too_many_users_budgets_are_not_worked_out(
    used: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "GROUPS_MAX", 1)
    found = made(used).budgets
    assert (found.shown, found.unknown) == ((), ("prod",))
    budgets.close_over(used, IN_JUNE_SETTLED)
    assert made(used, IN_JUNE_SETTLED).budgets.unknown == ()


def test_the_command_writes_the_report_as_a_table(used: Environment) -> None:
    out = io.StringIO()
    call_command("month_report", "acme", "--month", "2021-05", stdout=out)
    lines = list(csv.reader(io.StringIO(out.getvalue())))
    about = {line[1]: line[2] for line in lines if line[0] == "#"}
    assert (about["tenant"], about["month"], about["state"]) == ("acme", "2021-05", "final")
    header = next(number for number, line in enumerate(lines) if line[0] == "section")
    rows = [dict(zip(lines[header], line, strict=True)) for line in lines[header + 1 :]]
    for section in ("total", "environment", "plan", "feature", "model", "feature_model", "user"):
        costs = [Decimal(row["cost_usd"]) for row in rows if row["section"] == section]
        assert sum(costs) == Decimal("2.750000007"), section


def test_it_costs_the_same_however_many_lines_there_are(used: Environment) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            made(used)
        return len(captured)

    few = queries()
    for number in range(30):
        use(used, LAST_OF_MAY, f"u{number}", "0.01", feature=f"f{number}", plan="free")
    assert queries() == few
