"""List prices in the SDK, against published costs and against the server that they come from."""

from __future__ import annotations

import gzip
import importlib.util
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tokvigil import ConfigurationError, Usage, prices
from tokvigil.checked import TOKENS_MAX

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SCRIPT = Path(__file__).resolve().parents[1] / "scripts/build_prices.py"

CACHED = Usage(input_tokens=10_000, output_tokens=1_000, cached_input_tokens=6_000)
WRITING = Usage(input_tokens=10_000, output_tokens=1_000, cached_input_tokens=2_000, cache_write_tokens=6_000)
LONG = Usage(input_tokens=300_000, output_tokens=2_000, cached_input_tokens=100_000, reasoning_tokens=700)
ODD = Usage(
    input_tokens=33_333,
    output_tokens=777,
    cached_input_tokens=101,
    cache_write_tokens=7,
    reasoning_tokens=333,
)
MILLIONS = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


def usd(model: str, usage: Usage = CACHED, at: datetime = NOW, **seller: Any) -> str:
    cost = prices.cost(model, usage, at, **seller)
    assert cost is not None, model
    return str(cost)


# Costs on which genai-prices, litellm and model-prices agree, November 2026.
@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("gpt-4o-mini", "0.00165"),
        ("gpt-4o", "0.0275"),
        ("gpt-4.1-mini", "0.0038"),
        ("o3", "0.019"),
        ("gpt-5", "0.01575"),
        ("gpt-5-mini", "0.00315"),
        ("gpt-5-nano", "0.00063"),
        ("gpt-5.4", "0.0265"),
        ("gpt-5.6-sol", "0.0384"),
        ("gpt-6-sol", "0.0192"),
        ("gpt-6.1-sol", "0.0186"),
        ("claude-haiku-4-5", "0.0096"),
        ("claude-sonnet-4-5", "0.0288"),
        ("claude-sonnet-5", "0.0192"),
        ("claude-sonnet-5-5", "0.0186"),
        ("claude-opus-5", "0.048"),
        ("claude-opus-5-5", "0.0372"),
        ("claude-haiku-5-5", "0.00096"),
        ("gemini-2.5-flash", "0.00388"),
        ("gemini-2.5-pro", "0.01575"),
        ("gemini-2.5-flash-lite", "0.00086"),
        ("gemini-3.5-flash", "0.0159"),
        ("gemini-3.8-flash", "0.0072"),
        ("gemini-4-argon", "0.0186"),
        ("grok-4.6", "0.017"),
    ],
)
def test_cached_input_costs_what_is_published(model: str, cost: str) -> None:
    assert usd(model) == cost


@pytest.mark.parametrize(("model", "cost"), [("claude-sonnet-5-5", "0.0292"), ("claude-opus-5-5", "0.0584")])
def test_cache_writes_cost_what_is_published(model: str, cost: str) -> None:
    assert usd(model, WRITING) == cost


@pytest.mark.parametrize(
    ("model", "at", "cost"),
    [
        ("o3", datetime(2025, 5, 1, tzinfo=UTC), "50.00"),
        ("o3", datetime(2025, 6, 20, tzinfo=UTC), "10.00"),
        ("gpt-5.6-sol", datetime(2026, 8, 20, tzinfo=UTC), "55.00"),
        ("gpt-5.6-sol", datetime(2026, 8, 22, tzinfo=UTC), "38.00"),
    ],
)
def test_a_call_costs_the_price_of_its_day(model: str, at: datetime, cost: str) -> None:
    assert usd(model, MILLIONS, at) == cost


def test_a_price_starts_at_the_same_instant_in_every_time_zone() -> None:
    start = datetime(2026, 8, 21, tzinfo=UTC)
    assert usd("gpt-5.6-sol", MILLIONS, start - timedelta(microseconds=1)) == "55.00"
    assert usd("gpt-5.6-sol", MILLIONS, start.astimezone(timezone(timedelta(hours=-7)))) == "38.00"


@pytest.mark.parametrize(
    "model",
    [
        "no-such-model",
        "gpt-4o-mini-and-more",
        "gpt-4o-2999-01-01",
        "gpt-4o-2026-02-30",
        "acme/gpt-4o",
        "",
        "/",
        "ft:",
        "ft:::",
        "-2025-01-01",
        "gpt-4o-٢٠٢٥-٠١-٠١",
        "gpt-4o\ud800",
        "\x00",
        "x" * 10_000,
    ],
)
def test_only_a_listed_name_has_a_price(model: str) -> None:
    assert prices.cost(model, CACHED, NOW) is None


def test_a_snapshot_from_the_future_does_not_exist_at_the_end_of_time() -> None:
    assert prices.find("gpt-4o-9999-12-31", datetime.min.replace(tzinfo=UTC)) is None
    assert prices.find("gpt-4o-9999-12-31", datetime.max.replace(tzinfo=UTC)) is not None


def test_a_provider_without_prices_sells_nothing() -> None:
    assert prices.cost("gpt-4o", CACHED, NOW, provider="acme") is None
    assert usd("gpt-4o", provider="azure_openai") == "0.0275"


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"cached_input_tokens": 11}, "^cached_input_tokens must not exceed"),
        ({"cached_input_tokens": 6, "cache_write_tokens": 5}, "^cache_write_tokens and"),
        ({"reasoning_tokens": 6}, "^reasoning_tokens must not exceed"),
        ({"input_tokens": -1}, "must be from 0"),
        ({"output_tokens": TOKENS_MAX + 1}, "must be from 0"),
    ],
)
@pytest.mark.parametrize("model", ["gpt-4o", "no-such-model"])
def test_parts_larger_than_their_total_are_refused(counts: dict[str, int], reason: str, model: str) -> None:
    usage = Usage(**({"input_tokens": 10, "output_tokens": 5} | counts))
    with pytest.raises(ConfigurationError, match=reason):
        prices.cost(model, usage, NOW)


def test_reasoning_costs_its_own_rate_and_the_rest_of_the_output_not() -> None:
    # No model in the book has such a rate today.
    rates = prices.Rates(
        above_input_tokens=-1,
        input=0,
        output=2_000_000,
        cached_input=0,
        cache_write=0,
        reasoning=7_000_000,
    )
    price = prices.Price(effective_from=NOW, tiers=(rates,))
    usage = Usage(input_tokens=1, output_tokens=10, reasoning_tokens=4)
    assert prices._cost_nano(price, usage) == 6 * 2 + 4 * 7


def test_a_name_longer_than_any_that_the_server_takes_has_no_price() -> None:
    tuned = "ft:gpt-4o-mini-2024-07-18:"
    assert prices.find(tuned.ljust(prices.NAME_LENGTH_MAX, "a"), NOW) is not None
    assert prices.find(tuned.ljust(prices.NAME_LENGTH_MAX + 1, "a"), NOW) is None


def test_a_caller_with_a_rough_decimal_context_gets_the_exact_cost() -> None:
    with localcontext(prec=2):
        assert prices.cost("gpt-4.1-mini", ODD, NOW) == Decimal(
            "0.0145461"  # 33,225 + 7 at 0.40, 101 at 0.10, 777 at 1.60 per million
        )


def test_no_tokens_cost_nothing_and_part_of_a_nano_dollar_costs_one() -> None:
    assert usd("gpt-4o", Usage(input_tokens=0, output_tokens=0)) == "0.00"
    assert prices._usd(1) == Decimal("0.000000001")
    assert prices._usd(12_345_678_901) == Decimal("12.345678901")


@pytest.fixture(scope="module")
def server_book() -> Any:
    """The server's book as its own database would hold it."""
    book = pytest.importorskip("usage.prices.book", reason="the server is not in this checkout")
    from usage.prices.genai import package_rows

    return book.PriceBook.build([row.to_price() for row in package_rows()[0]])


def test_the_snapshot_is_what_the_server_ships_now(server_book: Any) -> None:
    spec = importlib.util.spec_from_file_location("build_prices", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    packed = files("tokvigil").joinpath("prices.json.gz").read_bytes()
    # Not the packed bytes: another zlib may pack the same text otherwise.
    assert gzip.decompress(packed).decode() == script.build(), "run sdk/python/scripts/build_prices.py"
    assert packed[4:8] == bytes(4), "the time of packing is in the file"
    assert len(packed) < 32_000


def test_every_name_costs_what_the_server_charges(server_book: Any) -> None:
    """Every name and alias, as it stands, under every provider, dated, fine-tuned and misspelt."""
    compared = priced = 0
    for name, provider in questions(server_book):
        for at in instants(compared):
            match = server_book.find(name, at, provider)
            if match is not None and not is_by_tokens_alone(match.price):
                match = None
            for usage in (CACHED, WRITING, LONG, ODD):
                expected = None if match is None else server_usd(match.price, usage)
                cost = prices.cost(name, usage, at, provider=provider)
                assert cost == expected, (name, provider, at, usage)
                priced += cost is not None
                compared += 1
    assert compared > 20_000
    assert compared / 4 < priced < compared


def is_by_tokens_alone(price: Any) -> bool:
    """Of others the SDK knows the name, and no price."""
    from usage.quantities import REQUESTS

    return price.rates.input is not None and price.rates.of(REQUESTS) is None


def server_usd(price: Any, usage: Usage) -> Decimal:
    from usage.prices.cost import Use, cost_of

    use = Use(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )
    return Decimal(cost_of(price, use).nano) / 10**9


def questions(book: Any) -> Iterator[tuple[str, str | None]]:
    from usage.prices.names import PROVIDER_ALIASES

    for provider, name in sorted(book._shared.named):
        yield name, None
        if provider.islower():
            yield name, provider
            yield f"{provider}/{name}", None
            yield f" {provider}/{name.upper()}", provider
    sellers = [*sorted({provider for provider, _ in book._shared.entries}), *PROVIDER_ALIASES, "acme"]
    chance = random.Random(7)
    for name in sorted({name for _, name in book._shared.named}):
        seller = chance.choice(sellers)
        yield name, seller
        yield f"{seller}/{name}", None
        yield f"{seller}:{name}", None
        suffix = ("-20250514", "@20240229", "-2026-11-24", "-2026-11-25", "-x", "-latest", ":free", "-2")
        yield name + chance.choice(suffix), chance.choice((None, seller))
        yield name[: chance.randrange(len(name))], None
        yield f"ft:{name}:acme::abc", None
        before = ("models/", "openrouter/openai/", "us.", "global.", "bedrock/us-east-1/", "bedrock/", "azure/eu/",
                  "publishers/google/models/", "arn:aws:bedrock:us-east-1::foundation-model/")  # fmt: skip
        after = ("", "-v1:0", "-001", "-latest", "@default", "[1m]", "-20250514-v1:0", ".ft-0a")
        yield chance.choice(before) + name + chance.choice(after), chance.choice((None, seller, "openrouter"))


def instants(number: int) -> tuple[datetime, ...]:
    """Now, and one day of the three years before, another for each question."""
    return NOW, NOW - timedelta(days=number * 7 % 1_100)
