"""Streams that nobody reads to their end are reported once, as `partial`, with what has been seen of them."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest
import tokvigil
from tokvigil import TokVigil
from tokvigil.journal_file import read_reports
from tokvigil.testing.control_plane import event_of

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wire_provider.content import TEXT
from sdk.python.tests.wrapped import CHAT, RESPONSE, Books, pending_of, wait_for

# Before the first text of a chat stream there is one event, of a stream of responses there are six.
TEXT_FROM = {"chat": 1, "responses": 6}
PIECES_SEEN = 4
SEEN = TEXT[: PIECES_SEEN * 9]
# The output that the control plane holds for each call.
HELD = 100


@pytest.fixture
def client(tv: TokVigil, wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk-caller") as bare:
        yield tv.wrap(bare, user_id="user_123", feature="chat")


OPEN: dict[str, Callable[[Any], Any]] = {
    "chat": lambda c: c.chat.completions.create(**CHAT, stream=True),
    "responses": lambda c: c.responses.create(**RESPONSE, stream=True),
}


def read_some(stream: Any, kind: str) -> None:
    """Everything that came before the pause, and not more."""
    for _, _ in zip(range(TEXT_FROM[kind] + PIECES_SEEN), stream, strict=False):
        pass


def break_and_close(client: Any, kind: str) -> None:
    stream = OPEN[kind](client)
    read_some(stream, kind)
    stream.close()
    stream.close()


def leave_with(client: Any, kind: str) -> None:
    with OPEN[kind](client) as stream:
        read_some(stream, kind)


def fail_inside(client: Any, kind: str) -> None:
    with suppress(KeyError), OPEN[kind](client) as stream:
        read_some(stream, kind)
        raise KeyError


def drop(client: Any, kind: str) -> None:
    read_some(OPEN[kind](client), kind)
    gc.collect()


async def read_some_async(stream: AsyncIterator[Any], kind: str) -> None:
    for _ in range(TEXT_FROM[kind] + PIECES_SEEN):
        await anext(stream)


async def close_async(client: Any, kind: str) -> None:
    stream = await OPEN[kind](client)
    await read_some_async(stream, kind)
    await stream.close()


async def leave_with_async(client: Any, kind: str) -> None:
    async with await OPEN[kind](client) as stream:
        await read_some_async(stream, kind)


async def cancel(client: Any, kind: str) -> None:
    """While it waits for more."""
    waits = asyncio.Event()

    async def read() -> None:
        stream = await OPEN[kind](client)
        await read_some_async(stream, kind)
        waits.set()
        await anext(stream)

    task = asyncio.create_task(read())
    await waits.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def drop_async(client: Any, kind: str) -> None:
    await read_some_async(await OPEN[kind](client), kind)
    gc.collect()


def check_is_partial(books: Books, kind: str) -> None:
    """As far as the stream was seen; of a model that reasons nobody can tell, so it is what was held."""
    wait_for(books.settled)
    settled = books.only()
    assert settled.status == "partial"
    assert settled.usage.input_tokens == books.asked[0]["input_tokens"] > 0
    seen = HELD if kind == "responses" else tokvigil.count_tokens(SEEN, model=settled.model)
    assert settled.usage.output_tokens == seen


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("end", [break_and_close, leave_with, fail_inside, drop])
def test_a_stream_left_early_is_partial(
    client: openai.OpenAI,
    wire_provider: WireProvider,
    books: Books,
    kind: str,
    end: Callable[[Any, str], None],
) -> None:
    wire_provider.pause_after(TEXT_FROM[kind] + PIECES_SEEN)
    end(client, kind)
    check_is_partial(books, kind)
    wire_provider.resume()


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("end", [close_async, leave_with_async, cancel, drop_async])
def test_an_awaited_stream_left_early_is_partial(
    tv: TokVigil,
    wire_provider: WireProvider,
    books: Books,
    kind: str,
    end: Callable[[Any, str], Any],
) -> None:
    async def call() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            await end(tv.wrap(bare, user_id="user_123"), kind)

    wire_provider.pause_after(TEXT_FROM[kind] + PIECES_SEEN)
    asyncio.run(call())
    check_is_partial(books, kind)
    wire_provider.resume()


@pytest.mark.parametrize(
    "open_one",
    [
        OPEN["chat"],
        lambda c: c.chat.completions.with_raw_response.create(**CHAT, stream=True),
        lambda c: c.chat.completions.with_streaming_response.create(**CHAT).__enter__(),
    ],
)
def test_an_answer_that_nobody_began_to_read_is_partial(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books, open_one: Callable[[Any], Any]
) -> None:
    """Its hold ends with the object."""
    wire_provider.pause_after(1)
    open_one(client)
    gc.collect()
    wait_for(books.settled)
    assert books.only().status == "partial"
    assert books.only().usage.output_tokens == HELD, "the provider may have written all of it"


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("trouble", ["cut_after", "error_after"])
def test_a_stream_that_breaks_off_is_partial(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books, kind: str, trouble: str
) -> None:
    getattr(wire_provider, trouble)(TEXT_FROM[kind] + PIECES_SEEN)
    with pytest.raises((openai.APIError, ConnectionError, Exception)):
        list(OPEN[kind](client))
    check_is_partial(books, kind)


def test_a_stream_can_be_dropped_while_any_lock_is_held(
    tv: TokVigil, client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    """Objects in cycles are collected whenever something is allocated, also inside the SDK's own locks."""
    wire_provider.pause_after(TEXT_FROM["chat"] + PIECES_SEEN)
    held = [tv._reporter._holds._lock, tv._reporter._background._changed, tv._reporter.journal.lock]

    def work() -> None:
        gc.disable()
        stream = OPEN["chat"](client)
        read_some(stream, "chat")
        cycle: list[Any] = [stream]
        cycle.append(cycle)
        del stream, cycle
        for lock in held:
            lock.acquire()
        gc.collect()
        for lock in held:
            with suppress(RuntimeError):  # the test could not wait any longer
                lock.release()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(5)
    gc.enable()
    waits = worker.is_alive()
    if waits:
        for lock in held:
            lock.release()
        worker.join()
    assert not waits, "the collector waits for a lock that its own thread holds"
    check_is_partial(books, "chat")


def test_usage_is_written_down_before_the_last_chunk_is_handed_over(
    tv: TokVigil, client: openai.OpenAI, wire_provider: WireProvider
) -> None:
    events = TEXT_FROM["chat"] + -(-len(TEXT) // 9) + 2  # the pieces, the end of the choice, the usage
    wire_provider.pause_after(events)
    asking = client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    chunks = [chunk for _, chunk in zip(range(events), asking, strict=False)]
    assert chunks[-1].usage is not None
    (written,) = pending_of(tv)
    assert (written.status, written.usage) == ("succeeded", wire_provider.openai.USAGE)
    asking.close()


def test_an_answer_is_on_disk_from_before_the_call_goes_out(
    tv: TokVigil, client: openai.OpenAI, wire_provider: WireProvider
) -> None:
    """What is held counts as used until it is known better: should the process die here, it is reported."""
    wire_provider.pause_after(0)
    stream = OPEN["chat"](client)
    file = tv._reporter.journal._file
    assert file is not None
    (report,) = read_reports(file.path).pending.values()
    event = event_of(json.loads(report))
    assert (event.status, event.usage.output_tokens) == ("partial", HELD)
    stream.close()


def test_closing_after_the_end_changes_nothing(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    stream = OPEN["chat"](client)
    list(stream)
    stream.close()
    del stream
    gc.collect()
    assert (books.only().status, books.only().usage) == ("succeeded", wire_provider.openai.USAGE)


def test_a_cancelled_task_that_waited_for_an_answer_has_used_what_was_held(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.delay_s = 5.0

    async def call() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            client = tv.wrap(bare, user_id="user_123")
            task = asyncio.create_task(client.chat.completions.create(**CHAT))
            while not wire_provider.seen:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(call())
    settled = books.only()
    assert (settled.status, settled.usage.output_tokens) == ("partial", HELD)
    assert settled.usage.input_tokens == books.asked[0]["input_tokens"] > 0
