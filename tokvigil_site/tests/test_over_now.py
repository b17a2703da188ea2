"""Who would feel a new or lower limit at once is named before it is published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.changing import decided_calls, drafts, over_now
from policies.changing.decided_calls import DecidesNothing
from policies.changing.over_now import Over
from policies.models import Draft
from policies.rules import Kind, LimitRule, Mode, PolicyRule, Scope
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

FILE = """
plans: [free]
policies:
  - name: Free
    unknown_price: allow
    scope: {plan: free}
    limits: [{metric: requests, window: day, amount: 5}]
"""


@pytest.fixture
def draft(environment: Environment, api: Api) -> Draft:
    """Three users of the plan made 3, 2 and 1 calls, and another one 4."""
    apply_policies(environment, FILE)
    for user, calls in (("ana", 3), ("ben", 2), ("cat", 1)):
        for _ in range(calls):
            api.use(user, plan="free")
    for _ in range(4):
        api.use("dan")
    return drafts.begin(environment, "Tighter", actor="test")


def over(draft: Draft, rule: PolicyRule) -> tuple[Over, ...]:
    changed = drafts.put(draft, rule, instead_of="Free", edits=draft.edits, actor="test")
    return over_now.of(draft.environment, drafts.changes(changed), drafts.stored(changed))


def limited(draft: Draft, amount: int) -> PolicyRule:
    rule = drafts.rules_of(draft)["Free"]
    return replace(rule, limits=(replace(rule.limits[0], amount=amount),))


def test_those_at_or_over_a_lower_limit_are_named(draft: Draft) -> None:
    (found,) = over(draft, limited(draft, 2))
    assert (found.policy, found.says, found.who, found.more) == (
        "Free", "2 requests a day, each user", ("ana", "ben"), False,
    )  # fmt: skip


def test_a_higher_limit_and_one_that_only_monitors_concern_nobody(draft: Draft) -> None:
    assert over(draft, limited(draft, 9)) == ()
    draft.refresh_from_db()
    assert over(draft, replace(limited(draft, 2), mode=Mode.MONITOR)) == ()


ONE = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=1, per=Per.USER)


def beside(draft: Draft, **fields: Any) -> tuple[list[str], tuple[DecidesNothing, ...]]:
    """Who is over a limit of one request in a policy beside the others, and which policies decide nothing."""
    draft.refresh_from_db()
    rule = PolicyRule(**{"name": "Beside", "limits": (ONE,)} | fields)
    put = drafts.put(draft, rule, instead_of=rule.name, edits=draft.edits, actor="test")
    changes, supposed = drafts.changes(put), drafts.stored(put)
    found = over_now.of(draft.environment, changes, supposed)
    return (
        [name for each in found for name in each.who],
        decided_calls.deciding_nothing(draft.environment, changes, supposed),
    )


def test_only_those_are_named_whose_calls_the_policy_would_decide(draft: Draft) -> None:
    assert beside(draft) == (["dan"], ())
    rival = (DecidesNothing(policy="Beside", instead=("Free",)),)
    assert beside(draft, scope=Scope(plan="free")) == ([], rival), "the older one of a plan decides"
    assert beside(draft, scope=Scope(plan="free"), priority=1) == (["ana", "ben", "cat"], ())
    assert beside(draft, kind=Kind.GUARDRAIL) == (["dan", "ana", "ben", "cat"], ())
    assert beside(draft, scope=Scope(user="ana")) == (["ana"], ())


def test_policies_of_one_user_and_of_a_feature_go_before(draft: Draft, api: Api) -> None:
    api.use("eve", feature="chat")
    for name, scope in (("Of Dan", Scope(user="dan")), ("Chat of Eve", Scope(user="eve", feature="chat"))):
        draft.refresh_from_db()
        drafts.put(
            draft, PolicyRule(name=name, scope=scope), instead_of=None, edits=draft.edits, actor="test"
        )
    assert beside(draft)[0] == []
    assert [each.policy for each in beside(draft)[1]] == ["Beside"]
    api.use("eve")
    api.use("eve")
    assert beside(draft) == (["eve"], ())
