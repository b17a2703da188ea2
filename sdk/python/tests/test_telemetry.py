"""Each AI call is a span of its own, inside the span that was current when it was made."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
import tokvigil
from opentelemetry import trace as opentelemetry
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import SpanKind
from tokvigil import AsyncTokVigil, TokVigil, Usage, telemetry

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, GEMINI, wait_for

ASKED = {"user_id": "user_123", "feature": "chat", "model": "claude-haiku-4-5", "input_tokens": 10}


class Trace:
    def __init__(self, provider: TracerProvider) -> None:
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._tracer = provider.get_tracer("application")

    @contextmanager
    def span(self, name: str) -> Iterator[Any]:
        with self._tracer.start_as_current_span(name) as span:
            yield span

    def ended(self, name: str) -> list[ReadableSpan]:
        """Spans that have ended, in that order."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def only(self, name: str) -> dict[str, Any]:
        """The attributes of the one span that there is."""
        (found,) = self.ended(name)
        return dict(found.attributes or {})


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Of an application whose tracer provider is the global one."""
    provider = TracerProvider()
    monkeypatch.setattr(opentelemetry, "_TRACER_PROVIDER", provider)
    return Trace(provider)


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
    assert trace.only("request") == {}
    assert trace.only("call claude-haiku-4-5") == {
        "gen_ai.request.model": "claude-haiku-4-5",
        "gen_ai.provider.name": "gcp.gen_ai",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.usage.input_tokens": 15,
        "gen_ai.usage.output_tokens": 3,
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


def test_a_span_shows_all_that_is_billed_and_what_is_doubtful(trace: Trace, tv: TokVigil) -> None:
    used = {"input_tokens": 10, "output_tokens": 3, "server_tool_use": {"web_search_requests": 2}}
    odd = {"speed": "fast", "inference_geo": "us", "cache_read_input_tokens": "many"}
    with tv.guard(**ASKED) as call:
        call.record({"model": "claude-opus-4-8", "usage": used | odd})
    shown = trace.only("call claude-haiku-4-5")
    assert shown["gen_ai.response.model"] == "claude-opus-4-8"
    assert shown["tokvigil.usage.web_searches"] == 2
    assert (shown["tokvigil.usage.service_tier"], shown["tokvigil.usage.region"]) == ("fast", "us")
    assert shown["tokvigil.usage.doubtful"] == "cache_read_input_tokens is no count"


def test_the_span_of_a_call_is_a_client_span_inside_the_applications(trace: Trace, tv: TokVigil) -> None:
    with trace.span("request") as request, tv.guard(**ASKED) as call:
        call.record(Usage(input_tokens=1, output_tokens=1))
    (span,) = trace.ended("call claude-haiku-4-5")
    assert span.kind is SpanKind.CLIENT
    assert span.parent is not None
    assert span.parent.span_id == request.get_span_context().span_id


def test_two_calls_inside_one_span_do_not_mix(
    trace: Trace, client: openai.OpenAI, control_plane: Any, wire: Any
) -> None:
    with trace.span("request"):
        client.chat.completions.create(**CHAT)
        control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(**CHAT)
    first, second = (dict(span.attributes or {}) for span in trace.ended("chat gpt-4o-mini"))
    assert (first["tokvigil.allowed"], first["gen_ai.usage.output_tokens"]) == (True, 90)
    assert (second["tokvigil.allowed"], second["error.type"]) == (False, "DAILY_REQUEST_LIMIT_EXCEEDED")
    assert "gen_ai.usage.output_tokens" not in second


def test_a_call_of_a_wrapped_client_names_operation_provider_and_the_model_that_answered(
    trace: Trace, client: openai.OpenAI
) -> None:
    answer = client.chat.completions.create(**CHAT)
    shown = trace.only("chat gpt-4o-mini")
    assert shown["gen_ai.operation.name"] == "chat"
    assert (shown["gen_ai.response.model"], shown["gen_ai.response.id"]) == (answer.model, answer.id)


def test_gemini_generates_content(trace: Trace, tv: TokVigil, wire_provider: WireProvider) -> None:
    from google import genai

    client = genai.Client(api_key="k", http_options={"base_url": wire_provider.url})
    tv.wrap(client, user_id="ada").models.generate_content(**GEMINI)
    assert trace.only("generate_content gemini-2.5-flash")["gen_ai.provider.name"] == "gcp.gen_ai"


def test_a_call_that_broke_shows_how(
    trace: Trace, client: openai.OpenAI, wire_provider: WireProvider
) -> None:
    wire_provider.hang_up(9)
    with pytest.raises(openai.APIConnectionError):
        client.with_options(max_retries=0).chat.completions.create(**CHAT)
    shown = trace.only("chat gpt-4o-mini")
    assert (shown["tokvigil.usage.status"], shown["error.type"]) == ("partial", "partial")


def test_a_decision_without_the_control_plane_shows_as_degraded(trace: Trace, unreachable: str) -> None:
    with TokVigil(api_key="k", base_url=unreachable, max_retries=0, journal=False) as tv:
        tv.evaluate(user_id="user_123", model="gpt-4o-mini")
    assert trace.only("evaluate gpt-4o-mini")["tokvigil.degraded"] is True


def test_users_are_not_named(trace: Trace, client: openai.OpenAI) -> None:
    client.chat.completions.create(**CHAT)
    assert "user_123" not in trace.only("chat gpt-4o-mini").values()


def test_a_chat_is_a_span(trace: Trace, chat: Callable[..., Any]) -> None:
    answer = chat()
    shown = trace.only("chat gpt-4o-mini")
    assert shown["tokvigil.request_id"] == answer.request_id
    assert shown["gen_ai.usage.output_tokens"] == answer.usage.output_tokens > 0


def test_the_span_of_a_stream_ends_with_its_report(trace: Trace, client: openai.OpenAI) -> None:
    with trace.span("request"):
        stream = client.chat.completions.create(**CHAT, stream=True)
    assert trace.ended("chat gpt-4o-mini") == []
    with trace.span("reading"):
        for _ in stream:
            pass
    assert trace.only("chat gpt-4o-mini")["gen_ai.usage.output_tokens"] == 90
    assert trace.only("reading") == {}


def test_the_span_of_a_stream_that_nobody_closed_ends_too(trace: Trace, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True)
    next(iter(stream))
    del stream
    gc.collect()
    wait_for(lambda: trace.ended("chat gpt-4o-mini"))
    assert trace.only("chat gpt-4o-mini")["tokvigil.usage.status"] == "partial"


def test_awaited_calls_are_inside_their_own_tasks_spans(
    trace: Trace, control_plane: Any, wire_provider: WireProvider
) -> None:
    async def call(client: openai.AsyncOpenAI, name: str) -> None:
        with trace.span(name):
            await client.chat.completions.create(**CHAT)

    async def main() -> None:
        async with (
            AsyncTokVigil(api_key="k", base_url=control_plane.url) as tv,
            openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare,
        ):
            client = tv.wrap(bare, user_id="ada", feature="chat")
            await asyncio.gather(call(client, "one"), call(client, "two"))

    asyncio.run(main())
    parents = {span.context.span_id for name in ("one", "two") for span in trace.ended(name) if span.context}
    calls = trace.ended("chat gpt-4o-mini")
    assert {span.parent.span_id for span in calls if span.parent} == parents
    assert len(calls) == 2


@pytest.mark.parametrize("broken", ["set_attributes", "end", "is_recording"])
def test_a_broken_span_breaks_no_call(
    trace: Trace, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise KeyError(broken)

    monkeypatch.setattr(f"opentelemetry.sdk.trace.Span.{broken}", fails)
    assert client.chat.completions.create(**CHAT).usage.completion_tokens == 90


def test_nothing_happens_without_a_trace_or_while_opentelemetry_is_being_imported(
    tv: TokVigil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", types.ModuleType("opentelemetry.trace"))
    assert tv.evaluate(user_id="user_123", model="gpt-4o-mini").allowed


def test_opentelemetry_is_never_imported(control_plane: Any) -> None:
    use = f"""
import sys, tokvigil
with tokvigil.TokVigil(api_key="k", base_url={control_plane.url!r}, journal=False) as tv:
    with tv.guard(model="gpt-4o-mini", user_id="ada", input_tokens=1) as call:
        call.record(tokvigil.Usage(input_tokens=1, output_tokens=1))
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", use], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_names_are_those_of_the_semantic_conventions() -> None:
    """The installed constants lack the newer name of cache writes; once they have it, the exception can go."""
    conventions = {
        value
        for attributes in (gen_ai_attributes, error_attributes)
        for value in vars(attributes).values()
        if isinstance(value, str)
    }
    foreign = re.findall(r'"((?:gen_ai|error)\.[a-z_.]+)"', inspect.getsource(telemetry))
    assert len(foreign) == 12
    assert [name for name in foreign if name not in conventions] == ["gen_ai.usage.cache_write.input_tokens"]
    providers = {provider.value for provider in gen_ai_attributes.GenAiProviderNameValues}
    assert set(telemetry.PROVIDERS.values()) <= providers


def test_a_block_shows_why_and_no_usage(trace: Trace, tv: TokVigil, control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    with pytest.raises(tokvigil.AIUsageBlockedError), tv.guard(**ASKED):
        pass
    shown = trace.only("call claude-haiku-4-5")
    assert (shown["tokvigil.allowed"], shown["error.type"]) == (False, "DAILY_REQUEST_LIMIT_EXCEEDED")
    assert not any(name.startswith("gen_ai.usage") for name in shown)
