"""Which requests are AI calls, and whose."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil import ConfigurationError, Usage, prices, tokens
from tokvigil.dialects import ProviderCall, read_call
from tokvigil.dialects.providers import PROVIDERS_BY_DOMAIN, provider_of

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
        "/v1/threads/thread_1/runs",
        "/a/path/of/tomorrow",
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
        "/v1beta/batches/1:cancel",
        "/v1/messages/batches/b/cancel",
        "/v1/fine_tuning/jobs",
        "/v1/vector_stores",
        "/v1/vector_stores/vs_1/file_batches",
        "/v1/assistants",
        "/v1/threads/thread_1/messages",
        "/v1/files",
        "/v1/uploads",
        "/v1/realtime/sessions",
        "/v1beta/cachedContents",
        "/v1/projects/p/locations/l/tuningJobs",
    ],
)
def test_what_costs_no_tokens_is_no_call(path: str) -> None:
    assert read(path) is None


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "PUT", "HEAD", "OPTIONS"])
def test_only_a_post_is_a_call(method: str) -> None:
    assert read_call(method, "/v1/chat/completions", OPENAI, {}, BODY) is None
    assert read_call("post", "/v1/chat/completions", OPENAI, {}, BODY) is not None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/batches",
        "/v1/messages/batches",
        "/v1/messages/batches?beta=true",
        "/v1beta/models/gemini-2.5-flash:batchGenerateContent",
        "/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent",
        "/v1/projects/p/locations/l/batchPredictionJobs",
    ],
)
def test_a_batch_cannot_be_settled_and_the_error_names_the_mend(path: str) -> None:
    with pytest.raises(ConfigurationError, match="one by one"):
        read(path)


def test_a_body_that_cannot_be_read_is_not_let_through_unseen() -> None:
    with pytest.raises(ConfigurationError, match="compressed"):
        read("/v1/chat/completions", b"\x1f\x8b", content_encoding="gzip")
    assert read("/v1/chat/completions", content_encoding="identity") is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"model"',
        b"{}",
        b'{"model": null}',
        b'{"model": 7}',
        b'{"model": ""}',
        b'{"model": "  "}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": ' * 100_000,
        b'{"model": "x", "n": 1' + b"0" * 5_000 + b"}",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/images/generations"])
def test_without_a_usable_model_it_is_left_to_the_provider(path: str, body: bytes) -> None:
    assert read(path, body) is None


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
    json.loads(found.body(7))
    for stream in (json.dumps(answer).encode(), b"data: " + json.dumps(answer).encode() + b"\n\n"):
        reader = found.reader()
        reader.feed(stream)
        reader.finish()
        reader.usage()
        assert reader.estimate().source == "estimated"


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
    assert set(PROVIDERS_BY_DOMAIN.values()) <= prices._book().providers


def test_on_azure_the_deployment_is_the_model_if_the_body_names_none() -> None:
    path = "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"
    found = read(path, b'{"messages": []}', host="acme.openai.azure.com")
    assert found is not None
    assert found.model == "my gpt"


def test_on_bedrock_the_path_says_the_model_and_the_signed_body_stays() -> None:
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", "messages": ["one two"]}).encode()
    path = "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke-with-response-stream"
    found = read(path, body, host="bedrock-runtime.us-east-1.amazonaws.com")
    assert found is not None
    assert (found.provider, found.model) == ("aws", "anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert found.body(1) == body


class TestUnknownFormats:
    def test_all_text_is_counted_and_nothing_changed(self) -> None:
        asked = generic("/v1/images/generations", prompt="one two", size="1024x1024")
        assert asked.max_output_tokens is None
        assert asked.count_input() >= 2
        assert asked.body(5) == asked.body(None)

    def test_a_file_in_base64_is_an_attachment(self) -> None:
        asked = generic("/v1/ocr", document={"url": "data:application/pdf;base64," + "A" * 100_000})
        assert asked.count_input() == tokens.TOKENS_PER_ATTACHMENT

    def test_usage_is_read_where_it_stands_by_custom(self) -> None:
        usage = {"input_tokens": 50, "output_tokens": 4_000, "total_tokens": 4_050}
        expected = Usage(input_tokens=50, output_tokens=4_000)
        whole = generic("/v1/images/generations").reader()
        whole.feed(json.dumps({"data": [{"b64_json": "A" * 5_000}], "usage": usage}).encode())
        whole.finish()
        assert whole.usage() == expected
        streamed = generic("/v1/images/generations", stream=True).reader()
        event = {"type": "image_generation.completed", "b64_json": "A" * 5_000, "usage": usage}
        streamed.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
        streamed.finish()
        assert streamed.usage() == expected

    def test_bytes_of_a_sound_are_no_text(self) -> None:
        asked = generic("/v1/audio/speech", input="one two")
        reader = asked.reader()
        sound = b"\xff\xf3" + b"\x00abc" * 10_000
        assert reader.feed(sound) == sound
        reader.finish()
        assert reader.usage() is None
        assert reader.estimate() == Usage(input_tokens=2, output_tokens=0, source="estimated")

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
        assert found.body(5) == body

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
        assert reader.usage() == Usage(input_tokens=14, output_tokens=45)

    def test_a_file_is_no_field(self) -> None:
        assert self.read(form(('name="model"; filename="model"', b"gpt-4o"))) is None

    def test_a_boundary_may_be_quoted(self) -> None:
        found = self.read(form(self.MODEL), 'Multipart/Form-Data; charset=utf-8; boundary="b0undary"')
        assert found is not None

    @pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary="])
    def test_a_form_without_boundary_is_no_call(self, content_type: str) -> None:
        assert self.read(form(self.MODEL), content_type) is None

    @pytest.mark.parametrize("body", [b"", b"--b0undary", b"junk", form(("name=", b"x"), ("", b""))])
    def test_a_broken_form_is_no_call(self, body: bytes) -> None:
        assert self.read(body) is None
