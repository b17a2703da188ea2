"""Allow and deny lists meet a model under every name that it is called by, and no other model."""

import importlib
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest
from django.apps import apps
from hypothesis import given
from hypothesis import strategies as st

from policies import policy_rows
from policies.changing.publishing import publish
from policies.files import documents
from policies.models import Policy
from policies.rules import Kind, ModelRules, PolicyRule, PolicySet
from tenants.models import Tenant
from usage.prices.book import PriceBook
from usage.prices.genai import package_rows
from usage.prices.model_groups import matches
from usage.prices.names import without_date
from usage.prices.same_model import NAMES_MAX, ModelNames, names_of

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HAIKU = "anthropic.claude-haiku-4-5-20251001-v1:0"


@cache
def book() -> PriceBook:
    return PriceBook.build([row.to_price() for row in package_rows()[0]])


def names(model: str, provider: str | None = None) -> ModelNames:
    match = book().find(model, NOW, provider)
    return names_of(model, None if match is None else match.price)


def denied(model: str, *patterns: str) -> bool:
    return ModelRules(deny=patterns).denies(names(model))


def allowed(model: str, *patterns: str) -> bool:
    return ModelRules(allow=patterns).allows(names(model))


# What is asked for, and the name under which a list has it.
SAME_MODEL = [
    ("gpt-4o", "gpt-4o"),
    ("GPT-4o ", "gpt-4o"),
    ("gpt-4o", "GPT-4o"),
    ("gpt-4o-2024-05-13", "gpt-4o"),
    ("gpt-4o-2024-08-06", "gpt-4o"),
    ("models/gpt-4o", "gpt-4o"),
    ("openrouter/openai/gpt-4o", "gpt-4o"),
    ("openai:gpt-4o", "gpt-4o"),
    ("azure_openai:gpt-4o-2024-05-13", "gpt-4o"),
    ("openrouter/openai/gpt-4o-2024-05-13", "gpt-4o"),
    ("azure/eu/gpt-4o", "gpt-4o"),
    ("azure/eu/gpt-4o-2024-11-20", "gpt-4o"),
    ("azure/eu/gpt-4o", "azure/*"),
    ("gemini-2.5-flash-001", "gemini-2.5-flash"),
    ("projects/p/locations/l/publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
    ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
    ("claude-sonnet-5@default", "claude-sonnet-5"),
    ("openrouter/anthropic/claude-haiku-4.5", "claude-haiku-4-5"),
    ("claude-haiku-4-5-20251001", "claude-haiku-4.5"),
    (f"us.{HAIKU}", "claude-haiku-4-5"),
    (f"bedrock/us-east-1/{HAIKU}", "claude-haiku-4-5"),
    (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/global.{HAIKU}", "claude-haiku-4-5"),
    (f"eu.{HAIKU}", "anthropic.claude-haiku-4-5"),
    (f"eu.{HAIKU}", "eu.*"),
    ("gpt-5.6-sol", "gpt-5.6"),
    ("claude-opus-4-6[1m]", "claude-opus-4-6[1m]"),
    ("claude-opus-4-6[1m]", "claude-opus-4-6"),
    ("ft:gpt-4o-2024-08-06:acme::x", "ft:gpt-4o"),
    ("my-own-model-2026-01-01", "my-own-model"),
]


@pytest.mark.parametrize(("asked", "listed"), SAME_MODEL)
def test_a_model_is_denied_and_allowed_under_each_of_its_names(asked: str, listed: str) -> None:
    assert denied(asked, listed)
    assert allowed(asked, listed)


# Made of the model, or of its price: what a list says of the model, a deny list says of these, an allow list does not.
MADE_OF_IT = [
    ("ft:gpt-4o-2024-08-06:acme::x", "gpt-4o"),
    ("gpt-4o-2024-08-06.ft-0a1b", "gpt-4o"),
    ("openrouter/openai/gpt-4o:free", "gpt-4o"),
    ("my-proxy/gpt-4o", "gpt-4o"),
    ("a/b/c/gpt-4o-2024-05-13", "gpt-4o"),
    ("gpt-4o[1m]", "gpt-4o"),
    ("gpt-4o@whatever", "gpt-4o"),
    ("mistral-large-2512", "mistral-large"),
    ("gpt-5-codex", "gpt-5"),
    ("gpt-4o-mini-search-preview", "gpt-4o-mini"),
    ("gemini-2.5-flash-preview-09-2025", "gemini-2.5-flash"),
]


@pytest.mark.parametrize(("asked", "listed"), MADE_OF_IT)
def test_what_is_made_of_a_denied_model_is_denied(asked: str, listed: str) -> None:
    assert denied(asked, listed)


@pytest.mark.parametrize(("asked", "listed"), MADE_OF_IT)
def test_an_allowed_model_opens_nothing_that_is_made_of_it(asked: str, listed: str) -> None:
    assert not allowed(asked, listed)


OTHER_MODELS = [
    ("gpt-4o-mini", "gpt-4o"),
    ("openrouter/openai/gpt-4o-mini", "gpt-4o"),
    ("gpt-4o", "gpt-4o-mini"),
    ("gpt-4o-audio-preview", "gpt-4o"),
    ("gpt-4o-minimal", "gpt-4o"),
    ("gpt-4o", "gpt-4o-2024-05-13"),
    ("gpt-4o-2024-11-20", "gpt-4o-2024-08-06"),
    ("gpt-5", "gpt-5-codex"),
    ("gpt-5.1-codex", "gpt-5.1-chat"),
    ("gpt-5-mini", "gpt-5"),
    ("claude-haiku-4-50", "claude-haiku-4-5"),
    ("gemini-2.5-flash-lite", "gemini-2.5-flash"),
    ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", "us.*"),
    ("azure/eu/gpt-4o", "eu"),
    ("openai/gpt-4o", "azure/*"),
]


@pytest.mark.parametrize(("asked", "listed"), OTHER_MODELS)
def test_what_a_list_says_of_one_model_is_not_said_of_another(asked: str, listed: str) -> None:
    assert not denied(asked, listed)
    assert not allowed(asked, listed)


def test_every_snapshot_that_has_a_price_of_its_own_is_denied_with_its_model() -> None:
    snapshots = [
        (match.price.model, base)
        for match in book().in_force(NOW)
        for base in (match.price.model.rpartition("-20")[0],)
        if base
        and not base.startswith("regional")
        and book().find(base, NOW, match.price.provider)
        and without_date(match.price.model)
    ]
    assert ("gpt-4o-2024-05-13", "gpt-4o") in snapshots
    for model, base in snapshots:
        assert denied(model, base)
        assert allowed(model, base)


@pytest.mark.parametrize(
    ("pattern", "name", "is_met"),
    [
        ("claude-*[1m]", "claude-opus-4-6[1m]", True),
        ("claude-*[1m]", "claude-opus-4-1", False),
        ("gpt-[45]", "gpt-4", False),
        ("gpt-[45]", "gpt-[45]", True),
        ("gpt-[!4]*", "gpt-5", False),
        ("[[]", "[[]", True),
        ("*", "any/thing[1m]", True),
        ("GPT-?", "gpt-5", True),
        ("gpt-?", "gpt-5o", False),
        ("gpt-5.1", "gpt-501", False),
    ],
)
def test_only_the_star_and_the_question_mark_stand_for_something_else(
    pattern: str, name: str, is_met: bool
) -> None:
    assert matches(pattern, name) is is_met


def test_a_hostile_name_stands_for_a_bounded_number_of_names() -> None:
    hostile = "/".join(["a"] * 60) + ":x" * 20 + "-123" * 5
    assert len(names_of(hostile, None).to_deny) <= NAMES_MAX + 8


brackets: Any = importlib.import_module("policies.migrations.0019_brackets_stand_for_themselves")


@pytest.mark.parametrize(
    ("pattern", "denied", "allowed"),
    [
        ("gpt-[45]*", ("gpt-[45]*", "gpt-4*", "gpt-5*"), ("gpt-[45]*", "gpt-4*", "gpt-5*")),
        ("o[1-3]-[ab]", ("o[1-3]-[ab]", "o1-a", "o1-b", "o2-a", "o2-b", "o3-a", "o3-b"), None),
        ("gpt-[!4]o", ("gpt-[!4]o", "gpt-?o"), ("gpt-[!4]o",)),
        ("[0-9][0-9][0-9]", ("[0-9][0-9][0-9]", "???"), ("[0-9][0-9][0-9]",)),
        ("a[\x00-\uffff]", ("a[\x00-\uffff]", "a?"), ("a[\x00-\uffff]",)),
        ("gpt-*", ("gpt-*",), None),
        ("gpt-[4", ("gpt-[4",), None),
    ],
)
def test_a_class_of_characters_in_an_old_list_is_said_in_lines(
    pattern: str, denied: tuple[str, ...], allowed: tuple[str, ...] | None
) -> None:
    assert brackets.in_lines(pattern, denies=True) == list(denied)
    assert brackets.in_lines(pattern, denies=False) == list(allowed or denied)


@given(st.text("ab-1[]!*?", max_size=9), st.text("ab-1", max_size=5))
def test_an_old_deny_list_denies_what_it_denied_and_an_old_allow_list_allows_no_more(
    pattern: str, name: str
) -> None:
    before = fnmatchcase(name, pattern)
    denied, allowed = (
        any(matches(line, name) for line in brackets.in_lines(pattern, denies=denies))
        for denies in (True, False)
    )

    assert denied >= before
    assert allowed <= (before or matches(pattern, name))


@pytest.mark.django_db
def test_an_old_policy_gets_a_version_that_says_it_in_lines() -> None:
    environment = Tenant.create_with_environments("acme").environments.get(slug="prod")
    rules = (
        PolicyRule(name="Old", models=ModelRules(allow=("gpt-[45]*", "o1"), deny=("*-[!a]",))),
        PolicyRule(name="Plain", kind=Kind.GUARDRAIL, models=ModelRules(deny=("o1*",))),
    )
    publish(environment, PolicySet(policies=rules), actor="cli:test")

    brackets.say_classes_in_lines(apps, None)
    brackets.say_classes_in_lines(apps, None)

    old, plain = Policy.objects.in_force(environment.pk)
    assert (old.version, plain.version) == (2, 1)
    assert old.models_allow == ["gpt-[45]*", "gpt-4*", "gpt-5*", "o1"]
    assert old.models_deny == ["*-[!a]", "*-?"]
    latest = old.versions.get(version=2)
    assert latest.document is not None
    assert documents.rule_of(latest.document) == policy_rows.rule_of(old)
    assert latest.note == brackets.NOTE
