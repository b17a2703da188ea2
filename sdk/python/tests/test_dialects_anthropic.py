"""Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokvigil import Usage, tokens
from tokvigil.dialects import AnswerReader, ProviderCall, read_call

PATH = "/v1/messages"
MODEL = "claude-sonnet-4-5"
MESSAGES = [{"role": "user", "content": "How long is the Danube?"}]


def call(path: str = PATH, *, host: str = "api.anthropic.com", **fields: Any) -> ProviderCall:
    fields = {"model": MODEL, "max_tokens": 1_000, "messages": MESSAGES} | fields
    found = read_call("POST", path, host, {"content-type": "application/json"}, json.dumps(fields).encode())
    assert found is not None
    return found


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind, **fields}).encode() + b"\n\n"


def started(**usage: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": []}
    return event("message_start", message={**message, "stop_reason": None, "usage": usage})


def delta(kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=0, delta={"type": kind, **fields})


def stopping(**usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)


START = started(input_tokens=10, cache_read_input_tokens=5, cache_creation_input_tokens=7, output_tokens=1)
STREAM = [
    START,
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("ping"),
    delta("text_delta", text="About 2,850 "),
    delta("text_delta", text="kilometres: größer."),
    event("content_block_stop", index=0),
]
LAST = [stopping(output_tokens=15), event("message_stop")]
SAID = Usage(input_tokens=22, output_tokens=15, cached_input_tokens=5, cache_write_tokens=7)


def pass_through(a_call: ProviderCall, *pieces: bytes) -> tuple[bytes, AnswerReader]:
    reader = a_call.reader()
    seen = b"".join([*map(reader.feed, pieces), reader.finish()])
    return seen, reader


def test_the_request_says_model_cap_and_stream() -> None:
    asked = call(stream=True)
    assert (asked.provider, asked.model, asked.max_output_tokens) == ("anthropic", MODEL, 1_000)
    assert asked.streams
    assert not call().streams


def test_the_cap_is_only_lowered() -> None:
    assert json.loads(call().outgoing(200).body)["max_tokens"] == 200
    assert call().outgoing(1_000).body == call().outgoing(5_000).body == call().outgoing(None).body


def test_messages_system_and_tools_are_counted() -> None:
    plain = call().count_input()
    system = [{"type": "text", "text": "alpha beta gamma", "cache_control": {"type": "ephemeral"}}]
    assert call(system="alpha beta gamma").count_input() == call(system=system).count_input() > plain
    assert call(tools=[{"name": "weather", "input_schema": {"type": "object"}}]).count_input() > plain + 5


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "alpha beta gamma"},
        {"type": "thinking", "thinking": "alpha beta gamma", "signature": "x" * 500},
        {"type": "tool_result", "tool_use_id": "t", "content": "alpha beta gamma"},
        {"type": "tool_result", "content": [{"type": "text", "text": "alpha beta gamma"}]},
        {"type": "document", "source": {"type": "text", "data": "alpha beta gamma"}},
        {"type": "document", "source": {"type": "content", "content": "alpha beta gamma"}},
        {"type": "tool_use", "id": "t", "name": "alpha", "input": {"beta": 1}},
    ],
)
def test_every_kind_of_block_is_counted(block: dict[str, Any]) -> None:
    def with_content(content: list[Any]) -> int:
        return call(messages=[{"role": "user", "content": content}]).count_input()

    assert 2 <= with_content([block]) - with_content([]) <= 10


@pytest.mark.parametrize("kind", ["image", "document"])
def test_files_are_attachments_also_in_a_tools_result(kind: str) -> None:
    file = {"type": kind, "source": {"type": "base64", "media_type": "x/y", "data": "A" * 100_000}}
    for block in (file, {"type": "tool_result", "content": [file]}):
        counted = call(messages=[{"role": "user", "content": [block]}]).count_input()
        assert tokens.TOKENS_PER_FILE <= counted < tokens.TOKENS_PER_FILE + 30


@pytest.mark.parametrize(
    "messages", [None, "text", [1], [{"content": 5}], [{"content": [None, {"source": 1}]}]]
)
def test_messages_that_anthropic_will_refuse_do_no_harm(messages: Any) -> None:
    assert call(messages=messages).count_input() >= 0


def test_a_stream_is_the_same_wherever_its_bytes_are_cut() -> None:
    stream = b"".join([*STREAM, *LAST])
    for cut in range(len(stream)):
        seen, reader = pass_through(call(stream=True), stream[:cut], stream[cut:])
        assert (seen, reader.figures()) == (stream, SAID)


def test_usage_is_known_when_the_model_has_stopped() -> None:
    reader = call(stream=True).reader()
    for piece in STREAM:
        reader.feed(piece)
        assert reader.figures() is None
    reader.feed(LAST[0])
    assert reader.figures() == SAID


def test_input_may_grow_while_tools_of_the_server_run() -> None:
    _, reader = pass_through(
        call(stream=True),
        started(input_tokens=10, output_tokens=1),
        stopping(
            input_tokens=900,
            cache_read_input_tokens=50,
            output_tokens=40,
            server_tool_use={"web_search_requests": 1},
        ),
    )
    assert reader.figures() == Usage(
        input_tokens=950, output_tokens=40, cached_input_tokens=50, quantities={"web_searches": 1}
    )


def test_a_total_of_zero_does_not_take_back_what_was_said() -> None:
    """Compatible servers fill in zeros."""
    _, reader = pass_through(
        call(stream=True), START, stopping(input_tokens=0, cache_read_input_tokens=0, output_tokens=15)
    )
    assert reader.figures() == SAID


@pytest.mark.parametrize(
    "usage", [{"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 0, "output_tokens": 1}]
)
def test_zeros_of_a_server_that_cannot_count_are_no_figures(usage: dict[str, int]) -> None:
    content = [{"type": "text", "text": "About 2,850 kilometres: größer."}]
    whole = json.dumps({"type": "message", "content": content, "usage": usage}).encode()
    for pieces in ([whole], [started(**usage), *STREAM[1:], stopping(**usage), LAST[1]]):
        _, reader = pass_through(call(stream=len(pieces) > 1), *pieces)
        assert reader.figures() is None
        assert reader.counted() == Usage(
            input_tokens=call().count_input(),
            output_tokens=tokens.count_text("About 2,850 kilometres: größer.", MODEL),
            source="estimated",
        )


def test_a_prompt_that_the_cache_holds_is_input() -> None:
    usage = {"input_tokens": 0, "cache_read_input_tokens": 50, "output_tokens": 3}
    _, reader = pass_through(call(), json.dumps({"content": [], "usage": usage}).encode())
    assert reader.figures() == Usage(input_tokens=50, output_tokens=3, cached_input_tokens=50)


def test_thinking_is_a_part_of_the_output() -> None:
    answer = {
        "type": "message",
        "content": [{"type": "text", "text": "x"}],
        "usage": {"input_tokens": 9, "output_tokens": 300, "output_tokens_details": {"thinking_tokens": 280}},
    }
    expected = Usage(input_tokens=9, output_tokens=300, reasoning_tokens=280)
    assert pass_through(call(), json.dumps(answer).encode())[1].figures() == expected
    _, reader = pass_through(
        call(stream=True),
        START,
        stopping(output_tokens=300, output_tokens_details={"thinking_tokens": 280}),
    )
    usage = reader.figures()
    assert usage is not None
    assert usage.reasoning_tokens == 280


def test_what_a_stream_used_to_compact_its_context_is_added() -> None:
    """The last event says it; the model's own messages are in the totals."""
    compaction = {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500}
    message = {"type": "message", "input_tokens": 10, "output_tokens": 15}
    last = stopping(input_tokens=10, output_tokens=15, iterations=[compaction, message])
    _, reader = pass_through(call(stream=True), *STREAM, last, LAST[1])
    assert reader.figures() == Usage(
        input_tokens=180_022, output_tokens=3_515, cached_input_tokens=5, cache_write_tokens=7
    )


def test_a_cut_stream_has_the_providers_input_and_the_larger_output() -> None:
    reader = call(stream=True).reader()
    for piece in STREAM:
        reader.feed(piece)
    counted = tokens.count_text("About 2,850 kilometres: größer.", MODEL)
    assert reader.figures() is None
    assert reader.counted() == Usage(
        input_tokens=22,
        output_tokens=counted,
        cached_input_tokens=5,
        cache_write_tokens=7,
        source="estimated",
    )
    reader.feed(event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 400}))
    assert reader.figures() is None
    assert reader.counted().output_tokens == 400


def test_of_a_stream_that_never_began_nobody_knows_what_was_used() -> None:
    reader = call(stream=True).reader()
    assert reader.counted() is None
    reader.feed(STREAM[0])
    assert reader.counted() is None, "the output figure of the first event says nothing of the output"


@pytest.mark.parametrize("thinking", [{"type": "enabled", "budget_tokens": 2000}, {"type": "adaptive"}])
def test_a_cut_stream_of_a_model_that_thinks_does_not_tell_what_was_used(thinking: dict[str, Any]) -> None:
    reader = call(stream=True, thinking=thinking).reader()
    for piece in (STREAM[0], delta("thinking_delta", thinking="A summary."), delta("text_delta", text="The")):
        reader.feed(piece)
    assert reader.counted() is None


@pytest.mark.parametrize(
    "piece",
    [
        delta("thinking_delta", thinking="Rivers of Europe are long."),
        delta("input_json_delta", partial_json='{"river": "Danube", "unit": "km"}'),
        event(
            "content_block_start",
            content_block={"type": "tool_use", "name": "length_of_a_river", "input": {}},
        ),
        event(
            "content_block_start",
            content_block={"type": "text", "text": "Four more words, found"},
        ),
    ],
)
def test_all_that_the_model_wrote_is_text(piece: bytes) -> None:
    reader = call(stream=True).reader()
    reader.feed(piece)
    assert reader.counted().output_tokens >= 4


def test_a_stream_that_an_error_ends_is_estimated() -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    seen, reader = pass_through(call(stream=True), *STREAM, error)
    assert seen == b"".join([*STREAM, error])
    assert reader.figures() is None
    assert reader.counted().input_tokens == 22


@pytest.mark.parametrize(
    "piece",
    [
        event("message_start", message=None),
        event("message_delta", delta=None, usage=[]),
        event("content_block_delta", delta="x"),
        event("content_block_start", content_block=[]),
        event("message_delta", delta={}, usage={"output_tokens": None, "input_tokens": "x"}),
        b"data: 7\n\n",
    ],
)
def test_events_of_any_other_shape_pass(piece: bytes) -> None:
    seen, reader = pass_through(call(stream=True), piece)
    assert seen == piece
    assert reader.figures() is None


def test_a_whole_answer_says_its_usage() -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 7,
        "output_tokens": 15,
    }
    answer = json.dumps({"type": "message", "content": [], "usage": usage}).encode()
    for cut in range(len(answer)):
        seen, reader = pass_through(call(), answer[:cut], answer[cut:])
        assert (seen, reader.figures()) == (answer, SAID)


def test_a_whole_answer_without_usage_is_counted() -> None:
    content = [{"type": "text", "text": "one two"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}]
    _, reader = pass_through(call(), json.dumps({"content": content}).encode())
    assert reader.counted().output_tokens >= 5


@pytest.mark.parametrize(("verb", "streams"), [("rawPredict", False), ("streamRawPredict", True)])
def test_on_vertex_the_model_stands_in_the_path(verb: str, streams: bool) -> None:
    path = f"/v1/projects/p/locations/europe-west1/publishers/anthropic/models/{MODEL}@20250929:{verb}"
    fields = {
        "anthropic_version": "vertex-2023-10-16",
        "max_tokens": 50,
        "messages": MESSAGES,
        "stream": streams,
    }
    asked = read_call("POST", path, "europe-west1-aiplatform.googleapis.com", {}, json.dumps(fields).encode())
    assert asked is not None
    assert (asked.provider, asked.model) == ("google", f"{MODEL}@20250929")
    assert (asked.max_output_tokens, asked.streams) == (50, streams)


def test_azure_sells_claude_too() -> None:
    asked = call("/anthropic/v1/messages", host="acme.services.ai.azure.com")
    assert asked.provider == "azure"


def test_whose_format_it_is_is_known_on_any_host() -> None:
    assert call(host="localhost:8080").provider == "anthropic"


def test_a_refusal_has_anthropics_shape() -> None:
    assert call().refusal("No budget is left.", "limit_exceeded") == {
        "type": "error",
        "error": {"type": "ai_usage_blocked", "message": "No budget is left.", "code": "limit_exceeded"},
    }
