"""Suggested amounts block exactly the share that they are suggested for."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from policies import policy_rows
from policies.blocked import decision_log
from policies.changing import drafts
from policies.changing.drafts import Has
from policies.files.policy_file import parse
from policies.replaying import suggested_policy
from policies.replaying.replay import replay
from policies.replaying.suggesting import Asked, Suggested, blocked_by, of_money, of_subjects
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from tokvigil_site.tests.callers import assert_problem
from tokvigil_site.tests.test_usage_summary import use
from usage.amounts import Per
from usage.ledger.periods import Period
from usage.metrics import Metric
from usage.money import NANO
from usage.windows import Window

pytestmark = pytest.mark.django_db(transaction=True)

ADDRESS = "/v1/policies/suggested-limits"
DAILY = Asked(metric=Metric.REQUESTS, window=Window.DAY, per=Per.USER)
SPENT = Asked(metric=Metric.COST_USD, window=Window.DAY, per=Per.USER)


@pytest.fixture
def used(environment: Environment, api: Api) -> Period:
    """user_1 makes one call, user_2 two, and so on; each costs a cent."""
    set_price("test-model", input_usd="10000")
    apply_policies(environment, "policies:\n  - {name: Everyone}\n")
    for number in range(1, 9):
        for _ in range(number):
            api.use(f"user_{number}", input_tokens=1)
    now = timezone.now()
    return Period(now - timedelta(hours=1), now + timedelta(seconds=1))


@pytest.mark.parametrize("wanted", [0, 1, 3, 7])
def test_the_amount_for_a_share_of_users_blocks_so_many_in_a_replay(
    environment: Environment, used: Period, wanted: int
) -> None:
    (found,) = of_subjects(environment, DAILY, used, [Fraction(wanted, 8)])
    assert (found.blocked, found.subjects) == (wanted, 8)
    limit = limits(f"{{metric: requests, window: day, amount: {found.amount}, per: user}}")
    policies = policy_rows.supposed(environment.pk, parse("version: 1\n" + limit).policies)
    report = replay(environment, policies, used.start, used.end)
    assert report.users.newly_blocked == wanted


CHATS = replace(DAILY, per=Per.USER_FEATURE, feature="chat")
PLANS = """
plans: [free, pro]
policies:
  - {name: Free, scope: {plan: free}, limits: [{metric: requests, window: day, amount: 50, per: user}]}
  - {name: Pro, scope: {plan: pro}}
"""
DEFAULT = "plans: [free, pro]\npolicies:\n  - {name: Everyone}\n"
CHAT_FIRST = PLANS + "  - {name: Chat, scope: {feature: chat}}\n"


@pytest.mark.parametrize(
    ("policies", "asked", "changed"),
    [
        (PLANS, replace(SPENT, plan="free"), "Free"),
        (PLANS, replace(DAILY, plan="free"), "Free"),
        (PLANS, replace(SPENT, window=Window.MONTH), "Suggested: spend a month, each user"),
        (PLANS, CHATS, "Suggested: requests a day, each user of a feature, chat"),
        (CHAT_FIRST, CHATS, "Chat"),
        (CHAT_FIRST, replace(DAILY, plan="free"), "Suggested: requests a day, each user, free"),
        (DEFAULT, DAILY, "Everyone"),
        (DEFAULT, replace(DAILY, plan="free"), "Suggested: requests a day, each user, free"),
    ],
    ids=lambda value: None if isinstance(value, str) and "\n" in value else str(value),
)
def test_a_suggestion_in_a_draft_blocks_those_whom_it_promised(
    environment: Environment, api: Api, policies: str, asked: Asked, changed: str
) -> None:
    set_price("test-model", input_usd="10000")
    apply_policies(environment, policies)
    start = timezone.now()
    for number in range(1, 9):
        if number == 5:
            start = timezone.now()
        for user in ("1", "2", "3", "4")[: number % 4 + 1]:
            plan, feature = "free" if user < "4" else "pro", "chat" if number % 2 else "code"
            api.use(f"user_{user}", plan=plan, feature=feature, input_tokens=1)
    # Half of the calls were made in the same window, before the period.
    period = Period(start, timezone.now() + timedelta(seconds=1))
    (found,) = of_subjects(environment, asked, period, [Fraction(1, 2)])
    rule, instead_of = suggested_policy.policy(asked, found.amount, policy_rows.in_force(environment.pk))
    draft = drafts.begin(environment, "Suggested", actor="test", rule=rule, instead_of=instead_of)
    (name,) = (
        name for name, has in drafts.contents(draft, drafts.live_of(environment)) if has != Has.AS_LIVE
    )
    report = replay(environment, drafts.stored(draft), period.start, period.end)
    assert (name, report.users.newly_blocked) == (changed, found.blocked)
    assert 0 < found.blocked < found.subjects


def test_of_a_window_that_began_before_the_period_only_what_is_in_it_can_be_saved(
    environment: Environment, api: Api
) -> None:
    set_price("test-model", input_usd="10000")
    apply_policies(environment, DEFAULT)
    for _ in range(4):
        api.use("before", input_tokens=1)
        api.use("both", input_tokens=1)
    start = timezone.now()
    for _ in range(2):
        api.use("both", input_tokens=1)
    period = Period(start, timezone.now() + timedelta(seconds=1))
    cents = NANO // 100
    (half,) = of_money(environment, SPENT, period, [Fraction(1, 2)])
    assert (half.amount, half.blocked, half.subjects) == (5 * cents, 1, 1)
    assert (half.saved_nano, half.spent_nano) == (cents, 2 * cents)
    (all_of_it,) = of_money(environment, SPENT, period, [Fraction(1)])
    assert (all_of_it.amount, all_of_it.saved_nano) == (0, 2 * cents)


def test_the_amount_for_a_share_of_the_money_saves_it(environment: Environment, used: Period) -> None:
    cents = NANO // 100
    (found,) = of_money(environment, SPENT, used, [Fraction(6, 36)])
    # Eight and seven calls are three above six and a half, and six above five: so that of 5 saves 6 of 36 cents.
    assert found == Suggested(
        share_percent=16, amount=5 * cents, blocked=3, subjects=8, saved_nano=6 * cents, spent_nano=36 * cents
    )


@pytest.mark.parametrize(
    ("prices", "amount"),
    [
        # Of four users the dearest is blocked; the amount is that of the second, rounded up.
        (("1.001344855", "9", "0.5", "0.25"), "1.01"),
        (("1.001344855", "1.0071", "0.5", "0.25"), "1.002"),
        (("1.001344855", "1.001344856", "0.5", "0.25"), "1.001344855"),
        (("0.00012345", "1", "0.0001", "0.00005"), "0.000124"),
    ],
)
def test_amounts_have_as_few_digits_as_block_the_same_users(
    environment: Environment, prices: tuple[str, ...], amount: str
) -> None:
    for number, usd in enumerate(prices):
        use(environment, timezone.now(), user=f"user_{number}", cost_nano=int(Decimal(usd) * NANO))
    now = timezone.now()
    period = Period(now - timedelta(hours=1), now + timedelta(seconds=1))
    (found,) = of_subjects(environment, SPENT, period, [Fraction(1, 4)])
    assert (Decimal(found.amount) / NANO, found.blocked) == (Decimal(amount), 1)
    assert [peak.names for peak in blocked_by(environment, SPENT, period, found.amount, 9)] == [("user_1",)]


def test_nobody_is_suggested_anything_where_nothing_was_used(environment: Environment) -> None:
    now = timezone.now()
    (found,) = of_subjects(environment, DAILY, Period(now - timedelta(days=1), now), [Fraction(1, 2)])
    assert (found.amount, found.blocked, found.subjects) == (0, 0, 0)


def suggested(environment: Environment, *options: str) -> str:
    out = io.StringIO()
    call_command("suggest_limits", str(environment), *options, stdout=out)
    return out.getvalue()


def test_the_command_says_amounts_in_words_and_as_json(
    environment: Environment, used: Period, tmp_path: Path
) -> None:
    said = suggested(environment)
    assert "25 % of subjects: 6 requests a day, each user, would have blocked 2 of 8, 3 calls" in said
    assert "0 of 8" not in said
    rows: list[dict[str, Any]] = json.loads(suggested(environment, "--json"))
    assert [(row["share_percent"], row["blocked"]) for row in rows] == [
        (1, 0),
        (5, 0),
        (10, 0),
        (25, 2),
        (50, 4),
    ]
    money = suggested(environment, "--metric", "cost_usd", "--of-money")
    assert "50 % of the money: $0.025 a day, each user, would have blocked 6 of 8, saving $0.18" in money


def test_shares_of_money_are_of_limits_on_cost(environment: Environment) -> None:
    with pytest.raises(CommandError, match="add --metric cost_usd"):
        suggested(environment, "--of-money")


def test_the_api_suggests_what_the_command_does(environment: Environment, used: Period, api: Api) -> None:
    out = io.StringIO()
    call_command("suggest_limits", str(environment), "--json", "--plan", "", stdout=out)
    said = [
        {name: each[name] for name in ("share_percent", "amount", "blocked", "blocked_calls")}
        for each in json.loads(out.getvalue())
    ]
    answer = api.get(ADDRESS)
    assert answer.status == 200
    assert (answer.json["subjects"], answer.json["spent_usd"]) == (8, "0.36")
    assert [each | {"saved_usd": None} for each in said] == answer.json["suggestions"]
    assert api.get(f"{ADDRESS}?plan=none-has-it").json["suggestions"] == []


def test_of_limits_on_cost_amounts_are_usd_as_a_policy_file_has_them(
    environment: Environment, used: Period, api: Api
) -> None:
    answer = api.get(f"{ADDRESS}?metric=cost_usd&of=money").json
    half = answer["suggestions"][-1]
    amount = half["amount"]
    assert (half["share_percent"], half["saved_usd"]) == (50, "0.18")
    apply_policies(environment, limits(f"{{metric: cost_usd, window: day, amount: '{amount}', per: user}}"))
    assert answer["spent_usd"] == "0.36"


def test_the_api_names_the_limits_in_force_and_counts_what_they_blocked(
    environment: Environment, used: Period, api: Api
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 8, per: user}", name="Held"))
    for number in range(3):
        api.evaluate(user_id="user_8", request_id=f"more-{number}")
    decision_log.drain(environment)
    answer = api.get(ADDRESS).json
    assert answer["in_force"] == [{"policy": "Held", "plan": "", "feature": "", "amount": 8}]
    assert answer["suggestions"][0] | {"share_percent": 0} == {
        "share_percent": 0, "amount": 11, "blocked": 0, "blocked_calls": 0, "saved_usd": None,
    }  # fmt: skip
    assert api.get(f"{ADDRESS}?per=run").status == 200
    assert api.get(f"{ADDRESS}?window=hour").json["in_force"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("metric=concurrency", "metric"),
        ("window=minute", "window"),
        ("window=total", "window"),
        ("of=money", "of"),
        ("per=nobody", "per"),
        ("plan=" + "x" * 256, "plan"),
        ("from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "from"),
        ("from=2024-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "from"),
        ("share=3", "share"),
    ],
)
def test_what_cannot_be_suggested_is_refused_by_its_name(api: Api, query: str, field: str) -> None:
    assert_problem(api.get(f"{ADDRESS}?{query}"), 422, "VALIDATION_ERROR", field=field)
