"""A made-up past obeys the policies in force: it is what live traffic under them would have left behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db.models import Count, Sum
from django.db.models.functions import TruncDate

from policies.blocked import counts
from policies.models import BlockedDecision, Policy
from policies.policy_rows import rule_of, supposed
from policies.replaying import made_up_past
from policies.replaying.made_up_past import Past
from policies.replaying.replay import replay
from policies.rules import PolicyRule
from tenants.models import ApiKey, Environment
from tenants.scopes import PRESETS
from tokvigil_site.testing import apply_policies, set_price
from usage.ledger.buckets import Range
from usage.ledger.synthetic import FEATURES, Plan
from usage.models import UsageEvent
from usage.tests.rolling import roll_all

pytestmark = pytest.mark.django_db(transaction=True)

UNTIL = datetime(2026, 11, 3, 10, tzinfo=UTC)
DAYS, CALLS, FREE_MAX = 6, 3_000, 8
POLICIES = f"""
plans: [free, pro, enterprise]
policies:
  - {{name: Free, scope: {{plan: free}}, limits: [{{metric: requests, window: day, amount: {FREE_MAX}, per: user}}]}}
  - {{name: Everyone else, unknown_price: allow}}
"""


@pytest.fixture
def key(environment: Environment) -> ApiKey:
    for model, provider in {row[:2] for feature in FEATURES for row in feature.models if row[1]}:
        price = set_price(model, input_usd="1", output_usd="4")
        price.provider = provider
        price.save()
    apply_policies(environment, POLICIES)
    return ApiKey.issue(environment, "made", PRESETS["server"])[0]


def made(key: ApiKey, *, seed: int = 1) -> Past:
    plan = Plan(environment_id=key.environment_id, calls=CALLS, until=UNTIL, days=DAYS, users=40, seed=seed)
    past = made_up_past.write(key, plan)
    roll_all(key.environment_id)
    return past


def test_no_free_user_has_more_calls_a_day_than_the_limit_and_each_further_one_is_blocked(
    key: ApiKey,
) -> None:
    past = made(key)
    assert past.calls + past.blocked == CALLS
    rows, zone = (
        UsageEvent.objects.filter(environment=key.environment),
        ZoneInfo(key.environment.tenant.timezone),
    )
    by_day = (
        rows.filter(plan="free").annotate(day=TruncDate("charged_at", tzinfo=zone)).values("user_id", "day")
    )
    used = {(row["user_id"], row["day"]): row["calls"] for row in by_day.annotate(calls=Sum("requests"))}
    assert max(used.values()) == FREE_MAX
    blocked = BlockedDecision.objects.filter(environment=key.environment)
    assert blocked.count() == past.blocked > 0
    for user, day in blocked.annotate(day=TruncDate("decided_at", tzinfo=zone)).values_list("user_id", "day"):
        assert used[user, day] == FREE_MAX
    assert not rows.filter(request_id__in=blocked.values("request_id")).exists()


def test_a_blocked_call_says_why_as_a_live_one_does(key: ApiKey) -> None:
    made(key)
    policy = Policy.objects.get(environment=key.environment, name="Free")
    for decision in BlockedDecision.objects.filter(environment=key.environment):
        assert (decision.reason_code, decision.reason_class) == ("DAILY_REQUEST_LIMIT_EXCEEDED", "exhausted")
        assert (decision.policy_id, decision.policy_version) == (policy.pk, 1)
        assert (decision.plan, decision.api_key_id) == ("free", key.pk)
        assert f"limit of {FREE_MAX} reached for user {decision.user_id}" in decision.message
        (state,) = decision.limit_state
        assert (state["used"], state["limit"], state["per"]) == (FREE_MAX, FREE_MAX, "user")


def test_a_call_that_was_made_names_the_policy_and_the_key_that_let_it_pass(key: ApiKey) -> None:
    made(key)
    names = {policy.pk: policy.name for policy in Policy.objects.in_force(key.environment_id)}
    rows = UsageEvent.objects.filter(environment=key.environment)
    found = {
        (plan == "free", policy and names[policy], api_key)
        for plan, policy, api_key in rows.values_list("plan", "policy_id", "api_key_id")
    }
    assert found == {(True, "Free", key.pk), (False, "Everyone else", key.pk)}


def test_a_replay_of_the_same_policies_finds_no_difference_and_of_half_the_limit_finds_some(
    key: ApiKey,
) -> None:
    past = made(key)
    environment = key.environment

    def replayed(rules: list[PolicyRule]) -> tuple[int, int, int]:
        found = replay(
            environment, supposed(environment.pk, rules), UNTIL - timedelta(days=DAYS), UNTIL
        ).calls
        return found.unchanged, found.newly_blocked, found.newly_allowed

    rules = [rule_of(row) for row in Policy.objects.in_force(environment.pk)]
    assert replayed(rules) == (past.calls + past.blocked, 0, 0)
    free = next(rule for rule in rules if rule.name == "Free")
    halved = replace(free, limits=(replace(free.limits[0], amount=FREE_MAX // 2),))
    _, newly_blocked, newly_allowed = replayed([halved if rule is free else rule for rule in rules])
    assert newly_blocked > 0
    assert newly_allowed == 0


def test_blocked_calls_are_counted_by_quarter_hour_as_they_are_stored(key: ApiKey) -> None:
    made(key)
    question = counts.Question(key.environment_id, Range(UNTIL - timedelta(days=DAYS), UNTIL))
    rows = BlockedDecision.objects.filter(environment=key.environment).values_list("user_id")
    assert dict(counts.most(question, "user_id", 100)) == dict(rows.annotate(calls=Count("pk")))


def test_the_same_seed_makes_the_same_past(key: ApiKey, other_environment: Environment) -> None:
    other_environment.tenant.timezone = key.environment.tenant.timezone
    other_environment.tenant.save()
    apply_policies(other_environment, POLICIES)
    other, _ = ApiKey.issue(other_environment, "made", PRESETS["server"])
    assert made(key) == made(other)

    def blocked(of: ApiKey) -> list[tuple[str, datetime]]:
        rows = BlockedDecision.objects.filter(environment=of.environment).order_by("decided_at", "request_id")
        return list(rows.values_list("request_id", "decided_at"))

    assert blocked(key) == blocked(other)
