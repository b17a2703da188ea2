"""`tv.chat`: one decision, one provider call, one report, whatever happens between them."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import openai
import pytest
import tokvigil
from hypothesis import given
from hypothesis import strategies as st
from tokvigil import AsyncTokVigil, TokVigil
from tokvigil.bodies import Body
from tokvigil.chatting import ChatRequest
from tokvigil.dialects.openai import ChatCall
from tokvigil.dialects.provider_call import Request
from tokvigil.testing import FakeTokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wire_provider.content import TOOL_TRIGGER
from sdk.python.tests.wire_provider.exchange import Seen
from sdk.python.tests.wrapped import SCHEMA

MESSAGES: Any = [{"role": "user", "content": "Say hello to Ada Lovelace"}]
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
# Each provider as it is, and where it wants its thoughts or signatures back.
AGENTS: dict[str, Any] = {
    "openai": {"provider": "openai", "model": "gpt-4o-mini"},
    "anthropic": {"provider": "anthropic", "model": "claude-haiku-4-5"},
    "anthropic that thinks": {
        "provider": "anthropic",
        "model": "claude-haiku-4-5",
        "thinking": {"type": "enabled", "budget_tokens": 1_024},
        "max_output_tokens": 2_000,
    },
    "google": {"provider": "google", "model": "gemini-2.5-flash"},
    "google that signs": {"provider": "google", "model": "gemini-3-pro"},
}
VERSIONS = {"openai": "/v1", "anthropic": "", "google": ""}


def wire_answer(agent: Any, text: str, *, stream: bool) -> Any:
    """What the provider says to this text, without a server."""
    options = {name: value for name, value in agent.items() if name == "thinking"}
    asked = {name: value for name, value in agent.items() if name not in options}
    messages = [{"role": "user", "content": text}]
    request = ChatRequest.build(
        **asked, messages=messages, tools=TOOLS, stream=stream, api_key="sk", options=options
    )
    url = urlsplit(request.url)
    seen = Seen(
        method="POST",
        path=url.path,
        query=dict(parse_qsl(url.query)),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=json.loads(request.body),
        raw=request.body,
    )
    provider: Any = {
        "openai": WireProvider.openai,
        "anthropic": WireProvider.anthropic,
        "google": WireProvider.gemini,
    }[agent["provider"]]
    return provider.answer(seen)


def asked_and_reported(tv: TokVigil, control_plane: Any) -> tuple[list[Any], list[Any]]:
    """The bodies of all evaluations and of all reports."""
    assert tv.flush() == 0
    return [seen.body for seen in control_plane.calls("/v1/evaluate")], list(control_plane.charged.values())


def last_report(tv: TokVigil, control_plane: Any) -> Any:
    return asked_and_reported(tv, control_plane)[1][-1]


def test_one_chat_is_one_decision_one_provider_call_one_report(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any
) -> None:
    result = chat(plan="free", run_id="run-1", metadata={"team": "blue"}, temperature=0)

    assert result.text == "Hello!"
    assert result.finish_reason == "stop"
    assert result.model == "gpt-4o-mini-2024-07-18"
    assert result.cost_usd == Decimal("0.0001572"), "the list price, cached input included"
    assert result.usage == tokvigil.Usage(
        input_tokens=1_200, output_tokens=90, cached_input_tokens=1_024, reasoning_tokens=64
    )
    (asked,), (reported,) = asked_and_reported(tv, control_plane)
    assert asked["request_id"] == reported["request_id"] == result.request_id
    assert asked["input_tokens"] == 13
    assert (reported["input_tokens"], reported["output_tokens"]) == (1_200, 90)
    assert (reported["cached_input_tokens"], reported["reasoning_tokens"]) == (1_024, 64)
    assert (reported["plan"], reported["feature"], reported["run_id"]) == ("free", "chat", "run-1")
    assert reported["status"] == "succeeded"
    (sent,) = provider.seen
    assert sent.body["temperature"] == 0


def test_a_password_in_the_address_of_the_provider_is_sent(chat: Any, provider: Any) -> None:
    chat(provider_base_url=provider.url.replace("//", "//user:pw@") + "/v1")

    assert provider.seen[0].headers["Authorization"] == "Basic dXNlcjpwdw=="


def test_keys_prompts_and_answers_stay_where_they_belong(
    chat: Any, control_plane: Any, provider: Any
) -> None:
    chat()

    assert provider.seen[0].headers["Authorization"] == "Bearer sk-caller"
    assert b"tv_dev" not in provider.seen[0].raw
    for seen in control_plane.seen:
        assert "sk-caller" not in str(seen.headers)
        assert b"sk-caller" not in seen.raw
        assert b"Lovelace" not in seen.raw
        assert b"Hello!" not in seen.raw


def test_the_decisions_cap_goes_to_the_provider(chat: Any, provider: Any) -> None:
    chat()
    assert provider.seen[0].body["max_tokens"] == 100


def test_the_callers_cap_is_asked_for_and_never_raised(chat: Any, control_plane: Any, provider: Any) -> None:
    chat(max_output_tokens=40)
    assert control_plane.seen[0].body["max_output_tokens"] == 40
    assert provider.seen[0].body["max_tokens"] == 40


@pytest.mark.parametrize("model", ["o3", "gpt-5-mini", "openai/gpt-6-sol"])
def test_reasoning_models_get_the_name_they_accept(chat: Any, provider: Any, model: str) -> None:
    chat(model=model)
    assert provider.seen[0].body["max_completion_tokens"] == 100
    assert "max_tokens" not in provider.seen[0].body


def test_a_cap_in_the_providers_words_is_understood(chat: Any, control_plane: Any, provider: Any) -> None:
    chat(max_completion_tokens=60)
    assert control_plane.seen[0].body["max_output_tokens"] == 60
    assert provider.seen[0].body["max_completion_tokens"] == 60
    assert "max_tokens" not in provider.seen[0].body


def test_several_answers_share_the_hold(chat: Any, control_plane: Any, provider: Any) -> None:
    chat(n=4, max_output_tokens=30)
    assert control_plane.seen[0].body["max_output_tokens"] == 120
    assert provider.seen[0].body["max_tokens"] == 25  # the decision holds 100 for all four


@pytest.mark.parametrize(
    "changes",
    [
        {"provider_api_key": "sk-\u00fc"},
        {"provider": "elsewhere"},
        {"provider_base_url": "provider.example"},
        {"max_tokens": 5, "max_output_tokens": 6},
        {"tools": [object()]},
    ],
)
def test_a_request_that_cannot_work_holds_nothing(chat: Any, control_plane: Any, changes: Any) -> None:
    with pytest.raises(tokvigil.ConfigurationError):
        chat(**changes)
    assert control_plane.seen == []


def test_a_block_raises_and_the_provider_is_not_called(
    chat: Any, control_plane: Any, provider: Any, wire: Any
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))

    with pytest.raises(tokvigil.AIUsageBlockedError) as caught:
        chat()

    assert provider.seen == []
    assert [seen.path for seen in control_plane.seen] == ["/v1/evaluate"]
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert error.reason_code == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert (error.reason_class, error.retry_after) == ("exhausted", 3600)
    assert error.request_id == control_plane.seen[0].body["request_id"]
    assert error.suggested_model == "gpt-4o-mini"
    assert error.limit_state[0].remaining == 0
    assert str(error) == f"{error.reason_code}: {error.message}"


def test_a_provider_failure_releases_the_hold(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, wire: Any
) -> None:
    body = {"error": {"message": "Slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
    headers = {"Retry-After": "7", "x-request-id": "preq-1"}
    provider.script("/v1/chat/completions", wire.Answer(429, body, headers))

    with pytest.raises(tokvigil.ProviderError) as caught:
        chat()

    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (error.status_code, error.code, error.retry_after) == (429, "rate_limit_exceeded", 7)
    assert error.request_id == "preq-1"
    assert error.body == body
    assert "Slow down" in str(error)
    assert len(provider.seen) == 1
    reported = last_report(tv, control_plane)
    assert (reported["status"], reported["input_tokens"], reported["output_tokens"]) == ("failed", 0, 0)


@pytest.mark.parametrize(
    ("status", "body", "reported"),
    [
        (200, b"<html>hello</html>", "failed"),
        (200, b"[]", "partial"),
        (200, {"error": {"message": "upstream"}, "choices": []}, "failed"),
        (200, {"error": "flat", "choices": []}, "failed"),
        (302, b"", "failed"),
        (500, b"", "failed"),
        (504, b"", "partial"),
    ],
)
def test_a_provider_answer_that_is_none_is_a_provider_error(
    chat: Any,
    tv: TokVigil,
    control_plane: Any,
    provider: Any,
    wire: Any,
    status: int,
    body: Any,
    reported: str,
) -> None:
    provider.script("/v1/chat/completions", wire.Answer(status, body))
    with pytest.raises(tokvigil.ProviderError) as caught:
        chat()
    assert caught.value.status_code == status
    assert last_report(tv, control_plane)["status"] == reported


def test_an_answer_nobody_can_make_sense_of_is_a_provider_error_and_counted(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, wire: Any
) -> None:
    provider.script("/v1/chat/completions", wire.Answer(200, {"id": "x"}))
    with pytest.raises(tokvigil.ProviderError):
        chat()
    report = last_report(tv, control_plane)
    assert (report["status"], report["input_tokens"]) == ("partial", 13), (
        "the provider may have worked for it"
    )


def test_an_unreachable_provider_is_a_provider_error(
    chat: Any, tv: TokVigil, control_plane: Any, unreachable: str
) -> None:
    with pytest.raises(tokvigil.ProviderError) as caught:
        chat(provider_base_url=unreachable)
    assert f"no answer of the provider at {unreachable}: " in str(caught.value)
    assert caught.value.status_code is None
    assert last_report(tv, control_plane)["status"] == "failed"


def test_an_interrupted_call_is_charged_what_was_held(
    chat: Any, tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tv._chat._connections.blocking, "send", interrupt)
    with pytest.raises(KeyboardInterrupt):
        chat()
    report = last_report(tv, control_plane)
    assert (report["status"], report["input_tokens"], report["output_tokens"]) == ("partial", 13, 100)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many", "completion_tokens": 3}])
def test_usage_the_provider_left_out_is_estimated_not_zero(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, wire: Any, usage: Any
) -> None:
    provider.script("/v1/chat/completions", wire.Answer(200, wire.completion(usage=usage)))
    result = chat()
    assert result.usage == tokvigil.Usage(input_tokens=13, output_tokens=2, source="estimated")
    assert last_report(tv, control_plane)["output_tokens"] == 2


@pytest.mark.parametrize("details", [None, 5, [], {"cached_tokens": None}, {"cached_tokens": 9_999}])
def test_a_sloppy_usage_block_makes_no_contradictory_report(
    chat: Any, provider: Any, wire: Any, details: Any
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": details}
    provider.script("/v1/chat/completions", wire.Answer(200, wire.completion(usage=usage)))
    assert chat().usage.cached_input_tokens in (0, 10)


def test_an_answer_without_text_is_an_answer(chat: Any, provider: Any, wire: Any) -> None:
    choice = {"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [{"id": "c1"}]}}
    provider.script("/v1/chat/completions", wire.Answer(200, wire.completion(choices=[choice])))
    result = chat()
    assert (result.text, result.finish_reason) == ("", "tool_calls")
    assert result.tool_calls == [{"id": "c1"}]
    assert result.raw["choices"][0]["message"]["tool_calls"] == [{"id": "c1"}]


def test_tools_count_as_input(chat: Any, control_plane: Any) -> None:
    weather = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    chat(tools=[{"type": "function", "function": weather}])
    assert control_plane.seen[0].body["input_tokens"] > 25


def test_a_client_that_is_closed_while_its_call_is_asked_for_says_so(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, wire: Any
) -> None:
    def close_and_allow(seen: Any) -> Any:
        tv._chat.close()
        return wire.Answer(200, wire.decision(seen.body["request_id"]))

    control_plane.defaults["/v1/evaluate"] = close_and_allow
    with pytest.raises(tokvigil.ConfigurationError, match="client is closed"):
        chat()
    assert provider.seen == []


def test_what_else_is_closed_is_not_taken_for_the_client(
    chat: Any, tv: TokVigil, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Event loop is closed")

    monkeypatch.setattr(tv._chat._connections.blocking, "send", fail)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        chat()


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("gpt-4o-mini", "OPENAI_API_KEY"),
        ("claude-haiku-4-5", "ANTHROPIC_API_KEY"),
        ("gemini-2.5-flash", "GEMINI_API_KEY"),
    ],
)
def test_a_chat_with_the_provider_itself_names_the_variable_of_a_key_that_is_missing(
    control_plane: Any, model: str, variable: str, awaited: bool
) -> None:
    call: Any = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "user_id": "ada"}

    async def main() -> None:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url) as tv:
            await tv.chat(**call)

    with (
        TokVigil(api_key="key", base_url=control_plane.url) as tv,
        pytest.raises(tokvigil.ConfigurationError, match=f"set {variable}"),
    ):
        asyncio.run(main()) if awaited else tv.chat(**call)
    assert control_plane.seen == []


def test_a_server_of_ones_own_needs_no_key(chat: Any, provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat(provider_api_key=None)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.url}/v1")
    chat(provider_api_key=None, provider_base_url=None)
    assert ["Authorization" in seen.headers for seen in provider.seen] == [False, False]


def test_block_on_unreachable_stops_a_chat_before_the_provider(
    chat: Any, provider: Any, unreachable: str
) -> None:
    with TokVigil(api_key="key", base_url=unreachable, max_retries=0, on_unreachable="block") as client:
        with pytest.raises(tokvigil.AIUsageBlockedError) as caught:
            chat(client)
        assert client.pending() == 0
    assert caught.value.decision.degraded
    assert provider.seen == []


def test_against_the_demo_provider(tv: TokVigil, demo_provider_url: str, control_plane: Any) -> None:
    result = tv.chat(
        user_id="user_123",
        feature="chat",
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Count to a thousand"}],
        provider_base_url=demo_provider_url,
        provider_api_key="sk-demo",
        max_output_tokens=50,
    )
    assert result.usage.source == "provider"
    assert result.usage.input_tokens == pytest.approx(control_plane.seen[0].body["input_tokens"], abs=3)
    assert 0 < result.usage.output_tokens <= 50
    assert tokvigil.count_tokens(result.text, model="gpt-4o-mini", exact=True) == result.usage.output_tokens


def test_a_failure_of_the_demo_provider(tv: TokVigil, demo_provider_url: str, control_plane: Any) -> None:
    arguments: dict[str, Any] = {"provider_base_url": demo_provider_url, "provider_api_key": "sk-demo"}
    with pytest.raises(tokvigil.ProviderError) as caught:
        tv.chat(
            user_id="user_123",
            feature="chat",
            model="broken-model",
            messages=[{"role": "user", "content": "Hi"}],
            **arguments,
        )
    assert caught.value.status_code == 500
    assert last_report(tv, control_plane)["status"] == "failed"


@pytest.mark.parametrize(
    ("model", "provider"),
    [("gpt-4o-mini", "openai"), ("claude-haiku-4-5", "anthropic"), ("gemini-2.5-flash", "google")],
)
class TestEveryProvider:
    """The same call, whoever answers it."""

    @pytest.fixture
    def call(self, wire_provider: Any, model: str, provider: str) -> dict[str, Any]:
        return {
            "user_id": "user_123",
            "feature": "chat",
            "model": model,
            "messages": [{"role": "system", "content": "Be brief"}, *MESSAGES],
            "provider": provider,
            "provider_base_url": wire_provider.url + VERSIONS[provider],
            "provider_api_key": "sk-caller",
        }

    @pytest.fixture
    def said(self, wire_provider: Any, provider: str) -> Any:
        """What the provider says and uses."""
        return {
            "openai": wire_provider.openai,
            "anthropic": wire_provider.anthropic,
            "google": wire_provider.gemini,
        }[provider]

    def test_the_whole_answer(self, tv: TokVigil, control_plane: Any, call: Any, said: Any) -> None:
        result = tv.chat(**call)
        assert (result.text, result.usage) == (said.TEXT, said.USAGE)
        assert (result.finish_reason, result.tool_calls) == ("stop", [])
        assert result.message == {"role": "assistant", "content": said.TEXT} | result.message
        assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301
        assert result.cost_usd is not None
        asked, (report,) = asked_and_reported(tv, control_plane)
        assert len(asked) == 1
        assert (report["request_id"], report["status"]) == (result.request_id, "succeeded")
        assert (report["input_tokens"], report["output_tokens"]) == (
            said.USAGE.input_tokens,
            said.USAGE.output_tokens,
        )

    def test_the_answer_as_it_comes(self, tv: TokVigil, control_plane: Any, call: Any, said: Any) -> None:
        with tv.chat(**call, stream=True) as stream:
            assert stream.usage is None
            pieces = list(stream)
        assert len(pieces) > 1
        assert "".join(pieces) == stream.text == said.TEXT
        assert (stream.usage, stream.finish_reason) == (said.USAGE, "stop")
        assert (stream.message["content"], stream.tool_calls) == (said.TEXT, [])
        assert stream.cost_usd is not None
        _, (report,) = asked_and_reported(tv, control_plane)
        assert (report["request_id"], report["status"]) == (stream.request_id, "succeeded")

    def test_a_stream_that_is_left_early_is_partial_and_never_zero(
        self, tv: TokVigil, control_plane: Any, wire_provider: Any, call: Any
    ) -> None:
        wire_provider.pause_after(4)
        with tv.chat(**call, stream=True) as stream:
            first = next(iter(stream))
        wire_provider.resume()
        assert first
        assert stream.usage is not None
        assert stream.usage.source == "estimated"
        _, (report,) = asked_and_reported(tv, control_plane)
        assert report["status"] == "partial"
        assert report["input_tokens"] > 0
        assert report["output_tokens"] > 0

    def test_reading_goes_on_where_it_stopped_and_nothing_comes_after_the_end(
        self, tv: TokVigil, call: Any, said: Any
    ) -> None:
        with tv.chat(**call, stream=True) as stream:
            first = next(iter(stream))
            assert stream.text == first
            assert first + "".join(stream) == stream.text == said.TEXT
            assert list(stream) == []
        assert list(stream) == []

    @pytest.mark.parametrize("begun", [False, True])
    def test_a_stream_that_was_closed_before_its_end_says_so(
        self, tv: TokVigil, control_plane: Any, call: Any, begun: bool
    ) -> None:
        with tv.chat(**call, stream=True) as stream:
            pieces = iter(stream)
            if begun:
                next(pieces)
        for reading in (pieces, stream):
            with pytest.raises(tokvigil.ConfigurationError, match="stream was closed before its end"):
                list(reading)
        assert last_report(tv, control_plane)["status"] == "partial"

    def test_a_stream_that_breaks_is_a_provider_error_and_partial(
        self, tv: TokVigil, control_plane: Any, wire_provider: Any, call: Any
    ) -> None:
        wire_provider.cut_after(3)
        stream = tv.chat(**call, stream=True)
        with pytest.raises(tokvigil.ProviderError):
            list(stream)
        with pytest.raises(tokvigil.ConfigurationError, match="closed before its end"):
            list(stream)  # what came is not taken for the whole
        assert last_report(tv, control_plane)["status"] == "partial"

    def test_an_error_in_the_middle_of_a_stream_is_a_provider_error_and_partial(
        self, tv: TokVigil, control_plane: Any, wire_provider: Any, call: Any
    ) -> None:
        wire_provider.error_after(4)
        with (
            pytest.raises(tokvigil.ProviderError, match="provider answered") as caught,
            tv.chat(**call, stream=True) as stream,
        ):
            list(stream)
        assert caught.value.code in ("server_error", "overloaded_error", "UNAVAILABLE")
        assert caught.value.body["error"]["message"] in str(caught.value)
        report = last_report(tv, control_plane)
        assert report["status"] == "partial"
        assert report["input_tokens"] > 0

    def test_a_block_is_raised_before_the_provider_is_called(
        self, tv: TokVigil, control_plane: Any, wire_provider: Any, wire: Any, call: Any
    ) -> None:
        control_plane.script("/v1/evaluate", *[wire.Answer(200, wire.blocked())] * 2)
        for stream in (False, True):
            with pytest.raises(tokvigil.AIUsageBlockedError) as caught:
                tv.chat(**call, stream=stream)
            assert caught.value.retry_after == 3600
        assert wire_provider.seen == []
        assert asked_and_reported(tv, control_plane)[1] == []

    def test_an_error_of_the_provider_is_a_provider_error(
        self, tv: TokVigil, control_plane: Any, wire_provider: Any, call: Any
    ) -> None:
        wire_provider.fail(429, retry_after=7)
        with pytest.raises(tokvigil.ProviderError) as caught:
            tv.chat(**call, stream=True)
        assert (caught.value.status_code, caught.value.retry_after) == (429, 7)
        assert caught.value.code in ("rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED")
        assert last_report(tv, control_plane)["status"] == "failed"

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("page", "shown"),
        [
            (b"<!doctype html>\n\n<title>Sign in</title>\n\n<p>data: x</p>", "not a chat answer"),
            (b"", "not a chat answer"),
            (b'{"error": {"message": "No credit left", "code": "payment"}}', "No credit left"),
            (b'data: {"error": {"message": "No credit left", "code": "payment"}}\n\n', "No credit left"),
        ],
    )
    def test_a_page_or_a_refusal_under_200_is_a_provider_error(
        self, call: Any, page: bytes, shown: str, stream: bool
    ) -> None:
        if page.startswith(b"data:") and not stream:
            shown = "not a chat answer"
        with FakeTokVigil(provider=lambda _: httpx2.Response(200, content=page)) as fake:
            with pytest.raises(tokvigil.ProviderError, match=shown) as caught:
                list(fake.chat(**call, stream=stream))
            assert caught.value.status_code == 200
            if b"html" in page:
                assert caught.value.body.startswith("<!doctype html>")
            if shown == "No credit left":
                assert caught.value.code == "payment"

    def test_a_server_that_does_not_stream_is_understood(self, call: Any, said: Any, provider: str) -> None:
        whole = wire_answer(AGENTS[provider], "Say hello", stream=False).body
        with FakeTokVigil(provider=lambda _: httpx2.Response(200, json=whole)) as fake:
            with fake.chat(**call, stream=True) as stream:
                assert "".join(stream) == said.TEXT
            assert stream.finish_reason == "stop"

    def test_awaited_it_is_the_same(
        self, control_plane: Any, wire_provider: Any, call: Any, said: Any, unreachable: str
    ) -> None:
        async def talk() -> tuple[str, str]:
            async with AsyncTokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url) as tv:
                result = await tv.chat(**call)
                async with await tv.chat(**call, stream=True) as stream:
                    pieces = [await anext(aiter(stream))]
                    pieces += [piece async for piece in stream]
                assert [piece async for piece in stream] == []
                assert stream.usage == result.usage == said.USAGE
                async with await tv.chat(**call, stream=True) as left:
                    await anext(aiter(left))
                with pytest.raises(tokvigil.ConfigurationError, match="closed before its end"):
                    await anext(aiter(left))
                with pytest.raises(tokvigil.ProviderError):
                    await tv.chat(**call | {"provider_base_url": unreachable})
                wire_provider.cut_after(3)
                cut = await tv.chat(**call, stream=True)
                for error in (tokvigil.ProviderError, tokvigil.ConfigurationError):
                    with pytest.raises(error):
                        [piece async for piece in cut]
                return result.text, "".join(pieces)

        assert asyncio.run(talk()) == (said.TEXT, said.TEXT)
        statuses = sorted(report["status"] for report in control_plane.charged.values())
        assert statuses == ["failed", "partial", "partial", "succeeded", "succeeded"]

    def test_a_cancelled_task_is_charged_what_was_held(
        self, control_plane: Any, wire_provider: Any, call: Any
    ) -> None:
        async def start_and_cancel() -> None:
            async with AsyncTokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url) as tv:
                wire_provider.delay_s = 1.0
                task = asyncio.create_task(tv.chat(**call))
                while not wire_provider.seen:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(start_and_cancel())
        (report,) = control_plane.charged.values()
        assert (report["status"], report["output_tokens"]) == ("partial", 100)
        assert report["input_tokens"] > 0


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest, wire_provider: Any) -> Any:
    """What a call of the agent says beside its messages."""
    call = AGENTS[request.param]
    address = wire_provider.url + VERSIONS[call["provider"]]
    return call | {
        "user_id": "user_123",
        "feature": "agent",
        "tools": TOOLS,
        "provider_base_url": address,
        "provider_api_key": "sk-caller",
    }


class TestAgent:
    """A loop as anybody would write it, for every provider: two rounds with a tool, then an answer.

    The provider refuses a history that is not as it must be: calls without results, ids that do not match, thoughts
    that were dropped or changed.
    """

    @pytest.fixture(autouse=True)
    def room_for_thinking(self, control_plane: Any, wire: Any) -> None:
        control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
            200, wire.decision(seen.body["request_id"], max_output_tokens=None)
        )

    def begin(self) -> list[Any]:
        return [{"role": "user", "content": f"Please {TOOL_TRIGGER}"}]

    def answered(self, messages: list[Any], answer: Any) -> bool:
        """Takes an answer up and runs its tools; whether it is the last."""
        messages.append(answer.message)
        for call in answer.tool_calls:
            assert json.loads(call["function"]["arguments"]) == {"city": "Ada"}
            again = f"{TOOL_TRIGGER} again" if len(messages) < 3 else "sunny"
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": again})
        assert answer.finish_reason == ("tool_calls" if answer.tool_calls else "stop")
        return not answer.tool_calls

    def check(self, messages: list[Any], wire_provider: Any, control_plane: Any, text: str) -> None:
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
        assert text == messages[-1]["content"] == wire_provider.openai.TEXT
        first, second = (message["tool_calls"][0] for message in (messages[1], messages[3]))
        assert first["function"]["name"] == second["function"]["name"] == "weather"
        assert len(wire_provider.seen) == 3
        assert [report["status"] for report in control_plane.charged.values()] == ["succeeded"] * 3

    @pytest.mark.parametrize("stream", [False, True])
    def test_it_runs(
        self, tv: TokVigil, control_plane: Any, wire_provider: Any, agent: Any, stream: bool
    ) -> None:
        messages, is_done = self.begin(), False
        while not is_done:
            answer = tv.chat(**agent, messages=messages, stream=stream)
            text = "".join(answer) if stream else answer.text
            is_done = self.answered(messages, answer)
        assert tv.flush() == 0
        self.check(messages, wire_provider, control_plane, text)

    @pytest.mark.parametrize("stream", [False, True])
    def test_awaited_it_runs(self, control_plane: Any, wire_provider: Any, agent: Any, stream: bool) -> None:
        async def run() -> None:
            messages, is_done = self.begin(), False
            async with AsyncTokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url) as tv:
                while not is_done:
                    answer = await tv.chat(**agent, messages=messages, stream=stream)
                    text = "".join([piece async for piece in answer]) if stream else answer.text
                    is_done = self.answered(messages, answer)
            self.check(messages, wire_provider, control_plane, text)

        asyncio.run(run())

    def test_another_provider_goes_on_where_one_stopped(
        self, tv: TokVigil, control_plane: Any, wire_provider: Any, agent: Any
    ) -> None:
        """Only what no other can use is left out: its thoughts."""
        for other in ("openai", "anthropic", "google"):
            messages = self.begin()
            assert not self.answered(messages, tv.chat(**agent, messages=messages))
            address = wire_provider.url + VERSIONS[other]
            changes = AGENTS[other] | {"provider_base_url": address}
            whose = {name: agent[name] for name in ("user_id", "feature", "tools", "provider_api_key")}
            assert not self.answered(messages, tv.chat(**whose | changes, messages=messages))


def test_a_stream_says_what_was_called_only_where_it_is_complete(tv: TokVigil, wire_provider: Any) -> None:
    wire_provider.cut_after(3)
    messages = [{"role": "user", "content": TOOL_TRIGGER}]
    address = wire_provider.url + "/v1"
    whose: Any = {"user_id": "u", "feature": "f", "model": "gpt-4o-mini", "provider_api_key": "sk"}
    stream = tv.chat(**whose, messages=messages, tools=TOOLS, stream=True, provider_base_url=address)
    with pytest.raises(tokvigil.ProviderError):
        list(stream)
    assert stream.finish_reason is None


@given(
    agent=st.sampled_from([*AGENTS]),
    trigger=st.sampled_from(["Say hello", TOOL_TRIGGER]),
    end=st.floats(0, 1),
    size=st.integers(1, 400),
    breaks=st.booleans(),
    garbage=st.sampled_from(
        [b"", b"\xff\x00", b"data: {\n\n", b"data: []\n\n", b'data: {"choices": 5}\n\n', b"<html>"]
    ),
)
def test_a_cut_stream_raises_nothing_but_a_provider_error(
    agent: str, trigger: str, end: float, size: int, breaks: bool, garbage: bytes
) -> None:
    """Cut anywhere, in any pieces, by the network or cleanly, with anything at the end."""
    whole = b"".join(wire_answer(AGENTS[agent], trigger, stream=True).events)
    content = whole[: round(end * len(whole))] + garbage

    def pieces() -> Any:
        for start in range(0, len(content), size):
            yield content[start : start + size]
        if breaks:
            raise httpx2.ReadError("cut")

    call: Any = {
        "user_id": "u",
        "feature": "f",
        "messages": [{"role": "user", "content": trigger}],
        "tools": TOOLS,
    }
    with FakeTokVigil(provider=lambda _: httpx2.Response(200, content=pieces())) as fake:
        stream = fake.chat(**call, **AGENTS[agent], provider_api_key="sk", stream=True)
        read: list[str] = []
        try:
            read.extend(stream)
        except tokvigil.ProviderError:
            assert breaks or end < 1 or garbage
        else:
            assert not breaks
        assert "".join(read) == stream.text
        assert WireProvider.openai.TEXT.startswith(stream.text)
        assert stream.message["role"] == "assistant"
        if stream.finish_reason == "tool_calls":
            (called,) = stream.tool_calls
            assert json.loads(called["function"]["arguments"]) == {"city": "Ada"}
        assert [event.status in ("partial", "succeeded", "failed") for event in fake.reported] == [True]


def test_a_task_cancelled_while_it_asks_gives_back_what_may_be_held(
    control_plane: Any, provider: Any, wire: Any
) -> None:
    def slow(seen: Any) -> Any:
        return wire.Answer(200, wire.decision(seen.body["request_id"]), delay_s=0.5)

    control_plane.defaults["/v1/evaluate"] = slow

    async def ask_and_cancel() -> None:
        async with AsyncTokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url) as tv:
            task = asyncio.create_task(
                tv.chat(
                    user_id="user_123",
                    feature="chat",
                    model="gpt-4o-mini",
                    messages=MESSAGES,
                    provider_base_url=provider.url,
                )
            )
            while not control_plane.seen:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask_and_cancel())
    (report,) = control_plane.charged.values()
    assert report["status"] == "cancelled"
    assert report["request_id"] == control_plane.calls("/v1/evaluate")[0].body["request_id"]
    assert provider.seen == []


@pytest.mark.parametrize("takes_s", [0.0, 0.4])
def test_a_call_is_not_blocked_by_the_hold_of_the_finished_call_before_it(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any, takes_s: float
) -> None:
    """A limit of one call at once, and calls one after the other; the control plane may be slow to take reports."""
    take = control_plane.defaults["/v1/usage/batch"]

    def take_slowly(seen: Any) -> Any:
        time.sleep(takes_s)
        return take(seen)

    control_plane.defaults["/v1/usage/batch"] = take_slowly
    held: list[str] = []

    def one_at_a_time(seen: Any) -> Any:
        if any(request_id not in control_plane.charged for request_id in held):
            return wire.Answer(200, wire.blocked(seen.body["request_id"]) | {"reason_class": "transient"})
        held.append(seen.body["request_id"])
        return wire.Answer(200, wire.decision(seen.body["request_id"]))

    control_plane.defaults["/v1/evaluate"] = one_at_a_time
    for _ in range(5):
        assert chat().text == "Hello!"
    assert len(held) == 5


@pytest.mark.parametrize("problem", [429, 409, 401, 422])
def test_a_block_stays_a_block_though_the_second_question_is_refused(
    chat: Any, control_plane: Any, wire: Any, problem: int
) -> None:
    chat()
    blocked = wire.Answer(200, wire.blocked() | {"reason_class": "transient"})
    control_plane.script("/v1/evaluate", blocked, *[wire.Answer(problem)] * 5)
    with pytest.raises(tokvigil.AIUsageBlockedError):
        chat()
    assert len(control_plane.calls("/v1/evaluate")) >= 3


def test_what_a_question_without_an_answer_may_hold_is_given_back(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    chat()
    blocked = wire.Answer(200, wire.blocked() | {"reason_class": "transient"})
    control_plane.script("/v1/evaluate", blocked, *[wire.Answer(500)] * 5)
    with pytest.raises(tokvigil.AIUsageBlockedError):
        chat()
    with TokVigil(
        api_key="key", base_url=control_plane.url, timeout=0.2, on_unreachable="block", journal=False
    ) as client:
        late = wire.Answer(200, wire.decision("late"), delay_s=0.5)
        control_plane.script("/v1/evaluate", *[late] * 3)
        assert not client.evaluate(user_id="user_123", model="gpt-4o-mini").allowed
        assert not client.evaluate(user_id="user_123", model="gpt-4o-mini", dry_run=True).allowed
        # By this name its caller may ask again, and report.
        assert not client.evaluate(user_id="user_123", model="gpt-4o-mini", request_id="job-1").allowed
    assert tv.flush() == 0
    second, unnamed, dry = (control_plane.calls("/v1/evaluate")[n].body["request_id"] for n in (1, -3, -2))
    statuses = {request_id: report["status"] for request_id, report in control_plane.charged.items()}
    assert (statuses[second], statuses[unnamed]) == ("cancelled", "cancelled")
    assert statuses.keys().isdisjoint({dry, "job-1"})


def test_an_awaited_question_that_was_cancelled_gives_back_what_it_may_hold(
    control_plane: Any, wire: Any
) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.decision(seen.body["request_id"]), delay_s=0.5
    )

    async def ask_and_cancel() -> None:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url, timeout=5.0) as client:
            asking = asyncio.create_task(client.evaluate(user_id="user_123", model="gpt-4o-mini"))
            await asyncio.sleep(0.1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(ask_and_cancel())
    assert [report["status"] for report in control_plane.charged.values()] == ["cancelled"]


def test_a_blocked_call_asks_no_second_time_if_the_reports_did_not_arrive(
    chat: Any, control_plane: Any, wire: Any
) -> None:
    control_plane.defaults["/v1/usage/batch"] = lambda _: wire.Answer(503)
    chat()
    control_plane.script(
        "/v1/evaluate", *[wire.Answer(200, wire.blocked() | {"reason_class": "transient"})] * 2
    )
    with pytest.raises(tokvigil.AIUsageBlockedError):
        chat()
    assert len(control_plane.calls("/v1/evaluate")) == 2
    sent = len(control_plane.calls("/v1/usage/batch"))
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked() | {"reason_class": "transient"}))
    with pytest.raises(tokvigil.AIUsageBlockedError):
        chat()
    assert len(control_plane.calls("/v1/usage/batch")) == sent, "who is refused is not asked more often"


def test_a_call_that_others_stand_in_the_way_of_is_blocked_without_delay(
    chat: Any, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked() | {"reason_class": "transient"}))
    with pytest.raises(tokvigil.AIUsageBlockedError):
        chat()
    assert len(control_plane.calls("/v1/evaluate")) == 1


def test_a_block_stays_a_block_though_the_second_question_finds_nobody(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    chat()
    control_plane.script(
        "/v1/evaluate",
        wire.Answer(200, wire.blocked() | {"reason_class": "transient"}),
        *[wire.Answer(500)] * 5,
    )
    with pytest.raises(tokvigil.AIUsageBlockedError) as caught:
        chat()
    assert not caught.value.decision.degraded


def test_a_stream_that_ended_without_usage_has_succeeded_by_estimate(
    tv: TokVigil, control_plane: Any, provider: Any, wire: Any
) -> None:
    """A compatible server that knows no stream options; the SDK of openai reads no further than [DONE]."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [{"index": 0, "delta": {"content": "Hello!"}, "finish_reason": "stop"}]
    body = f"data: {json.dumps(chunk | {'choices': choices})}\n\ndata: [DONE]\n\n".encode()
    answer = wire.Answer(200, body, {"Content-Type": "text/event-stream"})
    provider.script("/v1/chat/completions", answer)
    wrapped = tv.wrap(openai.OpenAI(api_key="sk", base_url=provider.url + "/v1"), user_id="u", feature="f")
    list(wrapped.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True))
    report = last_report(tv, control_plane)
    assert (report["status"], report["input_tokens"], report["output_tokens"]) == ("succeeded", 13, 2)


def test_a_request_that_its_cap_cannot_be_written_into_gives_its_hold_back(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_deep(*_: object, **__: object) -> bytes:
        raise RecursionError

    with monkeypatch.context() as patched:
        patched.setattr("tokvigil.json_values.json.dumps", too_deep)
        call = ChatCall(
            Request(
                provider=None,
                model="gpt-4o-mini",
                path="/v1/chat/completions",
                query="",
                body=Body(b"{}", {"messages": []}, {}),
                is_signed=False,
            )
        )
        with pytest.raises(tokvigil.ConfigurationError, match="nested too deeply"):
            call.outgoing(100)

    def cannot_be_written(*_: object) -> bytes:
        raise tokvigil.ConfigurationError("nested too deeply")

    monkeypatch.setattr(ChatCall, "outgoing", cannot_be_written)
    with pytest.raises(tokvigil.ConfigurationError):
        chat()
    assert last_report(tv, control_plane)["status"] == "cancelled"
    assert provider.seen == []
