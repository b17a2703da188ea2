"""Every spelling of a model finds that model's own price, and a name that is only like one finds none."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.prices.book import PriceBook
from usage.prices.cost import Price
from usage.prices.genai import package_rows
from usage.prices.names import HOSTS, MAKERS, PASSED_ON, PROVIDER_ALIASES, MatchKind

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HAIKU = "anthropic.claude-haiku-4-5-20251001-v1:0"


@cache
def book() -> PriceBook:
    return PriceBook.build([row.to_price() for row in package_rows()[0]])


def priced(name: str, provider: str | None = None) -> Price | None:
    match = book().find(name, NOW, provider)
    return None if match is None else match.price


def row(name: str, provider: str | None = None) -> tuple[str, str] | None:
    price = priced(name, provider)
    return None if price is None else (price.provider, price.model)


REGIONAL = ("aws", f"regional.{HAIKU}")
GLOBAL = ("aws", f"global.{HAIKU}")


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        *((f"{scope}.{HAIKU}", REGIONAL) for scope in ("us", "eu", "apac", "jp", "au", "in", "us-gov")),
        (HAIKU, REGIONAL),
        (f"bedrock/us-east-1/{HAIKU}", REGIONAL),
        (f"bedrock/{HAIKU}", REGIONAL),
        (f"bedrock/converse/us.{HAIKU}", REGIONAL),
        (f"bedrock/us-gov-west-1/{HAIKU}", REGIONAL),
        (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{HAIKU}", REGIONAL),
        (f"arn:aws:bedrock:eu-west-1::foundation-model/{HAIKU}", REGIONAL),
        (f"arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{HAIKU}", REGIONAL),
        (f"bedrock/arn:aws:bedrock:us-east-1:123456789012:inference-profile/eu.{HAIKU}", REGIONAL),
        (f"global.{HAIKU}", GLOBAL),
        (f"bedrock/global.{HAIKU}", GLOBAL),
        (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/global.{HAIKU}", GLOBAL),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", ("aws", "regional.anthropic.claude-opus-4-5-v1:0")),
        ("global.anthropic.claude-opus-4-6-v1", ("aws", "global.anthropic.claude-opus-4-6-v1:0")),
        ("us.amazon.nova-lite-v1:0", ("aws", "amazon.nova-lite-v1:0")),
        ("amazon.nova-2-lite-v1:0", ("aws", "regional.amazon.nova-2-lite-v1:0")),
        ("claude-sonnet-5@default", ("anthropic", "claude-sonnet-5")),
        ("models/gemini-2.5-flash", ("google", "gemini-2.5-flash")),
        ("gemini/models/gemini-2.5-flash", ("google", "gemini-2.5-flash")),
        ("publishers/google/models/gemini-2.5-flash", ("google", "gemini-2.5-flash")),
        (
            "projects/p/locations/us-central1/publishers/google/models/gemini-2.5-flash",
            ("google", "gemini-2.5-flash"),
        ),
        (
            "projects/p/locations/global/publishers/anthropic/models/claude-sonnet-4-5@20250929",
            ("google", "claude-sonnet-4-5"),
        ),
        ("gemini-2.5-flash-preview-09-2025", ("google", "gemini-2.5-flash")),
        ("gemini-2.5-flash-preview-05-20", ("google", "gemini-2.5-flash-preview")),
        ("gemini-2.5-flash-001", ("google", "gemini-2.5-flash")),
        ("gemini-2.5-pro-latest", ("google", "gemini-2.5-pro")),
        ("claude-haiku-4-5-latest", ("anthropic", "claude-haiku-4-5")),
        ("claude-sonnet-4-5-20250929[1m]", ("anthropic", "claude-sonnet-4-5")),
        ("openrouter/openai/gpt-4o-mini", ("openai", "gpt-4o-mini")),
        ("openai:gpt-4o-mini", ("openai", "gpt-4o-mini")),
        ("openrouter:openai/gpt-4o-mini", ("openai", "gpt-4o-mini")),
        ("openrouter/anthropic/claude-sonnet-4.5", ("anthropic", "claude-sonnet-4-5")),
        ("vertex_ai/gemini-2.5-flash", ("google", "gemini-2.5-flash")),
        ("gemini/gemini-2.5-flash", ("google", "gemini-2.5-flash")),
        ("azure/gpt-4o", ("openai", "gpt-4o")),
        ("azure/global-standard/gpt-4o", ("openai", "gpt-4o")),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", ("openai", "ft:gpt-4o-mini")),
        ("gpt-4o-mini-2024-07-18.ft-0a1b", ("openai", "gpt-4o-mini-2024-07-18.ft-")),
    ],
)
def test_a_name_as_providers_and_gateways_write_it_has_its_models_price(
    name: str, listed: tuple[str, str]
) -> None:
    assert row(name) == listed


def test_bedrock_charges_a_tenth_more_for_a_call_that_stays_in_a_region() -> None:
    regional, everywhere = priced(f"us.{HAIKU}"), priced(f"global.{HAIKU}")

    assert regional is not None
    assert everywhere is not None
    assert 10 * (regional.rates.input or 0) == 11 * (everywhere.rates.input or 0) > 0
    assert 10 * (regional.rates.output or 0) == 11 * (everywhere.rates.output or 0) > 0


@pytest.mark.parametrize(
    "name",
    [
        # Sold in regions only: what it would cost elsewhere is not known.
        "global.openai.gpt-5.4",
        # Data zones and single regions cost more than what is listed.
        "azure/eu/gpt-4o", "azure/swedencentral/gpt-4o",
        # The model is not in the name.
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc",
        "arn:aws:bedrock:us-east-1:123456789012:custom-model/anthropic.claude-haiku-4-5/abc",
        "projects/p/locations/l/endpoints/123", "projects/p/locations/l/models/123", "openrouter/auto",
        # Paid by the hour.
        f"bedrock/us-east-1/1-month-commitment/{HAIKU}",
        # Open models: each host has a price of its own.
        "openrouter/deepseek/deepseek-chat", "openrouter/meta-llama/llama-3.3-70b-instruct",
        # Other prices at the gateway.
        "openrouter/openai/gpt-4o-mini:free", "openrouter/openai/gpt-4o-mini:online",
        # A fine-tuned model is charged more than its base.
        "ft:gpt-5-2025-08-07:acme::x", "ft:o3:acme::x", "gpt-4.1-mini-2025-04-14.ft-0a1b",
        # Another day's preview may be another model.
        "gemini-2.5-flash-preview-10-2025", "gemini-2.5-flash-0925", "gpt-4o-001", "gpt-4o-latest", "gpt-4o[1m]",
    ],
)  # fmt: skip
def test_a_name_whose_price_is_not_known_has_none(name: str) -> None:
    assert row(name) is None


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("publishers/google/models/gemini-2.5-flash", "openai"),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{HAIKU}", "anthropic"),
        ("openrouter/openai/gpt-4o", "groq"),
        ("models/gpt-4o", "groq"),
    ],
)
def test_a_name_that_another_provider_sells_has_no_price_at_the_one_that_is_named(
    name: str, provider: str
) -> None:
    assert row(name, provider) is None


def test_a_fine_tuned_name_is_looked_for_with_its_date_and_then_without() -> None:
    dated, undated = (
        Price(provider="openai", model=model, rates=found.rates)
        for model in ("ft:gpt-4.1-mini-2025-04-14", "ft:gpt-4.1-mini")
        if (found := priced("gpt-4.1-mini"))
    )
    name = "ft:gpt-4.1-mini-2025-04-14:acme::x"
    for rows, kind in (([dated, undated], MatchKind.ALIAS), ([undated], MatchKind.SNAPSHOT_SUFFIX)):
        match = PriceBook.build(rows).find(name, NOW)
        assert match is not None
        assert (match.price, match.kind) == (rows[0], kind)


def listed_names() -> list[tuple[str, str, Price]]:
    """Every name of every model that the book has a price of now: who sells it, the name, the price."""
    found = []
    for match in book().in_force(NOW):
        price = match.price
        for name in (price.model, *price.aliases):
            current = priced(name, price.provider)
            if current is not None:
                found.append((price.provider, name, current))
    return found


def spelled(provider: str, name: str) -> Iterator[tuple[str, str | None]]:
    """Other spellings of a listed name: the name, and the provider that the call says, if any."""
    yield name.upper(), provider
    yield f" {name} ", provider.title()
    for alias, meant in PROVIDER_ALIASES.items():
        if meant == provider:
            yield name, alias
            yield f"{alias}/{name}", None
    yield f"{provider}/{name}", None
    yield f"{provider}/{name}", provider
    yield f"models/{name}", provider
    yield f"{name}@default", provider
    if provider in PASSED_ON:
        yield f"openrouter/{provider}/{name}", None
        yield f"{provider}/{name}", "openrouter"
        yield f"litellm_proxy/{provider}/{name}", None
    if provider == "google":
        yield f"publishers/google/models/{name}", None
        yield f"projects/acme-1/locations/europe-west4/publishers/google/models/{name}", None
    if provider == "azure":
        yield f"azure/global/{name}", None
    if name.startswith("claude-") and provider == "anthropic":
        yield f"{name}[1m]", provider
    if provider == "aws":
        yield from _at_bedrock(name)


def _at_bedrock(name: str) -> Iterator[tuple[str, str | None]]:
    scope, _, model = name.partition(".")
    ids = [name]
    if scope == "regional":
        ids += [model, *(f"{geography}.{model}" for geography in ("us", "eu", "apac", "jp", "au", "us-gov"))]
    for each in ids:
        bare = each.removesuffix("-v1:0")
        for version in {each, f"{bare}-v1", f"{bare}-v1:0"} if bare != each else {each}:
            yield version, "bedrock"
            yield f"bedrock/{version}", None
            yield f"bedrock/eu-central-1/{version}", None
            yield f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{version}", None
            yield f"arn:aws:bedrock:us-east-1::foundation-model/{version}", "aws"


def test_every_spelling_of_every_name_in_the_book_finds_the_very_same_price() -> None:
    tried = 0
    listed = {(provider, name) for provider, name, _ in listed_names()}
    for provider, name, price in listed_names():
        for spelling, said in spelled(provider, name):
            if spelling != name and (provider, spelling) in listed:
                # A model of its own has this very name: `perplexity/sonar`.
                continue
            assert priced(spelling, said) is price, (spelling, said, name)
            tried += 1
    assert tried > 10_000


NAMES = sorted({name for _, name, _ in listed_names()})
# What no provider puts after a name. A word after it makes another model, if it makes one.
TAILS = st.sampled_from(
    ["-x", "x", "imal", "-imal", "-2", "0", "-50", ".9", "-mega", "-0613", "-99", "_", "-v9", "-v9:9", "@x", ":x", "/x",
     "[2m]", "-2026", "-2026-13-01", "-2099-01-01", "-preview-99-2025"]
)  # fmt: skip
HEADS = st.sampled_from(["x", "x-", "x/", "not.", "mars.", "models.", "arn:", "publishers/", "my-openai/"])


@given(st.sampled_from(NAMES), TAILS)
def test_a_made_up_neighbour_of_a_listed_name_has_no_price(name: str, tail: str) -> None:
    if f"{name}{tail}".lower() not in {listed.lower() for listed in NAMES}:
        assert row(f"{name}{tail}") is None


@given(st.sampled_from(NAMES), HEADS)
def test_nor_has_one_with_something_unknown_before_it(name: str, head: str) -> None:
    assert row(f"{head}{name}") is None


@pytest.mark.parametrize(
    "name", ["gpt-4o-minimal", "gemini-2.5-flash-lite-x", "claude-haiku-4-50", "gpt-4o-2", "claude-opus-5-0"]
)
def test_names_that_look_like_a_sibling_have_no_price(name: str) -> None:
    assert row(name) is None


def test_a_maker_of_closed_models_is_a_maker_and_no_host() -> None:
    assert set(MAKERS) >= PASSED_ON
    assert not set(MAKERS) & set(HOSTS)
