"""Whose a call is: said around the code that makes it, and never taken for another's."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import tokvigil
from tokvigil import TokVigil
from tokvigil.attribution import NOBODY, Attribution, current

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, Books

TASKS = 100
THREADS = 16


@pytest.fixture
def client(tv: TokVigil, wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
        yield tv.wrap(bare)


def said() -> Attribution:
    """Here."""
    return current(NOBODY)


def test_contexts_nest_and_add_and_end(tv: TokVigil) -> None:
    with tv.context(user_id="ada", plan="free", metadata={"a": 1}):
        with tv.context(feature="chat"):
            assert said() == Attribution(user_id="ada", feature="chat", plan="free", metadata={"a": 1})
            with tv.context(user_id="bob", run_id="run_1"):
                assert said() == Attribution(
                    user_id="bob", feature="chat", plan="free", run_id="run_1", metadata={"a": 1}
                )
            assert said().user_id == "ada"
        assert said().feature is None
    with pytest.raises(tokvigil.MissingAttributionError):
        said()


def test_a_context_ends_with_an_exception_too(tv: TokVigil) -> None:
    with pytest.raises(KeyError), tv.context(user_id="ada"):
        raise KeyError
    with pytest.raises(tokvigil.MissingAttributionError):
        said()


def test_a_context_says_more_than_the_client_was_wrapped_with(
    tv: TokVigil, client: openai.OpenAI, books: Books
) -> None:
    own = tv.wrap(client, user_id="ada", feature="search", plan="free", metadata={"a": 1})
    own.chat.completions.create(**CHAT)
    with tv.context(user_id="bob"):
        own.with_options(timeout=9).chat.completions.create(**CHAT)
    assert [(asked["user_id"], asked["feature"], asked["plan"]) for asked in books.asked] == [
        ("ada", "search", "free"),
        ("bob", "search", "free"),
    ]
    assert [event.metadata for event in books.settled()] == [{"a": 1}] * 2


def test_what_the_caller_changes_later_is_not_reported(
    tv: TokVigil, client: openai.OpenAI, books: Books
) -> None:
    metadata = {"a": 1}
    with tv.context(user_id="ada", metadata=metadata):
        stream = client.chat.completions.create(**CHAT, stream=True)
        metadata["a"] = 2
        list(stream)
    assert books.only().metadata == {"a": 1}


def test_tasks_at_once_are_each_their_own_users(control_plane: Any, wire_provider: WireProvider) -> None:
    # A busy machine may take its time for a hundred calls.
    tv = TokVigil("tv_dev_id_secret", control_plane.url, timeout=60.0)
    books = Books(tv, control_plane)

    async def call(client: openai.AsyncOpenAI, number: int) -> None:
        with tv.context(user_id=f"user_{number}", run_id=f"run_{number}"):
            await asyncio.sleep(0)
            stream = await client.chat.completions.create(**CHAT, stream=True)
        async for _ in stream:  # whose it is was settled when it began
            pass

    async def all_at_once() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            client = tv.wrap(bare)
            await asyncio.gather(*(call(client, number) for number in range(TASKS)))

    asyncio.run(all_at_once())
    expected = {(f"user_{number}", f"run_{number}") for number in range(TASKS)}
    assert {(asked["user_id"], asked["run_id"]) for asked in books.asked} == expected
    settled = books.settled()
    assert {(event.user_id, event.run_id) for event in settled} == expected
    assert len(books.asked) == len(settled) == TASKS
    tv.close()


def test_a_task_takes_the_context_along_and_gives_none_back(tv: TokVigil) -> None:
    async def child() -> str | None:
        with tv.context(feature="child"):
            await asyncio.sleep(0)
            return said().user_id

    async def parent() -> None:
        with tv.context(user_id="ada"):
            task = asyncio.create_task(child())
            assert await task == "ada"
            assert await asyncio.to_thread(lambda: said().user_id) == "ada"
            assert said().feature is None

    asyncio.run(parent())


def test_threads_are_each_their_own_users(tv: TokVigil, client: openai.OpenAI, books: Books) -> None:
    together = threading.Barrier(THREADS)

    def call(number: int) -> None:
        together.wait()
        for _ in range(3):
            with tv.context(user_id=f"user_{number}"):
                client.chat.completions.create(**CHAT)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(call, number) for number in range(THREADS)]:
            done.result()
    settled = sorted(event.user_id for event in books.settled())
    assert settled == sorted(f"user_{number}" for number in range(THREADS) for _ in range(3))
    assert sorted(asked["user_id"] for asked in books.asked) == settled


def test_a_thread_begins_without_a_context_unless_it_is_given_one(tv: TokVigil) -> None:
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(said().user_id)
        except tokvigil.MissingAttributionError:
            found.append(None)

    with tv.context(user_id="ada"):
        here = contextvars.copy_context()
    for thread in (threading.Thread(target=look), threading.Thread(target=here.run, args=(look,))):
        thread.start()
        thread.join()
    assert found == [None, "ada"]


def test_a_context_may_end_elsewhere_than_it_began(tv: TokVigil) -> None:
    """As in a dependency of a web framework that runs before and after the view in two threads."""

    def dependency() -> Iterator[None]:
        with tv.context(user_id="ada"):
            yield

    running = dependency()
    contextvars.copy_context().run(next, running)
    assert next(running, None) is None

    async def stream() -> AsyncIterator[int]:
        with tv.context(user_id="ada"):
            yield 1
            yield 2

    async def leaves_early() -> None:
        async for _ in stream():
            break

    asyncio.run(leaves_early())
    with pytest.raises(tokvigil.MissingAttributionError):
        said()
