"""The request that a chat sends to each provider, and what is read of its answer."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil import ConfigurationError
from tokvigil.chatting import ChatRequest
from tokvigil.chatting.formats import FORMATS
from tokvigil.dialects import ProviderCall, read_call

OPENAI, CLAUDE, GEMINI = "gpt-4o", "claude-sonnet-4-5", "gemini-2.5-flash"
MESSAGES = [{"role": "user", "content": "How long is the Danube?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
# A conversation with all that OpenAI's format can say.
HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "developer", "content": [{"type": "text", "text": "No jokes."}]},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this, and is it warm in Wien and Linz?"},
            {"type": "image_url", "image_url": {"url": PIXEL}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg?size=1", "detail": "low"}},
        ],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"place": "Wien"}'},
            },
            {"id": "c2", "type": "function", "function": {"name": "here", "arguments": ""}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": '{"celsius": 21}'},
    {"role": "tool", "tool_call_id": "c2", "content": "unknown"},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Warm."},
]


def build(model: str = OPENAI, **arguments: Any) -> ChatRequest:
    return ChatRequest.build(**({"model": model, "messages": MESSAGES, "environment": {}} | arguments))


def body(model: str = OPENAI, **arguments: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(build(model, **arguments).body)
    return fields


def as_call(request: ChatRequest) -> ProviderCall:
    """The request as the guard sees it."""
    url = urlsplit(request.url)
    call = read_call("POST", f"{url.path}?{url.query}", url.netloc, request.headers, request.body)
    assert call is not None
    return call


class TestProvider:
    @pytest.mark.parametrize(
        ("arguments", "provider"),
        [
            ({"model": "gpt-4o"}, "openai"),
            ({"model": "llama-3.3-70b"}, "openai"),
            ({"model": "Claude-Sonnet-4-5"}, "anthropic"),
            ({"model": "gemini-2.5-flash"}, "google"),
            # An address that was given is OpenAI-compatible, whatever runs behind it.
            ({"model": "claude-sonnet-4-5", "base_url": "http://gateway/v1"}, "openai"),
            (
                {"model": "claude-sonnet-4-5", "base_url": "http://gateway", "provider": "anthropic"},
                "anthropic",
            ),
        ],
    )
    def test_it_is_chosen_by_argument_address_and_model(self, arguments: Any, provider: str) -> None:
        assert build(**arguments).format is FORMATS[provider]

    @pytest.mark.parametrize(
        ("model", "stream", "url"),
        [
            (OPENAI, False, "https://api.openai.com/v1/chat/completions"),
            (CLAUDE, True, "https://api.anthropic.com/v1/messages"),
            (
                GEMINI,
                False,
                "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
            ),
            (
                GEMINI,
                True,
                "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash"
                ":streamGenerateContent?alt=sse",
            ),
        ],
    )
    def test_each_has_its_address(self, model: str, stream: bool, url: str) -> None:
        assert build(model, stream=stream).url == url

    @pytest.mark.parametrize(
        ("provider", "base_url", "url"),
        [
            ("openai", "http://localhost:11434/v1/", "http://localhost:11434/v1/chat/completions"),
            ("anthropic", "http://gateway/claude", "http://gateway/claude/v1/messages"),
            ("anthropic", "http://gateway/v1", "http://gateway/v1/messages"),
            ("google", "http://gateway", "http://gateway/v1beta/models/m:generateContent"),
            ("google", "http://gateway/v1", "http://gateway/v1/models/m:generateContent"),
        ],
    )
    def test_an_address_may_have_its_version_and_a_slash(
        self, provider: str, base_url: str, url: str
    ) -> None:
        assert build("m", provider=provider, base_url=base_url).url == url

    def test_a_tuned_model_keeps_its_path_and_no_name_leaves_it(self) -> None:
        assert "/v1beta/tunedModels/mine:gen" in build("tunedModels/mine", provider="google").url
        assert "/v1beta/models/a%3Fb%23c:gen" in build("a?b#c", provider="google").url

    def test_the_environment_names_address_and_key(self) -> None:
        environment = {
            "OPENAI_BASE_URL": "http://openai.test/v1",
            "OPENAI_API_KEY": "sk-1\n",
            "ANTHROPIC_BASE_URL": "http://anthropic.test",
            "ANTHROPIC_API_KEY": "sk-ant-1",
            "GOOGLE_GEMINI_BASE_URL": "http://gemini.test",
            "GOOGLE_API_KEY": "AIza-1",
        }
        openai, claude, gemini = (build(model, environment=environment) for model in (OPENAI, CLAUDE, GEMINI))
        assert openai.url.startswith("http://openai.test/v1/chat")
        assert claude.url.startswith("http://anthropic.test/v1/messages")
        assert gemini.url.startswith("http://gemini.test/v1beta/")
        assert openai.headers["Authorization"] == "Bearer sk-1"
        assert (claude.headers["x-api-key"], claude.headers["anthropic-version"]) == (
            "sk-ant-1",
            "2023-06-01",
        )
        assert gemini.headers["x-goog-api-key"] == "AIza-1"
        both = build(GEMINI, environment=environment | {"GEMINI_API_KEY": "AIza-2"})
        assert both.headers["x-goog-api-key"] == "AIza-2"

    def test_arguments_go_before_the_environment(self) -> None:
        environment = {"OPENAI_BASE_URL": "http://a/v1", "OPENAI_API_KEY": "a"}
        request = build(base_url="http://b/v1", api_key="b", environment=environment)
        assert (request.url, request.headers["Authorization"]) == ("http://b/v1/chat/completions", "Bearer b")

    def test_one_providers_key_never_goes_to_another(self) -> None:
        environment = {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-ant-1", "GEMINI_API_KEY": "AIza-1"}
        for model, own in ((OPENAI, "sk-1"), (CLAUDE, "sk-ant-1"), (GEMINI, "AIza-1")):
            sent = " ".join(build(model, environment=environment).headers.values())
            assert [key for key in environment.values() if key in sent.split()] == [own]

    @pytest.mark.parametrize("model", [OPENAI, CLAUDE, GEMINI])
    def test_without_a_key_none_is_sent(self, model: str) -> None:
        """A server of one's own may need none."""
        assert not {"Authorization", "x-api-key", "x-goog-api-key"} & build(model).headers.keys()

    def test_keys_and_prompts_are_not_shown(self) -> None:
        shown = repr(build(api_key="sk-secret"))
        assert "sk-secret" not in shown
        assert "Danube" not in shown


class TestWhatCannotWork:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"max_output_tokens": 5, "options": {"max_tokens": 5}},
            {"options": {"max_tokens": 5, "max_completion_tokens": 5}},
            {"model": CLAUDE, "max_output_tokens": 5, "options": {"max_tokens": 5}},
            {"model": GEMINI, "max_output_tokens": 5, "options": {"maxOutputTokens": 5}},
            {
                "model": GEMINI,
                "max_output_tokens": 5,
                "options": {"generationConfig": {"maxOutputTokens": 5}},
            },
            {"model": GEMINI, "options": {"temperature": 1, "generationConfig": {"temperature": 1}}},
            {"model": CLAUDE, "messages": HISTORY, "options": {"system": "x"}},
            {"options": {"messages": []}},
            {"options": {"user": object()}},
            {"options": {"temperature": float("nan")}},
            {"messages": [object()]},
            {"messages": "text"},
            {"tools": ["weather"]},
            {"provider": "groq"},
            {"base_url": "api.openai.com"},
            {"api_key": "sk 1"},
        ],
    )
    def test_it_is_refused_before_anything_is_held(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            build(**arguments)

    @pytest.mark.parametrize("model", [CLAUDE, GEMINI])
    def test_arguments_of_a_call_must_be_an_object(self, model: str) -> None:
        """A model may have written anything; only OpenAI takes it back as it was."""
        call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{oops"}}
        messages = [*MESSAGES, {"role": "assistant", "tool_calls": [call]}]
        with pytest.raises(ConfigurationError, match="weather"):
            build(model, messages=messages)
        assert build(OPENAI, messages=messages)

    def test_gemini_needs_the_name_of_the_function_that_answered(self) -> None:
        messages = [*MESSAGES, {"role": "tool", "tool_call_id": "lost", "content": "x"}]
        with pytest.raises(ConfigurationError, match="name"):
            build(GEMINI, messages=messages)
        assert build(GEMINI, messages=[*MESSAGES, {"role": "tool", "name": "weather", "content": "x"}])

    def test_a_nested_message_that_json_cannot_hold_is_refused(self) -> None:
        deep: Any = {}
        deep["again"] = deep
        with pytest.raises(ConfigurationError):
            build(options={"metadata": deep})


class TestCaps:
    @pytest.mark.parametrize(
        ("model", "cap"), [(OPENAI, "max_tokens"), ("o3", "max_completion_tokens"), (CLAUDE, "max_tokens")]
    )
    def test_it_goes_under_the_name_that_the_model_takes(self, model: str, cap: str) -> None:
        assert body(model, max_output_tokens=70)[cap] == 70
        assert body(model, options={"max_tokens": 70})["max_tokens"] == 70

    def test_geminis_stands_among_its_configuration(self) -> None:
        assert body(GEMINI, max_output_tokens=70)["generationConfig"] == {"maxOutputTokens": 70}

    def test_none_is_invented_but_where_one_is_required(self) -> None:
        assert "max_tokens" not in body(OPENAI, options={"max_tokens": None})
        assert "generationConfig" not in body(GEMINI)
        assert body(CLAUDE)["max_tokens"] == body(CLAUDE, options={"max_tokens": None})["max_tokens"] == 1_024

    def test_the_default_leaves_room_after_thinking(self) -> None:
        thinking = {"type": "enabled", "budget_tokens": 2_000}
        assert body(CLAUDE, options={"thinking": thinking})["max_tokens"] == 3_024

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("model", [OPENAI, CLAUDE, GEMINI])
    def test_the_guard_reads_what_was_built(self, model: str, stream: bool) -> None:
        request = build(model, max_output_tokens=70, stream=stream, messages=HISTORY, tools=[WEATHER])
        call = as_call(request)
        assert call.model == model
        assert FORMATS[call.provider or ""] is request.format
        assert (call.max_output_tokens, call.streams) == (70, stream)
        assert call.count_input() > 50


class TestOpenAI:
    def test_messages_and_options_go_as_they_are(self) -> None:
        sent = body(messages=HISTORY, tools=[WEATHER], stream=True, options={"temperature": 0.5, "n": 2})
        assert sent == {
            "model": OPENAI,
            "messages": HISTORY,
            "tools": [WEATHER],
            "stream": True,
            "temperature": 0.5,
            "n": 2,
        }

    def test_what_was_not_asked_for_is_not_sent(self) -> None:
        assert body() == {"model": OPENAI, "messages": MESSAGES}

    def test_messages_may_come_from_a_generator(self) -> None:
        assert body(messages=(message for message in MESSAGES))["messages"] == MESSAGES


class TestAnthropic:
    def test_a_conversation_is_translated(self) -> None:
        sent = body(CLAUDE, messages=HISTORY, tools=[WEATHER], options={"temperature": 0.5})
        assert sent == {
            "model": CLAUDE,
            "max_tokens": 1_024,
            "temperature": 0.5,
            "system": [
                {"type": "text", "text": "Answer in one word."},
                {"type": "text", "text": "No jokes."},
            ],
            "tools": [
                {
                    "name": "weather",
                    "description": "Weather of a place",
                    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
                }
            ],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this, and is it warm in Wien and Linz?"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                        },
                        {
                            "type": "image",
                            "source": {"type": "url", "url": "https://example.org/a.jpg?size=1"},
                        },
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"place": "Wien"}},
                        {"type": "tool_use", "id": "c2", "name": "here", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "c1",
                            "content": [{"type": "text", "text": '{"celsius": 21}'}],
                        },
                        {
                            "type": "tool_result",
                            "tool_use_id": "c2",
                            "content": [{"type": "text", "text": "unknown"}],
                        },
                        {"type": "text", "text": "And now?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "Warm."}]},
            ],
        }

    def test_its_own_blocks_and_tools_go_as_they_are(self) -> None:
        document = {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}}
        cached = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
        search = {"type": "web_search_20250305", "name": "web_search"}
        sent = body(CLAUDE, messages=[{"role": "user", "content": [document, cached]}], tools=[search])
        assert sent["messages"] == [{"role": "user", "content": [document, cached]}]
        assert sent["tools"] == [search]

    def test_empty_texts_which_it_refuses_are_left_out(self) -> None:
        messages = [*MESSAGES, {"role": "assistant", "content": ""}, {"role": "user", "content": "?"}]
        sent = body(CLAUDE, messages=messages)["messages"]
        assert [turn["role"] for turn in sent] == ["user"]
        assert [block["text"] for block in sent[0]["content"]] == ["How long is the Danube?", "?"]

    def test_a_function_without_parameters_takes_none(self) -> None:
        tool = {"type": "function", "function": {"name": "here"}}
        assert body(CLAUDE, tools=[tool])["tools"] == [
            {"name": "here", "input_schema": {"type": "object", "properties": {}}}
        ]


class TestGoogle:
    def test_a_conversation_is_translated(self) -> None:
        sent = body(GEMINI, messages=HISTORY, tools=[WEATHER])
        assert sent == {
            "systemInstruction": {"parts": [{"text": "Answer in one word."}, {"text": "No jokes."}]},
            "tools": [
                {
                    "functionDeclarations": [
                        {
                            "name": "weather",
                            "description": "Weather of a place",
                            "parametersJsonSchema": {
                                "type": "object",
                                "properties": {"place": {"type": "string"}},
                            },
                        }
                    ]
                }
            ],
            "contents": [
                {
                    "role": "user",
                    "parts": [
                        {"text": "What is this, and is it warm in Wien and Linz?"},
                        {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
                        {
                            "fileData": {
                                "mimeType": "image/jpeg",
                                "fileUri": "https://example.org/a.jpg?size=1",
                            }
                        },
                    ],
                },
                {
                    "role": "model",
                    "parts": [
                        {"functionCall": {"name": "weather", "args": {"place": "Wien"}}},
                        {"functionCall": {"name": "here", "args": {}}},
                    ],
                },
                {
                    "role": "user",
                    "parts": [
                        {"functionResponse": {"name": "weather", "response": {"celsius": 21}}},
                        {"functionResponse": {"name": "here", "response": {"result": "unknown"}}},
                        {"text": "And now?"},
                    ],
                },
                {"role": "model", "parts": [{"text": "Warm."}]},
            ],
        }

    def test_options_of_the_generation_go_into_its_configuration(self) -> None:
        options = {
            "temperature": 0.5,
            "top_p": 0.9,
            "responseMimeType": "application/json",
            "generation_config": {"topK": 3},
            "safetySettings": [],
        }
        sent = body(GEMINI, options=options, max_output_tokens=70)
        assert sent["generationConfig"] == {
            "maxOutputTokens": 70,
            "temperature": 0.5,
            "topP": 0.9,
            "responseMimeType": "application/json",
            "topK": 3,
        }
        assert sent["safetySettings"] == []

    def test_its_own_parts_and_tools_go_as_they_are(self) -> None:
        part = {"fileData": {"fileUri": "gs://b/o"}}
        sent = body(GEMINI, messages=[{"role": "user", "content": [part]}], tools=[{"google_search": {}}])
        assert sent["contents"] == [{"role": "user", "parts": [part]}]
        assert sent["tools"] == [{"google_search": {}}]

    def test_the_signature_of_a_thought_goes_back_with_its_call(self) -> None:
        call = {
            "id": "c",
            "type": "function",
            "function": {"name": "here", "arguments": "{}"},
            "extra_content": {"google": {"thought_signature": "c2ln"}},
        }
        sent = body(GEMINI, messages=[*MESSAGES, {"role": "assistant", "tool_calls": [call]}])
        assert sent["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"


ANSWERS: dict[str, dict[str, Any]] = {
    "openai": {
        "model": "gpt-4o-2024-08-06",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "2,850 km."}, "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": "Long."}, "finish_reason": "length"},
        ],
    },
    "anthropic": {
        "type": "message",
        "model": "claude-sonnet-4-5-20250929",
        "content": [
            {"type": "thinking", "thinking": "Hm."},
            {"type": "text", "text": "2,850 "},
            {"type": "text", "text": "km."},
        ],
        "stop_reason": "end_turn",
    },
    "google": {
        "modelVersion": "gemini-2.5-flash",
        "candidates": [
            {
                "content": {"parts": [{"text": "Hm.", "thought": True}, {"text": "2,850 "}, {"text": "km."}]},
                "finishReason": "STOP",
            }
        ],
    },
}
STREAMS: dict[str, list[dict[str, Any]]] = {
    "openai": [
        {
            "model": "gpt-4o-2024-08-06",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}],
        },
        {"choices": [{"index": 0, "delta": {"content": "2,850 "}}]},
        {"choices": [{"index": 1, "delta": {"content": "Long."}}]},
        {"choices": [{"index": 0, "delta": {"content": "km."}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ],
    "anthropic": [
        {"type": "message_start", "message": {"model": "claude-sonnet-4-5-20250929", "content": []}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm."}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "2,850 "}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "km."}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ],
    "google": [
        {"candidates": [{"content": {"parts": [{"text": "Hm.", "thought": True}, {"text": "2,850 "}]}}]},
        {"candidates": [{"index": 1, "content": {"parts": [{"text": "Long."}]}}]},
        {
            "modelVersion": "gemini-2.5-flash",
            "candidates": [{"index": 0, "content": {"parts": [{"text": "km."}]}, "finishReason": "STOP"}],
        },
    ],
}
SAYS = {
    "openai": ("stop", "gpt-4o-2024-08-06"),
    "anthropic": ("end_turn", "claude-sonnet-4-5-20250929"),
    "google": ("STOP", "gemini-2.5-flash"),
}


@pytest.mark.parametrize("provider", ANSWERS)
def test_an_answer_says_its_text_its_end_and_its_model(provider: str) -> None:
    answer, format_ = ANSWERS[provider], FORMATS[provider]
    assert format_.is_answer(answer)
    assert format_.text(answer) == "2,850 km."
    assert (format_.finish_reason(answer), format_.model_name(answer)) == SAYS[provider]


@pytest.mark.parametrize("provider", STREAMS)
def test_a_stream_says_its_text_and_its_end_event_by_event(provider: str) -> None:
    events, format_ = STREAMS[provider], FORMATS[provider]
    assert "".join(format_.text_delta(event) for event in events) == "2,850 km."
    ends = [end for event in events if (end := format_.finish_reason(event))]
    assert ends == [SAYS[provider][0]]


@pytest.mark.parametrize("provider", ANSWERS)
def test_an_error_is_no_answer(provider: str) -> None:
    format_ = FORMATS[provider]
    assert not format_.is_answer({"error": {"message": "overloaded"}})
    assert not format_.is_answer(ANSWERS[provider] | {"error": {"message": "overloaded"}})
    assert not format_.is_answer({})


def test_a_prompt_that_google_blocks_is_answered_without_text() -> None:
    answer, format_ = {"promptFeedback": {"blockReason": "SAFETY"}}, FORMATS["google"]
    assert format_.is_answer(answer)
    assert (format_.text(answer), format_.finish_reason(answer)) == ("", "SAFETY")


NAMES = [
    *("choices", "message", "delta", "content", "text", "index", "finish_reason", "stop_reason", "model"),
    *("type", "candidates", "parts", "role", "finishReason", "function", "arguments", "image_url", "url"),
]
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.just("content_block_delta"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6))
def test_no_answer_makes_reading_fail(answer: dict[str, Any]) -> None:
    for format_ in FORMATS.values():
        assert isinstance(format_.is_answer(answer), bool)
        assert isinstance(format_.text(answer) + format_.text_delta(answer), str)
        assert isinstance(format_.finish_reason(answer), str | None)
        assert isinstance(format_.model_name(answer), str | None)


@given(
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "name"]), JSON), max_size=3)
)
def test_messages_of_any_shape_are_sent_or_refused(messages: list[dict[str, Any]]) -> None:
    for model in (OPENAI, CLAUDE, GEMINI):
        try:
            request = build(model, messages=messages)
        except ConfigurationError:
            continue
        assert as_call(request).count_input() >= 0
