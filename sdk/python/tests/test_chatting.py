"""The request that a chat sends to each provider, and what is read of its answer."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil import ConfigurationError
from tokvigil.chatting import ChatRequest
from tokvigil.chatting.answer import CARRIED, Answer
from tokvigil.chatting.request import FORMATS
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
    return ChatRequest.build(**({"model": model, "messages": MESSAGES} | arguments))


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

    def test_the_environment_names_address_and_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = {
            "OPENAI_BASE_URL": "http://openai.test/v1",
            "OPENAI_API_KEY": "sk-1\n",
            "ANTHROPIC_BASE_URL": "http://anthropic.test",
            "ANTHROPIC_API_KEY": "sk-ant-1",
            "GOOGLE_GEMINI_BASE_URL": "http://gemini.test",
            "GOOGLE_API_KEY": "AIza-1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        openai, claude, gemini = (build(model) for model in (OPENAI, CLAUDE, GEMINI))
        assert openai.url.startswith("http://openai.test/v1/chat")
        assert claude.url.startswith("http://anthropic.test/v1/messages")
        assert gemini.url.startswith("http://gemini.test/v1beta/")
        assert openai.headers["Authorization"] == "Bearer sk-1"
        assert (claude.headers["x-api-key"], claude.headers["anthropic-version"]) == (
            "sk-ant-1",
            "2023-06-01",
        )
        assert gemini.headers["x-goog-api-key"] == "AIza-1"
        monkeypatch.setenv("GEMINI_API_KEY", "AIza-2")
        assert build(GEMINI).headers["x-goog-api-key"] == "AIza-2"

    def test_arguments_go_before_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://a/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "a")
        request = build(base_url="http://b/v1", api_key="b")
        assert (request.url, request.headers["Authorization"]) == ("http://b/v1/chat/completions", "Bearer b")

    def test_one_providers_key_never_goes_to_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-ant-1", "GEMINI_API_KEY": "AIza-1"}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for model, own in ((OPENAI, "sk-1"), (CLAUDE, "sk-ant-1"), (GEMINI, "AIza-1")):
            sent = " ".join(build(model).headers.values())
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
            {"model": ""},
            {"model": None},
            # The guard would not know these as AI calls, and they would go out unasked.
            {"model": "gemini:tuned", "provider": "google"},
            {"model": "gemini/tuned", "provider": "google"},
            {"base_url": "http://gateway/v1?version=1"},
            {"base_url": "http://gateway/v1#chat"},
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
            # As it was written: Google takes both spellings.
            "top_p": 0.9,
            "responseMimeType": "application/json",
            "topK": 3,
        }
        assert sent["safetySettings"] == []

    def test_its_own_parts_and_tools_go_as_they_are(self) -> None:
        part = {"fileData": {"fileUri": "gs://b/o"}}
        sent = body(GEMINI, messages=[{"role": "user", "content": [part]}], tools=[{"google_search": {}}])
        assert sent["contents"] == [{"role": "user", "parts": [part]}]
        assert sent["tools"] == [{"google_search": {}}]


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
        {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm."}},
        {"type": "content_block_stop"},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
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
MODELS = {
    "openai": "gpt-4o-2024-08-06",
    "anthropic": "claude-sonnet-4-5-20250929",
    "google": "gemini-2.5-flash",
}
# What a model that calls two tools at once says before, how it calls them, and how the answer comes.
CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Wien"}'}},
    {"id": "c2", "type": "function", "function": {"name": "here", "arguments": "{}"}},
]
THOUGHT = {"type": "thinking", "thinking": "Two calls.", "signature": "c2ln"}
CALLING: dict[str, dict[str, Any]] = {
    "openai": {
        "id": "a1",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Let me see.",
                    "refusal": None,
                    "tool_calls": CALLS,
                },
                "finish_reason": "tool_calls",
            }
        ],
    },
    "anthropic": {
        "id": "a1",
        "content": [
            THOUGHT,
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"place": "Wien"}},
            {"type": "tool_use", "id": "c2", "name": "here", "input": {}},
        ],
        "stop_reason": "tool_use",
    },
    "google": {
        "responseId": "a1",
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": "Two calls.", "thought": True},
                        {"text": "Let me see."},
                        {
                            "functionCall": {"id": "c1", "name": "weather", "args": {"place": "Wien"}},
                            "thoughtSignature": "c2ln",
                        },
                        {"functionCall": {"id": "c2", "name": "here", "args": {}}},
                    ]
                },
                "finishReason": "STOP",
            }
        ],
    },
}


def openai_delta(**delta: Any) -> dict[str, Any]:
    return {"id": "a1", "choices": [{"index": 0, "delta": delta}]}


def openai_call(number: int, arguments: str, **said: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": said.pop("name")} if "name" in said else {})
    return openai_delta(tool_calls=[{"index": number, "function": function, **said}])


def anthropic_block(block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "content_block": block},
        *({"type": "content_block_delta", "delta": delta} for delta in deltas),
        {"type": "content_block_stop"},
    ]


def gemini_chunk(*parts: dict[str, Any], **said: Any) -> dict[str, Any]:
    return {"responseId": "a1", "candidates": [{"content": {"parts": list(parts)}, **said}]}


CALLING_STREAMS: dict[str, list[dict[str, Any]]] = {
    "openai": [
        openai_delta(role="assistant", content="", refusal=None),
        openai_delta(content="Let me "),
        openai_delta(content="see."),
        openai_call(0, "", id="c1", type="function", name="weather"),
        openai_call(0, '{"place": '),
        openai_call(1, "", id="c2", type="function", name="here"),
        openai_call(0, '"Wien"}'),
        {"id": "a1", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"id": "a1", "choices": [], "usage": {}},
    ],
    "anthropic": [
        {"type": "message_start", "message": {"id": "a1", "content": []}},
        *anthropic_block(
            {"type": "thinking", "thinking": "", "signature": ""},
            {"thinking": "Two "},
            {"thinking": "calls."},
            {"signature": "c2ln"},
        ),
        *anthropic_block({"type": "text", "text": ""}, {"text": "Let me "}, {"text": "see."}),
        *anthropic_block(
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {}},
            {"partial_json": ""},
            {"partial_json": '{"place": '},
            {"partial_json": '"Wien"}'},
        ),
        *anthropic_block({"type": "tool_use", "id": "c2", "name": "here", "input": {}}, {"partial_json": ""}),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ],
    "google": [
        gemini_chunk({"text": "Two calls.", "thought": True}, {"text": "Let me "}),
        gemini_chunk({"text": "see."}),
        gemini_chunk(CALLING["google"]["candidates"][0]["content"]["parts"][2]),
        gemini_chunk({"functionCall": {"id": "c2", "name": "here", "args": {}}}, finishReason="STOP"),
    ],
}
# Messages of whoever: of each provider, and as its stream says it.
SAID = {(provider, "whole"): [answer] for provider, answer in CALLING.items()} | {
    (provider, "stream"): events for provider, events in CALLING_STREAMS.items()
}


def read(provider: str, *events: dict[str, Any]) -> Answer:
    answer = FORMATS[provider].answer()
    for event in events:
        answer.take(event)
    return answer


@pytest.mark.parametrize("provider", ANSWERS)
def test_an_answer_says_its_text_its_end_and_its_model(provider: str) -> None:
    answer = read(provider, ANSWERS[provider])
    assert answer.is_answer
    assert (answer.text, answer.tool_calls) == ("2,850 km.", [])
    assert (answer.finish_reason, answer.model) == ("stop", MODELS[provider])
    assert (answer.message["role"], answer.message["content"]) == ("assistant", "2,850 km.")


@pytest.mark.parametrize("provider", STREAMS)
def test_a_stream_says_its_text_and_its_end_event_by_event(provider: str) -> None:
    *begun, last = STREAMS[provider]
    answer = FORMATS[provider].answer()
    texts = [answer.take(event) for event in begun]
    assert texts.count("2,850 ") == 1
    texts.append(answer.take(last))
    assert "".join(texts) == answer.text == "2,850 km."
    assert (answer.is_answer, answer.finish_reason, answer.model) == (True, "stop", MODELS[provider])


@pytest.mark.parametrize(("provider", "form"), SAID)
class TestToolCalls:
    def test_they_are_in_openais_form(self, provider: str, form: str) -> None:
        answer = read(provider, *SAID[provider, form])
        assert (answer.text, answer.tool_calls) == ("Let me see.", CALLS)
        assert answer.finish_reason == "tool_calls"

    def test_they_go_back_in_the_providers_own(self, provider: str, form: str) -> None:
        """Thoughts and signatures as they came, and results by the same ids."""
        sent = round_trip(provider, read(provider, *SAID[provider, form]).message)
        assert (
            sent["messages" if provider != "google" else "contents"][1:]
            == {
                "openai": [
                    {"role": "assistant", "content": "Let me see.", "refusal": None, "tool_calls": CALLS},
                    *RESULTS,
                ],
                "anthropic": [
                    {"role": "assistant", "content": CALLING["anthropic"]["content"]},
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": id_,
                                "content": [{"type": "text", "text": text}],
                            }
                            for id_, text in (("c1", "21"), ("c2", '{"place": "Linz"}'))
                        ],
                    },
                ],
                "google": [
                    # Without what it only thought aloud.
                    {"role": "model", "parts": CALLING["google"]["candidates"][0]["content"]["parts"][1:]},
                    {
                        "role": "user",
                        "parts": [
                            {
                                "functionResponse": {
                                    "id": "c1",
                                    "name": "weather",
                                    "response": {"result": "21"},
                                }
                            },
                            {"functionResponse": {"id": "c2", "name": "here", "response": {"place": "Linz"}}},
                        ],
                    },
                ],
            }[provider]
        )

    @pytest.mark.parametrize("other", FORMATS)
    def test_another_provider_gets_them_without_thoughts(self, provider: str, form: str, other: str) -> None:
        sent = round_trip(other, read(provider, *SAID[provider, form]).message)
        assert CARRIED not in json.dumps(sent)
        if other != provider:
            assert "c2ln" not in json.dumps(sent)
        assert '"weather"' in json.dumps(sent)

    def test_a_message_that_was_changed_is_sent_as_it_says_now(self, provider: str, form: str) -> None:
        message = read(provider, *SAID[provider, form]).message
        assert "Let me see." in json.dumps(round_trip(provider, message))
        redacted = json.dumps(round_trip(provider, message | {"content": "(redacted)"}))
        assert "Let me see." not in redacted
        assert "(redacted)" in redacted
        other_call = json.loads(json.dumps(message).replace("Wien", "Graz"))
        other_call.update({name: message[name] for name in (CARRIED,) if name in message})
        assert "Wien" not in json.dumps(round_trip(provider, other_call))

    def test_a_message_survives_a_database(self, provider: str, form: str) -> None:
        message = read(provider, *SAID[provider, form]).message
        stored = json.loads(json.dumps(message))
        assert round_trip(provider, stored) == round_trip(provider, message)


RESULTS = [
    {"role": "tool", "tool_call_id": "c1", "content": "21"},
    {"role": "tool", "tool_call_id": "c2", "content": '{"place": "Linz"}'},
]


def round_trip(provider: str, message: dict[str, Any]) -> dict[str, Any]:
    """The body of the next request, with the results of its calls."""
    return body("m", provider=provider, messages=[*MESSAGES, message, *RESULTS])


class TestMessages:
    @pytest.mark.parametrize("provider", FORMATS)
    def test_nothing_is_carried_that_openais_form_says(self, provider: str) -> None:
        plain = json.loads(json.dumps(CALLING[provider]))
        if provider == "anthropic":
            del plain["content"][0]
        elif provider == "google":
            plain["candidates"][0]["content"]["parts"] = [
                {"text": "Let me see."},
                {"functionCall": {"name": "weather", "args": {"place": "Wien"}}},
            ]
        assert CARRIED not in read(provider, plain).message

    def test_what_a_compatible_server_adds_goes_back_to_it(self) -> None:
        """DeepSeek's reasoning, OpenRouter's details, and the signature of Google's own OpenAI interface."""
        extra = {"google": {"thought_signature": "c2ln"}}
        events = [
            openai_delta(role="assistant", content=None, reasoning_content="Two "),
            openai_delta(role="assistant", reasoning_content="calls."),
            openai_delta(reasoning_details=[{"index": 0, "type": "reasoning.text", "text": "Two "}]),
            openai_delta(reasoning_details=[{"index": 0, "type": "reasoning.text", "text": "calls."}]),
            openai_call(0, "{}", id="c1", type="function", name="here", extra_content=extra),
        ]
        message = read("openai", *events).message
        assert message == {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Two calls.",
            "reasoning_details": [{"index": 0, "type": "reasoning.text", "text": "Two calls."}],
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "here", "arguments": "{}"},
                    "extra_content": extra,
                }
            ],
        }
        assert body(messages=[*MESSAGES, message])["messages"][1] == message

    def test_calls_that_a_stream_does_not_number_are_told_apart_by_their_ids(self) -> None:
        function = {"name": "here", "arguments": "{}"}
        for numbered in ({}, {"index": 0}):
            calls = [{"id": id_, "type": "function", "function": function} for id_ in ("c1", "c2")]
            events = [openai_delta(tool_calls=[call | numbered]) for call in calls]
            assert read("openai", *events).tool_calls == calls
            assert (
                read("openai", openai_delta(tool_calls=[call | numbered for call in calls])).tool_calls
                == calls
            )

    def test_a_tool_of_openais_other_kind_stays_as_it_is(self) -> None:
        begun = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "shell", "input": ""}}
        events = [openai_delta(tool_calls=[begun])]
        events += [
            openai_delta(tool_calls=[{"index": 0, "custom": {"input": piece}}]) for piece in ("ls ", "-l")
        ]
        assert read("openai", *events).tool_calls == [
            {"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
        ]

    def test_calls_without_ids_get_stable_ones(self) -> None:
        calls = [{"functionCall": {"name": "here"}}, {"functionCall": {"name": "here"}}]
        whole = read("google", gemini_chunk(*calls))
        streamed = read("google", *map(gemini_chunk, calls))
        first, second = [call["id"] for call in whole.tool_calls]
        assert [call["id"] for call in streamed.tool_calls] == [first, second]
        assert first != second
        other_answer = read("google", gemini_chunk(*calls) | {"responseId": "a2"})
        assert {first, second}.isdisjoint(call["id"] for call in other_answer.tool_calls)
        results = [{"role": "tool", "tool_call_id": id_, "content": id_} for id_ in (first, second)]
        sent = body(GEMINI, messages=[*MESSAGES, whole.message, *results])["contents"]
        assert sent[1]["parts"] == [{"functionCall": {"name": "here", "args": {}}}] * 2
        assert sent[2]["parts"] == [
            {"functionResponse": {"name": "here", "response": {"result": id_}}} for id_ in (first, second)
        ]
        missing = openai_delta(tool_calls=[{"index": 0, "function": {"name": "here", "arguments": ""}}])
        (call,) = read("openai", missing).tool_calls
        assert call["id"]
        assert (call["type"], call["function"]["arguments"]) == ("function", "{}")

    def test_a_signature_stays_at_its_own_part(self) -> None:
        parts = [{"text": "a"}, {"text": "b"}, {"text": "c", "thoughtSignature": "s"}, {"text": "d"}]
        answer = read("google", *map(gemini_chunk, parts))
        assert answer.text == "abcd"
        sent = body(GEMINI, messages=[*MESSAGES, answer.message])["contents"][1]["parts"]
        assert sent == [{"text": "ab"}, {"text": "c", "thoughtSignature": "s"}, {"text": "d"}]

    def test_what_anthropics_own_tools_said_goes_back(self) -> None:
        search = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "Danube"}}
        citation = {"type": "char_location", "cited_text": "2,850 km"}
        stream = [
            *anthropic_block(
                search | {"input": {}}, {"partial_json": '{"query": "Dan'}, {"partial_json": 'ube"}'}
            ),
            *anthropic_block({"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}),
            *anthropic_block(
                {"type": "text", "text": "", "citations": []}, {"citation": citation}, {"text": "Long."}
            ),
        ]
        answer = read("anthropic", *stream)
        assert (answer.text, answer.tool_calls) == ("Long.", [])
        assert body(CLAUDE, messages=[*MESSAGES, answer.message])["messages"][1]["content"] == [
            search,
            {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
            {"type": "text", "text": "Long.", "citations": [citation]},
        ]

    @pytest.mark.parametrize("provider", FORMATS)
    def test_an_answer_that_says_nothing_can_be_sent_back(self, provider: str) -> None:
        empty = {
            "openai": openai_delta(role="assistant"),
            "anthropic": {"content": []},
            "google": gemini_chunk(),
        }
        assert read(provider, empty[provider]).message == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("provider", "said", "reason"),
    [
        *(("openai", word, word) for word in ("stop", "length", "tool_calls", "content_filter")),
        ("openai", "function_call", "tool_calls"),
        ("openai", "model_length", "length"),
        ("openai", "insufficient_system_resource", "insufficient_system_resource"),
        *(("anthropic", word, "stop") for word in ("end_turn", "stop_sequence")),
        *(("anthropic", word, "length") for word in ("max_tokens", "model_context_window_exceeded")),
        ("anthropic", "tool_use", "tool_calls"),
        ("anthropic", "refusal", "content_filter"),
        ("anthropic", "pause_turn", "pause_turn"),
        ("google", "STOP", "stop"),
        ("google", "MAX_TOKENS", "length"),
        *(
            ("google", word, "content_filter")
            for word in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII")
        ),
        ("google", "MALFORMED_FUNCTION_CALL", "MALFORMED_FUNCTION_CALL"),
    ],
)
def test_the_reason_to_stop_is_in_openais_words(provider: str, said: str, reason: str) -> None:
    answers: dict[str, Any] = {
        "openai": {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": said}]},
        "anthropic": {"content": [{"type": "text", "text": "x"}], "stop_reason": said},
        "google": gemini_chunk({"text": "x"}, finishReason=said),
    }
    assert read(provider, answers[provider]).finish_reason == reason


def test_who_calls_a_tool_has_not_just_stopped() -> None:
    """OpenAI says "stop" where the caller named the function."""
    choice = CALLING["openai"]["choices"][0] | {"finish_reason": "stop"}
    assert read("openai", {"choices": [choice]}).finish_reason == "tool_calls"
    choice["finish_reason"] = "length"
    assert read("openai", {"choices": [choice]}).finish_reason == "length", "its arguments may be cut"


@pytest.mark.parametrize("provider", FORMATS)
def test_what_is_not_an_answer_is_known(provider: str) -> None:
    assert not read(provider, {}, {"type": "ping"}, {"id": "x"}).is_answer


def test_a_prompt_that_google_blocks_is_answered_without_text() -> None:
    answer = read("google", {"promptFeedback": {"blockReason": "SAFETY"}})
    assert answer.is_answer
    assert (answer.text, answer.finish_reason) == ("", "content_filter")


NAMES = [
    *("choices", "message", "delta", "content", "text", "index", "finish_reason", "stop_reason", "model"),
    *("type", "candidates", "parts", "role", "finishReason", "function", "arguments", "image_url", "url"),
    *(
        "tool_calls",
        "id",
        "name",
        "content_block",
        "input",
        "partial_json",
        "functionCall",
        "args",
        "thought",
    ),
    *("thoughtSignature", "citation", CARRIED, "anthropic", "google", "tool_call_id", "custom"),
]
WORDS = [
    *(
        "content_block_delta",
        "content_block_start",
        "content_block_stop",
        "tool_use",
        "tool",
        "assistant",
        "{}",
    ),
    *("function", "{"),
]
JSON = st.recursive(
    st.none() | st.integers(0, 2) | st.text(max_size=3) | st.sampled_from(WORDS) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6), max_size=4))
def test_no_answer_makes_reading_fail(events: list[dict[str, Any]]) -> None:
    for provider in FORMATS:
        answer = read(provider, *events)
        assert isinstance(answer.text, str)
        assert isinstance(answer.finish_reason, str | None)
        assert isinstance(answer.model, str | None)
        for call in answer.tool_calls:
            assert call["id"]
        for other in FORMATS:
            try:
                build(provider=other, messages=[*MESSAGES, answer.message])
            except ConfigurationError:
                continue


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "name", CARRIED, "tool_call_id"]), JSON
        ),
        max_size=3,
    )
)
def test_messages_of_any_shape_are_sent_or_refused(messages: list[dict[str, Any]]) -> None:
    for model in (OPENAI, CLAUDE, GEMINI):
        try:
            request = build(model, messages=messages)
        except ConfigurationError:
            continue
        assert as_call(request).count_input() >= 0


@given(
    st.text(max_size=20),
    st.sampled_from([*FORMATS]),
    st.sampled_from(["", "/v1", "/x:y", "/v1/files", "/?a=b"]),
)
def test_no_model_and_no_address_go_past_the_guard(model: str, provider: str, path: str) -> None:
    """Whatever is sent is an AI call to it, asked for and reported; or the guard refuses it."""
    with suppress(ConfigurationError):
        as_call(build(model, provider=provider, base_url=f"http://gateway{path}"))
