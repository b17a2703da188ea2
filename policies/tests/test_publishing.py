from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audit.models import Entry
from policies import policy_rows
from policies.changing import publishing
from policies.changing.publishing import (
    ChangeKind,
    PlanChange,
    PolicyChange,
    archive,
    plan_changes,
    publish,
    publish_one,
)
from policies.files import documents
from policies.files.file_errors import PolicyFileError
from policies.models import EndUser, Plan, Policy, PolicyVersion
from policies.rules import LimitRule, Mode, ModelRules, PerRequest, PolicyRule, PolicySet, Scope
from tenants.models import Environment, Tenant
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

pytestmark = pytest.mark.django_db

DAILY = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=50, per=Per.USER)
BUDGET = LimitRule(metric=Metric.COST_USD, window=Window.MONTH, amount=5_000_000_001, per=Per.ENVIRONMENT)
AT_ONCE = LimitRule(metric=Metric.CONCURRENCY, window=Window.TOTAL, amount=2, per=Per.RUN)
DEFAULT = PolicyRule(name="Default", limits=(DAILY,))
FREE = PolicyRule(
    name="Free",
    scope=Scope(plan="free"),
    models=ModelRules(allow=("gpt-4o-mini", "claude-*"), deny=("*-preview",)),
    per_request=PerRequest(cost_nano=1, input_tokens=0),
    limits=(BUDGET, AT_ONCE),
)
BOTH = PolicySet(plans=("free",), policies=(DEFAULT, FREE))


@pytest.fixture
def environment() -> Environment:
    return Tenant.create_with_environments("acme").environments.get(slug="prod")


def put(environment: Environment, *policies: PolicyRule, plans: tuple[str, ...] = ("free",)) -> Any:
    return publish(environment, PolicySet(plans=plans, policies=policies), actor="cli:test")


def row(environment: Environment, name: str) -> Policy:
    return environment.policies.get(name=name, archived_at=None)


def said(policy: Policy, version: int) -> dict[str, Any]:
    document = policy.versions.get(version=version).document
    assert isinstance(document, dict)
    return document


def pairs(environment: Environment) -> set[str]:
    return {str(pair) for pair in environment.tracked_pairs.all()}


def revision(environment: Environment) -> int:
    return Environment.objects.get(pk=environment.pk).revision


def audited(environment: Environment) -> list[str]:
    actions = ("policy.", "plan.")
    entries = Entry.objects.filter(tenant_id=environment.tenant_id).order_by("seq")
    return [f"{entry.action} {entry.target_name}" for entry in entries if entry.action.startswith(actions)]


def test_what_is_published_is_in_force(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    assert policy_rows.policy_set(environment) == BOTH
    assert [version.version for version in PolicyVersion.objects.all()] == [1, 1]
    assert row(environment, "Default").ordinal < row(environment, "Free").ordinal


def test_one_publication_is_one_revision_and_one_audit_entry_a_change(environment: Environment) -> None:
    before = revision(environment)
    publish(environment, BOTH, actor="cli:test")
    assert revision(environment) == before + 1
    assert audited(environment) == ["plan.added free", "policy.added Default", "policy.added Free"]
    assert set(Entry.objects.filter(action="policy.added").values_list("actor", flat=True)) == {"cli:test"}


def test_publishing_the_same_again_changes_nothing(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    before = revision(environment), Entry.objects.count(), list(Policy.objects.values())
    assert publish(environment, BOTH, actor="cli:test") == ()
    assert (revision(environment), Entry.objects.count(), list(Policy.objects.values())) == before


def test_a_dry_run_tells_all_and_changes_nothing(environment: Environment) -> None:
    changes = publish(environment, BOTH, actor="cli:test", dry_run=True)
    assert [(change.kind, change.name) for change in changes] == [
        (ChangeKind.ADDED, "free"),
        (ChangeKind.ADDED, "Default"),
        (ChangeKind.ADDED, "Free"),
    ]
    assert not environment.policies.exists()
    assert not environment.plans.exists()
    assert audited(environment) == []


def test_a_changed_policy_gets_its_next_version_and_keeps_its_place(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    first = row(environment, "Default")
    (change,) = put(environment, replace(DEFAULT, limits=(replace(DAILY, amount=60),)), FREE)

    assert isinstance(change, PolicyChange)
    assert "+  - {metric: requests, window: day, amount: 60, per: user}" in change.diff
    now = row(environment, "Default")
    assert (now.pk, now.ordinal, now.version) == (first.pk, first.ordinal, 2)
    assert row(environment, "Free").version == 1
    assert said(now, 1)["limits"][0]["amount"] == 50
    assert said(now, 2)["limits"][0]["amount"] == 60
    assert now.versions.get(version=2).actor == "cli:test"
    entry = Entry.objects.get(action="policy.changed")
    assert entry.data["version"] == 2
    assert "amount: 60" in entry.data["diff"]
    assert entry.data["changes"] == {
        "requests a day, each user": {"before": "50 requests", "after": "60 requests"}
    }


def test_a_version_holds_the_whole_policy(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    assert documents.rule_of(said(row(environment, "Free"), 1)) == FREE


def test_a_policy_that_is_not_named_is_archived(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    free = row(environment, "Free")
    put(environment, DEFAULT)
    free.refresh_from_db()
    assert free.archived_at is not None
    assert free.versions.get(version=2).document is None
    assert audited(environment)[-1] == "policy.archived Free"


def test_an_archived_name_can_be_used_again_by_a_younger_policy(environment: Environment) -> None:
    put(environment, DEFAULT)
    first = row(environment, "Default")
    put(environment)
    put(environment, DEFAULT)
    again = row(environment, "Default")
    assert again.pk != first.pk
    assert (again.version, again.ordinal) == (1, first.ordinal + 1)


def test_the_pairs_that_limits_in_force_read_are_tracked(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    assert pairs(environment) == {"user:day", "environment:month"}
    kept = environment.tracked_pairs.get(per="user")
    put(environment, DEFAULT, replace(FREE, mode=Mode.OFF))
    assert list(environment.tracked_pairs.all()) == [kept]
    put(environment, replace(DEFAULT, mode=Mode.MONITOR), FREE)
    assert pairs(environment) == {"user:day", "environment:month"}
    put(environment)
    assert pairs(environment) == set()


def test_a_plan_that_is_not_listed_is_removed(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    changes = put(environment, DEFAULT, plans=())
    assert changes[-1] == PlanChange(name="free", kind=ChangeKind.REMOVED)
    assert not environment.plans.exists()
    assert audited(environment)[-1] == "plan.removed free"


def test_a_plan_that_end_users_have_stays(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    EndUser.objects.create(environment=environment, user_id="ann", plan=environment.plans.get())
    before = revision(environment)
    with pytest.raises(PolicyFileError, match="plans: 1 end users have the plan 'free'"):
        put(environment, DEFAULT, plans=())
    assert policy_rows.policy_set(environment) == BOTH
    assert revision(environment) == before


def test_another_environment_is_not_touched(environment: Environment) -> None:
    other = environment.tenant.environments.get(slug="dev")
    publish(other, BOTH, actor="cli:test")
    before = revision(other)
    put(environment, replace(DEFAULT, priority=7), plans=())
    assert policy_rows.policy_set(other) == BOTH
    assert revision(other) == before


def test_one_policy_is_added_beside_the_others(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    policy = publish_one(environment, replace(DEFAULT, name="VIP", scope=Scope(user="ann")), actor="admin:bo")
    assert policy.versions.get().actor == "admin:bo"
    assert [rule.name for rule in policy_rows.policy_set(environment).policies] == ["Default", "Free", "VIP"]


def test_one_policy_is_renamed_and_keeps_its_history(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    before = row(environment, "Default")
    policy = publish_one(environment, replace(DEFAULT, name="Basic"), actor="admin:bo", policy_id=before.pk)
    assert (policy.pk, policy.name, policy.version) == (before.pk, "Basic", 2)
    assert [rule.name for rule in policy_rows.policy_set(environment).policies] == ["Basic", "Free"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (replace(DEFAULT, name="Free"), "another policy is named 'Free'"),
        (replace(DEFAULT, scope=Scope(plan="gold")), "no plan 'gold'"),
        (replace(DEFAULT, limits=(DAILY, DAILY)), "limits"),
        (replace(DEFAULT, name=""), "name"),
    ],
)
def test_one_policy_is_checked_like_a_file(environment: Environment, rule: PolicyRule, message: str) -> None:
    publish(environment, BOTH, actor="cli:test")
    with pytest.raises(PolicyFileError, match=message):
        publish_one(environment, rule, actor="admin:bo", policy_id=row(environment, "Default").pk)
    assert policy_rows.policy_set(environment) == BOTH


def test_a_policy_of_another_environment_cannot_be_changed_by_its_id(environment: Environment) -> None:
    publish(environment, BOTH, actor="cli:test")
    other = environment.tenant.environments.get(slug="dev")
    with pytest.raises(Policy.DoesNotExist):
        publish_one(other, DEFAULT, actor="admin:bo", policy_id=row(environment, "Default").pk)


def test_archiving_again_does_nothing(environment: Environment) -> None:
    put(environment, DEFAULT)
    policy = row(environment, "Default")
    archive(policy, actor="admin:bo")
    before = revision(environment), policy.versions.count()
    archive(policy, actor="admin:bo")
    assert (revision(environment), policy.versions.count()) == before
    assert before[1] == 2


def test_a_plan_is_added_once_and_removed_only_when_nothing_names_it(environment: Environment) -> None:
    plan = publishing.add_plan(environment, "gold", actor="admin:bo")
    assert publishing.add_plan(environment, "gold", actor="admin:bo") == plan
    publish_one(environment, replace(DEFAULT, scope=Scope(plan="gold")), actor="admin:bo")
    with pytest.raises(PolicyFileError, match="archive the policy first"):
        publishing.remove_plan(plan, actor="admin:bo")
    archive(row(environment, "Default"), actor="admin:bo")
    publishing.remove_plan(plan, actor="admin:bo")
    assert not Plan.objects.exists()
    with pytest.raises(PolicyFileError, match="blank"):
        publishing.add_plan(environment, " gold", actor="admin:bo")


def test_planning_costs_the_same_however_many_policies_there_are(environment: Environment) -> None:
    many = PolicySet(policies=tuple(replace(DEFAULT, name=f"P{number}") for number in range(20)))
    publish(environment, many, actor="cli:test")
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert plan_changes(environment, many) == ()
    assert len(queries) <= 4
