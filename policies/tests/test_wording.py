"""A policy in plain English: each part of it is said, in sentences."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest

from policies.describing.wording import Holes, Look, describe, scope
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
from usage.amounts import Per
from usage.metrics import Metric
from usage.money import NANO
from usage.windows import Window

DAILY = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=50, per=Per.USER)
MONTHLY = LimitRule(metric=Metric.COST_USD, window=Window.MONTH, amount=5 * NANO, per=Per.USER)
FREE = Scope(plan="free")


def text(limits: tuple[LimitRule, ...] = (DAILY,), **fields: Any) -> str:
    return describe(PolicyRule(name="p", limits=limits, **fields), "Europe/Berlin").text


def limit(**fields: Any) -> LimitRule:
    given: dict[str, Any] = {"metric": Metric.REQUESTS, "window": Window.DAY, "amount": 50, "per": Per.USER}
    return LimitRule(**given | fields)


def test_a_whole_policy() -> None:
    said = describe(
        PolicyRule(
            name="Free plan",
            scope=FREE,
            models=ModelRules(allow=("gpt-4o-mini", "gpt-5-mini")),
            per_request=PerRequest(cost_nano=NANO // 20),
            limits=(DAILY, MONTHLY),
        ),
        "Europe/Berlin",
    )
    assert said.text == (
        "Every user on the free plan may make 50 requests a day and spend up to $5.00 a month, with gpt-4o-mini and "
        "gpt-5-mini only. One call may cost at most $0.05."
    )
    assert [piece.text for piece in said.pieces if piece.look is Look.STRONG] == [
        "free", "50 requests a day", "$5.00 a month", "gpt-4o-mini", "gpt-5-mini", "$0.05",
    ]  # fmt: skip
    assert said.beneath == (
        "Calls beyond that are blocked. If the counters cannot be read, calls are blocked. Calls of a model without a "
        "price are blocked. A call that is never reported gives back what it held. Days and months are those of "
        "Europe/Berlin."
    )


@pytest.mark.parametrize(
    ("scope", "kind", "per", "said"),
    [
        (Scope(), Kind.OVERRIDE, Per.USER, "Where no more specific policy decides, every user may"),
        (Scope(), Kind.GUARDRAIL, Per.USER, "Every user may"),
        (Scope(user="ann"), Kind.OVERRIDE, Per.USER, "The user ann may"),
        (Scope(user="ann", plan="free"), Kind.OVERRIDE, Per.USER, "The user ann on the free plan may"),
        (Scope(feature="chat"), Kind.OVERRIDE, Per.USER, "For calls of the feature chat, every user may"),
        (
            Scope(feature="chat", plan="free"),
            Kind.GUARDRAIL,
            Per.USER,
            "For calls of the feature chat, every user on the free plan may",
        ),
        (Scope(), Kind.GUARDRAIL, Per.ENVIRONMENT, "Everybody together may"),
        (FREE, Kind.GUARDRAIL, Per.ENVIRONMENT, "For calls on the free plan, everybody together may"),
        (FREE, Kind.OVERRIDE, Per.PLAN, "All users on the free plan together may"),
        (Scope(), Kind.GUARDRAIL, Per.PLAN, "All users of each plan together may"),
        (Scope(feature="chat"), Kind.GUARDRAIL, Per.FEATURE, "All users of the feature chat together may"),
        (
            FREE,
            Kind.OVERRIDE,
            Per.FEATURE,
            "For calls on the free plan, all users of each feature together may",
        ),
        (FREE, Kind.OVERRIDE, Per.USER_FEATURE, "In each feature, every user on the free plan may"),
        (Scope(feature="chat"), Kind.OVERRIDE, Per.USER_FEATURE, "In the feature chat, every user may"),
        (Scope(user="ann"), Kind.OVERRIDE, Per.RUN, "For calls by the user ann, each run may"),
    ],
)
def test_whom_it_is_for(scope: Scope, kind: Kind, per: Per, said: str) -> None:
    assert text((limit(per=per),), scope=scope, kind=kind) == f"{said} make 50 requests a day."


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"metric": Metric.TOKENS, "window": Window.HOUR}, "use 50 tokens an hour"),
        ({"metric": Metric.INPUT_TOKENS, "amount": 1}, "use 1 input token a day"),
        ({"metric": Metric.OUTPUT_TOKENS, "window": Window.TOTAL}, "use 50 output tokens in all"),
        ({"metric": Metric.CONCURRENCY, "window": Window.TOTAL, "amount": 3}, "make 3 calls at once"),
        ({"metric": Metric.COST_USD, "amount": 1}, "spend up to $0.000000001 a day"),
        ({"amount": 0}, "make no requests at all"),
        ({"metric": Metric.COST_USD, "amount": 0}, "spend nothing at all"),
        ({"models": ("gpt-5*", "o3")}, "make 50 requests a day with gpt-5* and o3"),
        ({"models": ("gpt-5*",), "amount": 0}, "make no requests at all with gpt-5*"),
        ({"metric": Metric.CONCURRENCY, "window": Window.TOTAL, "amount": 0}, "make no calls at all"),
    ],
)
def test_what_it_allows(fields: dict[str, Any], said: str) -> None:
    assert text((limit(**fields),), scope=FREE) == f"Every user on the free plan may {said}."


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (ModelRules(), ""),
        (ModelRules(allow=("a",)), ", with a only"),
        (ModelRules(deny=("b", "c", "d")), ", with any model but b, c and d"),
        (ModelRules(allow=("a*",), deny=("ab",)), ", with a* only, but never with ab"),
    ],
)
def test_with_which_models(models: ModelRules, said: str) -> None:
    assert text(models=models, scope=FREE) == f"Every user on the free plan may make 50 requests a day{said}."
    assert (
        text((), models=models, scope=FREE)
        == f"Every user on the free plan may make any number of calls{said}."
    )


def test_limits_of_several_subjects_are_sentences_of_their_own() -> None:
    limits = (DAILY, limit(per=Per.PLAN, amount=900), MONTHLY)
    assert text(limits, scope=FREE, models=ModelRules(allow=("a", "b"))) == (
        "Every user on the free plan may make 50 requests a day and spend up to $5.00 a month. All users on the "
        "free plan together may make 900 requests a day. Calls are made with a and b only."
    )


def test_one_call() -> None:
    caps = PerRequest(cost_nano=0, input_tokens=8000, output_tokens=1)
    assert text(per_request=caps, scope=FREE).endswith(
        " One call may cost nothing, read at most 8,000 tokens and write at most 1 token."
    )


def test_without_anything_it_says_that_it_limits_nothing() -> None:
    assert text((), scope=FREE, kind=Kind.GUARDRAIL) == (
        "Every user on the free plan may make any number of calls, as far as this guardrail goes."
    )
    assert "blocked. If" not in describe(PolicyRule(name="p"), "UTC").beneath


def test_beneath() -> None:
    def beneath(**fields: Any) -> str:
        return describe(PolicyRule(name="p", limits=(limit(window=Window.HOUR),), **fields), "UTC").beneath

    assert beneath(mode=Mode.OFF) == "Off: it applies to no call."
    assert beneath(mode=Mode.MONITOR, kind=Kind.GUARDRAIL, on_unsettled=OnUnsettled.CHARGE) == (
        "Monitored: it blocks nothing, and says what it would have blocked. It applies beside whichever policy "
        "decides. A call that is never reported is charged what it held."
    )
    assert beneath(on_unavailable=OnUnavailable.ALLOW, unknown_price=UnknownPrice.ALLOW) == (
        "Calls beyond that are blocked. If the counters cannot be read, calls are allowed. Calls of a model without a "
        "price are allowed. A call that is never reported gives back what it held."
    )


def test_what_cannot_be_read_is_a_hole() -> None:
    rule = PolicyRule(name="p", scope=FREE, limits=(DAILY,))
    said = describe(
        rule, "UTC", Holes(limits=("limit 2",), caps=("the cost of one call",), others=("Priority",))
    )
    assert said.text == (
        "Every user on the free plan may make 50 requests a day and limit 2 cannot be read yet. One call may the cost "
        "of one call cannot be read yet. Also: Priority cannot be read yet."
    )
    assert [piece.text for piece in said.pieces if piece.look is Look.HOLE] == [
        f"{name} cannot be read yet" for name in ("limit 2", "the cost of one call", "Priority")
    ]
    alone = describe(PolicyRule(name="p", scope=FREE), "UTC", Holes(limits=("limit 1",)))
    assert alone.text == "Every user on the free plan may limit 1 cannot be read yet."


SCOPES = [
    Scope(user=user, feature=feature, plan=plan)
    for user, feature, plan in product(("", "ann"), ("", "chat"), ("", "free"))
]
LIMITS: list[tuple[LimitRule, ...]] = [
    (),
    *((limit(per=per, amount=amount),) for per in Per for amount in (0, 1, 50)),
    *((limit(metric=metric, window=Window.TOTAL),) for metric in Metric),
    tuple(limit(per=per, metric=metric) for per in Per for metric in (Metric.REQUESTS, Metric.COST_USD)),
]
MODELS = [
    ModelRules(),
    ModelRules(allow=("a",)),
    ModelRules(deny=("b",)),
    ModelRules(allow=("a", "b"), deny=("c",)),
]
CAPS = [PerRequest(), PerRequest(cost_nano=1), PerRequest(cost_nano=NANO, input_tokens=0, output_tokens=5)]


def test_every_combination_is_made_of_whole_sentences_that_name_the_whole_scope() -> None:
    for where, kind, mode, limits, models, caps in product(SCOPES, Kind, Mode, LIMITS, MODELS, CAPS):
        rule = PolicyRule(
            name="p", scope=where, kind=kind, mode=mode, limits=limits, models=models, per_request=caps
        )
        said = describe(rule, "UTC")
        for words in (said.text, said.beneath):
            for sentence in re.split(r"(?<=\.) ", words):
                assert re.fullmatch(r"[A-Z][^.]*(\.\d+[^.]*)*\.", sentence), sentence
                assert not re.search(r"  | [,.]|,,|\b(\w+) \1\b|and and", sentence), sentence
        for name in (where.user, where.feature, where.plan):
            assert not name or f" {name}" in said.text, (said.text, name)
        assert all(piece.text for piece in said.pieces)
        assert said.text.count("$") == sum(each.metric is Metric.COST_USD for each in limits) + bool(
            caps.cost_nano
        )


@pytest.mark.parametrize(
    ("where", "kind", "said"),
    [
        (Scope(), Kind.OVERRIDE, "everybody else"),
        (Scope(), Kind.GUARDRAIL, "everybody"),
        (Scope(user="ann", feature="chat", plan="free"), Kind.OVERRIDE, "user ann, plan free, feature chat"),
    ],
)
def test_the_scope_in_words(where: Scope, kind: Kind, said: str) -> None:
    assert scope(where, kind) == said
