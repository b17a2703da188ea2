"""What is said of a call before anything is counted: each refusal, which of them wins, and what is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.deciding.assessing import Call, EnvironmentState, assess
from policies.deciding.call_terms import CallTerms, TermsCache, terms_of
from policies.deciding.decision import decide
from policies.reasons import CLASSES, Reason, rank
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import (
    Kind,
    LimitRule,
    Mode,
    ModelRules,
    OnUnavailable,
    OnUnsettled,
    PerRequest,
    PolicyRule,
    Scope,
    UnknownPrice,
)
from usage.amounts import Amounts, Pair, Per, Subjects
from usage.assessment import Assessment, PolicyRef, Reading
from usage.metrics import Metric
from usage.money import NANO
from usage.prices.book import PriceBook
from usage.prices.cost import Price, Rates
from usage.prices.model_groups import ModelGroups
from usage.windows import Span, Window

# A thousandth of a USD for each token in, two for each out.
PRICE = Price(provider="openai", model="gpt-5", rates=Rates(input=1000 * NANO, output=2000 * NANO))
STATE = EnvironmentState(frozen=False, frozen_features=frozenset(), allow_without_policy=True)
SUBJECTS = Subjects(user_id="ann", feature="chat", plan="pro", run_id="run-9")
SPANS = {window: Span(0, 1000 + place) for place, window in enumerate(Window)} | {Window.TOTAL: Span(0, None)}


def policy(name: str = "P", *, ordinal: int = 1, **fields: Any) -> StoredPolicy:
    rule = PolicyRule(name=name, **fields)
    return StoredPolicy(ref=PolicyRef(name, name, 1, rule.scope.label), ordinal=ordinal, rule=rule)


NO_GROUPS = ModelGroups(lambda: PriceBook.build(()))


def terms(policies: Sequence[StoredPolicy], subjects: Subjects = SUBJECTS) -> CallTerms:
    matched = PolicyIndex(policies).resolve(
        user=subjects.user_id, feature=subjects.feature, plan=subjects.plan
    )
    return terms_of(matched, subjects, SPANS, ())


def assessed(
    *policies: StoredPolicy,
    state: EnvironmentState = STATE,
    price: Price | None = PRICE,
    model: str = "gpt-5",
    input_tokens: int = 10,
    max_output_tokens: int | None = 20,
    user_blocked: bool = False,
    subjects: Subjects = SUBJECTS,
) -> Assessment:
    call = Call(
        request_id="r-1",
        subjects=subjects,
        model=model,
        asked=Amounts(requests=1, input_tokens=input_tokens),
        max_output_tokens=max_output_tokens,
        user_blocked=user_blocked,
    )
    held = 20 if max_output_tokens is None else max_output_tokens
    known = None if price is None else replace(price, model=model)
    return assess(call, terms(policies, subjects), state, known, held)


def code(assessment: Assessment) -> str | None:
    return None if assessment.refusal is None else assessment.refusal.reason_code


MODELS = ModelRules(allow=("gpt-*", "claude-*"), deny=("*-preview",))

# Each refusal, what a call is that meets it, and what a call is that just does not.
REFUSALS: dict[Reason, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    Reason.MODEL_NOT_ALLOWED: ({"models": MODELS}, {"model": "llama-4"}, {"model": "Claude-X"}),
    Reason.MODEL_DENIED: ({"models": MODELS}, {"model": "gpt-5-Preview"}, {"model": "gpt-5"}),
    Reason.PRICE_UNKNOWN: ({}, {"price": None}, {"price": PRICE}),
    Reason.REQUEST_TOKENS_EXCEEDED: (
        {"per_request": PerRequest(input_tokens=50, output_tokens=60)},
        {"input_tokens": 51},
        {"input_tokens": 50, "max_output_tokens": 60},
    ),
    Reason.REQUEST_COST_EXCEEDED: (
        {"per_request": PerRequest(cost_nano=NANO // 20)},
        {"input_tokens": 10, "max_output_tokens": 21},
        {"input_tokens": 10, "max_output_tokens": 20},
    ),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_policy_refuses_just_what_it_forbids(reason: Reason) -> None:
    fields, over, within = REFUSALS[reason]
    refusal = assessed(policy("Strict", **fields), **over).refusal

    assert refusal is not None
    assert (refusal.reason_code, refusal.policy) == (reason.value, 0)
    assert "Strict" in refusal.message
    assert assessed(policy("Strict", **fields), **within).refusal is None


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_monitored_policy_refuses_in_the_shadow_only(reason: Reason) -> None:
    fields, over, _ = REFUSALS[reason]
    found = assessed(policy(mode=Mode.MONITOR, **fields), **over)

    assert found.refusal is None
    assert found.shadow_refusal is not None
    assert found.shadow_refusal.reason_code == reason.value


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_policy_that_is_off_refuses_nothing(reason: Reason) -> None:
    fields, over, _ = REFUSALS[reason]
    found = assessed(policy(mode=Mode.OFF, **fields), **over)

    assert (found.refusal, found.shadow_refusal) == (None, None)


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_guardrail_refuses_beside_an_override_that_would_not(reason: Reason) -> None:
    fields, over, _ = REFUSALS[reason]
    vip = policy("VIP", scope=Scope(user="ann"), unknown_price=UnknownPrice.ALLOW)
    refusal = assessed(vip, policy("Guard", kind=Kind.GUARDRAIL, **fields), **over).refusal

    assert refusal is not None
    assert (refusal.reason_code, refusal.policy) == (reason.value, 1)


def test_output_is_capped_also_when_asked_for() -> None:
    capped = policy(per_request=PerRequest(output_tokens=60))

    assert code(assessed(capped, max_output_tokens=61)) == "REQUEST_TOKENS_EXCEEDED"
    assert code(assessed(capped, max_output_tokens=None)) is None


def test_a_model_without_a_price_passes_where_the_policy_lets_it_and_costs_nothing_known() -> None:
    found = assessed(policy(unknown_price=UnknownPrice.ALLOW), price=None)

    assert found.refusal is None
    assert (found.priced, found.cost_nano) == (False, 0)


def test_a_free_model_is_not_one_without_a_price() -> None:
    free = Price(provider="openai", model="gpt-5", rates=Rates(input=0, output=0))
    found = assessed(policy(), price=free)

    assert (found.refusal, found.priced, found.cost_nano) == (None, True, 0)


def test_without_a_policy_the_environment_decides() -> None:
    closed = EnvironmentState(frozen=False, frozen_features=frozenset(), allow_without_policy=False)
    guard = policy(kind=Kind.GUARDRAIL)

    assert code(assessed(state=closed)) == "NO_POLICY"
    assert code(assessed(guard, state=closed)) == "NO_POLICY"
    assert code(assessed(policy(), state=closed)) is None
    assert code(assessed(state=STATE)) is None


def test_a_frozen_environment_and_feature_and_a_blocked_user_are_refused_whatever_policies_say() -> None:
    vip = policy("VIP", scope=Scope(user="ann"))
    frozen = EnvironmentState(frozen=True, frozen_features=frozenset(), allow_without_policy=True)
    chat = EnvironmentState(frozen=False, frozen_features=frozenset({"chat"}), allow_without_policy=True)

    assert code(assessed(vip, state=frozen)) == "ENVIRONMENT_FROZEN"
    assert code(assessed(vip, state=chat)) == "FEATURE_FROZEN"
    assert code(assessed(vip, state=chat, subjects=Subjects(user_id="ann", feature="search"))) is None
    assert code(assessed(vip, state=chat, subjects=Subjects(user_id="ann"))) is None
    assert code(assessed(vip, user_blocked=True)) == "USER_BLOCKED"


def test_of_all_refusals_the_first_of_the_table_wins_then_the_next() -> None:
    strict = policy(
        "Strict",
        kind=Kind.GUARDRAIL,
        models=ModelRules(allow=("gpt-*",), deny=("*",)),
        per_request=PerRequest(cost_nano=0, input_tokens=0),
    )
    causes: list[tuple[Reason, dict[str, Any]]] = [
        (
            Reason.NO_POLICY,
            {
                "state": EnvironmentState(
                    frozen=True, frozen_features=frozenset({"chat"}), allow_without_policy=False
                )
            },
        ),
        (
            Reason.ENVIRONMENT_FROZEN,
            {
                "state": EnvironmentState(
                    frozen=True, frozen_features=frozenset({"chat"}), allow_without_policy=True
                )
            },
        ),
        (
            Reason.FEATURE_FROZEN,
            {
                "state": EnvironmentState(
                    frozen=False, frozen_features=frozenset({"chat"}), allow_without_policy=True
                )
            },
        ),
        (Reason.USER_BLOCKED, {"state": STATE}),
    ]
    call: dict[str, Any] = {"user_blocked": True, "model": "llama-4", "price": None}
    for reason, change in causes:
        assert code(assessed(strict, **(call | change))) == reason

    assert code(assessed(strict, **(call | {"user_blocked": False}))) == "MODEL_NOT_ALLOWED"
    assert code(assessed(strict, model="gpt-5", price=None)) == "MODEL_DENIED"
    lenient = policy("Lenient", per_request=PerRequest(cost_nano=0, input_tokens=0))
    assert code(assessed(lenient, price=None)) == "PRICE_UNKNOWN"
    assert code(assessed(lenient)) == "REQUEST_TOKENS_EXCEEDED"
    assert code(assessed(policy(per_request=PerRequest(cost_nano=0)))) == "REQUEST_COST_EXCEEDED"


def test_among_equal_reasons_the_override_speaks() -> None:
    denied = ModelRules(deny=("gpt-*",))
    refusal = assessed(
        policy("Guard", kind=Kind.GUARDRAIL, models=denied), policy("Override", ordinal=2, models=denied)
    ).refusal

    assert refusal is not None
    assert (refusal.policy, "Override" in refusal.message) == (0, True)


def test_what_is_held_is_the_input_and_the_output_the_call_may_produce() -> None:
    found = assessed(policy(), input_tokens=10, max_output_tokens=20)

    assert (found.amounts.requests, found.amounts.input_tokens, found.amounts.output_tokens) == (1, 10, 20)
    assert found.cost_nano == NANO // 100 + NANO // 25
    assert found.max_output_tokens == 20


@pytest.mark.parametrize(
    ("rules", "caps"),
    [
        ({}, False),
        ({"limits": (LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=9, per=Per.USER),)}, False),
        (
            {"limits": (LimitRule(metric=Metric.INPUT_TOKENS, window=Window.DAY, amount=9, per=Per.USER),)},
            False,
        ),
        ({"limits": (LimitRule(metric=Metric.TOKENS, window=Window.DAY, amount=900, per=Per.USER),)}, True),
        (
            {"limits": (LimitRule(metric=Metric.COST_USD, window=Window.DAY, amount=NANO, per=Per.USER),)},
            True,
        ),
        ({"per_request": PerRequest(output_tokens=50)}, True),
        ({"per_request": PerRequest(cost_nano=NANO)}, True),
        ({"per_request": PerRequest(output_tokens=50), "mode": Mode.MONITOR}, False),
    ],
)
def test_a_call_that_names_no_cap_gets_one_only_from_a_policy_that_needs_it(
    rules: dict[str, Any], caps: bool
) -> None:
    found = assessed(policy(**rules), max_output_tokens=None)
    assert found.max_output_tokens == (20 if caps else None)
    assert found.output_tokens == 20, "what is held stays the same"
    assert assessed(policy(**rules), max_output_tokens=7).max_output_tokens == 7


class TestTerms:
    def test_a_limit_meets_only_calls_that_belong_to_its_subject(self) -> None:
        limits = tuple(LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=1, per=per) for per in Per)
        limited = policy(limits=limits)

        assert [limit.per for limit in terms([limited]).limits] == list(Per)
        alone = terms([limited], Subjects(user_id="ann"))
        assert {limit.per for limit in alone.limits} == {Per.USER, Per.ENVIRONMENT}

    def test_limits_name_their_policy_their_reset_and_whether_they_are_enforced(self) -> None:
        daily = LimitRule(metric=Metric.TOKENS, window=Window.DAY, amount=7, per=Per.USER)
        ever = LimitRule(metric=Metric.REQUESTS, window=Window.TOTAL, amount=8, per=Per.USER)
        at_once = LimitRule(metric=Metric.CONCURRENCY, window=Window.TOTAL, amount=9, per=Per.USER)
        found = terms(
            [
                policy("Guard", kind=Kind.GUARDRAIL, mode=Mode.MONITOR, limits=(at_once, ever)),
                policy("Override", limits=(daily,)),
            ]
        )

        assert [(each.policy, each.amount, each.resets_at_ms, each.enforce) for each in found.limits] == [
            (0, 7, SPANS[Window.DAY].end, True),
            (1, 9, None, False),
            (1, 8, None, False),
        ]
        assert found.pairs == (Pair(Per.USER, Window.DAY), None, Pair(Per.USER, Window.TOTAL))
        assert found.pairs == tuple(limit.pair for limit in found.limits)

    def test_the_tightest_output_cap_in_force_counts(self) -> None:
        def capped(name: str, tokens: int, **fields: Any) -> StoredPolicy:
            return policy(name, kind=Kind.GUARDRAIL, per_request=PerRequest(output_tokens=tokens), **fields)

        assert terms([capped("a", 50), capped("b", 40), policy("P")]).output_cap == 40
        assert terms([capped("a", 50), capped("b", 40, mode=Mode.MONITOR)]).output_cap == 50
        assert terms([policy()]).output_cap is None

    def test_a_cap_that_no_call_can_reach_is_no_cap(self) -> None:
        """It would be held for every call that does not say what it may produce."""
        huge = policy(per_request=PerRequest(output_tokens=9_000_000_000_000_000))

        assert terms([huge]).output_cap is None

    def test_one_policy_in_force_that_charges_is_enough_to_charge(self) -> None:
        charge: dict[str, Any] = {"kind": Kind.GUARDRAIL, "on_unsettled": OnUnsettled.CHARGE}

        assert terms([policy(), policy("G", **charge)]).charge_on_expiry
        assert not terms([policy(), policy("G", mode=Mode.MONITOR, **charge)]).charge_on_expiry
        assert not terms([policy()]).charge_on_expiry

    def test_one_policy_in_force_that_blocks_without_counters_is_enough_to_block(self) -> None:
        allow: dict[str, Any] = {"on_unavailable": OnUnavailable.ALLOW}
        guard: dict[str, Any] = {"kind": Kind.GUARDRAIL, "name": "G"}

        assert terms([policy(**allow)]).allow_unavailable is True
        assert terms([policy(**allow), policy(**guard)]).allow_unavailable is False
        assert terms([policy(**allow), policy(**guard, mode=Mode.MONITOR)]).allow_unavailable is True
        assert terms([policy(mode=Mode.MONITOR)]).allow_unavailable is None

    def test_terms_kept_are_those_that_would_be_made(self) -> None:
        limits = tuple(
            LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=1, per=per, models=models)
            for per in Per
            for models in ((), ("gpt-5*",))
        )
        index = PolicyIndex([policy(limits=limits), policy("VIP", scope=Scope(user="ann"))])
        book = TermsCache()
        tomorrow = {window: Span(span.start + 1, span.end and span.end + 1) for window, span in SPANS.items()}
        for spans in (SPANS, SPANS, tomorrow, SPANS):
            for user in ("ann", "bob", "cid"):
                for feature in ("", "chat"):
                    for run_id in ("", "run-9"):
                        subjects = Subjects(user_id=user, feature=feature, run_id=run_id)
                        matched = index.resolve(user=user, feature=feature, plan="")
                        for model in ("gpt-5", "gpt-4o-mini"):
                            kept = book.find(matched, subjects, spans, model, NO_GROUPS)
                            counted = [("gpt-5*",)] if model == "gpt-5" else []
                            made = terms_of(matched, subjects, spans, counted)
                            assert (kept.limits, kept.policies, kept.pairs) == (
                                made.limits,
                                made.policies,
                                made.pairs,
                            )


# Properties of the whole pure part: resolve, assess and decide.

RULES = st.builds(
    lambda metric, window, amount, per: LimitRule(
        metric=metric,
        window=Window.TOTAL if metric is Metric.CONCURRENCY else window,
        amount=amount,
        per=per,
    ),
    st.sampled_from(Metric),
    st.sampled_from(Window),
    st.integers(0, 60),
    st.sampled_from(Per),
)
POLICY_FIELDS = st.fixed_dictionaries(
    {
        "scope": st.builds(
            Scope,
            user=st.sampled_from(["", "ann"]),
            feature=st.sampled_from(["", "chat"]),
            plan=st.sampled_from(["", "pro"]),
        ),
        "mode": st.sampled_from(Mode),
        "kind": st.sampled_from(Kind),
        "limits": st.lists(RULES, max_size=3).map(tuple),
        "models": st.sampled_from([ModelRules(), ModelRules(allow=("gpt-*",)), ModelRules(deny=("gpt-5",))]),
        "per_request": st.builds(
            PerRequest, input_tokens=st.none() | st.integers(0, 30), output_tokens=st.none()
        ),
        "unknown_price": st.sampled_from(UnknownPrice),
    }
)
PURE = settings(max_examples=300, deadline=None, derandomize=True)


def allowed(fields: list[dict[str, Any]], call: dict[str, Any], used: int) -> bool:
    policies = [policy(f"p{place}", ordinal=place, **each) for place, each in enumerate(fields)]
    found = assessed(*policies, **call)
    # What is used is the same for whoever reads it.
    readings = [Reading(used + 7 * list(Per).index(limit.per), 3) for limit in found.limits]
    verdict = decide(found, readings, 0).verdict
    assert decide(assessed(*policies, **call), readings, 0).verdict == verdict
    if found.refusal is not None:
        assert verdict.reason_class == CLASSES[Reason(verdict.reason_code)]
        assert rank(Reason(verdict.reason_code)) < rank(Reason.CONCURRENCY_LIMIT_EXCEEDED)
    return verdict.allowed


CALLS = st.fixed_dictionaries(
    {
        "price": st.sampled_from([PRICE, None]),
        "input_tokens": st.integers(0, 40),
        "max_output_tokens": st.integers(0, 40),
        "model": st.sampled_from(["gpt-5", "claude-x"]),
        "state": st.builds(
            EnvironmentState,
            frozen=st.just(False),
            frozen_features=st.sampled_from([frozenset(), frozenset({"chat"})]),
            allow_without_policy=st.booleans(),
        ),
    }
)


@PURE
@given(st.lists(POLICY_FIELDS, max_size=4), POLICY_FIELDS, CALLS, st.integers(0, 50))
def test_adding_a_guardrail_never_allows_more(
    fields: list[dict[str, Any]], guard: dict[str, Any], call: dict[str, Any], used: int
) -> None:
    if allowed([*fields, guard | {"kind": Kind.GUARDRAIL}], call, used):
        assert allowed(fields, call, used)


@PURE
@given(st.lists(POLICY_FIELDS, max_size=4), CALLS, st.integers(0, 50), st.integers(1, 50))
def test_raising_every_limit_never_denies_more(
    fields: list[dict[str, Any]], call: dict[str, Any], used: int, by: int
) -> None:
    raised = [
        each
        | {
            "limits": tuple(
                LimitRule(metric=rule.metric, window=rule.window, amount=rule.amount + by, per=rule.per)
                for rule in each["limits"]
            )
        }
        for each in fields
    ]
    if allowed(fields, call, used):
        assert allowed(raised, call, used)
