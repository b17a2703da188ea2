"""The demo's month tells its story on any day, and its budget is one that its past kept to."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from policies.blocked.tracing import trace
from policies.changing import drafts
from policies.describing.considering import Part
from policies.models import BlockedDecision, Policy
from policies.policy_rows import rule_of, supposed
from policies.replaying.replay import replay
from policies.rules import Mode
from policies.standing.of_call import of_call
from tenants.models import Environment
from tokvigil_site.demo import month
from tokvigil_site.demo.month import Month
from tokvigil_site.demo.stage import Stage
from usage.analytics.models import SavedView
from usage.ledger import subject_sums
from usage.models import UsageEvent
from usage.prices.genai import load_shared_prices

pytestmark = pytest.mark.django_db(transaction=True)


def made(environment: Environment, monkeypatch: pytest.MonkeyPatch, now: datetime) -> Month:
    load_shared_prices()
    monkeypatch.setattr(month, "CALLS", 6_000)
    return month.set_up(Stage(environment=environment, api_key=""), now)


@pytest.mark.parametrize(
    ("day", "mode"), [(1, Mode.MONITOR), (11, Mode.MONITOR), (22, Mode.ENFORCE), (30, Mode.ENFORCE)]
)
def test_most_of_the_budget_is_used_on_any_day_and_it_is_enforced_if_the_past_kept_to_it(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, day: int, mode: Mode
) -> None:
    now = datetime(2026, 11, day, 15, tzinfo=UTC)
    of = made(environment, monkeypatch, now).environment
    rule = rule_of(Policy.objects.in_force(of.pk).get(name=month.BUDGET))
    _, spent = subject_sums.of_all(of.pk, rule.limits[0].per, datetime(2026, 10, 31, 23, tzinfo=UTC), now)
    (used,) = (amounts.cost_nano for amounts in spent.values())
    assert 0.7 <= used / rule.limits[0].amount <= 0.93
    assert rule.mode is mode


def test_a_replay_of_what_is_in_force_finds_no_difference_and_of_its_draft_blocks_free_users_alone(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 11, 28, 8, tzinfo=UTC)
    made_month = made(environment, monkeypatch, now)
    of, asked = made_month.environment, made_month.replay
    in_force = supposed(of.pk, drafts.live_of(of).values())
    found = replay(of, in_force, asked.start, asked.end, check=True)
    assert (found.calls.newly_blocked, found.calls.newly_allowed) == (0, 0)
    assert found.self_check is not None
    assert (found.self_check.differing, found.self_check.compared) == (0, found.calls.replayed)
    assert asked.draft is not None
    halved = replay(of, drafts.stored(asked.draft), asked.start, asked.end)
    assert halved.calls.newly_blocked > 0
    assert {reason.policy for reason in halved.reasons} == {month.FREE}


def test_the_policies_of_its_past_were_in_force_before_its_first_call(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = made(environment, monkeypatch, datetime(2026, 11, 28, 8, tzinfo=UTC)).environment
    first_made = UsageEvent.objects.filter(environment=of).earliest("charged_at")
    names = [applied.policy.name for applied in of_call(first_made, ZoneInfo("UTC")).applied]
    assert names == [f"{first_made.plan.capitalize()} plan"]
    blocked = BlockedDecision.objects.filter(environment=of).earliest("decided_at")
    traced = trace(blocked, ())
    assert not traced.differs
    assert month.FREE in [policy.name for policy in traced.explained.policies if policy.part is Part.DECIDES]


def test_a_second_run_saves_no_second_view(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(environment, monkeypatch, datetime(2026, 11, 28, 8, tzinfo=UTC)).environment
    made(first, monkeypatch, datetime(2026, 11, 28, 9, tzinfo=UTC))
    (view,) = SavedView.objects.filter(tenant=environment.tenant)
    assert (view.name, view.shared) == (month.VIEW, True)
