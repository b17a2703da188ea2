"""A wrapped chat model of langchain-openai, in every style of calling: asked once, settled once, answered as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import tokvigil
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings
from tokvigil import TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wire_provider.content import TOOL_TRIGGER
from sdk.python.tests.wrapped import SCHEMA, Books, Person, plain

TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "", "parameters": SCHEMA}}
PROMPT = ChatPromptTemplate.from_messages([("user", "Say hello to {name}")])


def message(answer: Any) -> Any:
    """Without the id of the run."""
    dumped = plain(answer)
    return {name: value for name, value in dumped.items() if name != "id"} if "type" in dumped else dumped


STYLES: dict[str, Callable[[Any], list[Any]]] = {
    "invoke": lambda m: [m.invoke("hi")],
    "stream": lambda m: list(m.stream("hi")),
    "bind_tools": lambda m: [m.bind_tools([TOOL]).invoke(f"Please {TOOL_TRIGGER}")],
    "with_structured_output": lambda m: [m.with_structured_output(Person).invoke("Who?")],
    "by function calling": lambda m: [
        m.with_structured_output(Person, method="function_calling").invoke(f"Please {TOOL_TRIGGER}")
    ],
    "chain": lambda m: [(PROMPT | m).invoke({"name": "Ada"})],
    "bind": lambda m: [m.bind(max_tokens=50).invoke("hi")],
    "responses": lambda m: [
        m.model_copy(update={"use_responses_api": True, "max_tokens": 50}).invoke("hi"),
    ],
    "batch": lambda m: m.batch(["hi"]),
}


async def one(awaited: Any) -> list[Any]:
    return [await awaited]


async def every(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


ASYNC_STYLES: dict[str, Callable[[Any], Awaitable[list[Any]]]] = {
    "ainvoke": lambda m: one(m.ainvoke("hi")),
    "astream": lambda m: every(m.astream("hi")),
    "bind_tools": lambda m: one(m.bind_tools([TOOL]).ainvoke(f"Please {TOOL_TRIGGER}")),
    "with_structured_output": lambda m: one(m.with_structured_output(Person).ainvoke("Who?")),
    "abatch": lambda m: m.abatch(["hi"]),
}


@pytest.fixture
def bare(wire_provider: WireProvider) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", api_key="sk-caller", base_url=wire_provider.url + "/v1")


@pytest.mark.parametrize("style", STYLES)
def test_a_call_is_asked_and_settled_once_and_answered_as_ever(
    tv: TokVigil, bare: ChatOpenAI, wire_provider: WireProvider, books: Books, style: str
) -> None:
    wrapped = tv.wrap(bare)
    assert type(wrapped) is ChatOpenAI
    with tv.context(user_id="user_123", feature="chat"):
        answers = STYLES[style](wrapped)
    settled = books.only()
    assert (settled.status, settled.usage) == ("succeeded", wire_provider.openai.USAGE)
    assert (settled.user_id, settled.feature) == ("user_123", "chat")
    assert [message(part) for part in answers] == [message(part) for part in STYLES[style](bare)]
    assert len(books.asked) == 1, "the given model is not guarded"


@pytest.mark.parametrize("style", ASYNC_STYLES)
def test_an_awaited_call_is_asked_and_settled_once_and_answered_as_ever(
    tv: TokVigil, bare: ChatOpenAI, wire_provider: WireProvider, books: Books, style: str
) -> None:
    async def both() -> None:
        with tv.context(user_id="user_123", feature="chat"):
            answers = await ASYNC_STYLES[style](tv.wrap(bare))
        assert [message(part) for part in answers] == [
            message(part) for part in await ASYNC_STYLES[style](bare)
        ]

    asyncio.run(both())
    assert (books.only().status, books.only().usage) == ("succeeded", wire_provider.openai.USAGE)


def test_a_batch_is_each_callers_though_it_runs_in_threads(
    tv: TokVigil, bare: ChatOpenAI, books: Books
) -> None:
    with tv.context(user_id="user_123"):
        tv.wrap(bare).batch(["one", "two", "three"])
    assert [event.user_id for event in books.settled()] == ["user_123"] * 3
    assert len(books.asked) == 3


def test_a_model_of_azure_is_guarded_too(tv: TokVigil, wire_provider: WireProvider, books: Books) -> None:
    bare = AzureChatOpenAI(
        azure_endpoint=wire_provider.url,
        api_version="2024-10-21",
        api_key="azure",
        azure_deployment="gpt-4o-mini",
        model="gpt-4o-mini",
    )
    wrapped = tv.wrap(bare, user_id="user_123")
    assert type(wrapped) is AzureChatOpenAI
    assert [message(part) for part in wrapped.stream("hi")] == [message(part) for part in bare.stream("hi")]
    assert books.only().usage == wire_provider.openai.USAGE


def test_embeddings_are_guarded_too(tv: TokVigil, wire_provider: WireProvider, books: Books) -> None:
    bare: Any = OpenAIEmbeddings(
        model="text-embedding-3-small",
        api_key="sk-caller",
        base_url=wire_provider.url + "/v1",
        check_embedding_ctx_length=False,
    )
    wrapped = tv.wrap(bare, user_id="user_123")
    assert type(wrapped) is OpenAIEmbeddings
    assert wrapped.embed_query("Ada") == bare.embed_query("Ada")
    assert books.only().usage == wire_provider.openai.EMBEDDING_USAGE
    assert asyncio.run(wrapped.aembed_query("Ada")) == bare.embed_query("Ada")
    assert len(books.asked) == 2


def test_a_model_without_attribution_says_what_to_do(tv: TokVigil, bare: ChatOpenAI) -> None:
    with pytest.raises(tokvigil.MissingAttributionError, match="with tv"):
        tv.wrap(bare).invoke("hi")
