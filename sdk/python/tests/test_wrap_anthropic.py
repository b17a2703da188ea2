"""A wrapped client of anthropic, in every style of calling: asked once, settled once, answered as ever."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anthropic
import pytest
import tokvigil
from tokvigil import TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wire_provider.content import TEXT
from sdk.python.tests.wrapped import CLAUDE, SCHEMA, TOOL_MESSAGES, Books, plain, wait_for

TOOLS: Any = [{"name": "weather", "input_schema": SCHEMA}]
THINKING: Any = {"thinking": {"type": "enabled", "budget_tokens": 1_024}, "max_tokens": 2_000}


def whole_stream(manager: Any) -> Any:
    with manager as stream:
        return list(stream), stream.get_final_message()


def streamed_and_parsed(response: Any) -> Any:
    with response as answer:
        return answer.parse()


STYLES: dict[str, Callable[[Any], Any]] = {
    "create": lambda c: c.messages.create(**CLAUDE),
    "create, streaming": lambda c: list(c.messages.create(**CLAUDE, stream=True)),
    "beta": lambda c: c.beta.messages.create(**CLAUDE),
    "beta, stream": lambda c: whole_stream(c.beta.messages.stream(**CLAUDE)),
    "create, tools": lambda c: c.messages.create(**CLAUDE | {"messages": TOOL_MESSAGES}, tools=TOOLS),
    "stream, tools": lambda c: whole_stream(
        c.messages.stream(**CLAUDE | {"messages": TOOL_MESSAGES}, tools=TOOLS)
    ),
    "create, thinking": lambda c: c.messages.create(**CLAUDE | THINKING),
    "stream": lambda c: whole_stream(c.messages.stream(**CLAUDE)),
    "stream, thinking": lambda c: whole_stream(c.messages.stream(**CLAUDE | THINKING)),
    "with_raw_response": lambda c: c.messages.with_raw_response.create(**CLAUDE).parse(),
    "with_streaming_response": lambda c: streamed_and_parsed(
        c.messages.with_streaming_response.create(**CLAUDE)
    ),
    "with_options": lambda c: c.with_options(max_retries=5, timeout=9).messages.create(**CLAUDE),
    "copy of a copy": lambda c: c.copy(max_retries=0).with_options(timeout=9).messages.create(**CLAUDE),
}


async def every(stream: Any) -> Any:
    return [event async for event in await stream]


async def whole_stream_async(manager: Any) -> Any:
    async with manager as stream:
        return [event async for event in stream], await stream.get_final_message()


async def parsed(raw: Any) -> Any:
    return await (await raw).parse()


ASYNC_STYLES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "create": lambda c: c.messages.create(**CLAUDE),
    "create, streaming": lambda c: every(c.messages.create(**CLAUDE, stream=True)),
    "stream": lambda c: whole_stream_async(c.messages.stream(**CLAUDE)),
    "with_raw_response": lambda c: parsed(c.messages.with_raw_response.create(**CLAUDE)),
    "with_options": lambda c: c.with_options(max_retries=5).messages.create(**CLAUDE),
}


@pytest.fixture
def bare(wire_provider: WireProvider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=wire_provider.url, api_key="sk-ant") as client:
        yield client


@pytest.fixture
def client(tv: TokVigil, bare: anthropic.Anthropic) -> anthropic.Anthropic:
    return tv.wrap(bare, user_id="user_123", feature="chat")


@pytest.mark.parametrize("style", STYLES)
def test_a_call_is_asked_and_settled_once_and_answered_as_ever(
    client: anthropic.Anthropic,
    bare: anthropic.Anthropic,
    wire_provider: WireProvider,
    books: Books,
    control_plane: Any,
    wire: Any,
    style: str,
) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.decision(seen.body["request_id"], max_output_tokens=None)
    )
    assert plain(STYLES[style](client)) == plain(STYLES[style](bare))
    settled = books.only()
    figures = wire_provider.anthropic
    expected = figures.THINKING_USAGE if "thinking" in style else figures.USAGE
    assert (settled.status, settled.usage, settled.provider) == ("succeeded", expected, "anthropic")
    assert books.asked[0]["provider"] == "anthropic"
    assert (settled.user_id, settled.feature, settled.model) == ("user_123", "chat", "claude-haiku-4-5")
    assert books.asked[0]["max_output_tokens"] == (2_000 if "thinking" in style else 500)


@pytest.mark.parametrize("style", ASYNC_STYLES)
def test_an_awaited_call_is_asked_and_settled_once_and_answered_as_ever(
    tv: TokVigil, wire_provider: WireProvider, books: Books, style: str
) -> None:
    async def both() -> None:
        async with anthropic.AsyncAnthropic(base_url=wire_provider.url, api_key="sk-ant") as bare:
            wrapped = tv.wrap(bare, user_id="user_123")
            assert type(wrapped) is anthropic.AsyncAnthropic
            assert plain(await ASYNC_STYLES[style](wrapped)) == plain(await ASYNC_STYLES[style](bare))

    asyncio.run(both())
    assert (books.only().status, books.only().usage) == ("succeeded", wire_provider.anthropic.USAGE)


@pytest.mark.parametrize("style", ["create", "create, streaming", "stream"])
@pytest.mark.parametrize("trouble", ["gzip streams", "fragments"])
def test_an_answer_is_read_in_whatever_pieces_and_encoding_it_comes(
    client: anthropic.Anthropic, wire_provider: WireProvider, books: Books, style: str, trouble: str
) -> None:
    wire_provider.gzip_streams = trouble == "gzip streams"
    wire_provider.fragment_bytes = 1 if trouble == "fragments" else None
    STYLES[style](client)
    assert books.only().usage == wire_provider.anthropic.USAGE


def close(stream: Any) -> None:
    stream.close()


def drop(stream: Any) -> None:
    """Whoever calls this holds it no longer."""


@pytest.mark.parametrize("end", [close, drop])
def test_a_stream_left_early_is_partial_with_the_input_the_provider_said(
    client: anthropic.Anthropic, wire_provider: WireProvider, books: Books, end: Callable[[Any], None]
) -> None:
    wire_provider.pause_after(7)  # the start of message and block, a ping, four pieces of text
    stream = client.messages.create(**CLAUDE, stream=True)
    for _, _ in zip(range(6), stream, strict=False):
        pass
    end(stream)
    del stream
    gc.collect()
    wait_for(books.settled)
    settled, figures = books.only(), wire_provider.anthropic.USAGE
    assert settled.status == "partial"
    assert settled.usage.input_tokens == figures.input_tokens
    assert settled.usage.cached_input_tokens == figures.cached_input_tokens
    seen = tokvigil.count_tokens(TEXT[: 4 * 9], model=settled.model)
    assert tokvigil.count_tokens(TEXT[: 3 * 9], model=settled.model) <= settled.usage.output_tokens <= seen
    wire_provider.resume()


@pytest.mark.parametrize("trouble", ["cut_after", "error_after"])
def test_a_stream_that_breaks_off_is_partial(
    client: anthropic.Anthropic, wire_provider: WireProvider, books: Books, trouble: str
) -> None:
    getattr(wire_provider, trouble)(7)
    with pytest.raises(Exception, match=r"(?i)overloaded|incomplete|peer closed"):
        list(client.messages.create(**CLAUDE, stream=True))
    settled = books.only()
    assert settled.status == "partial"
    assert settled.usage.input_tokens == wire_provider.anthropic.USAGE.input_tokens
    assert settled.usage.output_tokens == tokvigil.count_tokens(TEXT[: 4 * 9], model=settled.model)


def test_each_attempt_is_a_call(
    client: anthropic.Anthropic, wire_provider: WireProvider, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.001)
    wire_provider.fail(529)
    wire_provider.hang_up()
    client.messages.create(**CLAUDE)
    assert [event.status for event in books.settled()] == ["failed", "partial", "succeeded"]
    assert len(books.asked) == len(wire_provider.seen) == 3


def test_counting_tokens_is_free_and_needs_no_user(
    tv: TokVigil, bare: anthropic.Anthropic, books: Books
) -> None:
    asked: Any = {name: CLAUDE[name] for name in ("model", "messages")}
    assert tv.wrap(bare).messages.count_tokens(**asked) == bare.messages.count_tokens(**asked)
    assert books.asked == books.settled() == []


def test_a_batch_is_refused_with_what_to_do_instead(
    client: anthropic.Anthropic, wire_provider: WireProvider
) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match="one by one"):
        client.messages.batches.create(requests=[{"custom_id": "1", "params": CLAUDE}])
    assert wire_provider.seen == []


ON_VERTEX: Any = CLAUDE | {"model": "claude-haiku-4-5@20251001"}


@pytest.mark.parametrize("style", ["create", "create, streaming", "stream", "with_options", "beta"])
def test_a_client_of_vertex_is_guarded_too(
    tv: TokVigil, wire_provider: WireProvider, books: Books, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CLAUDE, "model", ON_VERTEX["model"])
    bare: Any = anthropic.AnthropicVertex(
        region="us-east5", project_id="p", access_token="t", base_url=wire_provider.url
    )
    wrapped = tv.wrap(bare, user_id="user_123")
    assert type(wrapped) is anthropic.AnthropicVertex
    assert plain(STYLES[style](wrapped)) == plain(STYLES[style](bare))
    settled = books.only()
    assert (settled.status, settled.usage) == ("succeeded", wire_provider.anthropic.USAGE)
    assert settled.model == ON_VERTEX["model"]
    assert books.asked[0]["max_output_tokens"] == 500
    assert wire_provider.seen[0].body["max_tokens"] == 100


def test_an_awaited_client_of_vertex_is_guarded_too(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    async def call() -> None:
        bare = anthropic.AsyncAnthropicVertex(
            region="us-east5", project_id="p", access_token="t", base_url=wire_provider.url
        )
        await every(tv.wrap(bare, user_id="user_123").messages.create(**ON_VERTEX, stream=True))

    asyncio.run(call())
    assert (books.only().status, books.only().usage) == ("succeeded", wire_provider.anthropic.USAGE)


def test_a_client_of_foundry_is_guarded_too(tv: TokVigil, wire_provider: WireProvider, books: Books) -> None:
    bare = anthropic.AnthropicFoundry(api_key="k", base_url=wire_provider.url)
    tv.wrap(bare, user_id="user_123").messages.create(**CLAUDE)
    assert books.only().usage == wire_provider.anthropic.USAGE
