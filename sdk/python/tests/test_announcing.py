"""What a request will use beside text, before it goes out."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil import TokVigil
from tokvigil.dialects import ProviderCall, read_call
from tokvigil.quantities import FORMS, NAMES

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT as PLAIN_CHAT
from sdk.python.tests.wrapped import DATA_URL, Books

MESSAGES = [{"role": "user", "content": "Say hello to Ada"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA_URL}}]}]
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
HOUR = {"type": "ephemeral", "ttl": "1h"}
MINUTES = {"type": "ephemeral"}

CHAT = ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": MESSAGES})
RESPONSES = ("/v1/responses", {"model": "gpt-5-mini", "input": "Say hello to Ada"})
CLAUDE = ("/v1/messages", {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": MESSAGES})
GEMINI = "/v1beta/models/{}:generateContent", {"contents": [{"parts": [{"text": "Say hello to Ada"}]}]}


def call(path: str, fields: dict[str, Any], **more: Any) -> ProviderCall:
    found = read_call("POST", path, "api.openai.com", {}, json.dumps(fields | more).encode())
    assert found is not None
    return found


def gemini(model: str = "gemini-2.5-flash", **more: Any) -> ProviderCall:
    return call(GEMINI[0].format(model), GEMINI[1], **more)


@pytest.mark.parametrize(
    "asked",
    [
        call(*CHAT),
        call(*CHAT, tools=[FUNCTION], modalities=["text"], response_format={"type": "json_object"}, web=None),
        call("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello"}),
        call("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["Hello"]}),
        call(*RESPONSES, tools=[{"type": "function", "name": "weather"}]),
        call(*CLAUDE, system=[{"type": "text", "text": "Be brief", "cache_control": MINUTES}]),
        call(
            *CLAUDE,
            tools=[{"name": "weather", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}],
        ),
        gemini(tools=[{"functionDeclarations": [{"name": "weather"}]}, {"codeExecution": {}}]),
        gemini(generationConfig={"responseModalities": ["TEXT"]}),
    ],
)
def test_a_call_of_text_alone_says_so(asked: ProviderCall) -> None:
    assert asked.quantities() == {}


def test_anthropic_bills_pictures_as_text() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    picture = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    assert call(*CLAUDE, messages=picture).quantities() == {}


@pytest.mark.parametrize(
    ("asked", "quantities"),
    [
        (
            call(*CLAUDE, tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]),
            {"web_searches": 5},
        ),
        (
            call(*RESPONSES, max_tool_calls=4, tools=[{"type": "web_search"}, {"type": "file_search"}]),
            {"web_searches": 4, "file_searches": 4},
        ),
        (call(*CHAT, modalities=["text", "audio"], max_completion_tokens=90), {"output_audio_tokens": 90}),
        (gemini(tools=[{"google_search": {}}]), {"web_searches": 1}),
        (call("/v1/audio/speech", {"model": "tts-1", "input": "Hello"}), {"input_characters": 5}),
    ],
)
def test_what_can_be_seen_is_announced(asked: ProviderCall, quantities: dict[str, int]) -> None:
    assert asked.quantities() == quantities


@pytest.mark.parametrize(
    "marked",
    [
        {"system": [{"type": "text", "text": "Be brief", "cache_control": HOUR}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": HOUR}]}]},
        {"tools": [{"name": "weather", "input_schema": {}, "cache_control": HOUR}]},
        {"cache_control": HOUR},
    ],
)
def test_what_is_kept_for_an_hour_may_be_all_of_the_input(marked: dict[str, Any]) -> None:
    asked = call(*CLAUDE, **marked)
    assert asked.quantities() == {"cache_write_1h_tokens": asked.count_input()}


@pytest.mark.parametrize(
    "asked",
    [
        call(*CHAT, messages=IMAGE),
        call(*CHAT, a_field_of_tomorrow=True),
        call(*CHAT, web_search_options={}),
        call(*CHAT, tools=[{"type": "a_tool_of_tomorrow"}]),
        call(*CHAT, tools="x"),
        call(*CHAT, tools=[7]),
        call(*CHAT, modalities=["text", "audio"]),
        *(
            call(*CHAT, model=model)
            for model in ("gpt-audio", "gpt-4o-search-preview", "sonar-pro", "groq/compound")
        ),
        call(*RESPONSES, tools=[{"type": "web_search"}]),
        call(*RESPONSES, tools=[{"type": "image_generation"}], max_tool_calls=1),
        call(*RESPONSES, previous_response_id="resp_1"),
        call(*CLAUDE, tools=[{"type": "web_search_20250305", "name": "web_search"}]),
        call(*CLAUDE, tools=[{"type": "code_execution_20250825", "name": "code_execution"}]),
        call(*CLAUDE, mcp_servers=[{"type": "url", "url": "https://x"}]),
        call(*CLAUDE, cache_control={"type": "ephemeral", "ttl": "1d"}),
        gemini("gemini-3.5-flash", tools=[{"googleSearch": {}}]),
        gemini("gemini-2.5-flash-image"),
        gemini(generationConfig={"responseModalities": ["TEXT", "IMAGE"]}),
        gemini(cachedContent="cachedContents/1"),
        call("/v1/images/generations", {"model": "gpt-image-1", "prompt": "Ada"}),
        call("/a/path/of/tomorrow", {"model": "m"}),
    ],
)
def test_of_what_cannot_be_seen_nothing_is_said(asked: ProviderCall) -> None:
    assert asked.quantities() is None


VALUES = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=4)
    | st.sampled_from(["1h", "audio", "web_search", "function"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "ttl", "cache_control", "max_uses", "googleSearch"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)


@given(st.data(), st.sampled_from([CHAT, RESPONSES, CLAUDE, (GEMINI[0].format("gemini-2.5-pro"), GEMINI[1])]))
def test_a_request_of_any_shape_is_announced_without_a_failure(data: st.DataObject, known: Any) -> None:
    names = sorted(
        {name for each in FORMS["requests"]["formats"].values() for name in each["plain"]} - {"model"}
    )
    fields = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=4))
    found = call(*known, **fields).quantities()
    if found is not None:
        assert found.keys() <= NAMES
        assert all(type(amount) is int and amount >= 0 for amount in found.values())


def test_a_wrapped_client_announces_what_its_calls_will_use(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
        wrapped = tv.wrap(bare, user_id="ada")
        wrapped.chat.completions.create(**PLAIN_CHAT)
        wrapped.chat.completions.create(**PLAIN_CHAT, extra_body={"a_field_of_tomorrow": 1})
    plain, unknown = books.asked
    assert plain["quantities"] == {}
    assert "quantities" not in unknown
