"""Which requests are AI calls, and whose."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil import ConfigurationError, Usage, bodies, estimate, prices, tokens
from tokvigil.dialects import CapCannotBeObeyedError, ProviderCall, read_call
from tokvigil.dialects.providers import PROVIDERS_BY_DOMAIN, provider_of
from tokvigil.dialects.recognising import UNSPECIFIED
from tokvigil.endings import Ending

OPENAI = "api.openai.com"
GOOGLE = "generativelanguage.googleapis.com"
BODY = json.dumps({"model": "some-model", "messages": [], "input": "one two"}).encode()


def read(path: str, body: bytes = BODY, *, host: str = OPENAI, **headers: str) -> ProviderCall | None:
    return read_call(
        "POST", path, host, {name.replace("_", "-"): value for name, value in headers.items()}, body
    )


def generic(path: str, **fields: Any) -> ProviderCall:
    found = read(path, json.dumps({"model": "some-model"} | fields).encode())
    assert found is not None
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/chat/completions/",
        "/any/prefix/chat/completions?x=1",
        "/openai/deployments/x/chat/completions?api-version=2024-10-21",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/responses?beta=true",
        "/v1/responses/compact",
        "/v1/messages?beta=true",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v2/rerank",
        "/v1/agents/completions",
        "/a/path/of/tomorrow",
        # Names in a base URL say nothing, nor does a thing's name where no version stands before it.
        "/organization/acme/v1/path/of/tomorrow",
        "/v1/organization/acme/v1/path/of/tomorrow",
        "/v1/organization/acme/images/generations",
        "/organization/path/of/tomorrow",
    ],
)
def test_a_post_that_runs_a_model_is_a_call(path: str) -> None:
    found = read(path)
    assert found is not None
    assert found.model == "some-model"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/moderations",
        "/v1/messages/count_tokens?beta=true",
        "/v1/responses/input_tokens",
        "/v1beta/models/gemini-2.5-flash:countTokens",
        "/v1beta1/projects/p/locations/l/publishers/google/models/gemini-2.5-flash:computeTokens",
        "/v1/projects/p/locations/l/publishers/anthropic/models/count-tokens:rawPredict",
        "/v1/responses/resp_1/cancel",
        "/v1/batches/batch_1/cancel",
        "/v1/batch/jobs/job_1/cancel",
        "/v1/tokenize",
        "/v1/detokenize",
        "/v1/tokenize-text",
        "/v1beta/batches/1:cancel",
        "/v1/messages/batches/b/cancel",
        "/v1/batches/batch_1/%63ancel",
        "/v1beta1/projects/p/locations/l/publishers/google/models/veo-3:fetchPredictOperation",
        "/v1/agents",
        "/v1/fine_tuning/jobs/job_1/pause",
        "/v1/fine_tuning/alpha/graders/validate",
        "/v1/evals",
        "/v1/vector_stores",
        "/v1/vector_stores/vs_1/file_batches",
        "/v1/assistants",
        "/v1/threads/thread_1/messages",
        "/v1/files",
        "/v1/uploads",
        "/v1/realtime/sessions",
        "/v1/organization/projects",
        "/openai/assistants",
        "/v1beta/cachedContents/1",
        "/v1/projects/p/locations/l/cachedContents/1",
        "/upload/v1beta/files",
        "/v1beta/fileSearchStores/1:importFile",
    ],
)
def test_what_costs_no_tokens_is_no_call(path: str) -> None:
    assert read(path) is None


@pytest.mark.parametrize("path", ["/v1/conversations/conv_1", "/openai/v1/conversations/conv_1"])
def test_changing_what_is_kept_of_a_conversation_runs_no_model(path: str) -> None:
    """OpenAI's conversations are changed where Mistral's go on."""
    assert read(path, b'{"metadata": {"topic": "rivers"}}') is None
    assert read(path, b'{"metadata": {"topic": "rivers"}, "stream": true}') is not None
    assert read("/v1/conversations", b'{"metadata": {}, "items": []}') is None


@pytest.mark.parametrize("path", ["/v1/files", "/v1beta/fileSearchStores/1:uploadToFileSearchStore"])
def test_a_file_to_be_kept_may_be_of_any_bytes(path: str) -> None:
    assert read(path, b'{"not": json', content_type="multipart/form-data") is None
    assert read("/a/path/of/tomorrow", b"\x89PNG") is None


def test_a_call_of_tomorrow_that_names_no_model_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.dialects.recognising._said", set())
    for _ in range(3):
        assert read_call("POST", "/v1/dreams/of/tomorrow", OPENAI, {}, b'{"prompt": "x"}') is None
        assert read_call("POST", "/v1/dreams/of/tomorrow", "example.org", {}, b'{"prompt": "x"}') is None
    (said,) = caplog.messages
    assert said == "POST /v1/dreams/of/tomorrow of openai is not known as an AI call, so it is not limited"


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD", "OPTIONS"])
def test_a_method_without_body_makes_no_call(method: str) -> None:
    assert read_call(method, "/v1/chat/completions", OPENAI, {}, BODY) is None


@pytest.mark.parametrize("method", ["POST", "post", "PUT", "PATCH"])
def test_a_method_with_body_makes_a_call(method: str) -> None:
    found = read_call(method, "/v1/chat/completions", OPENAI, {}, BODY)
    assert found is not None
    assert json.loads(found.outgoing(7).body)["max_completion_tokens"] == 7


@pytest.mark.parametrize(
    "path",
    [
        "//v1//chat//completions",
        "/V1/CHAT/COMPLETIONS",
        "/v1/chat%2Fcompletions",
        "/v1/chat%2fcomple%74ions/",
        "/v1/files/%2e%2e/chat/./completions?x=/files",
    ],
)
def test_a_path_is_read_as_lenient_servers_read_it(path: str) -> None:
    found = read(path, json.dumps({"model": "gpt-4o", "messages": [], "stream": True}).encode())
    assert found is not None
    sent = json.loads(found.outgoing(7).body)
    assert (sent["max_completion_tokens"], sent["stream_options"]) == (7, {"include_usage": True})


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1beta/Models/Gemini-X:GenerateContent", "Gemini-X"),
        ("/v1beta/models/gemini-x%3AstreamGenerateContent", "gemini-x"),
        ("/v1beta//models//gemini-x:STREAMGENERATECONTENT?alt=sse", "gemini-x"),
    ],
)
def test_a_model_in_a_path_keeps_its_case(path: str, model: str) -> None:
    found = read(path, b'{"contents": []}', host=GOOGLE)
    assert found is not None
    assert (found.model, found.streams) == (model, "stream" in path.lower())
    assert json.loads(found.outgoing(7).body)["generationConfig"]["maxOutputTokens"] == 7


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/chat/completions", {"model": None, "messages": []}),
        ("/v1/images/generations", {"prompt": "a cat"}),
        ("/v1/responses", {"prompt": {"id": "pmpt_1"}}),
        ("/v1/responses", {"previous_response_id": "resp_1", "input": "hi"}),
        ("/v1/videos", {"prompt": "a cat"}),
        ("/v1/videos/video_1/remix", {"prompt": "a cat"}),
        ("/v1/videos/edits", {"prompt": "a cat"}),
        ("/v1/threads/thread_1/runs", {"assistant_id": "asst_1", "stream": True}),
        ("/v1/threads/runs", {"assistant_id": "asst_1", "stream": True}),
        ("/v1/threads/thread_1/runs/run_1/submit_tool_outputs", {"tool_outputs": [], "stream": True}),
        ("/v1/sessions?beta=true", {"agent": "agent_1"}),
        ("/v1/sessions/session_1/events?beta=true", {"events": []}),
        ("/v1/deployments", {"agent": "agent_1"}),
        ("/v1/deployments/deployment_1/run", {}),
        ("/v1/agents/sessions", {"agent_id": "agent_1"}),
        ("/v1/agents/automations/a_1/invocations", {}),
        ("/v1beta/interactions", {"agent": "deep-research", "input": "hi"}),
        ("/v1beta/triggers/t_1/executions", {}),
        ("/v1/conversations/conv_1", {"inputs": "go on", "stream": False}),
        ("/v1/conversations/conv_1", {"tool_confirmations": []}),
        ("/v1/conversations/conv_1/restart", {"from_entry_id": "msg_1"}),
        ("/v1/observability/judges/j_1/live-judging", {"messages": []}),
        ("/v1/observability/dataset-records/r_1/live-judging", {"judge_definition": {}}),
        ("/v1/fine_tuning/alpha/graders/run", {"grader": {"type": "score_model", "model": "gpt-4o"}}),
        ("/v1/vector_stores/vs_1/search", {"query": "a cat"}),
        ("/v1beta/cachedContents", {"contents": []}),
        ("/a/path/of/tomorrow", {"agent_id": "agent_1"}),
    ],
)
def test_a_call_that_names_no_model_has_one_without_a_price(path: str, body: dict[str, Any]) -> None:
    found = read(path, json.dumps(body).encode())
    assert found is not None
    assert found.model == UNSPECIFIED
    assert estimate(found.model, []).cost_usd is None


def test_without_a_body_a_known_path_is_a_call_all_the_same() -> None:
    found = read("/v1/deployments/deployment_1/run", b"")
    assert found is not None
    assert found.model == UNSPECIFIED
    assert read("/a/path/of/tomorrow", b"") is None


@pytest.mark.parametrize(
    "model", ["models/gemini-x", "projects/p/locations/l/publishers/google/models/gemini-x"]
)
def test_google_may_name_a_model_by_its_resource(model: str) -> None:
    found = read("/v1beta/cachedContents", json.dumps({"model": model}).encode(), host=GOOGLE)
    assert found is not None
    assert found.model == "gemini-x"


def test_a_model_may_be_an_object_with_an_id() -> None:
    found = read("/v1/dreams", b'{"model": {"id": "claude-opus-4-6", "speed": "fast"}}')
    assert found is not None
    assert found.model == "claude-opus-4-6"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/batches",
        "/v1/messages/batches",
        "/v1/messages/batches?beta=true",
        "/v1beta/models/gemini-2.5-flash:batchGenerateContent",
        "/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent",
        "/v1/projects/p/locations/l/batchPredictionJobs",
        "/v1/batch/jobs",
        "/v1/embed-jobs",
        "/model-invocation-job",
    ],
)
def test_a_batch_cannot_be_settled_and_the_error_names_the_mend(path: str) -> None:
    with pytest.raises(ConfigurationError, match="one by one"):
        read(path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/evals/eval_1/runs",
        "/v1/fine_tuning/jobs",
        "/v1/fine_tuning/jobs/job_1/resume",
        "/v1/projects/p/locations/l/tuningJobs",
        "/v1beta/tunedModels",
        "/v1/fine-tunes",
        "/v1/finetuning/finetuned-models",
        "/model-customization-jobs",
        "/evaluation-jobs",
        "/async/chat/completions",
        "/v1/async/chat/completions",
        "/v1/async/sonar",
        "/api/paas/v4/async/chat/completions",
        "/async-invoke",
    ],
)
def test_what_else_is_billed_later_is_refused_too(path: str) -> None:
    for body in (BODY, b"{}", b""):
        with pytest.raises(ConfigurationError, match=r"billed later.*a client that is not wrapped"):
            read(path, body)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1beta/interactions"])
@pytest.mark.parametrize("named", [{"model": "m"}, {"prompt": {"id": "pmpt_1"}}, {"agent": "deep-research"}])
def test_what_runs_in_the_background_cannot_be_settled(path: str, named: dict[str, Any]) -> None:
    for background in (True, 1, "true"):
        with pytest.raises(ConfigurationError, match="stream it"):
            read(path, json.dumps({**named, "background": background}).encode())
    streamed = read(path, json.dumps({**named, "background": True, "stream": True}).encode())
    assert streamed is not None
    assert streamed.streams


@pytest.mark.parametrize(
    "path",
    [
        "/v1/threads/runs",
        "/v1/threads/thread_1/runs",
        "/openai/threads/thread_1/runs?api-version=2024-05-01-preview",
        "/v1/threads/thread_1/runs/run_1/submit_tool_outputs",
    ],
)
def test_a_run_of_an_assistant_cannot_be_settled_unless_it_is_streamed(path: str) -> None:
    body = {"assistant_id": "asst_1", "model": "gpt-4o"}
    for more in ({}, {"stream": False}):
        with pytest.raises(ConfigurationError, match=r"run of an assistant is billed later.*stream it"):
            read(path, json.dumps(body | more).encode())
    found = read(path, json.dumps(body | {"stream": True}).encode())
    assert found is not None
    reader = found.reader()
    usage = {"prompt_tokens": 90, "completion_tokens": 7, "total_tokens": 97}
    last = {"id": "run_1", "object": "thread.run", "status": "completed", "model": "gpt-4o", "usage": usage}
    reader.feed(b"event: thread.run.completed\ndata: " + json.dumps(last).encode() + b"\n\n")
    reader.feed(b"event: done\ndata: [DONE]\n\n")
    assert reader.figures() == Usage(input_tokens=90, output_tokens=7)


@pytest.mark.parametrize("deferred", [True, 1, "true"])
def test_an_answer_that_is_fetched_later_cannot_be_settled(deferred: Any) -> None:
    """xAI's: the answer says only where it will be."""
    for more in ({}, {"stream": True}):
        body = json.dumps({"model": "grok-4", "messages": [], "deferred": deferred, **more}).encode()
        with pytest.raises(ConfigurationError, match="leave out `deferred`"):
            read("/v1/chat/completions", body, host="api.x.ai")
    assert read("/v1/chat/completions", b'{"model": "grok-4", "messages": [], "deferred": false}') is not None


def test_a_compressed_body_is_not_let_through_unseen() -> None:
    with pytest.raises(ConfigurationError, match="compressed"):
        read("/v1/chat/completions", b"\x1f\x8b", content_encoding="gzip")
    assert read("/v1/chat/completions", content_encoding="identity") is not None


CHAT = b'{"model": "gpt-4o", "messages": []}'


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"model"',
        b'{"model": 7}',
        b'{"model": ["gpt-4o"]}',
        b'{"model": {}}',
        b'{"model": ""}',
        b'{"model": "  "}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": ' * 100_000,
        b'{"model": "x", "n": 1' + b"0" * 5_000 + b"}",
        b'{"model": "x", "metadata": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"model": "x", "input": "caf\xe9"}',
        b'{"model": "x", "input": "a\nb"}',
        CHAT + b" //x",
        CHAT + CHAT,
        b"model=gpt-4o&prompt=x",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/images/generations"])
def test_a_body_that_cannot_be_read_is_not_let_through_unseen(path: str, body: bytes) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read(path, body)


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/images/edits", "/a/path/of/tomorrow"])
def test_json_that_is_called_a_form_cannot_be_read(path: str, content_type: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read(path, CHAT, content_type=content_type)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/vector_stores/vs_1/search"])
def test_a_form_is_read_where_forms_are_taken_and_nowhere_else(path: str) -> None:
    body = form(('name="model"', b"gpt-4o"))
    with pytest.raises(ConfigurationError, match="one JSON object"):
        read(path, body, content_type="multipart/form-data; boundary=b0undary")


def test_json_that_cannot_be_read_is_refused_on_an_unknown_path_of_a_provider_too() -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read("/a/path/of/tomorrow", CHAT + b" //x")
    with pytest.raises(ConfigurationError, match="`model` cannot be read"):
        read("/a/path/of/tomorrow", b'{"model": ["x"]}')
    with pytest.raises(ConfigurationError, match="compressed"):
        read("/a/path/of/tomorrow", b"\x1f\x8b", content_encoding="gzip")


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "text/plain", "application/rtf"])
def test_what_says_that_it_is_no_json_passes_on_an_unknown_path_of_a_provider(content_type: str) -> None:
    """Clouds that run models keep files, too."""
    host = "logs.eu-west-1.amazonaws.com"
    for headers in ({}, {"content_encoding": "gzip"}):
        assert read("/letters", b"{\\rtf1 hello}", host=host, content_type=content_type, **headers) is None


@pytest.mark.parametrize("model", [["Fiat"], {"maker": "Fiat"}, 500, ""])
def test_a_model_that_is_no_name_is_asked_for_where_nobody_is_known_to_run_one(model: Any) -> None:
    body = json.dumps({"model": model}).encode()
    found = read("/cars", body, host="example.org")
    assert found is not None
    assert found.model == UNSPECIFIED


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbf" + CHAT, CHAT.decode().encode("utf-16"), CHAT[:-1] + b', "model": "gpt-4o"}']
)
def test_what_every_server_reads_alike_is_read(body: bytes) -> None:
    found = read("/v1/chat/completions", body)
    assert found is not None
    assert found.model == "gpt-4o"


def test_of_a_name_that_stands_twice_the_last_counts() -> None:
    found = read("/v1/chat/completions", b'{"model": "gpt-4o-mini", "model": "gpt-4o"}')
    assert found is not None
    assert found.model == "gpt-4o"


CSV = "".join(f"{row},{row * 7},{row * 13}\n" for row in range(20_000))
BASE64 = "iVBORw0KGgo" * 30_000

LONG_TEXTS = {
    "csv": CSV,
    "minified JSON": json.dumps([{"id": row} for row in range(30_000)], separators=(",", ":")),
    "Chinese": "\u6211\u4eec\u4eca\u5929\u8ba8\u8bba\u8d26\u672c\u7684\u539f\u7406\uff0c" * 5_000,
    "emoji": "\U0001f600" * 50_000,
    "Chinese inside of what looks like base64": "A" * 2_000 + "\u6211" * 60_000 + "A" * 2_000,
    "looks like base64": BASE64,
}


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_a_long_text_is_counted_whatever_it_looks_like(text: str, ascii_only: bool) -> None:
    for path, fields in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
        ("/v1/responses", {"input": text}),
        ("/v1/embeddings", {"input": [text]}),
        ("/v1/messages", {"system": text, "messages": []}),
        ("/v1beta/models/m:generateContent", {"contents": [{"parts": [{"text": text}]}]}),
        ("/model/m/converse", {"messages": [{"role": "user", "content": [{"text": text}]}]}),
    ):
        body = json.dumps({"model": "some-model", **fields}, ensure_ascii=ascii_only).encode()
        found = read(path, body.ljust(bodies.LARGE_BYTES + 1))
        assert found is not None
        assert found.count_input() == pytest.approx(tokens.count_text(text, found.model), abs=10)


@pytest.mark.parametrize("escape", [lambda body: body, lambda body: body.replace(b"/", rb"\/")])
@pytest.mark.parametrize(
    "file", ["data:image/png;base64," + BASE64, BASE64, "iVBORw0KGgo/" * 6 + "\n" + BASE64]
)
def test_a_long_file_counts_as_one_and_is_not_decoded(
    file: str, escape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding 15 MB would hold up an event loop, also from another thread."""
    body = escape(json.dumps({"model": "m", "ask": {"picture": file, "tools": [{"icon": file}]}}).encode())
    monkeypatch.setattr(bodies.LongString, "whole", lambda _: pytest.fail("it is decoded"))
    found = read("/a/path/of/tomorrow", body)
    assert found is not None
    assert found.count_input() == 2 * tokens.TOKENS_PER_FILE + tokens.count_text('[{"icon":""}]', "m")


def test_what_a_long_string_is_for_counts_as_in_a_short_body() -> None:
    """A setting is no text, and the file that a part shows is one file."""
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + BASE64}}
    fields = {"metadata": {"note": CSV}, "messages": [{"role": "user", "content": [shown]}]}
    asked = generic("/v1/chat/completions", **fields)
    assert asked.count_input() == tokens.count_tokens(fields["messages"], model="some-model")


def test_a_long_name_in_a_schema_is_counted() -> None:
    tools = [{"name": "x", "input_schema": {"properties": {CSV: {}}}}]
    asked = generic("/v1/messages", tools=tools, messages=[])
    assert asked.count_input() == pytest.approx(tokens.count_text(CSV, "some-model"), rel=0.05)


@pytest.mark.parametrize(
    ("path", "fields", "sent"),
    [
        (
            "/v1/chat/completions",
            '"stream":true',
            '"stream":true,"max_tokens":7,"stream_options":{"include_usage":true}',
        ),
        ("/v1/chat/completions", '"max_tokens":9,"n":1.0', '"max_tokens":7,"n":1.0'),
        ("/v1/responses", '"max_output_tokens": 99', '"max_output_tokens": 20'),
        (
            "/v1/messages",
            '"max_tokens":9000,"thinking":{"type":"enabled","budget_tokens":8000,"x":1e400}',
            '"max_tokens":2000,"thinking":{"type":"enabled","budget_tokens":1777,"x":1e400}',
        ),
        (
            "/v1beta/models/m:generateContent",
            '"generationConfig":{"temperature":1e400}',
            '"generationConfig":{"temperature":1e400,"maxOutputTokens":7}',
        ),
        (
            "/model/m/converse",
            '"inferenceConfig": {"topP": 0.50, "maxTokens": 9}',
            '"inferenceConfig": {"topP": 0.50, "maxTokens": 7}',
        ),
    ],
)
@pytest.mark.parametrize("padding", ["", "x" * 70_000 + " " * 300_000])
def test_what_is_sent_is_what_the_caller_wrote_but_for_what_is_added(
    path: str, fields: str, sent: str, padding: str
) -> None:
    """Half a character too, as a text has it that was cut off."""
    head = rf'{{"model":"m","text":"{padding}\ud83d \/","top_p":0.12345678901234567890,'
    found = read(path, (head + fields + "}").encode(), host="example.org")
    assert found is not None
    cap = {"/v1/responses": 20, "/v1/messages": 2_000}.get(path, 7)
    assert found.outgoing(cap).body == (head + sent + "}").encode()


def test_a_prompt_does_not_get_into_a_log() -> None:
    found = read("/v1/chat/completions", b'{"model": "m", "messages": [{"content": "secret"}]}')
    assert "secret" not in repr(vars(found)["_request"])


NAMES = [
    *("messages", "content", "role", "text", "input", "prompt", "tools", "system", "contents", "parts", "n"),
    *("max_tokens", "stream", "type", "usage", "stream_options", "generationConfig", "choices", "delta"),
    *("candidates", "message", "response", "output", "thinking", "source"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.sampled_from(
        [
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/messages",
            "/v1beta/models/m:generateContent",
            "/v1beta/models/m:streamGenerateContent",
            "/v1beta/models/m:embedContent",
            "/v1/other",
        ]
    ),
    st.dictionaries(
        st.sampled_from(
            ["messages", "input", "prompt", "system", "tools", "contents", "n", "stream", "max_tokens"]
        ),
        JSON,
    ),
    JSON,
)
def test_no_body_and_no_answer_makes_reading_fail(path: str, fields: dict[str, Any], answer: Any) -> None:
    found = read(path, json.dumps({"model": "m", **fields}).encode())
    assert found is not None
    assert found.count_input() >= 0
    with suppress(CapCannotBeObeyedError):
        json.loads(found.outgoing(7).body)
    for stream in (json.dumps(answer).encode(), b"data: " + json.dumps(answer).encode() + b"\n\n"):
        reader = found.reader()
        reader.feed(stream)
        reader.finish()
        reader.figures()
        assert isinstance(reader.ending(), Ending)
        counted = reader.counted()
        assert counted is None or counted.source == "estimated"


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "openai"),
        ("API.OpenAI.com:443", "openai"),
        ("eu.api.openai.com", "openai"),
        ("acme.openai.azure.com", "azure"),
        ("api.anthropic.com", "anthropic"),
        ("generativelanguage.googleapis.com", "google"),
        ("europe-west1-aiplatform.googleapis.com", "google"),
        # Sells the models of others, at prices that nobody here knows.
        ("openrouter.ai", None),
        ("evil-api.openai.com.example.org", None),
        ("notapi.openai.com", None),
        ("localhost:8080", None),
        ("[::1]:8080", None),
        ("", None),
    ],
)
def test_the_host_tells_the_provider(host: str, provider: str | None) -> None:
    assert provider_of(host) == provider


def test_the_price_book_knows_every_provider_by_its_name() -> None:
    """A provider that it does not know has no prices."""
    assert set(PROVIDERS_BY_DOMAIN.values()) <= prices._book().names.providers


def test_on_azure_the_deployment_is_the_model_if_the_body_names_none() -> None:
    path = "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"
    found = read(path, b'{"messages": []}', host="acme.openai.azure.com")
    assert found is not None
    assert found.model == "my gpt"


@pytest.mark.parametrize(
    ("deployment", "in_body", "model"),
    [
        # Azure runs the deployment, whatever the body says.
        ("gpt-4o", "gpt-4o-mini", "gpt-4o"),
        ("GPT-4o", "gpt-4o-mini", "GPT-4o"),
        ("gpt-4o-2024-11-20", "gpt-4o-mini", "gpt-4o-2024-11-20"),
        # A name of the team's own says nothing; policies are written in names of models.
        ("team-chat", "gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-team", "gpt-4o-mini", "gpt-4o-mini"),
        ("team-chat", "team-chat", "team-chat"),
        ("GPT-4o", "gpt-4o", "gpt-4o"),
    ],
)
def test_on_azure_a_deployment_that_is_named_as_a_model_is_that_model(
    deployment: str, in_body: str, model: str
) -> None:
    path = f"/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21"
    body = json.dumps({"model": in_body, "messages": []}).encode()
    for host in ("acme.openai.azure.com", "gateway.example.org"):
        found = read(path, body, host=host)
        assert found is not None
        assert found.model == model


def test_on_bedrock_the_path_says_the_model_and_the_signed_body_stays() -> None:
    body = b'{ "anthropic_version": "bedrock-2023-05-31", "max_tokens": 50, "messages": ["one two"] }'
    path = "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke-with-response-stream"
    signed = "AWS4-HMAC-SHA256 Credential=AKIA/x"
    found = read(path, body, host="bedrock-runtime.us-east-1.amazonaws.com", authorization=signed)
    assert found is not None
    assert (found.provider, found.model) == ("aws", "anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert found.outgoing(50).body == body


class TestUnknownFormats:
    def test_all_text_is_counted_and_nothing_changed(self) -> None:
        asked = generic("/v1/images/generations", prompt="one two", size="1024x1024")
        assert asked.max_output_tokens is None
        assert asked.count_input() >= 2
        assert asked.outgoing(5).body == asked.outgoing(None).body

    def test_a_file_in_base64_is_an_attachment(self) -> None:
        asked = generic("/v1/ocr", document={"url": "data:application/pdf;base64," + "A" * 100_000})
        assert asked.count_input() == tokens.TOKENS_PER_FILE

    def test_usage_is_read_where_it_stands_by_custom(self) -> None:
        usage = {"input_tokens": 50, "output_tokens": 4_000, "total_tokens": 4_050}
        pictures = {"output_image_tokens": 4_000}
        expected = Usage(input_tokens=50, output_tokens=4_000, quantities=pictures)
        whole = generic("/v1/images/generations").reader()
        whole.feed(json.dumps({"data": [{"b64_json": "A" * 5_000}], "usage": usage}).encode())
        whole.finish()
        assert whole.figures() == expected
        streamed = generic("/v1/images/generations", stream=True).reader()
        event = {"type": "image_generation.completed", "b64_json": "A" * 5_000, "usage": usage}
        streamed.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
        streamed.finish()
        assert streamed.figures() == expected

    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            # Bedrock's converse: its input contains nothing of the cache.
            (
                {"inputTokens": 30, "outputTokens": 628, "totalTokens": 658},
                Usage(input_tokens=30, output_tokens=628),
            ),
            (
                {
                    "inputTokens": 30,
                    "outputTokens": 628,
                    "totalTokens": 773,
                    "cacheReadInputTokens": 100,
                    "cacheWriteInputTokens": 15,
                },
                Usage(input_tokens=145, output_tokens=628, cached_input_tokens=100, cache_write_tokens=15),
            ),
            # Cohere's chat: what is billed, else what was used.
            (
                {
                    "billed_units": {"input_tokens": 5, "output_tokens": 418},
                    "tokens": {"input_tokens": 71, "output_tokens": 418},
                    "cached_tokens": 3,
                },
                Usage(input_tokens=5, output_tokens=418, cached_input_tokens=3),
            ),
            (
                {"tokens": {"input_tokens": 71.0, "output_tokens": 418.0}, "cached_tokens": 80},
                Usage(input_tokens=71, output_tokens=418, cached_input_tokens=71),
            ),
        ],
    )
    def test_figures_are_read_in_the_words_of_cohere_and_bedrock(
        self, usage: dict[str, Any], expected: Usage
    ) -> None:
        for path in ("/v2/chat", "/model/m/converse"):
            reader = generic(path, messages=[{"role": "user", "content": "hi"}]).reader()
            reader.feed(json.dumps({"id": "c1", "usage": usage}).encode())
            reader.finish()
            assert reader.figures() == expected
        streamed = generic("/v2/chat", stream=True).reader()
        event = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}}
        streamed.feed(b"event: message-end\ndata: " + json.dumps(event).encode() + b"\n\n")
        streamed.finish()
        assert streamed.figures() == expected

    @pytest.mark.parametrize(
        ("units", "expected"),
        [
            ({"input_tokens": 5, "output_tokens": 9}, Usage(input_tokens=5, output_tokens=9)),
            # Embeddings; a picture is billed as tokens of its own.
            ({"input_tokens": 5}, Usage(input_tokens=5, output_tokens=0)),
            (
                {"input_tokens": 5, "image_tokens": 300},
                Usage(input_tokens=305, output_tokens=0, quantities={"input_image_tokens": 300}),
            ),
            # Ranks are billed by search alone.
            ({"search_units": 1}, Usage(input_tokens=0, output_tokens=0, quantities={"rerank_searches": 1})),
            ({"input_tokens": "x"}, None),
        ],
    )
    def test_cohere_says_what_it_bills_beside_its_other_answers(
        self, units: dict[str, Any], expected: Usage | None
    ) -> None:
        reader = generic("/v2/embed", texts=["one two"]).reader()
        reader.feed(json.dumps({"meta": {"api_version": {"version": "2"}, "billed_units": units}}).encode())
        reader.finish()
        assert reader.figures() == expected

    def test_an_answer_without_figures_is_charged_as_much_as_its_cap_lets_it_use(self) -> None:
        for path, host in (("/v2/chat", "api.cohere.com"), ("/model/m/converse", OPENAI)):
            for stream in (False, True):
                body = json.dumps({"model": "some-model", "messages": [], "stream": stream}).encode()
                found = read(path, body, host=host)
                assert found is not None
                reader = found.reader()
                reader.feed(b'data: {"type": "x"}\n\n' if stream else b'{"message": {"content": "x"}}')
                reader.finish()
                assert (reader.figures(), reader.counted()) == (None, None)

    @pytest.mark.parametrize(
        ("path", "answer"),
        [
            ("/llm/ask", {"choices": [{"message": {"content": "one two"}}]}),
            ("/llm/ask", {"choices": [{"message": {"content": "one two"}}], "usage": None}),
            ("/v2/generate", {"text": "one two"}),
            ("/v1/complete", {"completion": "one two"}),
            ("/v1/agents/sessions", {"id": "s1", "status": "running"}),
            ("/model/meta.llama3/invoke", {"generation": "one two"}),
        ],
    )
    def test_an_answer_without_figures_may_have_used_all_that_is_held(
        self, path: str, answer: dict[str, Any]
    ) -> None:
        whole = json.dumps(answer).encode()
        for raw in (whole, b"data: " + whole + b"\n\n", whole + b"\n" + whole + b"\n", b"one two"):
            reader = generic(path, prompt="hi", max_tokens=800).reader()
            reader.feed(raw)
            reader.finish()
            assert (reader.figures(), reader.counted()) == (None, None)

    @pytest.mark.parametrize(
        ("path", "model"),
        [
            ("/v1/images/generations", "dall-e-3"),
            ("/v1/images/generations", "grok-2-image"),
            ("/v1/audio/transcriptions", "whisper-1"),
            ("/v1/videos", "sora-2"),
            ("/v1/ocr", "mistral-ocr-latest"),
            ("/v2/rerank", "rerank-v3.5"),
            ("/v2/embed", "embed-v4.0"),
            ("/api/embed", "nomic-embed-text"),
            ("/v1/multimodalembeddings", "voyage-multimodal-3"),
            ("/v1/vector_stores/vs_1/search", "some-model"),
            ("/v1beta/cachedContents", "gemini-2.5-flash"),
            ("/v1beta/models/imagen-4.0-generate-001:predict", "imagen-4.0-generate-001"),
            ("/v1/projects/p/locations/l/publishers/google/models/veo-3:predictLongRunning", "veo-3"),
            ("/model/amazon.titan-embed-text-v2%3A0/invoke", "amazon.titan-embed-text-v2:0"),
            ("/model/cohere.rerank-v3-5%3A0/invoke", "cohere.rerank-v3-5:0"),
        ],
    )
    def test_what_is_billed_by_piece_has_no_output_however_it_ends(self, path: str, model: str) -> None:
        asked = generic(path, model=model, prompt="one two")
        expected = Usage(input_tokens=asked.count_input(), output_tokens=0, source="estimated")
        for raw in (b'{"data": []}', b'{"data": ["cu'):
            reader = asked.reader()
            reader.feed(raw)
            assert (reader.figures(), reader.counted()) == (None, expected)
            reader.finish()
            assert (reader.figures(), reader.counted()) == (None, expected)

    @pytest.mark.parametrize(
        ("path", "model"),
        [
            ("/v1/images/generations", "gpt-image-1"),
            ("/v1/images/edits", "openai/chatgpt-image-latest"),
            ("/v1/images/generations", "gemini-2.5-flash-image"),
            ("/v1/images/generations", UNSPECIFIED),
            ("/v1/audio/speech", "gpt-4o-mini-tts"),
            ("/v1/audio/speech", "a-deployment"),
            ("/v1/audio/transcriptions", "gpt-4o-transcribe"),
            ("/v1/projects/p/locations/l/endpoints/7:predict", "7"),
        ],
    )
    def test_pictures_and_sound_of_models_that_bill_tokens_may_have_used_all_that_is_held(
        self, path: str, model: str
    ) -> None:
        for raw in (b'{"data": []}', b"one two three", b"\xff\xf3\0"):
            reader = generic(path, model=model, input="one two").reader()
            reader.feed(raw)
            reader.finish()
            assert (reader.figures(), reader.counted()) == (None, None)

    def test_ollama_counts_beside_its_answer(self) -> None:
        counts = {"done": True, "prompt_eval_count": 26, "eval_count": 401}
        said = Usage(input_tokens=26, output_tokens=401)
        words = [{"message": {"role": "assistant", "content": "word "}, "done": False}] * 3
        whole = json.dumps({"message": {"role": "assistant", "content": "words"}} | counts).encode()
        stream = b"".join(json.dumps(line).encode() + b"\n" for line in (*words, counts))
        for raw in (whole, stream, stream.rstrip()):
            for cut in (0, 1, 70, len(raw) - 1):
                reader = generic("/api/chat", messages=[{"role": "user", "content": "hi"}]).reader()
                assert reader.feed(raw[:cut]) + reader.feed(raw[cut:]) + reader.finish() == raw
                assert (reader.figures(), reader.ending()) == (said, Ending.COMPLETE)

    def test_of_a_prompt_that_ollama_had_read_before_it_says_the_output_alone(self) -> None:
        asked = generic("/api/generate", prompt="one two")
        reader = asked.reader()
        reader.feed(b'{"response": "words", "done": true, "eval_count": 401}')
        reader.finish()
        assert reader.figures() is None
        assert reader.counted() == Usage(input_tokens=2, output_tokens=401, source="estimated")

    def test_a_stream_of_lines_that_was_cut_may_have_used_all_that_is_held(self) -> None:
        reader = generic("/api/chat", messages=[]).reader()
        reader.feed(b'{"message": {"content": "word "}, "done": false}\n' * 3)
        assert (reader.figures(), reader.counted()) == (None, None)

    def test_bytes_of_a_sound_are_no_text(self) -> None:
        asked = generic("/v1/audio/speech", model="tts-1", input="one two")
        reader = asked.reader()
        sound = b"\xff\xf3" + b"\x00abc" * 10_000
        assert reader.feed(sound) == sound
        reader.finish()
        assert reader.figures() is None
        characters = {"input_characters": len("one two")}
        assert reader.counted() == Usage(
            input_tokens=0, output_tokens=0, quantities=characters, source="estimated"
        )

    @pytest.mark.parametrize(("model", "text"), [("gpt-4o-mini-tts", "one two"), ("tts-1", 7), ("tts-1", "")])
    def test_only_models_that_bill_characters_are_charged_them(self, model: str, text: Any) -> None:
        assert not any(generic("/v1/audio/speech", model=model, input=text).pieces().values())

    def test_characters_of_a_long_text_are_counted_too(self) -> None:
        text = "word " * 60_000
        assert generic("/v1/audio/speech", model="tts-1-hd", input=text).pieces() == {
            "input_characters": len(text)
        }

    def test_its_refusal_has_openais_shape(self) -> None:
        assert generic("/x").refusal("No.", "blocked")["error"]["type"] == "ai_usage_blocked"


def form(*parts: tuple[str, bytes], boundary: str = "b0undary") -> bytes:
    written = [
        f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + value + b"\r\n"
        for name, value in parts
    ]
    return b"".join(written) + f"--{boundary}--\r\n".encode()


class TestForms:
    FILE = ('name="file"; filename="talk.mp3"', b'\x00\r\n\r\nname="model"\r\n\r\nother' * 20)
    MODEL = ('name="model"', b"gpt-4o-transcribe")

    def read(
        self, body: bytes, content_type: str = "multipart/form-data; boundary=b0undary"
    ) -> ProviderCall | None:
        return read("/v1/audio/transcriptions", body, content_type=content_type)

    def test_the_model_is_read_and_the_recording_left_alone(self) -> None:
        body = form(self.FILE, self.MODEL)
        found = self.read(body)
        assert found is not None
        assert (found.model, found.provider, found.streams) == ("gpt-4o-transcribe", "openai", False)
        assert (found.count_input(), found.max_output_tokens) == (0, None)
        assert found.outgoing(5).body == body

    def test_a_form_may_ask_for_a_stream(self) -> None:
        found = self.read(form(self.MODEL, ('name="stream"', b"true"), self.FILE))
        assert found is not None
        assert found.streams
        reader = found.reader()
        usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
        reader.feed(
            b"data: " + json.dumps({"type": "transcript.text.done", "usage": usage}).encode() + b"\n\n"
        )
        reader.finish()
        assert reader.figures() == Usage(input_tokens=14, output_tokens=45)

    @pytest.mark.parametrize("word", [b"false", b"0", b""])
    def test_a_form_may_say_that_it_wants_no_stream(self, word: bytes) -> None:
        found = self.read(form(self.MODEL, ('name="stream"', word)))
        assert found is not None
        assert not found.streams

    def test_a_file_is_no_field(self) -> None:
        found = self.read(form(('name="model"; filename="model"', b"gpt-4o")))
        assert found is not None
        assert found.model == UNSPECIFIED

    def test_a_form_may_name_no_model(self) -> None:
        body = form(('name="prompt"', b"a cat"), self.FILE)
        found = read("/v1/images/edits", body, content_type="multipart/form-data; boundary=b0undary")
        assert found is not None
        assert (found.model, found.outgoing(5).body) == (UNSPECIFIED, body)

    def test_a_form_on_an_unknown_path_is_a_call_if_it_names_a_model(self) -> None:
        content_type = "multipart/form-data; boundary=b0undary"
        assert read("/v1/audio/voices", form(self.MODEL), content_type=content_type) is not None
        assert read("/v1/audio/voices", form(self.FILE), content_type=content_type) is None

    def test_a_boundary_may_be_quoted(self) -> None:
        found = self.read(form(self.MODEL), 'Multipart/Form-Data; charset=utf-8; boundary="b0undary"')
        assert found is not None

    @pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary="])
    def test_a_form_without_boundary_cannot_be_read(self, content_type: str) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read"):
            self.read(form(self.MODEL), content_type)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"--b0undary",
            b"junk",
            form(("name=", b"x"), ("", b"")),
            form(MODEL).replace(b"\r\n", b"\n"),
            form(MODEL).removesuffix(b"--b0undary--\r\n"),
            form(MODEL, ('name="model"', b"whisper-1")),
            form(*[MODEL] * 2_000),
        ],
    )
    def test_a_broken_form_cannot_be_read(self, body: bytes) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read"):
            self.read(body)
