from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest
import tokvigil
from tokvigil import TokVigil
from tokvigil.pending import PendingUsage


def test_one_chat_is_one_decision_one_provider_call_one_report(
    chat: Any, control_plane: Any, provider: Any
) -> None:
    result = chat(plan="free", run_id="run-1", metadata={"team": "blue"}, temperature=0)

    assert result.text == "Hello!"
    assert result.finish_reason == "stop"
    assert result.model == "gpt-4o-mini-2024-07-18"
    assert result.cost_usd == Decimal("0.000198")
    assert result.usage == tokvigil.Usage(
        input_tokens=1_200, output_tokens=90, cached_input_tokens=1_024, reasoning_tokens=64
    )
    assert [seen.path for seen in control_plane.seen] == ["/v1/evaluate", "/v1/usage"]
    asked, reported = (seen.body for seen in control_plane.seen)
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
        {"stream": True},
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
    chat: Any, control_plane: Any, provider: Any, wire: Any
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
    reported = control_plane.calls("/v1/usage")[0].body
    assert (reported["status"], reported["input_tokens"], reported["output_tokens"]) == ("failed", 0, 0)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b"[]"),
        (200, {"id": "x"}),
        (200, {"error": {"message": "upstream"}, "choices": []}),
        (200, {"error": "flat", "choices": []}),
        (302, b""),
        (500, b""),
    ],
)
def test_a_provider_answer_that_is_none_is_a_provider_error(
    chat: Any, control_plane: Any, provider: Any, wire: Any, status: int, body: Any
) -> None:
    provider.script("/v1/chat/completions", wire.Answer(status, body))
    with pytest.raises(tokvigil.ProviderError) as caught:
        chat()
    assert caught.value.status_code == status
    assert control_plane.calls("/v1/usage")[0].body["status"] == "failed"


def test_an_unreachable_provider_is_a_provider_error(chat: Any, control_plane: Any, unreachable: str) -> None:
    with pytest.raises(tokvigil.ProviderError) as caught:
        chat(provider_base_url=unreachable)
    assert caught.value.status_code is None
    assert control_plane.calls("/v1/usage")[0].body["status"] == "failed"


def test_an_interrupted_call_releases_the_hold(
    chat: Any, tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tv._chat_endpoint, "complete", interrupt)
    with pytest.raises(KeyboardInterrupt):
        chat()
    assert control_plane.calls("/v1/usage")[0].body["status"] == "cancelled"


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many", "completion_tokens": 3}])
def test_usage_the_provider_left_out_is_estimated_not_zero(
    chat: Any, control_plane: Any, provider: Any, wire: Any, usage: Any
) -> None:
    provider.script("/v1/chat/completions", wire.Answer(200, wire.completion(usage=usage)))
    result = chat()
    assert result.usage == tokvigil.Usage(input_tokens=14, output_tokens=2, source="estimated")
    assert control_plane.calls("/v1/usage")[0].body["output_tokens"] == 2


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


def test_an_answer_is_handed_over_even_if_its_usage_cannot_be_reported(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    control_plane.script("/v1/usage", *[wire.Answer(503)] * 3)

    result = chat()

    assert result.text == "Hello!"
    assert result.receipt is None
    assert isinstance(result.usage_error, tokvigil.TokVigilUnavailableError)
    assert [event.request_id for event in tv.pending_usage] == [result.request_id]
    assert "stays pending" in caplog.text

    tv.evaluate("user_123", "gpt-4o-mini")

    assert tv.pending_usage == ()
    first_try = control_plane.calls("/v1/usage")[0].body
    assert control_plane.charged == {result.request_id: first_try}


def test_a_report_that_did_arrive_is_not_charged_twice(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    def charge_then_fail(seen: Any) -> Any:
        control_plane.charge(seen.body)
        return wire.Answer(503)

    control_plane.defaults["/v1/usage"] = charge_then_fail
    result = chat()
    assert tv.flush() == 0
    assert list(control_plane.charged) == [result.request_id]
    (batch,) = control_plane.calls("/v1/usage/batch")
    assert batch.body["events"][0] == control_plane.calls("/v1/usage")[0].body


def test_a_report_on_its_way_is_not_sent_by_another_thread_too(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    def evaluate_meanwhile(seen: Any) -> Any:
        tv.evaluate("user_456", "gpt-4o-mini")
        return wire.Answer(201, control_plane.charge(seen.body))

    control_plane.defaults["/v1/usage"] = evaluate_meanwhile
    chat()
    assert control_plane.calls("/v1/usage/batch") == []


def test_a_refused_report_is_given_up_loudly(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    control_plane.script("/v1/usage", wire.Answer(422, {"detail": "no such model"}))
    result = chat()
    assert isinstance(result.usage_error, tokvigil.ValidationError)
    assert tv.pending_usage == ()
    assert "was refused" in caplog.text


def test_a_wrong_clock_does_not_cost_the_report(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    problem = {"code": "VALIDATION_ERROR", "errors": [{"field": "occurred_at", "message": "in the future"}]}
    control_plane.script("/v1/usage", wire.Answer(422, problem))
    result = chat()
    assert result.receipt is not None
    assert "occurred_at" not in control_plane.charged[result.request_id]


def test_pending_usage_goes_out_in_batches_the_server_takes(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.client.BATCH_BYTES_MAX", 900)
    usage = tokvigil.Usage(input_tokens=1, output_tokens=1)
    for number in range(12):
        tv._pending.add(
            tokvigil.UsageEvent(request_id=str(number), user_id="u" * 100, model="m", usage=usage)
        )
    assert tv.flush() == 0
    batches = [seen.body["events"] for seen in control_plane.calls("/v1/usage/batch")]
    assert sum(len(batch) for batch in batches) == 12
    assert len(batches) > 1
    assert all(len(seen.raw) <= 920 for seen in control_plane.seen)


def test_a_report_refused_for_the_key_waits_for_a_better_key(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/usage", wire.Answer(403))
    chat()
    assert len(tv.pending_usage) == 1


def test_closing_sends_what_is_pending(control_plane: Any, chat: Any, wire: Any) -> None:
    control_plane.script("/v1/usage", *[wire.Answer(503)] * 2)
    control_plane.script("/v1/usage/batch", wire.Answer(503))
    with TokVigil("key", control_plane.url, max_retries=0) as client:
        for _ in range(2):
            chat(client)
        assert control_plane.charged == {}
    assert len(control_plane.charged) == 2


def test_closing_without_a_control_plane_says_what_is_lost(
    chat: Any, unreachable: str, caplog: pytest.LogCaptureFixture
) -> None:
    with TokVigil("key", unreachable, max_retries=0, spool=False) as client:
        assert chat(client).decision.degraded
        assert client.flush() == 1
    assert "1 usage events were not reported" in caplog.text


def test_a_flush_survives_a_nonsense_batch_answer(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/usage", *[wire.Answer(503)] * 3)
    chat()
    for body in ({}, {"results": []}, {"results": [7, {"status": "recorded"}]}):
        control_plane.script("/v1/usage/batch", wire.Answer(200, body))
        assert tv.flush() == 1
    assert tv.flush() == 0


def test_a_conflicting_event_does_not_block_the_others(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    control_plane.script("/v1/usage", *[wire.Answer(503)] * 6)
    control_plane.script("/v1/usage/batch", wire.Answer(503))
    first, second = chat(), chat()
    control_plane.charged[first.request_id] = {"something": "else"}
    assert tv.flush() == 0
    assert second.request_id in control_plane.charged
    assert f"{first.request_id} was refused: conflict" in caplog.text


def test_block_on_unavailable_stops_a_chat_before_the_provider(
    chat: Any, provider: Any, unreachable: str
) -> None:
    with TokVigil("key", unreachable, max_retries=0, on_unavailable="block") as client:
        with pytest.raises(tokvigil.AIUsageBlockedError) as caught:
            chat(client)
        assert client.pending_usage == ()
    assert caught.value.decision.degraded
    assert provider.seen == []


def test_pending_usage_is_bounded_and_drops_the_oldest() -> None:
    pending = PendingUsage(events_max=2)
    usage = tokvigil.Usage(input_tokens=1, output_tokens=1)
    events = [tokvigil.UsageEvent(request_id=str(i), user_id="u", model="m", usage=usage) for i in range(3)]
    assert [pending.add(event) for event in events] == [None, None, events[0]]
    assert pending.oldest() == (events[1], events[2])


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
    assert control_plane.calls("/v1/usage")[0].body["status"] == "failed"
