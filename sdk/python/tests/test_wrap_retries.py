"""A provider's SDK may try again by itself: each request that reaches the provider is a call of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import httpx2
import openai
import pytest
import tokvigil
from tokvigil import TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, RESPONSE, Books


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK tries again after this much."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.001)


@pytest.fixture
def bare(wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk-caller") as client:
        yield client


@pytest.fixture
def client(tv: TokVigil, bare: openai.OpenAI) -> openai.OpenAI:
    return tv.wrap(bare, user_id="user_123", feature="chat")


def check_attempts(books: Books, wire_provider: WireProvider, *statuses: str) -> None:
    """Each was asked for and is reported once."""
    settled = books.settled()
    assert [event.status for event in settled] == list(statuses)
    assert [event.request_id for event in settled] == [asked["request_id"] for asked in books.asked]
    assert len(wire_provider.seen) == len(statuses)


CALLS: dict[str, Callable[[Any], Any]] = {
    "create": lambda c: c.chat.completions.create(**CHAT),
    "streaming": lambda c: list(c.chat.completions.create(**CHAT, stream=True)),
    "raw": lambda c: c.chat.completions.with_raw_response.create(**CHAT),
    "responses": lambda c: c.responses.create(**RESPONSE),
    "copy": lambda c: c.with_options(max_retries=2, timeout=9).chat.completions.create(**CHAT),
}
TROUBLES: dict[str, tuple[Callable[[WireProvider], Any], str, str]] = {
    "500 twice": (lambda wire: wire.fail(500, times=2), "failed", "failed"),
    "429, then 503": (lambda wire: (wire.fail(429, retry_after=0.01), wire.fail(503)), "failed", "failed"),
    "a gateway's 504 twice": (lambda wire: wire.fail(504, times=2), "partial", "partial"),
    "connection lost twice": (lambda wire: wire.hang_up(2), "partial", "partial"),
    "connection lost, then 409": (lambda wire: (wire.hang_up(), wire.fail(409)), "partial", "failed"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("call", CALLS)
def test_each_attempt_is_a_call(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books, call: str, trouble: str
) -> None:
    make, *statuses = TROUBLES[trouble]
    make(wire_provider)
    CALLS[call](client)
    check_attempts(books, wire_provider, *statuses, "succeeded")
    assert books.settled()[-1].usage == wire_provider.openai.USAGE


@pytest.mark.parametrize("trouble", TROUBLES)
def test_each_awaited_attempt_is_a_call(
    tv: TokVigil, wire_provider: WireProvider, books: Books, trouble: str
) -> None:
    async def call() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            await tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)

    make, *statuses = TROUBLES[trouble]
    make(wire_provider)
    asyncio.run(call())
    check_attempts(books, wire_provider, *statuses, "succeeded")


@pytest.mark.parametrize(
    ("status", "retries", "attempts"), [(500, 2, 3), (429, 1, 2), (503, 0, 1), (400, 2, 1), (404, 2, 1)]
)
def test_an_attempt_that_is_refused_is_charged_nothing(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books, status: int, retries: int, attempts: int
) -> None:
    wire_provider.fail(status, times=9)
    with pytest.raises(openai.APIStatusError) as caught:
        client.with_options(max_retries=retries).chat.completions.create(**CHAT)
    assert caught.value.status_code == status
    check_attempts(books, wire_provider, *["failed"] * attempts)
    assert {event.usage.output_tokens for event in books.settled()} == {0}


def test_a_provider_that_forbids_the_retry_is_obeyed(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.fail(500, headers={"x-should-retry": "false"})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**CHAT)
    check_attempts(books, wire_provider, "failed")


def test_a_provider_nobody_reached_used_nothing(tv: TokVigil, unreachable: str, books: Books) -> None:
    with openai.OpenAI(base_url=unreachable + "/v1", api_key="sk", max_retries=1) as bare:
        client = tv.wrap(bare, user_id="user_123")
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**CHAT)
    assert [(event.status, event.usage.output_tokens) for event in books.settled()] == [("failed", 0)] * 2


def test_attempts_that_timed_out_may_each_have_used_what_was_held(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    """The provider works on each, and bills it."""
    wire_provider.delay_s = 0.3
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05, max_retries=1).chat.completions.create(**CHAT)
    check_attempts(books, wire_provider, "partial", "partial")
    assert [event.usage.output_tokens for event in books.settled()] == [100, 100]


def test_a_refusal_at_the_end_does_not_make_the_attempt_before_it_free(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.hang_up()
    wire_provider.fail(429)
    with pytest.raises(openai.RateLimitError):
        client.with_options(max_retries=1).chat.completions.create(**CHAT)
    charged = [(event.status, event.usage.output_tokens) for event in books.settled()]
    assert charged == [("partial", 100), ("failed", 0)]


def test_a_call_cancelled_between_two_attempts_is_charged_for_the_first(
    tv: TokVigil, wire_provider: WireProvider, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 5.0)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 5.0)
    wire_provider.hang_up(9)

    async def call() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            client = tv.wrap(bare, user_id="user_123")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.chat.completions.create(**CHAT), 0.5)

    asyncio.run(call())
    check_attempts(books, wire_provider, "partial")
    assert books.only().usage.output_tokens == 100


def test_an_error_that_the_sdk_does_not_retry_holds_nothing_open(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    """A hook of the caller's that raises on the provider's error: openai 3 ends there, openai 2 tries again."""
    http = openai.DefaultHttpxClient(event_hooks={"response": [lambda response: response.raise_for_status()]})
    wire_provider.fail(500, times=3)
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk", http_client=http) as bare:
        with pytest.raises((httpx.HTTPStatusError, httpx2.HTTPStatusError, openai.APIConnectionError)):
            tv.wrap(bare, user_id="user_123", feature="chat").chat.completions.create(**CHAT)
        assert {event.status for event in books.settled()} == {"failed"}


def test_same_calls_at_once_and_their_attempts_are_calls_of_their_own(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.fail(500, times=2)
    together = threading.Barrier(2)

    def call() -> None:
        together.wait()
        client.chat.completions.create(**CHAT)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(call) for _ in range(2)]:
            done.result()
    settled = books.settled()
    assert sorted(event.status for event in settled) == ["failed", "failed", "succeeded", "succeeded"]
    assert {event.request_id for event in settled} == {asked["request_id"] for asked in books.asked}


def test_a_user_who_is_blocked_meanwhile_gets_no_second_attempt(
    client: openai.OpenAI, wire_provider: WireProvider, control_plane: Any, wire: Any, books: Books
) -> None:
    wire_provider.fail(500)
    first = wire.decision("r1")
    control_plane.script("/v1/evaluate", wire.Answer(200, first), wire.Answer(200, wire.blocked("r2")))
    with pytest.raises(tokvigil.AIUsageBlockedError):
        client.chat.completions.create(**CHAT)
    assert len(wire_provider.seen) == 1


def test_an_answer_cut_and_asked_for_again_is_charged_twice(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    """The provider has worked twice."""
    wire_provider.cut_answer()
    client.chat.completions.create(**CHAT)
    first, second = books.settled()
    assert (first.status, second.status) == ("partial", "succeeded")
    assert first.usage.output_tokens == 100


class Again:
    """A transport that sends what broke, or was not answered by a gateway, once more; `before` runs in between."""

    before: Callable[[], Any] = staticmethod(lambda: None)

    def is_done(self, response: Any) -> bool:
        return bool(response.status_code != 504)


class AgainTransport(Again, httpx2.HTTPTransport):
    def handle_request(self, request: Any) -> Any:
        try:
            response = super().handle_request(request)
            if self.is_done(response):
                return response
            response.read()
        except httpx2.TransportError:
            self.before()
        return super().handle_request(request)


class AgainAsyncTransport(Again, httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request: Any) -> Any:
        try:
            response = await super().handle_async_request(request)
            if self.is_done(response):
                return response
            await response.aread()
        except httpx2.TransportError:
            self.before()
        return await super().handle_async_request(request)


class AgainClient(openai.DefaultHttpxClient):
    """It sends again by itself."""

    def send(self, request: Any, **options: Any) -> Any:
        response = super().send(request, **options)
        if response.status_code != 504:
            return response
        response.close()
        return super().send(request, **options)


AGAIN: dict[str, Callable[[Any, str], Any]] = {
    "transport": lambda tv, url: tv.http_client(transport=AgainTransport(), user_id="u").post(url, json=CHAT),
    "mounted transport": lambda tv, url: tv.http_client(
        mounts={"http://": AgainTransport()}, user_id="u"
    ).post(url, json=CHAT),
    "async transport": lambda tv, url: asyncio.run(
        awaited(tv.async_http_client(transport=AgainAsyncTransport(), user_id="u").post(url, json=CHAT))
    ),
    "client": lambda tv, url: tv.wrap(
        openai.OpenAI(
            base_url=url.removesuffix("/chat/completions"),
            api_key="sk",
            http_client=AgainClient(),
            max_retries=0,
        ),
        user_id="u",
    ).chat.completions.with_raw_response.create(**CHAT),
}


async def awaited(call: Any) -> Any:
    return await call


@pytest.fixture
def chat_url(wire_provider: WireProvider) -> str:
    return wire_provider.url + "/v1/chat/completions"


@pytest.mark.parametrize(
    ("statuses", "charged"),
    [((504, 429), ("partial", 100)), ((429,), ("failed", 0)), ((504,), ("partial", 100))],
)
@pytest.mark.parametrize("again", AGAIN)
def test_an_attempt_that_others_send_twice_is_free_only_if_it_was_sent_once_and_refused(
    tv: TokVigil,
    chat_url: str,
    wire_provider: WireProvider,
    books: Books,
    again: str,
    statuses: Any,
    charged: Any,
) -> None:
    for status in statuses:
        wire_provider.fail(status)
    if 504 in statuses[-1:]:
        wire_provider.fail(504)
    with suppress(openai.APIStatusError):
        AGAIN[again](tv, chat_url)
    assert (books.only().status, books.only().usage.output_tokens) == charged


def test_nor_is_it_free_if_nobody_is_there_the_second_time(
    tv: TokVigil, chat_url: str, wire_provider: WireProvider, books: Books
) -> None:
    transport = AgainTransport()
    transport.before = wire_provider.close  # type: ignore[method-assign]
    wire_provider.hang_up()
    with pytest.raises(httpx2.ConnectError):
        tv.http_client(transport=transport, user_id="u").post(chat_url, json=CHAT)
    assert len(wire_provider.seen) == 1
    assert (books.only().status, books.only().usage.output_tokens) == ("partial", 100)
