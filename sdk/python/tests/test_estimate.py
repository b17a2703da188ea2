from __future__ import annotations

import dataclasses
import socket
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from tiktoken.model import encoding_name_for_model
from tokvigil import ConfigurationError, prices
from tokvigil.checked import TOKENS_MAX
from tokvigil.estimating import OUTPUT_TOKENS_WITHOUT_CAP, Estimate, estimate
from tokvigil.tokens import EXACT_CHUNK_CHARS, EXACT_CHUNKS_MAX

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]


def test_an_estimate_names_tokens_cost_and_where_they_come_from() -> None:
    for exact in (True, False):
        assert estimate("gpt-4o-mini", HELLO, max_output_tokens=100, at=NOW, exact=exact) == Estimate(
            input_tokens=8,
            output_tokens=100,
            cost_usd=Decimal("0.0000612"),  # 8 x 0.15 + 100 x 0.60 per million
            method="exact" if exact else "estimated",
            price_version=prices.version(),
        )


def test_a_text_is_the_one_message_of_a_user() -> None:
    assert estimate("gpt-4o-mini", "Hello", at=NOW) == estimate("gpt-4o-mini", HELLO, at=NOW)


def test_an_estimate_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate("gpt-4o", HELLO).input_tokens = 0  # type: ignore[misc]


def test_without_a_cap_the_output_is_what_the_server_would_hold() -> None:
    expected_output = pytest.importorskip(
        "usage.ledger.expected_output", reason="the server is not in this checkout"
    )
    assert estimate("gpt-4o", HELLO).output_tokens == OUTPUT_TOKENS_WITHOUT_CAP
    assert expected_output.WITHOUT_HISTORY == OUTPUT_TOKENS_WITHOUT_CAP


def test_a_cap_of_zero_is_a_cap() -> None:
    assert estimate("gpt-4o", HELLO, max_output_tokens=0).output_tokens == 0


@pytest.mark.parametrize("model", ["no-such-model", "", "/", "ft:::", "gpt-4o\ud800", "x" * 10_000])
def test_an_unknown_model_is_counted_and_has_no_cost(model: str) -> None:
    guess = estimate(model, HELLO, tools=WEATHER)
    assert guess.input_tokens > 8
    assert guess.cost_usd is None


def test_tools_are_counted_and_paid_for() -> None:
    plain, with_tools = (estimate("gpt-4o", HELLO, tools=tools, at=NOW) for tools in (None, WEATHER))
    assert with_tools.input_tokens > plain.input_tokens + 10
    assert plain.cost_usd is not None
    assert with_tools.cost_usd is not None
    assert with_tools.cost_usd > plain.cost_usd


def test_the_price_is_that_of_the_instant_and_of_the_provider() -> None:
    before, after = (estimate("o3", HELLO, at=datetime(2025, month, 1, tzinfo=UTC)) for month in (5, 7))
    assert before.cost_usd is not None
    assert after.cost_usd is not None
    assert before.cost_usd == 5 * after.cost_usd
    assert estimate("o3", HELLO, provider="acme").cost_usd is None


@pytest.mark.parametrize(
    "model", ["gpt-4o", "openai/gpt-5.6-sol", "ft:gpt-4.1-mini:acme::abc", "gpt-4", "o3"]
)
def test_plain_text_is_counted_with_the_encoding_that_openai_names(model: str) -> None:
    assert estimate(model, HELLO, exact=True).method == "exact"
    assert estimate(model, HELLO).method == "estimated"


@pytest.mark.parametrize(
    "model", ["claude-sonnet-5", "gemini-2.5-pro", "gpt-6-sol", "davinci", "no-such-model"]
)
def test_a_model_without_a_published_encoding_of_ours_is_estimated(model: str) -> None:
    assert estimate(model, HELLO, exact=True).method == "estimated"


def test_no_model_is_called_exact_that_tiktoken_counts_otherwise() -> None:
    # As tiktoken reads it; "ft:gpt-4.1" is the one it reads wrongly, by the prefix "ft:gpt-4".
    for model in ("text-davinci-003", "gpt2", "code-davinci-002", "gpt-oss-120b"):
        assert encoding_name_for_model(model) not in ("o200k_base", "cl100k_base")
        assert estimate(model, HELLO, exact=True).method == "estimated"


@pytest.mark.parametrize(
    ("messages", "tools", "method"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], None, "exact"),
        ([{"role": "assistant", "content": None}], None, "exact"),
        (HELLO, [], "exact"),
        (HELLO, WEATHER, "estimated"),
        (PICTURE, None, "estimated"),
        ([{"role": "assistant", "content": None, "tool_calls": WEATHER}], None, "estimated"),
        ([{"role": "user", "content": " " * (EXACT_CHUNK_CHARS * EXACT_CHUNKS_MAX + 1)}], None, "estimated"),
    ],
)
def test_what_is_not_plain_text_is_estimated(messages: Any, tools: Any, method: str) -> None:
    assert estimate("gpt-4o", messages, tools=tools, exact=True).method == method


def test_messages_may_be_an_iterator() -> None:
    assert estimate("gpt-4o", iter(PICTURE), at=NOW) == estimate("gpt-4o", PICTURE, at=NOW)


@pytest.mark.parametrize("cap", [-1, TOKENS_MAX + 1])
def test_an_impossible_cap_is_refused(cap: int) -> None:
    with pytest.raises(ConfigurationError, match="from 0 to"):
        estimate("gpt-4o", HELLO, max_output_tokens=cap)


def test_estimating_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("a socket was opened")

    prices._book.cache_clear()
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert estimate("gpt-4o", HELLO).cost_usd is not None


@pytest.mark.parametrize(
    "used", [{"quantities": {"web_searches": 2}}, {"service_tier": "flex"}, {"region": "us"}]
)
def test_what_has_no_rate_here_is_not_priced_at_anothers(used: dict[str, Any]) -> None:
    guess = estimate("gpt-4o-mini", HELLO, **used)
    assert (guess.input_tokens, guess.cost_usd) == (8, None)
    assert guess.quantities == used.get("quantities", {})


@pytest.mark.parametrize(
    "used", [{"quantities": {"images": 0}}, {"service_tier": "default"}, {"region": ""}, {"quantities": None}]
)
def test_what_says_nothing_changes_no_price(used: dict[str, Any]) -> None:
    assert estimate("gpt-4o-mini", HELLO, at=NOW, **used) == estimate("gpt-4o-mini", HELLO, at=NOW)


@pytest.mark.parametrize(
    ("used", "names"),
    [
        ({"quantities": {"searches": 2}}, "quantities"),
        ({"quantities": {"images": -2}}, "images"),
        ({"quantities": {"output_audio_tokens": 2_000}}, "audio"),
        ({"service_tier": "slow"}, "service_tier"),
    ],
)
def test_what_cannot_be_used_is_refused(used: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigurationError, match=names):
        estimate("gpt-4o-mini", HELLO, max_output_tokens=100, **used)
