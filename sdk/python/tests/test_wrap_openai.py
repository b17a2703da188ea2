"""A wrapped client of openai, in every style of calling: asked once, settled once, answered as ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import openai
import pytest
import tokvigil
from tokvigil import TokVigil
from tokvigil.dialects.openai import ChatCall

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import (
    CHAT,
    DATA_URL,
    MESSAGES,
    RESPONSE,
    SCHEMA,
    TOOL_MESSAGES,
    Books,
    Person,
    plain,
)

TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
PICTURE: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": DATA_URL}},
        ],
    }
]
ASKED_USAGE: Any = {"stream": True, "stream_options": {"include_usage": True}}
EMBEDDING: Any = {"model": "text-embedding-3-small", "input": "Ada"}
LEGACY: Any = {"model": "gpt-3.5-turbo-instruct", "prompt": "Say hello"}
IMAGE: Any = {"model": "gpt-image-1", "prompt": "Ada"}


def whole_stream(stream: Any) -> Any:
    with stream as events:
        return list(events), events.get_final_completion()


def whole_response(stream: Any) -> Any:
    with stream as events:
        return list(events), events.get_final_response()


def streamed_body(response: Any) -> Any:
    with response as answer:
        return b"".join(answer.iter_bytes()), answer.headers["content-type"]


def streamed_and_parsed(response: Any) -> Any:
    with response as answer:
        return answer.parse()


STYLES: dict[str, Callable[[Any], Any]] = {
    "create": lambda c: c.chat.completions.create(**CHAT),
    "create, streaming": lambda c: list(c.chat.completions.create(**CHAT, stream=True)),
    "create, streaming, usage asked for": lambda c: list(c.chat.completions.create(**CHAT, **ASKED_USAGE)),
    "create, n=3": lambda c: c.chat.completions.create(**CHAT, n=3),
    "create, streaming, n=3": lambda c: list(c.chat.completions.create(**CHAT, n=3, stream=True)),
    "create, tools": lambda c: c.chat.completions.create(**CHAT | {"messages": TOOL_MESSAGES}, tools=TOOLS),
    "create, streaming, tools": lambda c: list(
        c.chat.completions.create(**CHAT | {"messages": TOOL_MESSAGES}, tools=TOOLS, stream=True)
    ),
    "create, image": lambda c: c.chat.completions.create(**CHAT | {"messages": PICTURE}),
    "with_raw_response": lambda c: c.chat.completions.with_raw_response.create(**CHAT).parse(),
    "with_raw_response, streaming": lambda c: list(
        c.chat.completions.with_raw_response.create(**CHAT, stream=True).parse()
    ),
    "with_streaming_response": lambda c: streamed_body(
        c.chat.completions.with_streaming_response.create(**CHAT)
    ),
    "with_streaming_response, parsed": lambda c: streamed_and_parsed(
        c.chat.completions.with_streaming_response.create(**CHAT)
    ),
    "parse": lambda c: c.chat.completions.parse(**CHAT, response_format=Person),
    "stream": lambda c: whole_stream(c.chat.completions.stream(**CHAT)),
    "stream, parsed": lambda c: whole_stream(c.chat.completions.stream(**CHAT, response_format=Person)),
    "with_options": lambda c: c.with_options(max_retries=5, timeout=9).chat.completions.create(**CHAT),
    "copy of a copy": lambda c: c.copy(max_retries=0).with_options(timeout=9).chat.completions.create(**CHAT),
    "responses.create": lambda c: c.responses.create(**RESPONSE),
    "responses.create, streaming": lambda c: list(c.responses.create(**RESPONSE, stream=True)),
    "responses.with_raw_response": lambda c: c.responses.with_raw_response.create(**RESPONSE).parse(),
    "responses.parse": lambda c: c.responses.parse(**RESPONSE, text_format=Person),
    "responses.stream": lambda c: whole_response(c.responses.stream(**RESPONSE)),
    "embeddings": lambda c: c.embeddings.create(**EMBEDDING),
    "embeddings of tokens": lambda c: c.embeddings.create(**EMBEDDING | {"input": [[1, 2, 3], [4]]}),
    "completions": lambda c: c.completions.create(**LEGACY),
    "completions, streaming": lambda c: list(c.completions.create(**LEGACY, stream=True)),
    "images": lambda c: c.images.generate(**IMAGE),
}


async def every(stream: Any) -> Any:
    return [item async for item in await stream]


async def whole_stream_async(stream: Any) -> Any:
    async with stream as events:
        return [event async for event in events], await events.get_final_completion()


async def whole_response_async(stream: Any) -> Any:
    async with stream as events:
        return [event async for event in events], await events.get_final_response()


async def streamed_body_async(response: Any) -> Any:
    async with response as answer:
        return b"".join([data async for data in answer.iter_bytes()]), answer.headers["content-type"]


async def parsed(raw: Any) -> Any:
    return (await raw).parse()


ASYNC_STYLES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "create": lambda c: c.chat.completions.create(**CHAT),
    "create, streaming": lambda c: every(c.chat.completions.create(**CHAT, stream=True)),
    "create, streaming, usage asked for": lambda c: every(c.chat.completions.create(**CHAT, **ASKED_USAGE)),
    "with_raw_response": lambda c: parsed(c.chat.completions.with_raw_response.create(**CHAT)),
    "with_streaming_response": lambda c: streamed_body_async(
        c.chat.completions.with_streaming_response.create(**CHAT)
    ),
    "parse": lambda c: c.chat.completions.parse(**CHAT, response_format=Person),
    "stream": lambda c: whole_stream_async(c.chat.completions.stream(**CHAT)),
    "with_options": lambda c: c.with_options(max_retries=5, timeout=9).chat.completions.create(**CHAT),
    "responses.create": lambda c: c.responses.create(**RESPONSE),
    "responses.create, streaming": lambda c: every(c.responses.create(**RESPONSE, stream=True)),
    "responses.parse": lambda c: c.responses.parse(**RESPONSE, text_format=Person),
    "responses.stream": lambda c: whole_response_async(c.responses.stream(**RESPONSE)),
    "embeddings": lambda c: c.embeddings.create(**EMBEDDING),
    "completions, streaming": lambda c: every(c.completions.create(**LEGACY, stream=True)),
    "images": lambda c: c.images.generate(**IMAGE),
}


@pytest.fixture
def bare(wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk-caller") as client:
        yield client


def used(wire_provider: WireProvider, style: str) -> Any:
    figures = wire_provider.openai
    by_endpoint = {
        "embeddings": figures.EMBEDDING_USAGE,
        "completions": figures.LEGACY_USAGE,
        "images": figures.IMAGE_USAGE,
    }
    return next((usage for name, usage in by_endpoint.items() if style.startswith(name)), figures.USAGE)


@pytest.mark.parametrize("style", STYLES)
def test_a_call_is_asked_and_settled_once_and_answered_as_ever(
    tv: TokVigil, bare: openai.OpenAI, wire_provider: WireProvider, books: Books, style: str
) -> None:
    expected = plain(STYLES[style](bare))
    wrapped = tv.wrap(bare)
    with tv.context(user_id="user_123", feature="chat", plan="free", run_id="run_1", metadata={"a": 1}):
        assert plain(STYLES[style](wrapped)) == expected
    settled = books.only()
    assert (settled.status, settled.usage) == ("succeeded", used(wire_provider, style))
    assert (settled.user_id, settled.feature, settled.plan) == ("user_123", "chat", "free")
    assert (settled.run_id, settled.metadata) == ("run_1", {"a": 1})
    (asked,) = books.asked
    assert (asked["user_id"], asked["feature"], asked["model"]) == ("user_123", "chat", settled.model)
    assert asked["input_tokens"] > 0
    assert len(wire_provider.seen) == 2


@pytest.mark.parametrize("style", ASYNC_STYLES)
def test_an_awaited_call_is_asked_and_settled_once_and_answered_as_ever(
    tv: TokVigil, wire_provider: WireProvider, books: Books, style: str
) -> None:
    async def both() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk-caller") as bare:
            expected = plain(await ASYNC_STYLES[style](bare))
            wrapped = tv.wrap(bare)
            with tv.context(user_id="user_123", feature="chat"):
                assert plain(await ASYNC_STYLES[style](wrapped)) == expected

    asyncio.run(both())
    settled = books.only()
    assert (settled.status, settled.usage) == ("succeeded", used(wire_provider, style))


@pytest.mark.parametrize(
    "style", ["create", "create, streaming", "stream", "responses.stream", "completions"]
)
@pytest.mark.parametrize("trouble", ["no gzip", "gzip streams", "fragments"])
def test_an_answer_is_read_in_whatever_pieces_and_encoding_it_comes(
    tv: TokVigil, bare: openai.OpenAI, wire_provider: WireProvider, books: Books, style: str, trouble: str
) -> None:
    expected = plain(STYLES[style](bare))
    wire_provider.gzip_answers = trouble != "no gzip"
    wire_provider.gzip_streams = trouble == "gzip streams"
    wire_provider.fragment_bytes = 1 if trouble == "fragments" else None
    assert plain(STYLES[style](tv.wrap(bare, user_id="user_123"))) == expected
    assert books.only().usage == used(wire_provider, style)


def test_who_did_not_ask_for_usage_sees_no_chunk_without_choices(
    tv: TokVigil, bare: openai.OpenAI, wire_provider: WireProvider
) -> None:
    wrapped = tv.wrap(bare, user_id="user_123")
    chunks = list(wrapped.chat.completions.create(**CHAT, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wire_provider.openai.TEXT
    assert wire_provider.seen[0].body["stream_options"] == {"include_usage": True}
    last = list(wrapped.chat.completions.create(**CHAT, **ASKED_USAGE))[-1]
    assert last.choices == []
    assert last.usage is not None


def test_tokens_given_as_numbers_are_counted(tv: TokVigil, bare: openai.OpenAI, books: Books) -> None:
    STYLES["embeddings of tokens"](tv.wrap(bare, user_id="user_123"))
    assert books.asked[0]["input_tokens"] == 4


def test_prompts_and_keys_do_not_reach_tokvigil(
    tv: TokVigil, bare: openai.OpenAI, control_plane: Any
) -> None:
    tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)
    tv.flush()
    sent = b"".join(seen.raw + str(seen.headers).encode() for seen in control_plane.seen)
    assert b"user_123" in sent
    assert b"Ada" not in sent
    assert b"sk-caller" not in sent


FREE: dict[str, Callable[[Any], Any]] = {
    "list of models": lambda c: list(c.models.list()),
    "model": lambda c: c.models.retrieve("gpt-4o-mini"),
    "moderation": lambda c: c.moderations.create(model="omni-moderation-latest", input="Ada"),
}


@pytest.mark.parametrize("what", FREE)
def test_what_is_free_is_not_evaluated_and_needs_no_user(
    tv: TokVigil, bare: openai.OpenAI, books: Books, what: str
) -> None:
    assert plain(FREE[what](tv.wrap(bare))) == plain(FREE[what](bare))
    assert books.asked == books.settled() == []


def test_a_batch_is_refused_with_what_to_do_instead(
    tv: TokVigil, bare: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match="one by one"):
        tv.wrap(bare, user_id="user_123").batches.create(
            completion_window="24h", endpoint="/v1/chat/completions", input_file_id="file-1"
        )
    assert books.asked == wire_provider.seen == []


def test_a_form_with_a_file_is_evaluated_and_arrives_as_it_is(
    tv: TokVigil, bare: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    """The local provider takes no recordings: what it says to this one does not matter."""
    with pytest.raises(openai.NotFoundError):
        tv.wrap(bare, user_id="user_123").audio.transcriptions.create(
            model="whisper-1", file=("ada.wav", b"RIFF" * 1_000)
        )
    assert books.only().model == books.asked[0]["model"] == "whisper-1"
    assert b"RIFF" * 1_000 in wire_provider.seen[0].raw
    assert wire_provider.seen[0].headers["content-type"].startswith("multipart/form-data")


def test_azure_is_guarded_like_openai(tv: TokVigil, wire_provider: WireProvider, books: Books) -> None:
    bare = openai.AzureOpenAI(
        azure_endpoint=wire_provider.url, api_version="2024-10-21", api_key="azure", azure_deployment="gpt-4o"
    )
    expected = [plain(chunk) for chunk in bare.chat.completions.create(**CHAT, stream=True)]
    wrapped = tv.wrap(bare, user_id="user_123")
    assert type(wrapped) is openai.AzureOpenAI
    assert [plain(chunk) for chunk in wrapped.chat.completions.create(**CHAT, stream=True)] == expected
    assert books.only().usage == wire_provider.openai.USAGE


@pytest.mark.parametrize(("text", "is_large"), [("Hello", False), ("\u4f60\u597d" * 10_000, True)])
def test_a_large_prompt_is_not_counted_in_the_event_loop(
    tv: TokVigil,
    wire_provider: WireProvider,
    books: Books,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    is_large: bool,
) -> None:
    count, threads = ChatCall.count_input, []

    def count_and_say_where(call: ChatCall) -> int:
        threads.append(threading.current_thread())
        return count(call)

    monkeypatch.setattr(ChatCall, "count_input", count_and_say_where)
    client = tv.wrap(
        openai.AsyncOpenAI(api_key="sk-test", base_url=wire_provider.url + "/v1"), user_id="ada", feature="f"
    )
    messages: Any = [{"role": "user", "content": text}]
    asyncio.run(client.chat.completions.create(model="gpt-4o-mini", messages=messages))

    assert [thread is not threading.main_thread() for thread in threads] == [is_large]
    assert books.only().usage.input_tokens > 0
    assert books.asked[0]["input_tokens"] == tokvigil.count_tokens(messages, model="gpt-4o-mini")


def test_messages_are_counted_as_they_are_sent(tv: TokVigil, bare: openai.OpenAI, books: Books) -> None:
    tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)
    assert books.asked[0]["input_tokens"] == tokvigil.count_tokens(MESSAGES, model="gpt-4o-mini")
