"""A call that must not go out does not, and says why in the terms of TokVigil and of the provider's SDK."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
import tokvigil
from google import genai
from langchain_core.exceptions import ModelPermissionDeniedError
from langchain_openai import ChatOpenAI
from tokvigil import AIUsageBlockedError, TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, CLAUDE, GEMINI, RESPONSE, Books, Person

MAKE: dict[str, Callable[[str], Any]] = {
    "openai": lambda url: openai.OpenAI(base_url=url + "/v1", api_key="sk"),
    "openai async": lambda url: openai.AsyncOpenAI(base_url=url + "/v1", api_key="sk"),
    "anthropic": lambda url: anthropic.Anthropic(base_url=url, api_key="sk"),
    "anthropic async": lambda url: anthropic.AsyncAnthropic(base_url=url, api_key="sk"),
    "gemini": lambda url: genai.Client(api_key="k", http_options={"base_url": url}),
    "gemini, retrying": lambda url: genai.Client(
        api_key="k", http_options={"base_url": url, "retry_options": {"attempts": 3, "initial_delay": 0.01}}
    ),
    "langchain": lambda url: ChatOpenAI(model="gpt-4o-mini", api_key="sk", base_url=url + "/v1"),
}


def entered(manager: Any) -> Any:
    with manager as inside:
        return inside


async def entered_async(manager: Any) -> Any:
    async with manager as inside:
        return inside


CALLS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "create": ("openai", lambda c: c.chat.completions.create(**CHAT)),
    "create, streaming": ("openai", lambda c: c.chat.completions.create(**CHAT, stream=True)),
    "raw": ("openai", lambda c: c.chat.completions.with_raw_response.create(**CHAT)),
    "streaming response": (
        "openai",
        lambda c: entered(c.chat.completions.with_streaming_response.create(**CHAT)),
    ),
    "parse": ("openai", lambda c: c.chat.completions.parse(**CHAT, response_format=Person)),
    "stream": ("openai", lambda c: entered(c.chat.completions.stream(**CHAT))),
    "responses": ("openai", lambda c: c.responses.create(**RESPONSE)),
    "responses, streaming": ("openai", lambda c: entered(c.responses.stream(**RESPONSE))),
    "copy": ("openai", lambda c: c.with_options(max_retries=5).chat.completions.create(**CHAT)),
    "copy of a copy": ("openai", lambda c: c.copy().copy(max_retries=5).chat.completions.create(**CHAT)),
    "image": ("openai", lambda c: c.images.generate(model="gpt-image-1", prompt="Ada")),
    "awaited": ("openai async", lambda c: c.chat.completions.create(**CHAT)),
    "awaited, streaming": ("openai async", lambda c: c.chat.completions.create(**CHAT, stream=True)),
    "awaited, stream": ("openai async", lambda c: entered_async(c.chat.completions.stream(**CHAT))),
    "message": ("anthropic", lambda c: c.messages.create(**CLAUDE)),
    "message, raw": ("anthropic", lambda c: c.messages.with_raw_response.create(**CLAUDE)),
    "message, stream": ("anthropic", lambda c: entered(c.messages.stream(**CLAUDE))),
    "message, copy": ("anthropic", lambda c: c.with_options(max_retries=5).messages.create(**CLAUDE)),
    "message, awaited": ("anthropic async", lambda c: c.messages.create(**CLAUDE)),
    "content": ("gemini", lambda c: c.models.generate_content(**GEMINI)),
    "content, streaming": ("gemini", lambda c: list(c.models.generate_content_stream(**GEMINI))),
    "content, retrying": ("gemini, retrying", lambda c: c.models.generate_content(**GEMINI)),
    "content, awaited": ("gemini", lambda c: c.aio.models.generate_content(**GEMINI)),
    "chat": ("gemini", lambda c: c.chats.create(model="gemini-2.5-flash").send_message("hi")),
    "invoke": ("langchain", lambda c: c.invoke("hi")),
    "langchain stream": ("langchain", lambda c: list(c.stream("hi"))),
    "ainvoke": ("langchain", lambda c: c.ainvoke("hi")),
    "structured": ("langchain", lambda c: c.with_structured_output(Person).invoke("hi")),
}
ERRORS: dict[str, type[Exception]] = {
    "openai": openai.PermissionDeniedError,
    "anthropic": anthropic.PermissionDeniedError,
    "gemini": genai.errors.ClientError,
    "langchain": ModelPermissionDeniedError,
}


def run(call: Callable[[Any], Any], client: Any) -> Any:
    """Whether it is to be awaited or not."""
    made = call(client)

    async def wait() -> Any:
        return await made

    return asyncio.run(wait()) if hasattr(made, "__await__") else made


def fails(call: Callable[[Any], Any], client: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        run(call, client)
    return caught.value


@pytest.mark.parametrize("name", CALLS)
def test_a_block_is_one_evaluation_no_provider_call_and_an_error_of_both_worlds(
    tv: TokVigil, control_plane: Any, wire: Any, wire_provider: WireProvider, books: Books, name: str
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    sdk, call = CALLS[name]
    error = fails(call, tv.wrap(MAKE[sdk](wire_provider.url), user_id="user_123", feature="chat"))
    assert isinstance(error, AIUsageBlockedError)
    assert isinstance(error, ERRORS[sdk.split(",")[0].removesuffix(" async")])
    assert (error.reason_code, error.reason_class) == ("DAILY_REQUEST_LIMIT_EXCEEDED", "exhausted")
    assert (error.retry_after, error.limit_state[0].remaining) == (3600, 0)
    assert error.request_id == control_plane.calls("/v1/evaluate")[0].body["request_id"]
    if sdk != "langchain":
        assert 403 in (getattr(error, "status_code", None), getattr(error, "code", None))
    assert str(error) == "DAILY_REQUEST_LIMIT_EXCEEDED: Daily request limit of 50 reached for user user_123."
    assert len(books.asked) == 1
    assert wire_provider.seen == books.settled() == []


@pytest.mark.parametrize("name", ["create", "message", "content", "invoke"])
def test_a_block_travels_between_processes(
    tv: TokVigil, control_plane: Any, wire: Any, wire_provider: WireProvider, name: str
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    sdk, call = CALLS[name]
    error = fails(call, tv.wrap(MAKE[sdk](wire_provider.url), user_id="user_123"))
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert isinstance(error, AIUsageBlockedError)
    assert type(arrived) is AIUsageBlockedError
    assert arrived.decision == error.decision
    assert str(arrived) == str(error)


def test_a_block_can_be_told_by_what_the_sdk_itself_says_of_it(
    tv: TokVigil, control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    control_plane.script("/v1/evaluate", *[wire.Answer(200, wire.blocked())] * 2)
    client = tv.wrap(MAKE["openai"](wire_provider.url), user_id="user_123")
    error = fails(CALLS["create"][1], client)
    assert isinstance(error, openai.PermissionDeniedError)
    assert (error.code, error.type) == ("DAILY_REQUEST_LIMIT_EXCEEDED", "ai_usage_blocked")
    assert error.response.request.url.path == "/v1/chat/completions"
    assert type(fails(CALLS["create"][1], client)) is type(error)


NAMES = ["create", "create, streaming", "raw", "stream", "awaited", "copy", "message", "message, awaited"]
NAMES += ["content", "content, streaming", "content, retrying", "content, awaited", "invoke", "ainvoke"]


@pytest.mark.parametrize("name", NAMES)
def test_a_call_nobody_is_named_for_does_not_go_out(
    tv: TokVigil, wire_provider: WireProvider, books: Books, name: str
) -> None:
    sdk, call = CALLS[name]
    error = fails(call, tv.wrap(MAKE[sdk](wire_provider.url), feature="chat"))
    assert type(error) is tokvigil.MissingAttributionError
    assert "tv.context(user_id=..." in str(error)
    assert books.asked == wire_provider.seen == []


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_key_for_tokvigil_is_said_at_once(
    tv: TokVigil, control_plane: Any, wire: Any, wire_provider: WireProvider, books: Books, name: str
) -> None:
    problem = {"title": "Unauthorized", "detail": "unknown API key", "code": "unauthenticated"}
    control_plane.script("/v1/evaluate", *[wire.Answer(401, problem)] * 9)
    sdk, call = CALLS[name]
    error = fails(call, tv.wrap(MAKE[sdk](wire_provider.url), user_id="user_123"))
    assert type(error) is tokvigil.InvalidKeyError
    assert "unknown API key" in str(error)
    assert len(books.asked) == 1
    assert wire_provider.seen == []


@pytest.mark.parametrize("name", ["create", "awaited", "message", "content"])
def test_a_block_because_the_control_plane_is_away_says_so(
    unreachable: str, wire_provider: WireProvider, name: str
) -> None:
    sdk, call = CALLS[name]
    with TokVigil(
        api_key="tv_dev_id_secret", base_url=unreachable, timeout=0.2, on_unreachable="block"
    ) as tv:
        error = fails(call, tv.wrap(MAKE[sdk](wire_provider.url), user_id="user_123"))
    assert isinstance(error, AIUsageBlockedError)
    assert (error.reason_code, error.reason_class) == ("DEGRADED_BLOCKED", "degraded")
    assert wire_provider.seen == []
