"""Try it with a draft: where the draft says what is in force, the answers are the same, whatever the call."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.utils import timezone

from policies import boosts
from policies.changing import drafts
from policies.deciding.evaluation import Evaluated
from policies.describing.trace import Explanation
from policies.end_users import set_end_user
from policies.files import policy_file
from policies.models import Boost, NamedCaller
from policies.resolution import StoredPolicy
from policies.trying.explaining import explain
from policies.trying.try_it import ask, policies_of, suppose, uncounted
from tenants import freezing
from tenants.models import DefaultAction, Environment
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from usage.assessment import PolicyRef
from usage.counting.store import Unanswered, store

POLICIES = {
    "each kind of subject": """
plans: [free]
policies:
  - name: Everyone
    unknown_price: allow
    limits:
      - {metric: requests, window: day, amount: 3, per: user}
      - {metric: tokens, window: month, amount: 5000, per: user_feature}
      - {metric: requests, window: day, amount: 6, per: feature}
      - {metric: requests, window: day, amount: 5, per: plan}
      - {metric: requests, window: hour, amount: 2, per: run}
      - {metric: requests, window: day, amount: 7, per: environment}
""",
    "money, and models by name": """
plans: [free]
policies:
  - name: Cheap
    models: {allow: [small, "*mini"]}
    per_request: {cost_usd: "0.001"}
    limits: [{metric: cost_usd, window: day, amount: "0.002", per: user}]
  - {name: No dear ones, kind: guardrail, models: {deny: [large]}, limits: []}
""",
    "calls at once, and monitoring": """
plans: [free]
policies:
  - name: At once
    unknown_price: allow
    limits:
      - {metric: concurrency, window: total, amount: 2, per: user}
      - {metric: concurrency, window: total, amount: 1, per: run}
  - name: Monitoring
    kind: guardrail
    mode: monitor
    unknown_price: allow
    limits: [{metric: requests, window: day, amount: 0}]
  - name: Free
    scope: {plan: free}
    unknown_price: allow
    limits: [{metric: output_tokens, window: day, amount: 70}]
""",
    "none": "plans: [free]\npolicies: []\n",
}
CALLERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "of a feature": {"feature": "chat"},
    "of a frozen feature": {"feature": "frozen"},
    "with a plan": {"plan": "free"},
    "with a plan that nobody sells": {"plan": "gold"},
    "whose plan is stored": {"user_id": "stored", "plan": "gold"},
    "who is blocked": {"user_id": "blocked"},
    "boosted": {"user_id": "boosted", "plan": "free", "feature": "chat"},
    "in a run": {"run_id": "r1", "max_output_tokens": 0},
    "with a long answer": {"max_output_tokens": 90_000, "model": "large"},
    "whose model is denied": {"model": "large", "input_tokens": 2000},
    "whose model has no price": {"model": "unheard-of"},
    "with tokens": {"input_tokens": 4000, "model": "small", "feature": "chat"},
}


def call(environment: Environment, **fields: Any) -> NamedCaller:
    return NamedCaller(environment=environment, **{"name": "call", "user_id": "ana", "model": "m", **fields})


def give(environment: Environment, per: str, subject: str, **fields: Any) -> None:
    values = {"metric": "requests", "window": "day", "extra": Decimal(4), "reason": "Trial week"} | fields
    ends_at = timezone.now() + timedelta(hours=1)
    boost = Boost(environment=environment, per=per, subject=subject, ends_at=ends_at, **values)
    boosts.give(boost, actor="test")


@pytest.fixture
def world(environment: Environment, api: Api) -> Environment:
    """With prices, a stored plan, a block, a freeze, boosts, and calls that were made and are in flight."""
    set_price("small", input_usd="1", output_usd="2")
    set_price("m", input_usd="1", output_usd="2")
    set_price("large", input_usd="100", output_usd="200")
    apply_policies(environment, POLICIES["each kind of subject"])
    set_end_user(environment, "stored", plan_name="free", blocked=False, actor="test")
    set_end_user(environment, "blocked", plan_name=None, blocked=True, actor="test")
    freezing.freeze(environment, features=["frozen"], reason="An incident", actor="test")
    for user, fields in (
        ("ana", {"run_id": "r1"}),
        ("ana", {"feature": "chat"}),
        ("boosted", {"plan": "free"}),
    ):
        api.use(user, model="m", **fields)
    api.evaluate("ana", model="m", run_id="r1")
    give(environment, "user", "boosted")
    give(environment, "plan", "free", extra=Decimal(2))
    give(environment, "feature", "chat")
    give(environment, "environment", "")
    return environment


def said(evaluated: Evaluated, explanation: Explanation) -> Any:
    """Without what is of this one evaluate: its id, and the second in which it was asked."""
    decided = msgspec.to_builtins(evaluated.decision)
    for verdict in (decided["verdict"], decided["shadow"] or {}):
        verdict.pop("retry_after_s", None)
    explained = asdict(explanation) | {"retry_after_s": None}
    assessed = msgspec.structs.replace(evaluated.assessment, request_id="")
    return decided, assessed, explained, evaluated.suggested_model, evaluated.degraded


def compared(environment: Environment, drafted: list[StoredPolicy], **fields: Any) -> tuple[Any, Any]:
    """A call by what is in force, and the same by a draft."""
    policies, caller = policies_of(environment), call(environment, **fields)
    live = ask(environment, caller)
    supposed = suppose(live, caller, drafted)
    assert uncounted(live, supposed) == frozenset()
    return said(live, explain(live, policies)), said(supposed, explain(supposed, drafted))


@pytest.mark.parametrize("policies", POLICIES)
def test_a_draft_that_says_what_is_in_force_decides_the_same(world: Environment, policies: str) -> None:
    apply_policies(world, POLICIES[policies])
    draft = drafts.begin(world, "Nothing yet", actor="test")
    for name, fields in CALLERS.items():
        live, supposed = compared(world, drafts.stored(draft), **fields)
        assert supposed == live, name


@pytest.mark.parametrize("policies", POLICIES)
def test_so_it_does_in_a_frozen_environment_and_one_that_blocks_calls_without_a_policy(
    world: Environment, policies: str
) -> None:
    apply_policies(world, POLICIES[policies])
    world.default_action = DefaultAction.BLOCK
    world.save()
    reasons = set()
    for frozen in (False, True):
        if frozen:
            freezing.freeze(world, reason="An incident", actor="test")
        for name, fields in CALLERS.items():
            live, supposed = compared(world, policies_of(world), **fields)
            assert supposed == live, (frozen, name)
            reasons.add(live[2]["reason_code"])
    assert ("NO_POLICY" if policies == "none" else "ENVIRONMENT_FROZEN") in reasons


def test_so_it_does_while_the_counters_cannot_be_read(
    world: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unanswered("away")

    for fields in CALLERS.values():
        ask(world, call(world, **fields))
    monkeypatch.setattr(store, "run", away)
    for name, fields in CALLERS.items():
        live, supposed = compared(world, policies_of(world), **fields)
        assert live[-1], "without counters"
        assert supposed == live, name


@pytest.mark.parametrize(
    ("per", "subject"), [("user", "ana"), ("plan", "free"), ("feature", "chat"), ("environment", "")]
)
def test_boosts_count_in_a_draft(environment: Environment, api: Api, per: str, subject: str) -> None:
    file = "plans: [free]\n" + limits(f"{{metric: requests, window: day, amount: 1, per: {per}}}")
    apply_policies(environment, file)
    api.use("ana", plan="free", feature="chat")
    give(environment, per, subject, extra=Decimal(1))
    draft = drafts.begin(environment, "Nothing yet", actor="test")
    live, supposed = compared(environment, drafts.stored(draft), plan="free", feature="chat")
    assert supposed == live
    (limit,) = supposed[2]["limits"]
    assert (limit["limit"], limit["boosted"], supposed[2]["allowed"]) == (2, 1, True)


def test_a_limit_that_only_the_draft_has_is_read_from_the_ledger_and_says_so(
    environment: Environment, api: Api
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: user}"))
    api.use("ana")
    api.evaluate("ana")
    give(environment, "environment", "", window="total")
    drafted = _stored(
        limits(
            "{metric: requests, window: day, amount: 2, per: user}",
            "{metric: requests, window: total, amount: 1, per: environment}",
            "{metric: concurrency, window: total, amount: 1, per: user}",
        )
    )
    caller = call(environment)
    live = ask(environment, caller)
    supposed = suppose(live, caller, drafted)
    found = explain(supposed, drafted, uncounted(live, supposed))
    assert [(limit.used, limit.held, limit.counted) for limit in found.limits] == [
        (1, 1, True),
        (1, 0, False),
        (0, 0, False),
    ]
    assert found.limits[1].limit == 5, "a boost raises it too"


def _stored(file: str) -> list[StoredPolicy]:
    rules = policy_file.parse("version: 1\n" + file).policies
    return [
        StoredPolicy(ref=PolicyRef("", rule.name, 1, "default"), ordinal=number, rule=rule)
        for number, rule in enumerate(rules)
    ]
