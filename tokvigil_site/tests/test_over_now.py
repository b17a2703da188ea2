"""Who would feel a new or lower limit at once is named before it is published."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.changing import drafts, over_now
from policies.changing.over_now import Over
from policies.models import Draft
from policies.rules import Mode, PolicyRule
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies

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
    return over_now.of(draft.environment, drafts.changes(changed))


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
