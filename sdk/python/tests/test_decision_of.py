"""The decision behind an answer, or behind an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
import tokvigil
from google import genai
from langchain_openai import ChatOpenAI
from tokvigil import TokVigil, decisions

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, CLAUDE, GEMINI, MESSAGES, RESPONSE, Books


@pytest.fixture
def client(tv: TokVigil, wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk", max_retries=0) as bare:
        yield tv.wrap(bare, user_id="ada", feature="chat")


def check(answer: Any, books: Books) -> None:
    decision = tokvigil.decision_of(answer)
    assert decision is not None
    assert decision.request_id == books.asked[-1]["request_id"]


def test_an_answer_tells_its_decision_in_every_form(client: openai.OpenAI, books: Books) -> None:
    check(client.chat.completions.create(**CHAT), books)
    check(client.responses.create(**RESPONSE), books)
    check(client.chat.completions.with_raw_response.create(**CHAT), books)
    check(client.chat.completions.with_raw_response.create(**CHAT).parse(), books)
    check(client.chat.completions.create(**CHAT).model_dump(), books)
    with client.chat.completions.create(**CHAT, stream=True) as stream:
        check(stream, books)
        for chunk in stream:
            check(chunk, books)


def test_so_do_those_of_other_providers(tv: TokVigil, wire_provider: WireProvider, books: Books) -> None:
    claude = tv.wrap(anthropic.Anthropic(base_url=wire_provider.url, api_key="sk"), user_id="ada")
    check(claude.messages.create(**CLAUDE), books)
    with claude.messages.stream(**CLAUDE) as stream:
        check(stream.get_final_message(), books)
    gemini = tv.wrap(genai.Client(api_key="k", http_options={"base_url": wire_provider.url}), user_id="ada")
    check(gemini.models.generate_content(**GEMINI), books)
    model = ChatOpenAI(model="gpt-4o-mini", base_url=wire_provider.url + "/v1", api_key="sk")  # type: ignore[arg-type]
    check(tv.wrap(model, user_id="ada").invoke("Say hello"), books)


def test_an_error_tells_it_too(client: openai.OpenAI, wire_provider: WireProvider, books: Books) -> None:
    wire_provider.fail(500)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**CHAT)
    check(caught.value, books)


def lost(wire_provider: WireProvider) -> None:
    wire_provider.hang_up()


def late(wire_provider: WireProvider) -> None:
    wire_provider.delay_s = 1.0


def cut(wire_provider: WireProvider) -> None:
    wire_provider.cut_answer()


def google(tv: TokVigil, url: str) -> Any:
    # It closes its connections when it is collected.
    client = tv.wrap(genai.Client(api_key="k", http_options={"base_url": url, "timeout": 300}), user_id="ada")
    return client.models.generate_content(**GEMINI)


CALLERS: dict[str, Callable[[TokVigil, str], Any]] = {
    "openai": lambda tv, url: tv.wrap(
        openai.OpenAI(base_url=url + "/v1", api_key="sk", max_retries=0, timeout=0.3), user_id="ada"
    ).chat.completions.create(**CHAT),
    "anthropic": lambda tv, url: tv.wrap(
        anthropic.Anthropic(base_url=url, api_key="sk", max_retries=0, timeout=0.3), user_id="ada"
    ).messages.create(**CLAUDE),
    "google": google,
    "chat": lambda tv, url: tv.chat(
        model="gpt-4o-mini",
        messages=MESSAGES,
        user_id="ada",
        provider_base_url=url + "/v1",
        provider_api_key="sk",
    ),
}


# `chat` has no time-out that a caller could set.
@pytest.mark.parametrize(
    ("caller", "trouble"),
    [
        (caller, trouble)
        for caller in CALLERS
        for trouble in (lost, cut, late)
        if (caller, trouble) != ("chat", late)
    ],
)
def test_so_does_an_error_without_an_answer(
    tv: TokVigil, wire_provider: WireProvider, books: Books, caller: str, trouble: Any
) -> None:
    trouble(wire_provider)
    with pytest.raises(Exception) as caught:
        CALLERS[caller](tv, wire_provider.url)
    check(caught.value, books)


def test_so_does_the_error_of_a_call_that_reached_nobody(
    tv: TokVigil, unreachable: str, books: Books
) -> None:
    for caller in CALLERS.values():
        with pytest.raises(Exception) as caught:
            caller(tv, unreachable)
        check(caught.value, books)


def test_so_does_the_error_of_an_awaited_call(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    async def call() -> None:
        bare = openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk", max_retries=0)
        await tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT)

    lost(wire_provider)
    with pytest.raises(openai.APIConnectionError) as caught:
        asyncio.run(call())
    check(caught.value, books)


def test_and_a_block_also_inside_another_error(client: openai.OpenAI, control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(**CHAT)
    buried = RuntimeError("an agent failed")
    buried.__cause__ = caught.value
    for error in (caught.value, buried):
        decision = tokvigil.decision_of(error)
        assert decision is not None
        assert (decision.request_id, decision.allowed) == (
            control_plane.seen[-1].body["request_id"],
            False,
        )


def test_parallel_answers_keep_their_own_decisions(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            client = tv.wrap(bare, user_id="ada")
            answers = await asyncio.gather(*[client.chat.completions.create(**CHAT) for _ in range(5)])
            found = [tokvigil.decision_of(answer) for answer in answers]
            by_id = {answer.id for answer in answers}
            assert len({decision.request_id for decision in found if decision}) == len(by_id)

    asyncio.run(main())


@pytest.mark.parametrize(
    "unknown", [None, 7, "x", {}, object(), {"id": "chatcmpl-of-somebody-else"}, ValueError()]
)
def test_of_anything_else_none_is_known(unknown: Any) -> None:
    assert tokvigil.decision_of(unknown) is None


def test_only_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch, wire: Any) -> None:
    monkeypatch.setattr(decisions, "ANSWERS_MAX", 2)
    monkeypatch.setattr(decisions, "_by_answer", type(decisions._by_answer)())
    for number in range(3):
        decisions.remember(f"a{number}", tokvigil.Decision.from_wire(wire.decision(f"r{number}")))
    assert [tokvigil.decision_of({"id": f"a{number}"}) is None for number in range(3)] == [True, False, False]
