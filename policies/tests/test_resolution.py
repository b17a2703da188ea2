"""Which policies apply to a call: the order of specificity, and an index that answers as a scan over all does."""

from __future__ import annotations

from itertools import combinations, permutations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import Kind, Mode, PolicyRule, Scope
from usage.assessment import PolicyRef

CALL = {"user": "ann", "feature": "chat", "plan": "pro"}
# Most specific first, as DESIGN.md section 4 writes it.
ORDER = (
    Scope(user="ann", feature="chat", plan="pro"),
    Scope(user="ann", feature="chat"),
    Scope(user="ann", plan="pro"),
    Scope(user="ann"),
    Scope(feature="chat", plan="pro"),
    Scope(feature="chat"),
    Scope(plan="pro"),
    Scope(),
)


def policy(name: str, scope: Scope | None = None, *, ordinal: int = 1, **fields: Any) -> StoredPolicy:
    rule = PolicyRule(name=name, scope=scope or Scope(), **fields)
    return StoredPolicy(ref=PolicyRef(name, name, 1, rule.scope.label), ordinal=ordinal, rule=rule)


def winner(*policies: StoredPolicy, **call: str) -> str | None:
    override = PolicyIndex(policies).resolve(**{**CALL, **call}).override
    return None if override is None else override.ref.name


@pytest.mark.parametrize(("higher", "lower"), list(combinations(ORDER, 2)), ids=lambda scope: scope.label)
def test_the_more_specific_scope_wins_whatever_its_priority_and_age(higher: Scope, lower: Scope) -> None:
    specific = policy("specific", higher, ordinal=9, priority=-5)
    general = policy("general", lower, ordinal=1, priority=5)

    assert winner(specific, general) == "specific"
    assert winner(general, specific) == "specific"


def test_the_less_specific_one_takes_over_step_by_step() -> None:
    policies = [policy(scope.label, scope, ordinal=place) for place, scope in enumerate(reversed(ORDER))]
    names = []
    while policies:
        name = winner(*policies)
        names.append(name)
        policies = [each for each in policies if each.ref.name != name]

    assert names == [scope.label for scope in ORDER]


def test_among_equals_the_higher_priority_wins_then_the_older() -> None:
    old = policy("old", ordinal=1)
    young = policy("young", ordinal=2)
    urgent = policy("urgent", ordinal=3, priority=1)

    for order in permutations([old, young, urgent]):
        assert winner(*order) == "urgent"
    assert winner(young, old) == "old"


def test_all_that_a_scope_names_must_match() -> None:
    both = policy("both", Scope(user="ann", plan="pro"))

    assert winner(both) == "both"
    assert winner(both, plan="free") is None
    assert winner(both, user="bob") is None
    assert winner(both, feature="") == "both"


def test_a_call_without_a_feature_meets_no_policy_for_a_feature() -> None:
    chat, default = policy("chat", Scope(feature="chat")), policy("default")

    assert winner(chat, default, feature="") == "default"
    assert winner(chat, feature="") is None


def test_guardrails_apply_beside_any_override_and_without_one() -> None:
    guards = [
        policy(f"guard {scope.label}", scope, ordinal=place, kind=Kind.GUARDRAIL)
        for place, scope in enumerate(ORDER)
    ]
    vip = policy("vip", Scope(user="ann"), priority=100)

    matched = PolicyIndex([*guards, vip]).resolve(**CALL)
    assert matched.override is vip
    assert {found.ref.name for found in matched.guardrails} == {guard.ref.name for guard in guards}
    assert matched.policies[0] is vip

    stranger = PolicyIndex([*guards, vip]).resolve(user="bob", feature="search", plan="")
    assert stranger.override is None
    assert [found.ref.name for found in stranger.policies] == ["guard default"]


def test_a_policy_that_is_off_is_not_there() -> None:
    off = policy("off", Scope(user="ann"), mode=Mode.OFF)
    guard = policy("guard", kind=Kind.GUARDRAIL, mode=Mode.OFF)

    matched = PolicyIndex([off, guard, policy("default")]).resolve(**CALL)

    assert [found.ref.name for found in matched.policies] == ["default"]


def test_a_monitored_policy_competes_as_an_enforced_one_does() -> None:
    assert winner(policy("watched", Scope(user="ann"), mode=Mode.MONITOR), policy("default")) == "watched"


def test_explain_lists_the_contest_in_order_and_why_each_lost() -> None:
    policies = [
        policy("wins", Scope(user="ann"), ordinal=2, priority=1),
        policy("lower", Scope(user="ann"), ordinal=1),
        policy("younger", Scope(user="ann"), ordinal=3, priority=1),
        policy("general", ordinal=4, priority=9),
        policy("guard", ordinal=5, kind=Kind.GUARDRAIL),
        policy("elsewhere", Scope(user="bob"), ordinal=6),
        policy("off", Scope(user="ann"), ordinal=7, mode=Mode.OFF),
    ]

    told = {each.policy.ref.name: each.outcome for each in PolicyIndex(policies).explain(**CALL)}

    assert told == {
        "wins": "wins: the most specific override",
        "younger": "loses: wins is older",
        "lower": "loses: wins has the higher priority",
        "general": "loses: wins is more specific",
        "guard": "applies: guardrails always do",
    }
    assert list(told) == ["wins", "younger", "lower", "general", "guard"]


# What a scan over all policies says, written as the rules are told and without regard for speed.


def scan(policies: list[StoredPolicy], user: str, feature: str, plan: str) -> tuple[str | None, set[str]]:
    matching = [
        each
        for each in policies
        if each.rule.mode is not Mode.OFF
        and each.rule.scope.user in ("", user)
        and each.rule.scope.feature in ("", feature)
        and each.rule.scope.plan in ("", plan)
    ]
    best: StoredPolicy | None = None
    for each in matching:
        if each.rule.kind is Kind.OVERRIDE and (best is None or beats(each, best)):
            best = each
    guards = {each.ref.name for each in matching if each.rule.kind is Kind.GUARDRAIL}
    return None if best is None else best.ref.name, guards


def beats(challenger: StoredPolicy, champion: StoredPolicy) -> bool:
    one, other = challenger.rule, champion.rule
    for part in ("user", "feature", "plan"):
        named, named_by_other = bool(getattr(one.scope, part)), bool(getattr(other.scope, part))
        if named != named_by_other:
            return named
    if one.priority != other.priority:
        return one.priority > other.priority
    return challenger.ordinal < champion.ordinal


NAMES = st.sampled_from(["", "a", "b", "c"])
POLICIES = st.lists(
    st.tuples(NAMES, NAMES, NAMES, st.sampled_from(Kind), st.sampled_from(Mode), st.integers(-2, 2)),
    max_size=200,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(POLICIES, st.randoms(use_true_random=False))
def test_the_index_answers_as_a_scan_over_all_policies_does(
    drawn: list[tuple[str, str, str, Kind, Mode, int]], random: Any
) -> None:
    ordinals = random.sample(range(len(drawn)), len(drawn))
    policies = [
        policy(
            f"p{place}",
            Scope(user=user, feature=feature, plan=plan),
            ordinal=ordinals[place],
            kind=kind,
            mode=mode,
            priority=priority,
        )
        for place, (user, feature, plan, kind, mode, priority) in enumerate(drawn)
    ]
    index = PolicyIndex(policies)

    # "d" is named by no policy. Twice, for an index may remember what it answered.
    for user, feature, plan in list(product(["a", "b", "d"], ["", "a", "d"], ["", "a", "d"])) * 2:
        matched = index.resolve(user=user, feature=feature, plan=plan)
        found = None if matched.override is None else matched.override.ref.name
        guards = [guard.ref.name for guard in matched.guardrails]

        assert (found, set(guards)) == scan(policies, user, feature, plan)
        assert len(guards) == len(set(guards))
        told = [each.policy.ref.name for each in index.explain(user=user, feature=feature, plan=plan)]
        assert set(matched_names(index, user, feature, plan)) <= set(told)


def matched_names(index: PolicyIndex, user: str, feature: str, plan: str) -> list[str]:
    return [each.ref.name for each in index.resolve(user=user, feature=feature, plan=plan).policies]


class CountingDict(dict[Any, Any]):
    """A dict that counts how often it is asked."""

    asked = 0

    def __getitem__(self, key: Any) -> Any:
        CountingDict.asked += 1
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        CountingDict.asked += 1
        return super().__contains__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        CountingDict.asked += 1
        return super().get(key, default)

    def __iter__(self) -> Any:
        raise AssertionError("resolving walks through a whole index")

    def items(self) -> Any:
        raise AssertionError("resolving walks through a whole index")

    values = keys = items


def lookups(policies: list[StoredPolicy]) -> int:
    """How many times a first resolution of a call asks any dict of the index."""
    index = PolicyIndex(policies)
    for name, value in vars(index).items():
        if isinstance(value, dict):
            setattr(index, name, CountingDict(value))
    CountingDict.asked = 0
    index.resolve(**CALL)
    return CountingDict.asked


def test_resolving_costs_the_same_with_one_policy_and_with_ten_thousand() -> None:
    few = [policy(scope.label, scope) for scope in ORDER]
    many = few + [
        policy(f"p{number}", Scope(user=f"user {number}", plan=f"plan {number % 7}"))
        for number in range(10_000)
    ]

    assert 0 < lookups(few) <= 40
    assert lookups(many) == lookups(few)
