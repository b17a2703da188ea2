"""Monthly budgets, closed: what each subject had and spent, once nothing can change it any more."""

from __future__ import annotations

import random
import string
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command

from audit.models import Entry
from policies import budgets
from policies.changing import publishing
from policies.files import policy_file
from policies.files.file_errors import PolicyFileError
from policies.models import ClosedMonth, MonthlyBudget, PolicyVersion
from tenants.models import Environment
from usage.amounts import Subjects
from usage.ledger import partitions
from usage.ledger.writing import record
from usage.money import NANO
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import in_threads, report

BERLIN = ZoneInfo("Europe/Berlin")
# Long ago, so that it is settled whenever the tests run.
MAY = date(2021, 5, 1)
LAST_OF_MAY = datetime(2021, 5, 31, 23, 59, 59, tzinfo=BERLIN).astimezone(UTC)
JUNE = datetime(2021, 6, 1, tzinfo=BERLIN).astimezone(UTC)
IN_JUNE_SETTLED = datetime(2021, 7, 20, tzinfo=UTC)

POLICIES = """
version: 1
plans: [free, pro]
policies:
  - name: Free
    scope: {plan: free}
    limits:
      - {metric: cost_usd, window: month, amount: "2.00", per: user}
      - {metric: requests, window: month, amount: 5, per: user}
      - {metric: cost_usd, window: day, amount: "1", per: user}
  - name: Ann
    scope: {user: ann}
    limits: [{metric: cost_usd, window: month, amount: "100", per: user_feature}]
  - name: All
    kind: guardrail
    limits: [{metric: cost_usd, window: month, amount: "3.00", per: environment}]
"""


@pytest.fixture
def budgeted(environment: Environment) -> Environment:
    """With policies published in the spring of 2021."""
    publish(environment, POLICIES, datetime(2021, 4, 1, tzinfo=UTC))
    partitions.ensure([LAST_OF_MAY, JUNE])
    return environment


def publish(environment: Environment, text: str, at: datetime) -> None:
    known = list(PolicyVersion.objects.values_list("pk", flat=True))
    publishing.publish(environment, policy_file.parse(text), actor="test")
    PolicyVersion.objects.exclude(pk__in=known).update(created_at=at)


def use(environment: Environment, at: datetime, user: str, usd: str | None, **subjects: Any) -> None:
    number = datetime.now(UTC).timestamp()
    record(
        [
            report(
                environment,
                f"{user}-{number}",
                charged_at=at,
                subjects=Subjects(user_id=user, **subjects),
                cost_nano=None if usd is None else int(Decimal(usd) * NANO),
            )
        ]
    )


def found(
    environment: Environment, month: date = MAY
) -> dict[tuple[str, str, str, str], tuple[str, str, int]]:
    rows = MonthlyBudget.objects.filter(closed_month__environment=environment, closed_month__month=month)
    return {
        (row.policy_name, row.per, row.user_id, row.feature): (
            f"{row.budget_usd.normalize():f}",
            f"{row.spent_usd.normalize():f}",
            row.requests,
        )
        for row in rows
    }


def test_a_budget_of_a_feature_concerns_the_users_of_the_feature_alone(environment: Environment) -> None:
    text = """
version: 1
plans: []
policies:
  - name: Coders
    scope: {feature: code}
    limits: [{metric: cost_usd, window: month, amount: "5", per: user}]
"""
    publish(environment, text, datetime(2021, 4, 1, tzinfo=UTC))
    partitions.ensure([LAST_OF_MAY])
    use(environment, LAST_OF_MAY, "bob", "1", feature="code")
    use(environment, LAST_OF_MAY, "bob", "2", feature="chat")
    use(environment, LAST_OF_MAY, "eve", "4", feature="chat")

    budgets.close_over(environment, IN_JUNE_SETTLED)

    assert found(environment) == {("Coders", "user", "bob", ""): ("5", "3", 2)}


def test_a_month_is_closed_whatever_the_length_of_names_and_of_lists_of_models(
    environment: Environment,
) -> None:
    """They would not fit into an index together."""
    chance = random.Random(7)

    def long(length: int) -> str:
        return "".join(chance.choices(string.ascii_letters + string.digits, k=length))

    models = [long(249) for _ in range(4)]
    listed = ", ".join(models)
    text = f"""
version: 1
policies:
  - name: All
    limits: [{{metric: cost_usd, window: month, amount: "5", per: user_feature, models: [{listed}, test-model]}}]
"""
    with pytest.raises(PolicyFileError, match=r"holds 1006 bytes; at most 1000 are allowed"):
        policy_file.parse(text)
    publish(environment, text.replace(", test-model", ""), datetime(2021, 4, 1, tzinfo=UTC))
    partitions.ensure([LAST_OF_MAY])
    user, feature = (f"{long(200)}{'💥' * 55}" for _ in range(2))
    subjects = Subjects(user_id=user, feature=feature)
    record([report(environment, "r-1", charged_at=LAST_OF_MAY, subjects=subjects, model=models[0])])

    budgets.close_over(environment, IN_JUNE_SETTLED)

    row = MonthlyBudget.objects.get()
    assert (row.user_id, row.feature, sorted(row.models)) == (user, feature, sorted(models))


def test_each_subject_a_budget_applied_to_has_a_row_of_what_it_spent(budgeted: Environment) -> None:
    use(budgeted, LAST_OF_MAY, "bob", "1.5", plan="free")
    # Of another plan, yet of the same counter: a counter of a user counts all the user's calls.
    use(budgeted, LAST_OF_MAY, "bob", "1", plan="pro")
    use(budgeted, LAST_OF_MAY, "eve", "7", plan="pro")
    # Ann's own policy overrides that of her plan.
    use(budgeted, LAST_OF_MAY, "ann", "0.25", plan="free", feature="chat")
    use(budgeted, LAST_OF_MAY, "ann", None, plan="free", feature="chat")
    use(budgeted, JUNE, "bob", "50", plan="free")

    budgets.close_over(budgeted, IN_JUNE_SETTLED)

    assert found(budgeted) == {
        ("Free", "user", "bob", ""): ("2", "2.5", 2),
        ("Ann", "user_feature", "ann", "chat"): ("100", "0.25", 2),
        ("All", "environment", "", ""): ("3", "9.75", 5),
    }
    exceeded = MonthlyBudget.objects.filter(closed_month__environment=budgeted)
    assert {row.policy_name for row in exceeded if row.exceeded} == {"Free", "All"}
    assert MonthlyBudget.objects.get(policy_name="Ann").unpriced == 1


@pytest.mark.parametrize("rolled", [False, True])
def test_a_month_is_the_tenants_whatever_is_rolled_up(budgeted: Environment, rolled: bool) -> None:
    use(budgeted, LAST_OF_MAY, "bob", "1", plan="free")
    use(budgeted, JUNE, "bob", "50", plan="free")
    roll_all(budgeted.pk)
    if not rolled:
        use(budgeted, LAST_OF_MAY, "bob", "1", plan="free")

    budgets.close_over(budgeted, datetime(2021, 9, 1, tzinfo=UTC))

    assert found(budgeted)["Free", "user", "bob", ""][1] == ("1" if rolled else "2")
    assert found(budgeted, date(2021, 6, 1))["Free", "user", "bob", ""][1] == "50"


def test_a_month_is_closed_when_no_report_of_it_can_come_any_more(budgeted: Environment) -> None:
    use(budgeted, LAST_OF_MAY, "bob", "1", plan="free")
    roll_all(budgeted.pk)
    settled = JUNE + timedelta(days=36)

    assert budgets.close_over(budgeted, settled - timedelta(seconds=1)) == []
    assert [closed.month for closed in budgets.close_over(budgeted, settled)] == [MAY]


def test_a_closed_month_stays_as_it_was_closed(budgeted: Environment) -> None:
    use(budgeted, LAST_OF_MAY, "bob", "1", plan="free")
    roll_all(budgeted.pk)
    budgets.close_over(budgeted, IN_JUNE_SETTLED)
    before = list(MonthlyBudget.objects.values())
    use(budgeted, LAST_OF_MAY, "bob", "9", plan="free")

    assert budgets.close_over(budgeted, IN_JUNE_SETTLED) == []
    assert list(MonthlyBudget.objects.values()) == before
    assert Entry.objects.filter(action="month.closed").count() == 1


def test_processes_that_close_at_once_close_once(budgeted: Environment) -> None:
    use(budgeted, LAST_OF_MAY, "bob", "1", plan="free")
    roll_all(budgeted.pk)

    closed = in_threads(4, lambda _: budgets.close_over(budgeted, IN_JUNE_SETTLED))

    assert sum(map(len, closed)) == 1
    assert MonthlyBudget.objects.count() == 2
    entry = Entry.objects.get(action="month.closed")
    assert (entry.data["month"], entry.data["budgets"], entry.data["exceeded"]) == ("2021-05", 2, 0)


def test_the_policies_count_as_they_were_when_the_month_ended(budgeted: Environment) -> None:
    publish(budgeted, POLICIES.replace('"2.00"', '"4.00"'), datetime(2021, 5, 20, tzinfo=UTC))
    publish(budgeted, "version: 1\nplans: [free, pro]\npolicies: []\n", datetime(2021, 6, 2, tzinfo=UTC))
    use(budgeted, LAST_OF_MAY, "bob", "1", plan="free")
    use(budgeted, JUNE + timedelta(days=3), "bob", "1", plan="free")
    roll_all(budgeted.pk)

    budgets.close_over(budgeted, datetime(2021, 9, 1, tzinfo=UTC))

    assert found(budgeted)["Free", "user", "bob", ""][0] == "4"
    assert found(budgeted, date(2021, 6, 1)) == {}


def test_the_command_closes_what_is_settled_and_says_what_is_next(budgeted: Environment) -> None:
    use(budgeted, LAST_OF_MAY, "bob", "2.5", plan="free")
    roll_all(budgeted.pk)
    output = StringIO()

    call_command("close_month", "acme/prod", stdout=output)
    call_command("close_month", "acme/prod", stdout=output)

    lines = output.getvalue().splitlines()
    # In one run no more months than MONTHS_MAX.
    assert lines[0] == "acme/prod: 2021-05 closed, 2 budgets, 1 exceeded"
    assert lines[1] == "acme/prod: 2021-06 closed, 0 budgets, 0 exceeded"
    assert ClosedMonth.objects.filter(environment=budgeted).count() > budgets.MONTHS_MAX
