"""Copying policies from one environment to another."""

from typing import Any

import pytest

from audit.models import Entry
from policies import policy_rows
from policies.changing import promotion
from policies.changing.promotion import only_in_target, promote, seen, wanted
from policies.changing.publishing import DeploymentChange, plan_changes, publish, publish_deployments
from policies.end_users import set_end_user
from policies.files.file_errors import PolicyFileError
from policies.files.policy_file import parse
from tenants.models import Environment, Tenant

pytestmark = pytest.mark.django_db

DEV = """
version: 1
plans: [free, gold]
policies:
  - {name: Default, limits: [{metric: requests, window: day, amount: 50}]}
  - {name: Free, scope: {plan: free}, limits: [{metric: requests, window: day, amount: 5}]}
"""
PROD = """
version: 1
plans: [basic]
policies:
  - {name: Company, kind: guardrail, limits: [{metric: cost_usd, window: month, amount: "9", per: environment}]}
  - {name: Default, limits: [{metric: requests, window: day, amount: 40}]}
"""


@pytest.fixture
def dev() -> Environment:
    environment = Tenant.create_with_environments("acme").environments.get(slug="dev")
    publish(environment, parse(DEV), actor="test")
    environment.refresh_from_db()
    return environment


@pytest.fixture
def prod(dev: Environment) -> Environment:
    environment = dev.tenant.environments.get(slug="prod")
    publish(environment, parse(PROD), actor="test")
    environment.refresh_from_db()
    return environment


def names(environment: Environment) -> list[str]:
    return [rule.name for rule in policy_rows.policy_set(environment).policies]


def plans(environment: Environment) -> list[str]:
    return list(environment.plans.values_list("name", flat=True))


def test_all_are_copied_and_what_only_the_target_has_is_kept(dev: Environment, prod: Environment) -> None:
    assert only_in_target(dev, prod) == ["Company"]
    before = Entry.objects.count()
    done = promote(dev, prod, looked_at=seen(dev, prod), actor="admin:mia", note="Release 7")
    assert list(map(str, done)) == [
        "plan 'free': added",
        "plan 'gold': added",
        "policy 'Default': changed, version 2",
        "policy 'Free': added, version 1",
    ]
    assert (names(prod), plans(prod)) == (["Company", "Default", "Free"], ["basic", "free", "gold"])
    entries = list(Entry.objects.order_by("pk")[before:])
    assert len(entries) == 4
    assert {(entry.actor, entry.data["note"]) for entry in entries} == {
        ("admin:mia", "Release 7 (copied from dev)")
    }


def test_what_only_the_target_has_goes_if_it_is_chosen(dev: Environment, prod: Environment) -> None:
    promote(dev, prod, looked_at=seen(dev, prod), actor="test", archive=True)
    assert policy_rows.policy_set(prod) == policy_rows.policy_set(dev)


def test_one_policy_is_copied_with_its_plan_alone(dev: Environment, prod: Environment) -> None:
    promote(dev, prod, looked_at=seen(dev, prod), actor="test", name="Free", archive=True)
    assert (names(prod), plans(prod)) == (["Company", "Default", "Free"], ["basic", "free"])
    assert policy_rows.policy_set(prod).policies[1].limits[0].amount == 40


def deployments(environment: Environment) -> dict[str, str]:
    return dict(environment.deployments.values_list("name", "model"))


@pytest.fixture
def deployed(dev: Environment, prod: Environment) -> None:
    publish_deployments(dev, (("chat", "gpt-4o"), ("new", "gpt-5")), actor="test")
    publish_deployments(prod, (("Chat", "gpt-4"), ("own", "gpt-4")), actor="test")
    for environment in (dev, prod):
        environment.refresh_from_db()


@pytest.mark.usefixtures("deployed")
def test_deployments_are_copied_if_it_is_chosen(dev: Environment, prod: Environment) -> None:
    done = promote(dev, prod, looked_at=seen(dev, prod), actor="test", deployments=True)
    assert [str(change) for change in done if isinstance(change, DeploymentChange)] == [
        "deployment 'Chat': removed",
        "deployment 'chat': added",
        "deployment 'new': added",
    ]
    assert deployments(prod) == {"chat": "gpt-4o", "new": "gpt-5", "own": "gpt-4"}
    assert plan_changes(prod, wanted(dev, prod, deployments=True)) == ()


@pytest.mark.usefixtures("deployed")
def test_deployments_that_only_the_target_has_go_with_the_policies_that_it_alone_has(
    dev: Environment, prod: Environment
) -> None:
    promote(dev, prod, looked_at=seen(dev, prod), actor="test", archive=True, deployments=True)
    assert deployments(prod) == {"chat": "gpt-4o", "new": "gpt-5"}


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("chosen", [{}, {"archive": True}, {"name": "Free", "deployments": True}])
def test_else_deployments_stay(dev: Environment, prod: Environment, chosen: Any) -> None:
    promote(dev, prod, looked_at=seen(dev, prod), actor="test", **chosen)
    assert deployments(prod) == {"Chat": "gpt-4", "own": "gpt-4"}


def test_deployments_that_would_be_too_many_are_refused(
    dev: Environment, prod: Environment, deployed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "DEPLOYMENTS_MAX", 2)
    with pytest.raises(PolicyFileError, match="there would be 3"):
        wanted(dev, prod, deployments=True)


def test_again_there_is_nothing_to_do(dev: Environment, prod: Environment) -> None:
    promote(dev, prod, looked_at=seen(dev, prod), actor="test")
    assert plan_changes(prod, wanted(dev, prod)) == ()


@pytest.mark.parametrize("changed", ["dev", "prod"])
def test_what_was_changed_since_somebody_looked_is_not_copied_unseen(
    dev: Environment, prod: Environment, changed: str
) -> None:
    looked_at = seen(dev, prod)
    publish({"dev": dev, "prod": prod}[changed], parse("version: 1\npolicies: [{name: New}]"), actor="test")
    before = names(prod)
    with pytest.raises(PolicyFileError, match="changed meanwhile"):
        promote(dev, prod, looked_at=looked_at, actor="test")
    assert names(prod) == before


def test_a_plan_that_users_have_stands_against_removing_it(dev: Environment, prod: Environment) -> None:
    set_end_user(prod, "ana", plan_name="basic", blocked=False, actor="test")
    prod.refresh_from_db()
    with pytest.raises(PolicyFileError, match="1 end users have the plan"):
        promote(dev, prod, looked_at=seen(dev, prod), actor="test", archive=True)


def test_nothing_is_copied_to_another_tenant(dev: Environment) -> None:
    theirs = Tenant.create_with_environments("other").environments.get(slug="prod")
    with pytest.raises(PolicyFileError, match="another tenant"):
        promote(dev, theirs, looked_at=seen(dev, theirs), actor="test")
