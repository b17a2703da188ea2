"""Wrapped clients in threads, event loops and forked children, and while the control plane is away."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from google import genai
from tokvigil import AsyncTokVigil, TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, GEMINI, Books, pending_of, wait_for

THREADS = 16
CALLS_EACH = 4
TIMEOUT_S = 0.3


@pytest.fixture
def client(tv: TokVigil, wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
        yield tv.wrap(bare, user_id="user_123")


def test_many_threads_may_share_a_wrapped_client(
    client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    def call(_: int) -> None:
        for number in range(CALLS_EACH):
            if number % 2:
                list(client.chat.completions.create(**CHAT, stream=True))
            else:
                client.chat.completions.create(**CHAT)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, range(THREADS)))
    settled = books.settled()
    assert {event.request_id for event in settled} == {asked["request_id"] for asked in books.asked}
    assert len(books.asked) == len(settled) == THREADS * CALLS_EACH
    assert {(event.status, event.usage) for event in settled} == {("succeeded", wire_provider.openai.USAGE)}


@pytest.mark.parametrize("kind", [TokVigil, AsyncTokVigil])
def test_one_tokvigil_serves_event_loops_one_after_the_other(
    control_plane: Any, wire_provider: WireProvider, kind: Any
) -> None:
    tv = kind(api_key="tv_dev_id_secret", base_url=control_plane.url, timeout=1.0)
    gemini = tv.wrap(
        genai.Client(api_key="k", http_options={"base_url": wire_provider.url}), user_id="user_123"
    )

    async def call() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            await tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)
        await gemini.aio.models.generate_content(**GEMINI)

    async def close() -> None:
        await tv.close()

    for _ in range(2):
        asyncio.run(call())
    tv.close() if kind is TokVigil else asyncio.run(close())
    assert len(control_plane.calls("/v1/evaluate")) == len(control_plane.charged) == 4
    assert {event["status"] for event in control_plane.charged.values()} == {"succeeded"}


def in_child(work: Any) -> None:
    """Runs in a forked child and ends it; a child that fails fails the test."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_makes_calls_of_its_own(
    tv: TokVigil, client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    client.chat.completions.create(**CHAT)

    def work() -> None:
        # A connection that the parent has open is the parent's, as with any client of openai.
        bare = openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk")
        tv.wrap(bare, user_id="child").chat.completions.create(**CHAT)
        assert tv.flush() == 0

    in_child(work)
    client.chat.completions.create(**CHAT)
    settled = books.settled()
    assert sorted(event.user_id for event in settled) == ["child", "user_123", "user_123"]
    assert len(books.asked) == 3
    sent = [
        each["request_id"]
        for seen in books.control_plane.calls("/v1/usage/batch")
        for each in seen.body["events"]
    ]
    assert sorted(sent) == sorted(event.request_id for event in settled), "each is sent once"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_that_drops_its_copy_of_a_stream_ends_nothing(
    tv: TokVigil, client: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.pause_after(3)
    streams = [client.chat.completions.create(**CHAT, stream=True)]
    next(iter(streams[0]))

    def work() -> None:
        streams[0]._iterator = None
        streams.clear()
        gc.collect()
        assert tv.flush() == 0

    in_child(work)
    assert books.settled() == []
    wire_provider.resume()
    list(streams[0])
    assert (books.only().status, books.only().usage) == ("succeeded", wire_provider.openai.USAGE)


# As uWSGI forks its workers: Python runs no hooks, and nobody tells the SDK.
FORKED_IN_C = """
import ctypes, os, sys
import openai
from tokvigil import AIUsageBlockedError, TokVigil
tokvigil_url, provider_url = sys.argv[1:]
tv = TokVigil(api_key="tv_dev_id_secret", base_url=tokvigil_url, timeout=5.0)
def call(user_id):
    # A connection to the provider that the parent has open is the parent's, as with any client of openai.
    with openai.OpenAI(base_url=provider_url + "/v1", api_key="sk") as bare:
        try:
            tv.wrap(bare, user_id=user_id).chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
        except AIUsageBlockedError as error:
            return "degraded" if error.decision.degraded else "blocked"
    return "answered"
def fork():
    return ctypes.PyDLL(None).fork()
def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run_forking_in_c(script: str, control_plane: Any, wire_provider: WireProvider) -> None:
    run = [sys.executable, "-c", FORKED_IN_C + script, control_plane.url, wire_provider.url]
    subprocess.run(run, check=True, timeout=30)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
def test_a_child_forked_in_c_is_answered_and_reports_on_its_own(
    control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    def decide(seen: Any) -> Any:
        decided = wire.blocked if seen.body["user_id"] == "blocked" else wire.decision
        return wire.Answer(200, decided(seen.body["request_id"]), delay_s=0.02)

    control_plane.defaults["/v1/evaluate"] = decide
    script = """
import time
assert call("parent") == "answered"
assert tv.flush() == 0
child = fork()
if child == 0:
    code = 1
    try:
        assert {call("blocked") for _ in range(20)} == {"blocked"}
        assert call("child") == "answered"
        until = time.monotonic() + 10
        while tv.pending() and time.monotonic() < until:
            time.sleep(0.05)
        code = tv.pending()
    finally:
        os._exit(code)
assert {call("parent") for _ in range(20)} == {"answered"}
assert end(child) == 0
assert tv.flush() == 0
"""
    run_forking_in_c(script, control_plane, wire_provider)
    users = sorted(event["user_id"] for event in control_plane.charged.values())
    assert users == ["child", *["parent"] * 21]


@needs_fork
@pytest.mark.parametrize("first", ["tv.close()", "tv.flush()", "os.fork() or os._exit(0); os.wait()"])
def test_whatever_a_child_forked_in_c_does_first_reports_of_its_parent_stay_its_parents(
    control_plane: Any, wire: Any, wire_provider: WireProvider, first: str
) -> None:
    control_plane.defaults["/v1/usage/batch"] = lambda _: wire.Answer(503)
    script = f"""
import threading, time
from pathlib import Path
assert call("parent") == "answered"
def files():
    return sorted(Path(os.environ["TOKVIGIL_JOURNAL"]).glob("*/*.jsonl"))
before = files()
assert len(before) == 1 and tv.pending() == 1
held = threading.Event()
def hold():
    with tv._reporter.journal.lock:
        held.set()
        time.sleep(60)
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = fork()
if child == 0:
    {first}
    os._exit(0)
assert end(child) == 0
assert files() == before and tv.pending() == 1
os._exit(0)
"""
    run_forking_in_c(script, control_plane, wire_provider)


def test_calls_go_on_while_the_control_plane_is_away_and_are_reported_later(
    control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    away = wire.Answer(503)
    for path in ("/v1/evaluate", "/v1/usage/batch"):
        control_plane.script(path, *[away] * 50)
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, timeout=TIMEOUT_S) as tv:
        client = tv.wrap(openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk"), user_id="user_123")
        began = time.monotonic()
        answer = client.chat.completions.create(**CHAT)
        assert time.monotonic() - began < TIMEOUT_S + 0.5
        assert answer.choices
        (pending,) = pending_of(tv)
        assert (pending.status, pending.usage) == ("succeeded", wire_provider.openai.USAGE)
        assert control_plane.charged == {}
        control_plane.scripts.clear()
        assert tv.flush() == 0
        assert control_plane.charged[pending.request_id]["status"] == "succeeded"


def test_a_control_plane_that_says_nothing_delays_a_call_by_the_timeout(
    control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    control_plane.script("/v1/evaluate", *[wire.Answer(503, delay_s=2.0)] * 9)
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, timeout=TIMEOUT_S) as tv:
        client = tv.wrap(openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk"), user_id="user_123")
        began = time.monotonic()
        list(client.chat.completions.create(**CHAT, stream=True))
        assert TIMEOUT_S * 0.9 < time.monotonic() - began < TIMEOUT_S + 0.5
        wait_for(lambda: control_plane.charged)
