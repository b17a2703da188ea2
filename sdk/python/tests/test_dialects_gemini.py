"""Gemini's generated content and embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokvigil import Usage, tokens
from tokvigil.dialects import AnswerReader, ProviderCall, bulk, read_call, sse
from tokvigil.endings import Ending

HOST = "generativelanguage.googleapis.com"
MODEL = "gemini-2.5-flash"
ONCE = f"/v1beta/models/{MODEL}:generateContent"
STREAMED = f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
CONTENTS = [{"role": "user", "parts": [{"text": "How long is the Danube?"}]}]


def call(path: str = ONCE, *, host: str = HOST, **fields: Any) -> ProviderCall:
    found = read_call("POST", path, host, {}, json.dumps({"contents": CONTENTS} | fields).encode())
    assert found is not None
    return found


def chunk(text: str, **usage: Any) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}],
        "usageMetadata": {"promptTokenCount": 10, **usage},
        "modelVersion": MODEL,
    }


CHUNKS = [
    chunk('About {2,850} "\\', thoughtsTokenCount=30, totalTokenCount=40),
    chunk("kilometres: größer.", candidatesTokenCount=4, thoughtsTokenCount=30),
    chunk(
        "",
        candidatesTokenCount=20,
        thoughtsTokenCount=30,
        toolUsePromptTokenCount=4,
        cachedContentTokenCount=6,
        totalTokenCount=64,
    ),
]
SAID = Usage(input_tokens=14, output_tokens=50, cached_input_tokens=6, reasoning_tokens=30)
SSE = b"".join(b"data: " + json.dumps(item).encode() + b"\r\n\r\n" for item in CHUNKS)
ARRAY = b"[" + b",\r\n".join(json.dumps(item, indent=1).encode() for item in CHUNKS) + b"\n]"


def pass_through(a_call: ProviderCall, *pieces: bytes) -> tuple[bytes, AnswerReader]:
    reader = a_call.reader()
    seen = b"".join([*map(reader.feed, pieces), reader.finish()])
    return seen, reader


def test_model_and_stream_stand_in_the_path() -> None:
    asked = call(STREAMED)
    assert (asked.provider, asked.model, asked.streams) == ("google", MODEL, True)
    assert (call().streams, call().max_output_tokens) == (False, None)


@pytest.mark.parametrize(
    ("path", "host", "model"),
    [
        (
            f"/v1/projects/p/locations/l/publishers/google/models/{MODEL}:generateContent",
            "l-aiplatform.googleapis.com",
            MODEL,
        ),
        (f"/v1beta1/publishers/google/models/{MODEL}:generateContent", "aiplatform.googleapis.com", MODEL),
        ("/v1/projects/p/locations/l/endpoints/123:generateContent", "l-aiplatform.googleapis.com", "123"),
        ("/v1beta/tunedModels/mine-1:generateContent", HOST, "mine-1"),
        (f"/gateway{ONCE}", "localhost:9000", MODEL),
    ],
)
def test_vertex_tuned_models_and_gateways(path: str, host: str, model: str) -> None:
    asked = call(path, host=host)
    assert (asked.provider, asked.model) == ("google", model)


@pytest.mark.parametrize(
    "config",
    [
        {"generationConfig": {"maxOutputTokens": 100, "candidateCount": 2}},
        {"generation_config": {"max_output_tokens": 100, "candidate_count": 2}},
        {"generationConfig": {"maxOutputTokens": 100, "candidateCount": "2"}},
    ],
)
def test_the_cap_is_per_candidate_in_either_spelling(config: dict[str, Any]) -> None:
    asked = call(**config)
    assert asked.max_output_tokens == 200
    assert asked.outgoing(200).body == asked.outgoing(None).body
    (name, own) = next(iter(config.items()))
    key = next(key for key in own if "ut" in key)
    assert json.loads(asked.outgoing(80).body) == {"contents": CONTENTS, name: {**own, key: 40}}


def test_a_cap_is_written_beside_what_else_is_configured() -> None:
    asked = call(generationConfig={"temperature": 0.5})
    assert json.loads(asked.outgoing(80).body)["generationConfig"] == {
        "temperature": 0.5,
        "maxOutputTokens": 80,
    }
    assert json.loads(call().outgoing(80).body)["generationConfig"] == {"maxOutputTokens": 80}


def test_contents_system_and_tools_are_counted() -> None:
    plain = call().count_input()
    assert plain == tokens.count_tokens([{"role": "user", "content": "How long is the Danube?"}], model=MODEL)
    system = {"parts": [{"text": "alpha beta gamma"}]}
    assert call(systemInstruction=system).count_input() > plain + 2
    assert call(system_instruction=system).count_input() > plain + 2
    assert call(tools=[{"functionDeclarations": [{"name": "weather"}]}]).count_input() > plain + 5
    assert call(contents=CONTENTS[0]).count_input() == plain


@pytest.mark.parametrize(
    "part",
    [
        {"text": "alpha beta gamma"},
        {"functionCall": {"name": "alpha", "args": {"beta": 1}}},
        {"function_call": {"name": "alpha", "args": {"beta": 1}}},
        {"functionResponse": {"name": "alpha", "response": {"beta": 1}}},
    ],
)
def test_every_kind_of_part_is_counted(part: dict[str, Any]) -> None:
    plain = call(contents=[{"parts": []}]).count_input()
    assert 3 <= call(contents=[{"parts": [part]}]).count_input() - plain <= 16


def test_files_are_attachments() -> None:
    for part in ({"inlineData": {"data": "A" * 100_000}}, {"file_data": {"file_uri": "gs://b/o"}}):
        counted = call(contents=[{"parts": [part]}]).count_input()
        assert tokens.TOKENS_PER_FILE <= counted < tokens.TOKENS_PER_FILE + 10


@pytest.mark.parametrize("contents", [None, "text", [1], [{"parts": "x"}], [{"parts": [None, 1]}]])
def test_contents_that_google_will_refuse_do_no_harm(contents: Any) -> None:
    assert call(contents=contents).count_input() >= 0


@pytest.mark.parametrize(("path", "stream"), [(STREAMED, SSE), (STREAMED.split("?")[0], ARRAY)])
def test_a_stream_is_the_same_wherever_its_bytes_are_cut(path: str, stream: bytes) -> None:
    for cut in range(len(stream)):
        seen, reader = pass_through(call(path), stream[:cut], stream[cut:])
        assert (seen, reader.figures()) == (stream, SAID)
    seen, reader = pass_through(call(path), *(bytes([byte]) for byte in stream))
    assert (seen, reader.figures()) == (stream, SAID)


def test_of_the_usage_on_every_chunk_the_last_is_final() -> None:
    reader = call(STREAMED).reader()
    reader.feed(SSE)
    assert reader.figures() is None
    reader.finish()
    assert reader.figures() == SAID


def test_a_cut_stream_has_the_figures_so_far_and_the_larger_output() -> None:
    reader = call(STREAMED).reader()
    reader.feed(SSE[: SSE.index(b"kilometres")])
    expected = Usage(input_tokens=10, output_tokens=30, reasoning_tokens=30, source="estimated")
    assert reader.counted() == expected
    longer = call(STREAMED).reader()
    longer.feed(b"data: " + json.dumps(chunk("one two three four ")).encode() + b"\n\n")
    assert longer.counted().output_tokens == tokens.count_text("one two three four ", MODEL)


def test_a_function_call_is_output() -> None:
    reader = call(STREAMED).reader()
    part = {"functionCall": {"name": "length_of_river", "args": {"river": "Danube"}}}
    event = {"candidates": [{"content": {"parts": [part]}}], "usageMetadata": {"promptTokenCount": 9}}
    reader.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert reader.counted().output_tokens > 8


def test_a_whole_answer_says_its_usage() -> None:
    _, reader = pass_through(call(), json.dumps(CHUNKS[-1]).encode())
    assert reader.figures() == SAID


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (ONCE, b'{"error": {"code": 500, "status": "INTERNAL"}}'),
        (ONCE, b'{"promptFeedback": {"blockReason": "SAFETY"}, "candidates": null}'),
        (STREAMED, b'data: {"error": {"code": 500}}\n\n'),
        (STREAMED, b'[{"error": {"code": 500}}]'),
        (STREAMED, b'[1, "}{", {"candidates": [{"content": "x"}]}, {"cut'),
        (STREAMED, b"[}}]{"),
    ],
)
def test_answers_of_any_other_shape_pass(path: str, answer: bytes) -> None:
    seen, reader = pass_through(call(path), answer)
    assert (seen, reader.figures()) == (answer, None)
    assert reader.ending() is (Ending.REFUSED if b"error" in answer else Ending.COMPLETE)


def test_without_figures_a_model_that_thinks_does_not_tell_what_was_used() -> None:
    reader = call(STREAMED).reader()
    reader.feed(b'data: {"candidates": [{"content": {"parts": [{"text": "The"}]}}]}\n\n')
    assert reader.counted() is None


def test_brackets_that_close_nothing_do_not_hide_what_follows() -> None:
    _, reader = pass_through(call(STREAMED), b"[}}, " + json.dumps(CHUNKS[-1]).encode() + b"]")
    assert reader.figures() == SAID


def picture(**fields: Any) -> bytes:
    parts = [{"text": "Here:"}, {"inlineData": {"mimeType": "image/png", "data": "QUJD" * 5_000}}]
    return json.dumps({"candidates": [{"content": {"parts": parts}}], **fields}).encode()


def pieces_of(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1_000] for at in range(0, len(stream), 1_000)]


FIRST = json.dumps(CHUNKS[0]).encode()
LAST = json.dumps(CHUNKS[-1]).encode()


def as_events(*events: bytes) -> bytes:
    return b"".join(b"data: " + event + b"\n\n" for event in events)


def as_array(*events: bytes) -> bytes:
    return b"[" + b",\n".join(events) + b"]"


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 5_000)
    monkeypatch.setattr(bulk, "LARGE_BYTES", 5_000)
    monkeypatch.setattr(bulk, "BYTES_MAX", 10_000)


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("form", [as_events, as_array])
def test_a_large_picture_hides_no_figures(form: Callable[..., bytes]) -> None:
    usage = CHUNKS[-1]["usageMetadata"]
    for events in ((FIRST, picture(usageMetadata=usage)), (FIRST, picture(), LAST)):
        stream = form(*events)
        seen, reader = pass_through(call(STREAMED), *pieces_of(stream))
        assert (seen, reader.figures()) == (stream, SAID)


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("form", [as_events, as_array])
def test_figures_before_an_event_that_is_too_large_to_read_are_not_the_last(
    form: Callable[..., bytes],
) -> None:
    unreadable = b'{"usageMetadata": ' + b'{"promptTokenCount": 10}, "x":' * 1_000 + b"1}"
    model = call(STREAMED.replace("2.5", "2.0"))
    for events, said in (((FIRST, unreadable), None), ((FIRST, unreadable, LAST), SAID)):
        stream = form(*events)
        seen, reader = pass_through(model, *pieces_of(stream))
        assert (seen, reader.figures()) == (stream, said)
        if said is None:
            assert reader.counted() is None


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("embedContent", {"content": {"parts": [{"text": "one two"}]}}),
        ("batchEmbedContents", {"requests": [{"content": {"parts": [{"text": "one two"}]}}]}),
    ],
)
def test_embeddings_have_input_alone(verb: str, fields: dict[str, Any]) -> None:
    path = f"/v1beta/models/gemini-embedding-001:{verb}"
    asked = read_call("POST", path, HOST, {}, json.dumps({"model": "models/x", **fields}).encode())
    assert asked is not None
    assert (asked.model, asked.max_output_tokens) == ("gemini-embedding-001", None)
    assert asked.outgoing(5).body == asked.outgoing(None).body
    reader = asked.reader()
    reader.feed(b'{"embedding": {"values": [0.1, 0.2, 0.3')
    expected = tokens.count_text("one two", asked.model)
    assert reader.counted() == Usage(input_tokens=expected, output_tokens=0, source="estimated")


def test_a_refusal_has_googles_shape() -> None:
    error = call().refusal("No budget is left.", "limit_exceeded")["error"]
    assert (error["code"], error["status"]) == (403, "PERMISSION_DENIED")
    assert error["message"] == "No budget is left."
    assert error["details"][0]["reason"] == "limit_exceeded"
