"""A provider SDK's retries belong to the call they retry: one evaluation, one settlement."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
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


CALLS: dict[str, Callable[[Any], Any]] = {
    "create": lambda c: c.chat.completions.create(**CHAT),
    "streaming": lambda c: list(c.chat.completions.create(**CHAT, stream=True)),
    "raw": lambda c: c.chat.completions.with_raw_response.create(**CHAT),
    "responses": lambda c: c.responses.create(**RESPONSE),
    "copy": lambda c: c.with_options(max_retries=2, timeout=9).chat.completions.create(**CHAT),
}
TROUBLES: dict[str, Callable[[WireProvider], None]] = {
    "500 twice": lambda wire: wire.fail(500, times=2),
    "429, then 503": lambda wire: (wire.fail(429, retry_after=0.01), wire.fail(503))[0],
    "connection lost twice": lambda wire: wire.hang_up(2),
    "connection lost, then 409": lambda wire: (wire.hang_up(), wire.fail(409))[0],
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("call", CALLS)
def test_attempts_share_one_evaluation(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books, call: str, trouble: str
) -> None:
    TROUBLES[trouble](wire_provider)
    CALLS[call](client)
    settled = books.only()
    assert (settled.status, settled.usage) == ("succeeded", wire_provider.openai.USAGE)
    assert len(wire_provider.seen) == 3


@pytest.mark.parametrize("trouble", TROUBLES)
def test_awaited_attempts_share_one_evaluation(
    tv: TokVigil, wire_provider: WireProvider, books: Books, trouble: str
) -> None:
    async def call() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            await tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)

    TROUBLES[trouble](wire_provider)
    asyncio.run(call())
    assert books.only().status == "succeeded"
    assert len(wire_provider.seen) == 3


@pytest.mark.parametrize(
    ("status", "retries", "attempts"), [(500, 2, 3), (429, 1, 2), (503, 0, 1), (400, 2, 1), (404, 2, 1)]
)
def test_a_call_that_fails_for_good_is_reported_at_once_as_failed(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books, status: int, retries: int, attempts: int
) -> None:
    wire_provider.fail(status, times=9)
    with pytest.raises(openai.APIStatusError) as caught:
        client.with_options(max_retries=retries).chat.completions.create(**CHAT)
    assert caught.value.status_code == status
    settled = books.only()
    assert (settled.status, settled.usage.input_tokens, settled.usage.output_tokens) == ("failed", 0, 0)
    assert len(wire_provider.seen) == attempts


def test_a_provider_that_forbids_the_retry_is_obeyed(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.fail(500, headers={"x-should-retry": "false"})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**CHAT)
    assert books.only().status == "failed"
    assert len(wire_provider.seen) == 1


def test_a_provider_nobody_reached_used_nothing(tv: TokVigil, unreachable: str, books: Books) -> None:
    with openai.OpenAI(base_url=unreachable + "/v1", api_key="sk", max_retries=1) as bare:
        client = tv.wrap(bare, user_id="user_123")
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**CHAT)
    settled = books.only()
    assert (settled.status, settled.usage.output_tokens) == ("failed", 0)


def test_a_request_that_nobody_answered_may_have_used_what_was_held(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.hang_up(9)
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(**CHAT)
    settled = books.only()
    assert (settled.status, settled.usage.output_tokens) == ("partial", 100)
    assert settled.usage.input_tokens == books.asked[0]["input_tokens"]


def test_a_timeout_is_retried_within_the_same_evaluation(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.delay_s = 0.3
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05, max_retries=1).chat.completions.create(**CHAT)
    assert books.only().status == "partial"
    assert len(wire_provider.seen) == 2


def test_two_same_calls_at_once_stay_two(
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
    assert [event.status for event in settled] == ["succeeded", "succeeded"]
    assert {event.request_id for event in settled} == {asked["request_id"] for asked in books.asked}
    assert len(books.asked) == 2
    assert len(wire_provider.seen) == 4


def test_the_same_call_of_another_user_is_not_taken_for_a_retry(
    tv: TokVigil,
    client: openai.OpenAI,
    wire_provider: WireProvider,
    books: Books,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bob asks what Ada asked, while her call pauses, and with a retry's header."""

    def bob_asks(*_: Any, **__: Any) -> None:
        with tv.context(user_id="bob"):
            client.chat.completions.create(**CHAT, extra_headers={"x-stainless-retry-count": "1"})

    monkeypatch.setattr(openai.OpenAI, "_sleep_for_retry", bob_asks)
    wire_provider.fail(500)
    with tv.context(user_id="ada"):
        client.chat.completions.create(**CHAT)
    assert [asked["user_id"] for asked in books.asked] == ["ada", "bob"]
    assert sorted((event.user_id, event.status) for event in books.settled()) == [
        ("ada", "succeeded"),
        ("bob", "succeeded"),
    ]


def test_an_answer_cut_and_asked_for_again_is_a_call_of_its_own(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    """The provider has worked twice: what it did first is not lost, and the second is decided anew."""
    wire_provider.cut_answer()
    client.chat.completions.create(**CHAT)
    first, second = books.settled()
    assert (first.status, second.status) == ("partial", "succeeded")
    assert first.usage.input_tokens > 0
    assert [event.request_id for event in (first, second)] == [asked["request_id"] for asked in books.asked]


def test_attempts_after_a_cut_answer_are_counted_on(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    """The last attempt is reported at once, though it is the first of its evaluation."""
    wire_provider.cut_answer()
    wire_provider.fail(500)
    with pytest.raises(openai.InternalServerError):
        client.with_options(max_retries=1).chat.completions.create(**CHAT)
    assert [event.status for event in books.settled()] == ["partial", "failed"]
