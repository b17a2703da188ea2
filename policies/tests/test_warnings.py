"""What is probably not meant in a policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.describing.warnings import Known, warnings
from policies.resolution import StoredPolicy
from policies.rules import Kind, LimitRule, Mode, ModelRules, PolicyRule, Scope
from usage.amounts import Per
from usage.assessment import PolicyRef
from usage.metrics import Metric
from usage.windows import Window


def limit(amount: int, **fields: Any) -> LimitRule:
    given: dict[str, Any] = {"metric": Metric.REQUESTS, "window": Window.DAY, "per": Per.USER}
    return LimitRule(**given | {"amount": amount} | fields)


def policy(*limits: LimitRule, **fields: Any) -> PolicyRule:
    return PolicyRule(**{"name": "Mine"} | fields, limits=limits)


def stored(rule: PolicyRule, ordinal: int = 1) -> StoredPolicy:
    ref = PolicyRef(id=rule.name, name=rule.name, version=1, scope=rule.scope.label)
    return StoredPolicy(ref=ref, ordinal=ordinal, rule=rule)


def said(
    rule: PolicyRule, *others: PolicyRule, known: Known | None = None, ordinal: int | None = None
) -> list[str]:
    found = warnings(rule, map(stored, others), known or Known(), ordinal=ordinal)
    return [each.text for each in found]


def rail(*limits: LimitRule, **fields: Any) -> PolicyRule:
    return policy(*limits, **{"name": "Budget", "kind": Kind.GUARDRAIL} | fields)


def test_a_policy_that_says_what_is_meant_has_none() -> None:
    mine = policy(limit(50), limit(500, window=Window.MONTH), limit(9_000, per=Per.ENVIRONMENT))
    assert (
        said(
            mine,
            rail(limit(10_000, per=Per.ENVIRONMENT)),
            policy(limit(1), name="Other", scope=Scope(plan="x")),
        )
        == []
    )


@pytest.mark.parametrize(
    ("other", "ordinal", "expected"),
    [
        ({}, None, "is older"),
        ({}, 2, "is older"),
        ({}, 0, None),
        ({"priority": 1}, 0, "has the higher priority"),
        ({"priority": -1}, None, None),
        ({"scope": Scope(plan="free")}, None, None),
        ({"kind": Kind.GUARDRAIL}, None, None),
        ({"mode": Mode.OFF}, None, None),
    ],
)
def test_a_policy_that_another_shadows(
    other: dict[str, Any], ordinal: int | None, expected: str | None
) -> None:
    rule = policy(scope=Scope(user="ann"))
    found = said(rule, replace(rule, **{"name": "First"} | other), ordinal=ordinal)
    assert found == (
        [] if expected is None else [f"Never decides: First is for the same callers and {expected}."]
    )


@pytest.mark.parametrize(
    ("tighter", "mine", "binds"),
    [
        (limit(5), limit(6), False),
        (limit(5), limit(5), True),
        (limit(6), limit(5), True),
        (limit(5), limit(6, metric=Metric.TOKENS), True),
        (limit(5, window=Window.MONTH), limit(5), False),
        (limit(5, window=Window.HOUR), limit(6), True),
        (limit(5, window=Window.MONTH), limit(6, window=Window.WEEK), True),
        (limit(5, per=Per.ENVIRONMENT), limit(5), False),
        (limit(5, per=Per.ENVIRONMENT, window=Window.MONTH), limit(5), False),
        (limit(5, per=Per.PLAN), limit(6), True),
        (limit(5, per=Per.USER), limit(5, per=Per.USER_FEATURE), False),
        (limit(5, per=Per.USER_FEATURE), limit(6, per=Per.USER), True),
        (limit(0), limit(5), False),
        (limit(5, models=("gpt-5*",)), limit(6), True),
        (limit(5), limit(6, models=("gpt-5*",)), False),
        (limit(5, models=("gpt-5*", "o3")), limit(6, models=("gpt-5*",)), False),
        (limit(5, models=("gpt-5*",)), limit(6, models=("gpt-5*", "o3")), True),
        (limit(5, models=("gpt-5*",)), limit(5, models=("gpt-5*",)), True),
        (limit(5), limit(5, models=("gpt-5*",)), False),
        (limit(0, per=Per.ENVIRONMENT), limit(0), True),
    ],
)
def test_a_limit_behind_a_guardrail(tighter: LimitRule, mine: LimitRule, binds: bool) -> None:
    found = warnings(policy(mine), [stored(rail(tighter))], Known())
    assert [each.limit for each in found] == ([] if binds else [0])


def test_models_of_a_limit_that_nobody_called_are_named_beside_it() -> None:
    mine = policy(limit(5), limit(6, models=("gpt-5*", "gpt-99*")), models=ModelRules(deny=("o9",)))
    found = warnings(mine, [], Known(models=frozenset({"gpt-5-mini"})))
    assert [(each.limit, each.text.rpartition(" ")[2]) for each in found if "named" in each.text] == [
        (None, "o9."), (1, "gpt-99*."),
    ]  # fmt: skip


def test_it_says_which_limit_comes_first() -> None:
    assert said(policy(limit(6)), rail(limit(5, per=Per.ENVIRONMENT))) == [
        "Can never bind: Budget stops everybody together at 5 requests a day."
    ]
    assert said(policy(limit(60), limit(50, window=Window.MONTH))) == [
        "Can never bind: the limit of 50 requests a month for each user comes first."
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": Kind.OVERRIDE, "scope": Scope(user="ann")},
        {"mode": Mode.MONITOR},
        {"mode": Mode.OFF},
        {"scope": Scope(feature="chat")},
    ],
)
def test_what_does_not_always_apply_comes_not_always_first(fields: dict[str, Any]) -> None:
    assert said(policy(limit(6), scope=Scope(plan="free")), rail(limit(5), **fields)) == []


def test_a_guardrail_of_the_same_callers_comes_first() -> None:
    free = Scope(plan="free")
    assert len(said(policy(limit(6), scope=Scope(plan="free", user="ann")), rail(limit(5), scope=free))) == 1


def test_names_that_nothing_has() -> None:
    rule = policy(scope=Scope(plan="gold"), models=ModelRules(allow=("gpt-4o*", "GPT-5"), deny=("o9*",)))
    known = Known(models=frozenset({"gpt-4o-mini", "gpt-5"}), plans=frozenset({"free"}))
    assert said(rule, known=known) == [
        "No model that is priced or was called lately is named o9*.",
        "No end user is on the plan gold, and no call named it lately.",
    ]
    assert said(rule, known=Known()) == []


def test_what_is_off_has_none() -> None:
    assert said(policy(limit(6), mode=Mode.OFF), rail(limit(5))) == []


@pytest.mark.parametrize(
    ("allow", "deny", "is_left"),
    [
        ((), ("*",), False),
        (("gpt-4o",), ("o3*", "gpt-4o"), False),
        (("gpt-4*", "GPT-5"), ("gpt-*",), False),
        (("gpt-4o", "o3"), ("gpt-4o",), True),
        (("gpt-*",), ("gpt-4o",), True),
        ((), ("gpt-4o",), True),
        (("gpt-4o",), (), True),
    ],
)
def test_a_policy_that_denies_all_that_it_allows_leaves_no_model(
    allow: tuple[str, ...], deny: tuple[str, ...], is_left: bool
) -> None:
    found = said(policy(models=ModelRules(allow=allow, deny=deny)))
    assert found == ([] if is_left else ["No model is left: all that may be called is denied as well."])
