"""Decisions and usage as attributes of the application's own OpenTelemetry spans."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
import tokvigil
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import enduser_attributes, gen_ai_attributes
from tokvigil import AsyncTokVigil, TokVigil, Usage, UsageEvent, telemetry

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, wait_for

ASKED = {"user_id": "user_123", "feature": "chat", "model": "claude-haiku-4-5", "input_tokens": 10}
USED = {"gen_ai.usage.input_tokens": 15, "gen_ai.usage.output_tokens": 3}


class Trace:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._tracer = provider.get_tracer("application")

    @contextmanager
    def span(self, name: str) -> Iterator[Any]:
        with self._tracer.start_as_current_span(name) as span:
            yield span

    def attributes(self, name: str) -> dict[str, Any]:
        """Of a span that has ended."""
        (found,) = [span for span in self._exporter.get_finished_spans() if span.name == name]
        return dict(found.attributes or {})


@pytest.fixture
def trace() -> Trace:
    return Trace()


@pytest.fixture
def client(tv: TokVigil, wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk-caller") as bare:
        yield tv.wrap(bare, user_id="user_123", feature="chat")


def test_a_guarded_call_shows_its_decision_and_its_usage(trace: Trace, tv: TokVigil) -> None:
    usage = Usage(
        input_tokens=15, output_tokens=3, cached_input_tokens=5, cache_write_tokens=4, reasoning_tokens=2
    )
    with trace.span("request"), tv.guard(**ASKED, provider="google") as call:
        call.record(usage)
    assert trace.attributes("request") == USED | {
        "gen_ai.request.model": "claude-haiku-4-5",
        "gen_ai.provider.name": "gcp.gen_ai",
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.cache_write.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "tokvigil.feature": "chat",
        "tokvigil.request_id": call.request_id,
        "tokvigil.allowed": True,
        "tokvigil.reason_code": "ALLOWED",
        "tokvigil.policy": "Free plan",
        "tokvigil.degraded": False,
        "tokvigil.usage.status": "succeeded",
        "tokvigil.usage.source": "provider",
    }


def test_a_block_shows_why_and_no_usage(trace: Trace, tv: TokVigil, control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    with trace.span("request"), pytest.raises(tokvigil.AIUsageBlockedError), tv.guard(**ASKED):
        pass
    shown = trace.attributes("request")
    assert (shown["tokvigil.allowed"], shown["tokvigil.reason_code"]) == (
        False,
        "DAILY_REQUEST_LIMIT_EXCEEDED",
    )
    assert not any(name.startswith("gen_ai.usage") for name in shown)


def test_a_decision_without_the_control_plane_shows_as_degraded(trace: Trace, unreachable: str) -> None:
    with TokVigil("k", unreachable, max_retries=0, spool=False) as tv, trace.span("request"):
        tv.evaluate("user_123", "gpt-4o-mini")
    assert trace.attributes("request")["tokvigil.degraded"] is True


def test_users_are_named_only_if_the_client_is_told_to(
    trace: Trace, tv: TokVigil, control_plane: Any
) -> None:
    with trace.span("silent"):
        tv.evaluate("user_123", "gpt-4o-mini")
    with (
        TokVigil("k", control_plane.url, telemetry_user_id=True) as naming,
        trace.span("naming"),
    ):
        naming.evaluate("user_123", "gpt-4o-mini")
    assert "user_123" not in trace.attributes("silent").values()
    assert trace.attributes("naming")["enduser.id"] == "user_123"


def test_usage_that_is_reported_by_hand_shows_too(trace: Trace, tv: TokVigil) -> None:
    with trace.span("tracked"):
        tv.track(
            UsageEvent(
                request_id="r1",
                user_id="ada",
                model="gpt-4o-mini",
                usage=Usage(input_tokens=7, output_tokens=1),
            )
        )
    with trace.span("logged"):
        tv.log_usage("r2", "ada", "gpt-4o-mini", 8, 2)
    assert trace.attributes("tracked")["gen_ai.usage.input_tokens"] == 7
    assert trace.attributes("logged")["gen_ai.usage.input_tokens"] == 8


def test_a_chat_shows_on_the_span_around_it(trace: Trace, chat: Callable[..., Any]) -> None:
    with trace.span("request"):
        answer = chat()
    shown = trace.attributes("request")
    assert shown["tokvigil.request_id"] == answer.request_id
    assert shown["gen_ai.usage.output_tokens"] == answer.usage.output_tokens > 0


def test_a_stream_shows_on_the_span_in_which_it_was_asked_for(
    trace: Trace, tv: TokVigil, wire_provider: WireProvider
) -> None:
    with trace.span("request") as request:
        with trace.span("asking") as asking:
            stream = tv.chat(
                "user_123",
                "chat",
                "gpt-4o-mini",
                CHAT["messages"],
                stream=True,
                provider_base_url=wire_provider.url + "/v1",
                provider_api_key="sk",
            )
            with trace.span("reading"):
                list(stream)
        assert request.is_recording()
        assert not asking.is_recording()
    shown = trace.attributes("asking")
    assert shown["gen_ai.usage.output_tokens"] == stream.usage.output_tokens  # type: ignore[union-attr]
    assert trace.attributes("reading") == trace.attributes("request") == {}


def test_calls_of_a_wrapped_client_show(trace: Trace, client: openai.OpenAI) -> None:
    with trace.span("whole"):
        client.chat.completions.create(**CHAT)
    with trace.span("asking"):
        stream = client.chat.completions.create(**CHAT, stream=True)
        with trace.span("reading"):
            for _ in stream:
                pass
    for name in ("whole", "asking"):
        shown = trace.attributes(name)
        assert shown["gen_ai.request.model"] == CHAT["model"]
        assert shown["gen_ai.usage.output_tokens"] > 0
        assert shown["tokvigil.usage.status"] == "succeeded"
    assert trace.attributes("reading") == {}


def test_a_block_of_a_wrapped_client_shows(
    trace: Trace, client: openai.OpenAI, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    with trace.span("request"), pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(**CHAT)
    assert trace.attributes("request")["tokvigil.allowed"] is False


def test_a_stream_that_nobody_closed_shows_once_it_is_reported(
    trace: Trace, tv: TokVigil, client: openai.OpenAI
) -> None:
    with trace.span("request") as span:
        stream = client.chat.completions.create(**CHAT, stream=True)
        next(iter(stream))
        del stream
        gc.collect()
        wait_for(lambda: "tokvigil.usage.status" in span.attributes)
    assert trace.attributes("request")["tokvigil.usage.status"] == "partial"


def test_a_stream_that_outlives_its_span_leaves_the_next_one_alone(
    trace: Trace, tv: TokVigil, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    with trace.span("request"):
        stream = client.chat.completions.create(**CHAT, stream=True)
    with trace.span("next"):
        for _ in stream:
            pass
    assert tv.flush() == 0
    assert trace.attributes("next") == {}
    assert trace.attributes("request")["tokvigil.allowed"] is True
    assert "ended span" not in caplog.text


def test_calls_that_are_awaited_show_each_on_its_own_span(
    trace: Trace, control_plane: Any, wire_provider: WireProvider
) -> None:
    async def read(stream: AsyncIterator[Any]) -> None:
        with trace.span("reading"):
            async for _ in stream:
                pass

    async def guarded(tv: AsyncTokVigil) -> None:
        with trace.span("guard"):
            async with tv.guard(**ASKED) as call:
                await asyncio.sleep(0.01)
                call.record(Usage(input_tokens=15, output_tokens=3))

    async def wrapped(client: openai.AsyncOpenAI) -> None:
        with trace.span("wrap"):
            stream = await client.chat.completions.create(**CHAT, stream=True)
            await asyncio.create_task(read(stream))

    async def main() -> None:
        async with (
            AsyncTokVigil("k", control_plane.url) as tv,
            openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare,
        ):
            client = tv.wrap(bare, user_id="ada", feature="chat")
            await asyncio.gather(guarded(tv), wrapped(client))

    asyncio.run(main())
    guard, wrap = trace.attributes("guard"), trace.attributes("wrap")
    assert guard == guard | USED
    assert (guard["gen_ai.request.model"], wrap["gen_ai.request.model"]) == (ASKED["model"], CHAT["model"])
    assert wrap["gen_ai.usage.output_tokens"] > 0
    assert trace.attributes("reading") == {}


def test_nothing_happens_without_a_span_or_while_opentelemetry_is_being_imported(
    tv: TokVigil, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert telemetry.current_span() is None
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", types.ModuleType("opentelemetry.trace"))
    assert tv.evaluate("user_123", "gpt-4o-mini").allowed


def test_opentelemetry_is_never_imported(control_plane: Any) -> None:
    use = f"""
import sys, tokvigil
with tokvigil.TokVigil("k", {control_plane.url!r}, spool=False) as tv:
    with tv.guard("ada", "chat", "gpt-4o-mini", input_tokens=1) as call:
        call.record(tokvigil.Usage(input_tokens=1, output_tokens=1))
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", use], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_names_are_those_of_the_semantic_conventions() -> None:
    """The installed constants lack the newer name of cache writes; once they have it, the exception can go."""
    conventions = {
        value
        for attributes in (gen_ai_attributes, enduser_attributes)
        for value in vars(attributes).values()
        if isinstance(value, str)
    }
    own = [value for name, value in vars(telemetry).items() if name.isupper() and isinstance(value, str)]
    foreign = [name for name in own if not name.startswith("tokvigil.")]
    assert len(foreign) == 8
    assert [name for name in foreign if name not in conventions] == ["gen_ai.usage.cache_write.input_tokens"]
    providers = {provider.value for provider in gen_ai_attributes.GenAiProviderNameValues}
    assert set(telemetry.PROVIDERS.values()) <= providers
