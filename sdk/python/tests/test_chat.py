"""`tv.chat`: one decision, one provider call, one report, whatever happens between them."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from decimal import Decimal
from typing import Any

import openai
import pytest
import tokvigil
from tokvigil import AsyncTokVigil, TokVigil
from tokvigil.dialects.openai import ChatCall
from tokvigil.dialects.provider_call import Request

MESSAGES: Any = [{"role": "user", "content": "Say hello to Ada Lovelace"}]


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
    assert asked["input_tokens"] == 14
    assert (reported["input_tokens"], reported["output_tokens"]) == (1_200, 90)
    assert (reported["cached_input_tokens"], reported["reasoning_tokens"]) == (1_024, 64)
    assert (reported["plan"], reported["feature"], reported["run_id"]) == ("free", "chat", "run-1")
    assert reported["status"] == "succeeded"
    (sent,) = provider.seen
    assert sent.body["temperature"] == 0


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
    assert (error.reason_class, error.retry_after, error.request_id) == ("exhausted", 3600, "r-blocked")
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
    ("status", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b"[]"),
        (200, {"error": {"message": "upstream"}, "choices": []}),
        (200, {"error": "flat", "choices": []}),
        (302, b""),
        (500, b""),
    ],
)
def test_a_provider_answer_that_is_none_is_a_provider_error(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, wire: Any, status: int, body: Any
) -> None:
    provider.script("/v1/chat/completions", wire.Answer(status, body))
    with pytest.raises(tokvigil.ProviderError) as caught:
        chat()
    assert caught.value.status_code == status
    assert last_report(tv, control_plane)["status"] == "failed"


def test_an_answer_nobody_can_make_sense_of_is_a_provider_error_and_counted(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, wire: Any
) -> None:
    provider.script("/v1/chat/completions", wire.Answer(200, {"id": "x"}))
    with pytest.raises(tokvigil.ProviderError):
        chat()
    report = last_report(tv, control_plane)
    assert (report["status"], report["input_tokens"]) == ("succeeded", 14), "the provider did work for it"


def test_an_unreachable_provider_is_a_provider_error(
    chat: Any, tv: TokVigil, control_plane: Any, unreachable: str
) -> None:
    with pytest.raises(tokvigil.ProviderError) as caught:
        chat(provider_base_url=unreachable)
    assert f"no answer of the provider at {unreachable}: " in str(caught.value)
    assert caught.value.status_code is None
    assert last_report(tv, control_plane)["status"] == "failed"


def test_an_interrupted_call_counts_what_the_provider_had_to_read(
    chat: Any, tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tv._chat._connections.blocking, "send", interrupt)
    with pytest.raises(KeyboardInterrupt):
        chat()
    report = last_report(tv, control_plane)
    assert (report["status"], report["input_tokens"], report["output_tokens"]) == ("partial", 14, 0)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many", "completion_tokens": 3}])
def test_usage_the_provider_left_out_is_estimated_not_zero(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, wire: Any, usage: Any
) -> None:
    provider.script("/v1/chat/completions", wire.Answer(200, wire.completion(usage=usage)))
    result = chat()
    assert result.usage == tokvigil.Usage(input_tokens=14, output_tokens=2, source="estimated")
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


def test_block_on_unavailable_stops_a_chat_before_the_provider(
    chat: Any, provider: Any, unreachable: str
) -> None:
    with TokVigil("key", unreachable, max_retries=0, on_unavailable="block") as client:
        with pytest.raises(tokvigil.AIUsageBlockedError) as caught:
            chat(client)
        assert client.pending_usage == ()
    assert caught.value.decision.degraded
    assert provider.seen == []


def test_against_the_demo_provider(tv: TokVigil, demo_provider_url: str, control_plane: Any) -> None:
    result = tv.chat(
        "user_123",
        "chat",
        "gpt-4o-mini",
        [{"role": "user", "content": "Count to a thousand"}],
        provider_base_url=demo_provider_url,
        provider_api_key="sk-demo",
        max_output_tokens=50,
    )
    assert result.usage.source == "provider"
    assert result.usage.input_tokens == control_plane.seen[0].body["input_tokens"]
    assert 0 < result.usage.output_tokens <= 50
    assert tokvigil.count_text(result.text, "gpt-4o-mini") == result.usage.output_tokens


def test_a_failure_of_the_demo_provider(tv: TokVigil, demo_provider_url: str, control_plane: Any) -> None:
    arguments: dict[str, Any] = {"provider_base_url": demo_provider_url, "provider_api_key": "sk-demo"}
    with pytest.raises(tokvigil.ProviderError) as caught:
        tv.chat("user_123", "chat", "broken-model", [{"role": "user", "content": "Hi"}], **arguments)
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
        version = {"openai": "/v1", "anthropic": "", "google": ""}[provider]
        return {
            "user_id": "user_123",
            "feature": "chat",
            "model": model,
            "messages": [{"role": "system", "content": "Be brief"}, *MESSAGES],
            "provider": provider,
            "provider_base_url": wire_provider.url + version,
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
        assert result.finish_reason
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
        assert (stream.usage, bool(stream.finish_reason)) == (said.USAGE, True)
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
        with pytest.raises(tokvigil.ProviderError), tv.chat(**call, stream=True) as stream:
            list(stream)
        assert last_report(tv, control_plane)["status"] == "partial"

    def test_an_error_in_the_middle_of_a_stream_is_a_provider_error_and_partial(
        self, tv: TokVigil, control_plane: Any, wire_provider: Any, call: Any
    ) -> None:
        wire_provider.error_after(4)
        with (
            pytest.raises(tokvigil.ProviderError, match="provider answered"),
            tv.chat(**call, stream=True) as stream,
        ):
            list(stream)
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
        assert caught.value.code
        assert last_report(tv, control_plane)["status"] == "failed"

    def test_awaited_it_is_the_same(self, control_plane: Any, call: Any, said: Any, unreachable: str) -> None:
        async def talk() -> tuple[str, str]:
            async with AsyncTokVigil("tv_dev_id_secret", control_plane.url) as tv:
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
                return result.text, "".join(pieces)

        assert asyncio.run(talk()) == (said.TEXT, said.TEXT)
        statuses = sorted(report["status"] for report in control_plane.charged.values())
        assert statuses == ["failed", "partial", "succeeded", "succeeded"]

    def test_a_cancelled_task_counts_what_the_provider_had_to_read(
        self, control_plane: Any, wire_provider: Any, call: Any
    ) -> None:
        async def start_and_cancel() -> None:
            async with AsyncTokVigil("tv_dev_id_secret", control_plane.url) as tv:
                wire_provider.delay_s = 1.0
                task = asyncio.create_task(tv.chat(**call))
                while not wire_provider.seen:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(start_and_cancel())
        (report,) = control_plane.charged.values()
        assert (report["status"], report["output_tokens"]) == ("partial", 0)
        assert report["input_tokens"] > 0


def test_a_task_cancelled_while_it_asks_gives_back_what_may_be_held(
    control_plane: Any, provider: Any, wire: Any
) -> None:
    def slow(seen: Any) -> Any:
        return wire.Answer(200, wire.decision(seen.body["request_id"]), delay_s=0.5)

    control_plane.defaults["/v1/evaluate"] = slow

    async def ask_and_cancel() -> None:
        async with AsyncTokVigil("tv_dev_id_secret", control_plane.url) as tv:
            task = asyncio.create_task(
                tv.chat("user_123", "chat", "gpt-4o-mini", MESSAGES, provider_base_url=provider.url)
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


def test_a_call_waits_for_its_process_own_reports_though_another_process_is_sending_them(
    chat: Any, control_plane: Any, wire: Any, tmp_path: Any
) -> None:
    first, other = (TokVigil("key", control_plane.url, spool=tmp_path / "usage") for _ in range(2))
    chat(first)
    claimed = other._reporter.store.claim(10)
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked() | {"reason_class": "transient"}))

    def settle() -> None:
        time.sleep(0.2)
        other._reporter.store.remove([event.request_id for event in claimed])

    threading.Thread(target=settle).start()
    assert len(claimed) == 1
    assert chat(first).text == "Hello!"
    first.close()
    other.close()


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
    with TokVigil("key", control_plane.url, timeout=0.2, on_unavailable="block", spool=False) as client:
        late = wire.Answer(200, wire.decision("late"), delay_s=0.5)
        control_plane.script("/v1/evaluate", *[late] * 3)
        assert not client.evaluate("user_123", "gpt-4o-mini").allowed
        assert not client.evaluate("user_123", "gpt-4o-mini", dry_run=True).allowed
        # By this name its caller may ask again, and report.
        assert not client.evaluate("user_123", "gpt-4o-mini", request_id="job-1").allowed
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
        async with AsyncTokVigil("key", control_plane.url, timeout=5.0) as client:
            asking = asyncio.create_task(client.evaluate("user_123", "gpt-4o-mini"))
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
    assert (report["status"], report["input_tokens"], report["output_tokens"]) == ("succeeded", 14, 2)


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
                fields={"messages": []},
                body=b"{}",
                is_signed=False,
            )
        )
        with pytest.raises(tokvigil.ConfigurationError, match="nested too deeply"):
            call.body(100)
    monkeypatch.setattr(ChatCall, "body", lambda *_: too_deep())
    with pytest.raises(RecursionError):
        chat()
    assert last_report(tv, control_plane)["status"] == "cancelled"
    assert provider.seen == []
