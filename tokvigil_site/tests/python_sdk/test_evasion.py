"""A user who does not wait for answers gets no more of them out of a provider than one who does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types
from tokvigil import AIUsageBlockedError, TokVigil, Usage

from sdk.python.tests.wire_provider import WireProvider
from tenants.models import Environment
from tokvigil_site.testing import apply_policies, limits

# Three calls of 100 output tokens fit.
LIMIT = "{metric: output_tokens, window: day, amount: 300, per: user}"
FIT = 3
TRIES = 6
CAP = 100
MESSAGES: Any = [{"role": "user", "content": "Say hello"}]
CHAT: Any = {"model": "gpt-4o-mini", "messages": MESSAGES, "max_tokens": CAP}
CLAUDE: Any = {"model": "claude-haiku-4-5", "messages": MESSAGES, "max_tokens": CAP}
GEMINI: Any = {
    "model": "gemini-2.5-flash",
    "contents": "Say hello",
    "config": types.GenerateContentConfig(max_output_tokens=CAP),
}
IMPATIENT_S = 0.15
LATE_S = 3.0


@pytest.fixture
def wire(provider: WireProvider) -> WireProvider:
    """It works on each request for so long that nobody waits for the answer."""
    provider.delay_s = LATE_S
    return provider


def calls_until_blocked(call: Callable[[], None], client: TokVigil, wire: WireProvider) -> int:
    """How many requests reached the provider before the user was blocked, and after it."""
    for _ in range(TRIES):
        with suppress(AIUsageBlockedError):
            call()
        assert client.flush() == 0
    return len(wire.seen)


def fails(call: Callable[[], Any]) -> None:
    """A block is said as one; any other failure is what a hasty caller expects."""
    try:
        call()
    except AIUsageBlockedError:
        raise
    except Exception as error:
        found = error.__cause__ if isinstance(error.__cause__, AIUsageBlockedError) else None
        if found is not None:
            raise found from error


Hasty = Callable[[TokVigil, str], Callable[[], None]]


def times_out(make: Callable[[TokVigil, str], Callable[[], Any]]) -> Hasty:
    return lambda tv, url: lambda: fails(make(tv, url))


def gpt(tv: TokVigil, url: str, retries: int = 0) -> openai.OpenAI:
    bare = openai.OpenAI(base_url=url + "/v1", api_key="sk", timeout=IMPATIENT_S, max_retries=retries)
    return tv.wrap(bare, user_id="ada")


def claude(tv: TokVigil, url: str, retries: int = 0) -> anthropic.Anthropic:
    bare = anthropic.Anthropic(base_url=url, api_key="sk", timeout=IMPATIENT_S, max_retries=retries)
    return tv.wrap(bare, user_id="ada")


def gemini(tv: TokVigil, url: str, attempts: int = 1) -> genai.Client:
    options = types.HttpOptions(
        base_url=url,
        timeout=round(IMPATIENT_S * 1000),
        retry_options=types.HttpRetryOptions(attempts=attempts, initial_delay=0.01, max_delay=0.01),
    )
    return tv.wrap(genai.Client(api_key="sk", http_options=options), user_id="ada")


def asking_gemini(tv: TokVigil, url: str, attempts: int = 1) -> Callable[[], Any]:
    client = gemini(tv, url, attempts)
    return lambda: client.models.generate_content(**GEMINI)


def cancelled(
    make: Callable[[TokVigil, str], Callable[[], Awaitable[Any]]],
) -> Callable[..., Callable[[], None]]:
    """Awaited, and cancelled as soon as the provider works on it."""

    def hasty(tv: TokVigil, url: str, wire: WireProvider) -> Callable[[], None]:
        async def call() -> None:
            before = len(wire.seen)
            task = asyncio.ensure_future(make(tv, url)())
            while len(wire.seen) == before and not task.done():
                await asyncio.sleep(0.002)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        return lambda: asyncio.run(call())

    return hasty


def async_gpt(tv: TokVigil, url: str) -> openai.AsyncOpenAI:
    return tv.wrap(openai.AsyncOpenAI(base_url=url + "/v1", api_key="sk", max_retries=0), user_id="ada")


def async_claude(tv: TokVigil, url: str) -> anthropic.AsyncAnthropic:
    return tv.wrap(anthropic.AsyncAnthropic(base_url=url, api_key="sk", max_retries=0), user_id="ada")


def async_gemini(tv: TokVigil, url: str, stream: bool = False) -> Callable[[], Awaitable[Any]]:
    async def call() -> None:
        client = tv.wrap(
            genai.Client(api_key="sk", http_options=types.HttpOptions(base_url=url)), user_id="ada"
        )
        if not stream:
            await client.aio.models.generate_content(**GEMINI)
            return
        async for _ in await client.aio.models.generate_content_stream(**GEMINI):
            pass

    return call


def guarded(tv: TokVigil, url: str, error: type[BaseException]) -> Callable[[], Any]:
    def call() -> None:
        with tv.guard(
            user_id="ada", feature="chat", model="gpt-4o-mini", messages=MESSAGES, max_output_tokens=CAP
        ):
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(url + "/v1/chat/completions", json=CHAT, timeout=IMPATIENT_S)
            raise error

    return call


SYNC: dict[str, Hasty] = {
    "openai": times_out(lambda tv, url: lambda: gpt(tv, url).chat.completions.create(**CHAT)),
    "openai stream": times_out(
        lambda tv, url: lambda: list(gpt(tv, url).chat.completions.create(**CHAT, stream=True))
    ),
    "openai under retries": times_out(
        lambda tv, url: lambda: gpt(tv, url, 2).chat.completions.create(**CHAT)
    ),
    "anthropic": times_out(lambda tv, url: lambda: claude(tv, url).messages.create(**CLAUDE)),
    "anthropic stream": times_out(
        lambda tv, url: lambda: list(claude(tv, url).messages.create(**CLAUDE, stream=True))
    ),
    "anthropic under retries": times_out(
        lambda tv, url: lambda: claude(tv, url, 2).messages.create(**CLAUDE)
    ),
    "google": times_out(lambda tv, url: asking_gemini(tv, url)),
    "google under retries": times_out(lambda tv, url: asking_gemini(tv, url, 3)),
    "guard, any error": times_out(lambda tv, url: guarded(tv, url, ValueError)),
    "guard, time-out": times_out(lambda tv, url: guarded(tv, url, TimeoutError)),
}
ASYNC: dict[str, Callable[..., Callable[[], None]]] = {
    "openai": cancelled(lambda tv, url: lambda: async_gpt(tv, url).chat.completions.create(**CHAT)),
    "openai stream": cancelled(
        lambda tv, url: lambda: async_gpt(tv, url).chat.completions.create(**CHAT, stream=True)
    ),
    "anthropic": cancelled(lambda tv, url: lambda: async_claude(tv, url).messages.create(**CLAUDE)),
    "anthropic stream": cancelled(
        lambda tv, url: lambda: async_claude(tv, url).messages.create(**CLAUDE, stream=True)
    ),
    "google": cancelled(lambda tv, url: async_gemini(tv, url)),
    "google stream": cancelled(lambda tv, url: async_gemini(tv, url, stream=True)),
}


def test_a_user_who_waits_gets_as_many_calls_as_fit(
    client: TokVigil, provider: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits(LIMIT))
    waits = client.wrap(openai.OpenAI(base_url=provider.url + "/v1", api_key="sk"), user_id="ada")
    reached = calls_until_blocked(
        lambda: fails(lambda: waits.chat.completions.create(**CHAT)), client, provider
    )
    assert reached == FIT


@pytest.mark.parametrize("style", SYNC)
def test_a_user_whose_calls_time_out_gets_no_more(
    client: TokVigil, wire: WireProvider, environment: Environment, style: str
) -> None:
    apply_policies(environment, limits(LIMIT))
    assert calls_until_blocked(SYNC[style](client, wire.url), client, wire) == FIT


@pytest.mark.parametrize("style", ASYNC)
def test_a_user_who_cancels_gets_no_more(
    client: TokVigil, wire: WireProvider, environment: Environment, style: str
) -> None:
    apply_policies(environment, limits(LIMIT))
    assert calls_until_blocked(ASYNC[style](client, wire.url, wire), client, wire) == FIT


def test_what_was_recorded_inside_a_guard_counts_though_it_fails_later(
    client: TokVigil, wire: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits(LIMIT))

    def call() -> None:
        with client.guard(
            user_id="ada", feature="chat", model="gpt-4o-mini", messages=MESSAGES, max_output_tokens=CAP
        ) as open_call:
            wire.seen.append(None)  # type: ignore[arg-type]
            open_call.record(Usage(input_tokens=5, output_tokens=CAP))
            raise ValueError

    assert calls_until_blocked(lambda: fails(call), client, wire) == FIT
