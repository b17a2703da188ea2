"""A wrapped client of google-genai, in every style of calling: asked once, settled once, answered as ever."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import tokvigil
from google import genai
from tokvigil import TokVigil
from tokvigil.attribution import around

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import GEMINI, PNG, SCHEMA, TOOL_MESSAGES, Books, Person, plain, wait_for

MODEL = GEMINI["model"]
TOOLS: Any = [{"function_declarations": [{"name": "weather", "parameters": SCHEMA}]}]
EMBEDDING: Any = {"model": "gemini-embedding-001", "contents": "Ada"}
PICTURE: Any = [genai.types.Part.from_bytes(data=PNG, mime_type="image/png"), "What is this?"]


def answer(response: Any) -> Any:
    """Without the headers of the HTTP response that it carries along."""
    dumped = plain(response)
    dumped.pop("sdk_http_response", None)
    return dumped


STYLES: dict[str, Callable[[Any], list[Any]]] = {
    "generate_content": lambda c: [c.models.generate_content(**GEMINI)],
    "candidates": lambda c: [c.models.generate_content(**GEMINI, config={"candidate_count": 2})],
    "schema": lambda c: [
        c.models.generate_content(
            **GEMINI, config={"response_mime_type": "application/json", "response_schema": Person}
        )
    ],
    "tools": lambda c: [
        c.models.generate_content(model=MODEL, contents=TOOL_MESSAGES[0]["content"], config={"tools": TOOLS})
    ],
    "picture": lambda c: [c.models.generate_content(model=MODEL, contents=PICTURE)],
    "stream": lambda c: list(c.models.generate_content_stream(**GEMINI)),
    "chat": lambda c: [c.chats.create(model=MODEL).send_message("hi")],
    "chat, streaming": lambda c: list(c.chats.create(model=MODEL).send_message_stream("hi")),
}


async def one(awaited: Any) -> list[Any]:
    return [await awaited]


async def every(stream: Any) -> list[Any]:
    return [chunk async for chunk in await stream]


ASYNC_STYLES: dict[str, Callable[[Any], Awaitable[list[Any]]]] = {
    "generate_content": lambda c: one(c.models.generate_content(**GEMINI)),
    "stream": lambda c: every(c.models.generate_content_stream(**GEMINI)),
    "chat": lambda c: one(c.chats.create(model=MODEL).send_message("hi")),
    "chat, streaming": lambda c: every(c.chats.create(model=MODEL).send_message_stream("hi")),
}


@pytest.fixture
def bare(wire_provider: WireProvider) -> genai.Client:
    return genai.Client(api_key="AIza", http_options={"base_url": wire_provider.url})


@pytest.fixture
def client(tv: TokVigil, bare: genai.Client) -> genai.Client:
    return tv.wrap(bare, user_id="user_123", feature="chat")


@pytest.mark.parametrize("style", STYLES)
def test_a_call_is_asked_and_settled_once_and_answered_as_ever(
    client: genai.Client, bare: genai.Client, wire_provider: WireProvider, books: Books, style: str
) -> None:
    assert [answer(part) for part in STYLES[style](client)] == [answer(part) for part in STYLES[style](bare)]
    settled = books.only()
    assert (settled.status, settled.usage) == ("succeeded", wire_provider.gemini.USAGE)
    assert (settled.user_id, settled.feature, settled.model) == ("user_123", "chat", MODEL)
    assert settled.provider == "google"


@pytest.mark.parametrize("style", ASYNC_STYLES)
def test_an_awaited_call_is_asked_and_settled_once_and_answered_as_ever(
    client: genai.Client, bare: genai.Client, wire_provider: WireProvider, books: Books, style: str
) -> None:
    async def both() -> None:
        expected = [answer(part) for part in await ASYNC_STYLES[style](bare.aio)]
        assert [answer(part) for part in await ASYNC_STYLES[style](client.aio)] == expected

    asyncio.run(both())
    assert (books.only().status, books.only().usage) == ("succeeded", wire_provider.gemini.USAGE)


def test_a_stream_is_for_the_user_it_was_made_for_wherever_it_is_read(
    tv: TokVigil, bare: genai.Client, books: Books
) -> None:
    client = tv.wrap(tv.wrap(bare, user_id="first"), plan="free")

    async def read_elsewhere() -> None:
        with tv.context(user_id="bob"):
            stream = await client.aio.models.generate_content_stream(**GEMINI)
        with tv.context(user_id="job"):
            assert [chunk async for chunk in stream]
            assert around().user_id == "job"

    with tv.context(user_id="job"):
        with tv.context(user_id="ada"):
            stream = client.models.generate_content_stream(**GEMINI)
        assert next(stream)
        assert around().user_id == "job"
        assert list(stream)
    asyncio.run(read_elsewhere())
    assert [(asked["user_id"], asked["plan"]) for asked in books.asked] == [("ada", "free"), ("bob", "free")]
    assert [event.user_id for event in books.settled()] == ["ada", "bob"]


def test_a_stream_without_a_user_is_refused_where_it_is_read(
    tv: TokVigil, bare: genai.Client, books: Books, wire_provider: WireProvider
) -> None:
    stream = tv.wrap(bare).models.generate_content_stream(**GEMINI)
    with tv.context(user_id="ada"), pytest.raises(tokvigil.MissingAttributionError):
        next(stream)
    assert books.asked == wire_provider.seen == []


@pytest.mark.parametrize("contents", ["Ada", ["Ada", "Charles"]])
def test_an_embedding_is_settled_with_what_was_counted(
    client: genai.Client, bare: genai.Client, books: Books, contents: Any
) -> None:
    asked: Any = {"model": "gemini-embedding-001", "contents": contents}
    assert answer(client.models.embed_content(**asked)) == answer(bare.models.embed_content(**asked))
    settled = books.only()
    assert settled.usage.input_tokens == books.asked[0]["input_tokens"] > 0
    assert (settled.status, settled.usage.output_tokens) == ("succeeded", 0)


@pytest.mark.parametrize("trouble", ["gzip streams", "fragments"])
def test_a_stream_is_read_in_whatever_pieces_and_encoding_it_comes(
    client: genai.Client, wire_provider: WireProvider, books: Books, trouble: str
) -> None:
    wire_provider.gzip_streams = trouble == "gzip streams"
    wire_provider.fragment_bytes = 1 if trouble == "fragments" else None
    STYLES["stream"](client)
    assert books.only().usage == wire_provider.gemini.USAGE


def close(stream: Any) -> None:
    stream.close()


def drop(stream: Any) -> None:
    """Whoever calls this holds it no longer."""


@pytest.mark.parametrize("end", [close, drop])
def test_a_stream_left_early_is_partial_with_the_providers_figures_so_far(
    client: genai.Client, wire_provider: WireProvider, books: Books, end: Callable[[Any], None]
) -> None:
    wire_provider.pause_after(4)
    stream = client.models.generate_content_stream(**GEMINI)
    for _, _ in zip(range(3), stream, strict=False):
        pass
    end(stream)
    del stream
    gc.collect()
    wait_for(books.settled)
    settled, figures = books.only(), wire_provider.gemini.USAGE
    assert settled.status == "partial"
    assert settled.usage.input_tokens == figures.input_tokens
    # Thoughts, and a token for each chunk so far.
    assert settled.usage.output_tokens - figures.reasoning_tokens in (3, 4)
    wire_provider.resume()


def test_a_stream_that_breaks_off_is_partial(
    client: genai.Client, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.cut_after(4)
    with pytest.raises(Exception, match=r"(?i)incomplete|peer closed"):
        STYLES["stream"](client)
    settled = books.only()
    assert (settled.status, settled.usage.input_tokens) == ("partial", 1_200)


@pytest.fixture
def retrying(tv: TokVigil, wire_provider: WireProvider) -> genai.Client:
    options: Any = {"attempts": 3, "initial_delay": 0.001, "max_delay": 0.001}
    bare = genai.Client(
        api_key="AIza", http_options={"base_url": wire_provider.url, "retry_options": options}
    )
    return tv.wrap(bare, user_id="user_123")


def test_each_attempt_is_a_call(retrying: genai.Client, wire_provider: WireProvider, books: Books) -> None:
    wire_provider.fail(503)
    wire_provider.fail(429)
    retrying.models.generate_content(**GEMINI)
    assert [event.status for event in books.settled()] == ["failed", "failed", "succeeded"]
    assert len(books.asked) == len(wire_provider.seen) == 3


@pytest.mark.parametrize(("status", "attempts"), [(503, 3), (501, 1), (400, 1)])
def test_a_call_that_fails_for_good_is_reported_at_once_as_failed(
    retrying: genai.Client, wire_provider: WireProvider, books: Books, status: int, attempts: int
) -> None:
    wire_provider.fail(status, times=9)
    with pytest.raises(genai.errors.APIError):
        retrying.models.generate_content(**GEMINI)
    assert [event.status for event in books.settled()] == ["failed"] * attempts
    assert len(books.asked) == len(wire_provider.seen) == attempts


def test_a_lost_connection_is_not_retried_and_reported_at_once_as_what_was_held(
    retrying: genai.Client, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.hang_up()
    with pytest.raises(Exception, match="disconnected"):
        retrying.models.generate_content(**GEMINI)
    assert (books.only().status, books.only().usage.output_tokens) == ("partial", 100)
    assert len(wire_provider.seen) == 1


@pytest.mark.parametrize("status", [400, 500])
def test_a_client_that_does_not_retry_reports_a_failure_at_once(
    client: genai.Client, wire_provider: WireProvider, books: Books, status: int
) -> None:
    wire_provider.fail(status)
    with pytest.raises(genai.errors.APIError):
        client.models.generate_content(**GEMINI)
    assert (books.only().status, books.only().usage.output_tokens) == ("failed", 0)


def test_counting_tokens_is_free_and_needs_no_user(tv: TokVigil, bare: genai.Client, books: Books) -> None:
    wrapped = tv.wrap(bare)
    assert answer(wrapped.models.count_tokens(**GEMINI)) == answer(bare.models.count_tokens(**GEMINI))
    assert books.asked == books.settled() == []


def test_a_batch_is_refused_with_what_to_do_instead(
    client: genai.Client, wire_provider: WireProvider
) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match="one by one"):
        client.batches.create(model=MODEL, src=[{"contents": [{"parts": [{"text": "hi"}]}]}])
    assert wire_provider.seen == []


@pytest.mark.parametrize("used_before", [False, True])
def test_interactions_are_guarded_too(
    tv: TokVigil,
    bare: genai.Client,
    control_plane: Any,
    wire: Any,
    wire_provider: WireProvider,
    used_before: bool,
) -> None:
    """They go through an API client of their own, made at their first use."""
    if used_before:
        _ = bare.interactions, bare.aio.interactions
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    with pytest.raises(tokvigil.AIUsageBlockedError):
        tv.wrap(bare, user_id="user_123").interactions.create(model=MODEL, input="hi")
    assert wire_provider.seen == []


def test_the_client_given_stays_unguarded(tv: TokVigil, bare: genai.Client, books: Books) -> None:
    wrapped = tv.wrap(bare)
    assert type(wrapped) is genai.Client
    bare.models.generate_content(**GEMINI)
    assert books.asked == []


def test_a_wrapped_client_outlives_the_client_given(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    """Which closes its connections when it is collected."""
    wrapped = tv.wrap(
        genai.Client(api_key="AIza", http_options={"base_url": wire_provider.url}), user_id="user_123"
    )
    gc.collect()
    wrapped.models.generate_content(**GEMINI)
    assert books.only().status == "succeeded"
