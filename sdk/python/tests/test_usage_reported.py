"""What an answer says it used arrives in the report of its call: through wrapped clients, `chat` and guards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from tokvigil import TokVigil, Usage, UsageEvent
from tokvigil.checked import REQUEST_ID_CHARS_MAX
from tokvigil.question import Report, beside
from tokvigil.testing import FakeTokVigil

from sdk.python.tests.wrapped import Books

MESSAGES: Any = [{"role": "user", "content": "Say hello to Ada"}]
TEXT_ONLY = {
    "request_id",
    "user_id",
    "model",
    "input_tokens",
    "output_tokens",
    "status",
    "provider",
    "latency_ms",
    "occurred_at",
    "cached_input_tokens",
    "reasoning_tokens",
}
DRAWN = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-5-2025-08-07",
    "status": "completed",
    "service_tier": "priority",
    "output": [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
    ],
    "tools": [{"type": "image_generation", "model": "gpt-image-1.5"}],
    "tool_usage": {"image_gen": {"input_tokens": 40, "output_tokens": 7_024, "total_tokens": 7_064}},
    "usage": {"input_tokens": 1_820, "output_tokens": 210, "total_tokens": 2_030},
}


def sse(*events: Any) -> bytes:
    written = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return b"".join(f"data: {event}\n\n".encode() for event in written)


@pytest.fixture
def client(tv: TokVigil, provider: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.url + "/v1", api_key="sk-caller", max_retries=0) as bare:
        yield tv.wrap(bare, user_id="ada", feature="chat", run_id="run_1")


def streams(provider: Any, wire: Any, *events: Any, path: str = "/v1/chat/completions") -> None:
    answer = wire.Answer(200, sse(*events), headers={"Content-Type": "text/event-stream"})
    provider.script(path, answer)


def chunk(delta: str = "", finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": delta}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "kimi-k2.5", "choices": [choice | fields]}


def test_a_report_of_text_alone_has_no_field_that_an_older_tokvigil_does_not_know(
    client: openai.OpenAI, books: Books
) -> None:
    client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    books.only()
    (sent,) = books.control_plane.charged.values()
    assert sent.keys() <= TEXT_ONLY | {"feature", "run_id"}


def test_what_an_image_tool_used_is_a_report_of_its_own(
    client: openai.OpenAI, books: Books, provider: Any, wire: Any
) -> None:
    """TokVigil prices a report by its model: at the text rate of the model that asked it would be a tenth."""
    provider.script("/v1/responses", wire.Answer(200, DRAWN))
    client.responses.create(model="gpt-5", input="Draw Ada")
    drawn, asked = books.settled()
    assert (asked.model, asked.usage) == (
        "gpt-5",
        Usage(input_tokens=1_820, output_tokens=210, service_tier="priority", quantities={"web_searches": 1}),
    )
    assert (drawn.model, drawn.usage) == (
        "gpt-image-1.5",
        Usage(input_tokens=40, output_tokens=7_024, quantities={"output_image_tokens": 7_024}),
    )
    assert drawn.request_id == asked.request_id + "+1"
    assert (drawn.user_id, drawn.feature, drawn.run_id) == (asked.user_id, asked.feature, asked.run_id)


def test_the_same_where_it_comes_as_a_stream(
    client: openai.OpenAI, books: Books, provider: Any, wire: Any
) -> None:
    streams(provider, wire, {"type": "response.completed", "response": DRAWN}, path="/v1/responses")
    list(client.responses.create(model="gpt-5", input="Draw Ada", stream=True))
    assert [event.model for event in books.settled()] == ["gpt-image-1.5", "gpt-5"]


def test_an_event_with_other_models_is_several_reports_whoever_makes_it(tv: TokVigil, books: Books) -> None:
    drawn = Usage(input_tokens=1, output_tokens=9)
    usage = Usage(input_tokens=10, output_tokens=2, other_models={"gpt-image-1.5": drawn})
    event = UsageEvent(request_id="r1", user_id="ada", model="gpt-5", usage=usage)
    tv.report(event)
    tv.report(event)
    assert [(e.request_id, e.model) for e in books.settled()] == [("r1+1", "gpt-image-1.5"), ("r1", "gpt-5")]
    assert [report.request_id for report in Report.all_of(event)] == ["r1+1", "r1"]


def test_a_request_id_that_is_long_leads_to_one_that_fits() -> None:
    long = "r" * REQUEST_ID_CHARS_MAX
    assert len(beside(long, 0)) == REQUEST_ID_CHARS_MAX
    assert len({beside(long, 0), beside(long, 1), beside(long[:-1] + "s", 0)}) == 3
    assert beside("r1", 0) == beside("r1", 0) == "r1+1"


@pytest.mark.parametrize("streamed", [False, True])
def test_the_model_that_answered_is_reported_and_the_one_that_was_asked_beside_it(
    tv: TokVigil, books: Books, provider: Any, wire: Any, streamed: bool
) -> None:
    usage = {
        "input_tokens": 412,
        "output_tokens": 264,
        "iterations": [
            {"type": "message", "model": "claude-fable-5", "input_tokens": 412, "output_tokens": 1},
            {
                "type": "fallback_message",
                "model": "claude-opus-4-8",
                "input_tokens": 412,
                "output_tokens": 264,
            },
        ],
    }
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-fable-5",
        "content": [],
    }
    if streamed:
        events = [
            {
                "type": "message_start",
                "message": message | {"usage": {"input_tokens": 412, "output_tokens": 1}},
            },
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
            {"type": "message_stop"},
        ]
        content = b"".join(f"event: {e['type']}\n".encode() + sse(e) for e in events)
        provider.script(
            "/v1/messages", wire.Answer(200, content, headers={"Content-Type": "text/event-stream"})
        )
    else:
        provider.script(
            "/v1/messages", wire.Answer(200, message | {"stop_reason": "end_turn", "usage": usage})
        )
    with anthropic.Anthropic(base_url=provider.url, api_key="sk-ant", max_retries=0) as bare:
        wrapped = tv.wrap(bare, user_id="ada")
        asked: Any = {"model": "claude-fable-5", "max_tokens": 500, "messages": MESSAGES}
        answer = wrapped.messages.create(**asked, stream=streamed)
        if streamed:
            list(answer)
    settled = books.only()
    assert (settled.model, settled.requested_model) == ("claude-opus-4-8", "claude-fable-5")
    assert settled.usage == Usage(input_tokens=412, output_tokens=264)


def test_a_deployment_is_priced_by_the_model_that_answers(chat: Any, provider: Any, wire: Any) -> None:
    answer = wire.completion(
        model="gpt-4o-2024-08-06", usage={"prompt_tokens": 1_000, "completion_tokens": 200}
    )
    provider.script("/v1/chat/completions", wire.Answer(200, answer))
    result = chat(model="team-chat")
    assert f"{result.cost_usd:f}" == "0.0045"


def test_moonshots_stream_keeps_its_usage_in_the_choice(
    client: openai.OpenAI, books: Books, provider: Any, wire: Any
) -> None:
    usage = {"prompt_tokens": 2_000, "completion_tokens": 50, "total_tokens": 2_050, "cached_tokens": 1_792}
    streams(provider, wire, chunk("Hello"), chunk("", "stop", usage=usage), "[DONE]")
    list(client.chat.completions.create(model="kimi-k2.5", messages=MESSAGES, stream=True))
    settled = books.only()
    assert settled.status == "succeeded"
    assert settled.usage == Usage(input_tokens=2_000, output_tokens=50, cached_input_tokens=1_792)


@pytest.mark.parametrize("told", [False, True])
def test_a_stream_with_an_error_in_it_is_partial(
    client: openai.OpenAI, books: Books, provider: Any, wire: Any, told: bool
) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    events: list[Any] = [chunk("Hello"), chunk("", "error")]
    if told:
        events.append({**chunk(), "choices": [], "usage": usage})
    streams(provider, wire, *events, "[DONE]")
    list(client.chat.completions.create(model="kimi-k2.5", messages=MESSAGES, stream=True))
    settled = books.only()
    assert settled.status == "partial"
    assert settled.usage.output_tokens == (3 if told else 1)


def test_a_stream_says_the_tier_that_served_it(
    client: openai.OpenAI, books: Books, provider: Any, wire: Any
) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    told = {**chunk(), "choices": [], "usage": usage, "service_tier": "flex"}
    streams(provider, wire, chunk("Hello", "stop"), told, "[DONE]")
    list(client.chat.completions.create(model="kimi-k2.5", messages=MESSAGES, stream=True))
    assert books.only().usage.service_tier == "flex"


def test_a_transcription_is_billed_by_its_seconds(tv: TokVigil, books: Books) -> None:
    with tv.guard(user_id="ada", model="whisper-1") as guard:
        guard.record({"text": "Hello", "usage": {"type": "duration", "seconds": 600}})
    assert books.only().usage.quantities == {"input_audio_seconds": 600}


def test_a_guard_reads_the_model_and_the_cost_off_the_answer_or_is_told(tv: TokVigil, books: Books) -> None:
    answer = {"model": "gpt-5-nano", "usage": {"prompt_tokens": 9, "completion_tokens": 2, "cost": 0.0001}}
    with tv.guard(user_id="ada", model="model-router") as guard:
        guard.record(answer)
    with tv.guard(user_id="ada", model="model-router") as guard:
        guard.record(Usage(input_tokens=9, output_tokens=2, region="us"), model="gpt-5-mini")
    first, second = books.settled()
    assert (first.model, first.requested_model) == ("gpt-5-nano", "model-router")
    assert str(first.reported_cost_usd) == "0.0001"
    assert (second.model, second.requested_model) == ("gpt-5-mini", "model-router")
    assert second.usage.region == "us"


def test_doubtful_figures_are_said_in_the_log_once_a_minute(
    tv: TokVigil, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.calls._doubts_said_at", float("-inf"))
    details = {"cached_tokens": 99}
    answer = {"usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": details}}
    for _ in range(2):
        with tv.guard(user_id="ada", model="gpt-5-nano") as guard:
            guard.record(answer)
    said = [record.getMessage() for record in caplog.records if "doubtful" in record.getMessage()]
    assert len(said) == 1
    assert "cached_input_tokens is 99, and no more than 9 is left for it" in said[0]


def test_a_fake_tokvigil_takes_all_of_it_and_names_what_has_no_price() -> None:
    usage = Usage(
        input_tokens=100,
        output_tokens=5,
        quantities={"web_searches": 2, "input_audio_tokens": 90},
        service_tier="flex",
        region="us",
        reported_cost_usd="0.5",  # type: ignore[arg-type]
    )
    event = UsageEvent(
        request_id="r1", user_id="ada", model="gpt-4o-mini", usage=usage, requested_model="team"
    )
    with FakeTokVigil() as tv:
        receipt = tv.report_now(event)
        assert tv.reported == [event]
    assert (receipt.priced, receipt.cost_usd) == (False, None)
    assert receipt.unpriced == ("input_audio_tokens", "web_searches")
