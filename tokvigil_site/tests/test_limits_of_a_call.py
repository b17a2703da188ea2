"""How many limits can apply to one call: bounded where policies are published, so that every call can be checked."""

from __future__ import annotations

from itertools import islice, product

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from policies.changing import publishing
from policies.files.file_errors import PolicyFileError
from policies.models import Policy
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import (
    LIMITS_MAX,
    LIMITS_OF_A_CALL_MAX,
    Kind,
    LimitRule,
    Mode,
    PolicyRule,
    PolicySet,
    Scope,
    UnknownPrice,
    Weight,
    limits_of_a_call,
)
from tenants.models import Environment
from tokvigil_site.testing import Api
from usage.amounts import Per
from usage.assessment import PolicyRef
from usage.metrics import Metric
from usage.windows import Window

ALL_LIMITS = [
    LimitRule(metric=metric, window=window, amount=1_000_000, per=per)
    for window, metric, per in product(Window, (Metric.REQUESTS, Metric.TOKENS, Metric.INPUT_TOKENS), Per)
]


def guardrail(name: str, limits: int, scope: Scope | None = None, mode: Mode = Mode.ENFORCE) -> PolicyRule:
    return PolicyRule(
        name=name,
        kind=Kind.GUARDRAIL,
        mode=mode,
        scope=scope or Scope(),
        limits=tuple(islice(ALL_LIMITS, limits)),
        unknown_price=UnknownPrice.ALLOW,
    )


def guardrails(limits: int) -> list[PolicyRule]:
    sizes = [LIMITS_MAX] * (limits // LIMITS_MAX) + [limits % LIMITS_MAX]
    return [guardrail(f"G{number}", size) for number, size in enumerate(sizes)]


def test_a_call_can_have_as_many_as_that(api: Api, environment: Environment) -> None:
    publishing.publish(environment, PolicySet(policies=tuple(guardrails(LIMITS_OF_A_CALL_MAX))), actor="test")
    decision = api.evaluate(feature="f", plan="p", run_id="r")
    assert (decision["allowed"], decision["degraded"]) == (True, False)
    assert len(decision["limit_state"]) == LIMITS_OF_A_CALL_MAX


def test_one_more_is_refused_by_name(environment: Environment) -> None:
    wanted = PolicySet(policies=tuple(guardrails(LIMITS_OF_A_CALL_MAX + 1)))
    for dry_run in (True, False):
        with pytest.raises(PolicyFileError, match="1001 limits could apply to one call"):
            publishing.publish(environment, wanted, actor="test", dry_run=dry_run)
    assert not Policy.objects.exists()


def test_so_it_is_when_policies_come_one_by_one(environment: Environment) -> None:
    publishing.publish(environment, PolicySet(policies=tuple(guardrails(LIMITS_OF_A_CALL_MAX))), actor="test")
    with pytest.raises(PolicyFileError, match="1001 limits"):
        publishing.publish_one(environment, guardrail("more", 1), actor="test")
    publishing.publish_one(environment, guardrail("off", 1, mode=Mode.OFF), actor="test")
    last = Policy.objects.get(name="G31")
    with pytest.raises(PolicyFileError, match="1001 limits"):
        publishing.publish_one(environment, guardrail("G31", 9), actor="test", policy_id=last.pk)
    publishing.publish_one(environment, guardrail("G31", 7), actor="test", policy_id=last.pk)
    publishing.publish_one(environment, guardrail("more", 1), actor="test")


def test_so_it_is_in_the_admin(environment: Environment) -> None:
    publishing.publish(environment, PolicySet(policies=tuple(guardrails(LIMITS_OF_A_CALL_MAX))), actor="test")
    publishing.publish_one(environment, guardrail("off", 1, mode=Mode.OFF), actor="test")
    User.objects.create_superuser("root")
    client = Client()
    client.force_login(User.objects.get(username="root"))
    policy = Policy.objects.get(name="off")
    limit = policy.limits.get()
    form = {
        "name": "off",
        "kind": "guardrail",
        "mode": "enforce",
        "priority": "0",
        "on_unavailable": "block",
        "on_unsettled": "release",
        "unknown_price": "allow",
        "limits-TOTAL_FORMS": "1",
        "limits-INITIAL_FORMS": "0",
        "limits-0-metric": limit.metric,
        "limits-0-window": limit.window,
        "limits-0-per": limit.per,
        "limits-0-amount": "5",
    }
    url = reverse("admin:policies_policy_edit", args=[policy.pk])
    for button in ({}, {"_publish": "yes"}):
        answer = client.post(url, form | button).content.decode()
        assert "It cannot be published as it is." in answer
        assert "1001 limits could apply to one call" in answer
        assert 'name="_publish"' not in answer
    policy.refresh_from_db()
    assert policy.mode == Mode.OFF


NAMES = st.sampled_from(["", "a", "b"])
POLICIES = st.lists(
    st.builds(
        lambda user, feature, plan, kind, mode, size: PolicyRule(
            name="x",
            scope=Scope(user=user, feature=feature, plan=plan),
            kind=kind,
            mode=mode,
            limits=tuple(ALL_LIMITS[:size]),
        ),
        NAMES,
        NAMES,
        NAMES,
        st.sampled_from(Kind),
        st.sampled_from(Mode),
        st.integers(0, 5),
    ),
    max_size=30,
)


@given(POLICIES, NAMES, NAMES, NAMES)
def test_no_call_has_more(rules: list[PolicyRule], user: str, feature: str, plan: str) -> None:
    index = PolicyIndex(
        StoredPolicy(ref=PolicyRef(str(number), "x", 1, "default"), ordinal=number, rule=rule)
        for number, rule in enumerate(rules)
    )
    matched = index.resolve(user=user, feature=feature, plan=plan)
    applying = sum(len(policy.rule.limits) for policy in matched.policies)
    assert applying <= limits_of_a_call(map(Weight.of, rules))


def test_policies_for_different_plans_are_not_added_up() -> None:
    rules = [guardrail(f"G{number}", 30, Scope(plan=f"plan{number}")) for number in range(1_000)]
    assert limits_of_a_call(map(Weight.of, rules)) == 30
