"""Histories as applications hold them: what of them the model reads, and one count for every way of asking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anthropic.types
import openai.types.chat
import pytest
from tokvigil import ConfigurationError, TokVigil, Usage, tokens
from tokvigil.dialects import read_call
from tokvigil.estimating import estimate

OPENAI_MODEL = "gpt-4o-mini"
CLAUDE = "claude-sonnet-4-5"
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
# In the order of OpenAI's own objects: it is counted as JSON.
TOOL_CALL = {
    "id": "call_1",
    "function": {"arguments": '{"city": "Paris"}', "name": "weather"},
    "type": "function",
}
TOOL_RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
ANTHROPIC_PICTURE = {"type": "image", "source": {"type": "base64", "data": "A" * 100_000}}
THINKING = {"type": "thinking", "thinking": "Paris, then.", "signature": "x" * 500}
TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}


def tool_result(content: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": content}],
    }


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


OPENAI_HISTORIES: dict[str, list[Any]] = {
    "plain": [{"role": "system", "content": "Be brief."}, QUESTION],
    "tools": [QUESTION, {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}, TOOL_RESULT],
    "custom tools": [{"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "x"}}]}],
    "pictures": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, PICTURE]}],
}
ANTHROPIC_HISTORIES: dict[str, list[Any]] = {
    "plain": [QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "Sunny."}]}],
    "tools": [QUESTION, assistant(THINKING, TOOL_USE), tool_result("sunny")],
    "results in parts": [QUESTION, assistant(TOOL_USE), tool_result([{"type": "text", "text": "sunny"}])],
    "pictures": [{"role": "user", "content": [ANTHROPIC_PICTURE]}, tool_result([ANTHROPIC_PICTURE])],
    "documents": [
        {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "sunny"}}]}
    ],
}


class OpenAIAnswer:
    """What `response.choices[0].message` is."""

    message = openai.types.chat.ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
    )


def on_the_wire(path: str, model: str, messages: list[Any], **fields: Any) -> int:
    """What `wrap` counts."""
    body = json.dumps({"model": model, "max_tokens": 100, "messages": messages} | fields).encode()
    call = read_call("POST", path, "localhost", {}, body)
    assert call is not None
    return call.count_input()


@pytest.mark.parametrize("messages", OPENAI_HISTORIES.values(), ids=OPENAI_HISTORIES)
def test_an_openai_history_counts_the_same_before_and_in_the_call(messages: list[Any]) -> None:
    wrapped = on_the_wire("/v1/chat/completions", OPENAI_MODEL, messages)
    assert wrapped == tokens.count_messages(messages, OPENAI_MODEL)
    assert wrapped == estimate(OPENAI_MODEL, messages).input_tokens


@pytest.mark.parametrize("messages", ANTHROPIC_HISTORIES.values(), ids=ANTHROPIC_HISTORIES)
def test_an_anthropic_history_counts_the_same_before_and_in_the_call(messages: list[Any]) -> None:
    wrapped = on_the_wire("/v1/messages", CLAUDE, messages)
    assert wrapped == tokens.count_messages(messages, CLAUDE)
    assert wrapped == estimate(CLAUDE, messages).input_tokens


@pytest.mark.parametrize(
    ("path", "tools"),
    [
        (
            "/v1/chat/completions",
            [{"type": "function", "function": {"name": "weather", "parameters": {}}}] * 2,
        ),
        ("/v1/messages", [{"name": "weather", "input_schema": {"type": "object"}}] * 2),
        ("/v1/messages", [{"type": "web_search_20250305", "name": "web_search"}]),
    ],
)
def test_tools_count_the_same_before_and_in_the_call(path: str, tools: list[Any]) -> None:
    wrapped = on_the_wire(path, CLAUDE, [QUESTION], tools=tools)
    assert wrapped == tokens.count_messages([QUESTION], CLAUDE, tools=tools)
    assert tokens.count_messages([QUESTION], CLAUDE) < wrapped < 100


def test_anthropics_system_text_counts_as_a_system_message() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert on_the_wire("/v1/messages", CLAUDE, [QUESTION], system="Be brief.") == tokens.count_messages(
        [system, QUESTION], CLAUDE
    )


def test_the_usual_tool_loop_may_append_the_answers_own_message() -> None:
    as_dicts = OPENAI_HISTORIES["tools"]
    as_objects = [QUESTION, OpenAIAnswer.message, TOOL_RESULT]
    assert estimate(OPENAI_MODEL, as_objects) == estimate(OPENAI_MODEL, as_dicts)
    assert tokens.count_messages(as_objects, OPENAI_MODEL) == tokens.count_messages(as_dicts, OPENAI_MODEL)


def test_a_guard_takes_the_answers_own_message(tv: TokVigil, control_plane: Any) -> None:
    messages = [QUESTION, OpenAIAnswer.message, TOOL_RESULT]
    tv.evaluate("ada", OPENAI_MODEL, feature="chat", messages=messages)
    with tv.guard("ada", "chat", OPENAI_MODEL, messages=messages) as call:
        call.record(Usage(input_tokens=1, output_tokens=1))
    counted = {seen.body["input_tokens"] for seen in control_plane.calls("/v1/evaluate")}
    assert counted == {tokens.count_messages(OPENAI_HISTORIES["tools"], OPENAI_MODEL)}


def test_anthropics_own_blocks_count_as_their_dicts() -> None:
    blocks = [
        anthropic.types.ThinkingBlock.model_validate(THINKING),
        anthropic.types.ToolUseBlock.model_validate(TOOL_USE),
    ]
    messages = [QUESTION, assistant(*blocks), tool_result("sunny")]
    assert tokens.count_messages(messages, CLAUDE) == tokens.count_messages(
        ANTHROPIC_HISTORIES["tools"], CLAUDE
    )


def test_an_object_of_plain_text_is_counted_exactly() -> None:
    said = openai.types.chat.ChatCompletionMessage(role="assistant", content="Sunny.")
    assert estimate(OPENAI_MODEL, [said]).method == "tiktoken"
    assert estimate(OPENAI_MODEL, [OpenAIAnswer.message]).method == "approx"


def test_fields_of_none_count_nothing() -> None:
    empty = {"name": None, "refusal": None, "audio": None, "tool_calls": None, "annotations": []}
    assert tokens.count_messages([QUESTION | empty], OPENAI_MODEL) == tokens.count_messages(
        [QUESTION], OPENAI_MODEL
    )


def test_a_tools_call_and_its_result_are_text() -> None:
    bare = [assistant(), tool_result([])]
    history = [assistant(TOOL_USE), tool_result("sunny")]
    assert 5 <= tokens.count_messages(history, "gpt-4o") - tokens.count_messages(bare, "gpt-4o") <= 15


def part_tokens(part: Any) -> int:
    with_part, without = ([{"role": "user", "content": content}] for content in ([part], []))
    return tokens.count_messages(with_part, "gpt-4o") - tokens.count_messages(without, "gpt-4o")


@pytest.mark.parametrize(
    "part",
    [
        "alpha beta gamma",
        {"text": "alpha beta gamma"},
        {"type": "refusal", "refusal": "alpha beta gamma"},
        {"type": "input_text", "text": "alpha beta gamma"},
        {"type": "thinking", "thinking": [{"type": "text", "text": "alpha beta gamma"}]},
        {"type": "document", "source": {"type": "text", "data": "alpha beta gamma"}, "title": None},
        {"type": "code_execution_tool_result", "content": {"type": "x", "stdout": "alpha beta gamma"}},
        {"type": "of_tomorrow", "id": "x" * 500, "said": {"more": ["alpha beta gamma"]}},
        {"type": "redacted_thinking", "data": "A" * 5_000},
    ],
)
def test_a_part_with_text_counts_by_its_text(part: Any) -> None:
    assert part_tokens(part) in ((0,) if "data" in part else (3, 4))


@pytest.mark.parametrize(
    "part",
    [
        PICTURE,
        ANTHROPIC_PICTURE,
        {"type": "image", "data": "AAAA", "mimeType": "image/png"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        {"type": "container_upload", "file_id": "file_1"},
        {"type": "of_tomorrow", "said": "data:video/mp4;base64,AAAA"},
    ],
)
def test_pictures_sound_documents_and_files_are_attachments(part: Any) -> None:
    assert part_tokens(part) == tokens.TOKENS_PER_ATTACHMENT


def test_sound_that_the_model_has_spoken_is_an_attachment() -> None:
    spoken = {"role": "assistant", "audio": {"id": "audio_1", "data": "A" * 100_000}}
    silent = {"role": "assistant", "audio": None}
    counted = [tokens.count_messages([message], "gpt-4o-audio-preview") for message in (silent, spoken)]
    assert counted[1] - counted[0] == tokens.TOKENS_PER_ATTACHMENT


class Stranger(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __getitem__(self, name: str) -> Any:
        return QUESTION[name]

    def __iter__(self) -> Any:
        return iter(QUESTION)

    def __len__(self) -> int:
        return len(QUESTION)


def test_any_mapping_is_a_message() -> None:
    assert tokens.count_messages([Stranger()], "gpt-4o") == tokens.count_messages([QUESTION], "gpt-4o")


@pytest.mark.parametrize(
    "messages",
    [b"hello", None, 7, QUESTION, ["hello"], [None], [QUESTION, object()], [[QUESTION]], [Stranger]],
)
def test_what_are_no_messages_is_refused_with_a_word(messages: Any) -> None:
    for ask in (
        lambda: estimate("gpt-4o-mini", messages),
        lambda: tokens.count_messages(messages, "gpt-4o-mini"),
        lambda: tokens.is_counted_exactly(messages, "gpt-4o-mini"),
    ):
        with pytest.raises(ConfigurationError, match="messages are dicts, as OpenAI takes them"):
            ask()


def test_a_text_is_a_users_message_to_estimate_alone() -> None:
    asked = [{"role": "user", "content": "hello"}]
    assert estimate("gpt-4o-mini", "hello").input_tokens == estimate("gpt-4o-mini", asked).input_tokens
    for count in (tokens.count_messages, tokens.is_counted_exactly):
        with pytest.raises(ConfigurationError, match="messages are dicts, as OpenAI takes them"):
            count("hello", "gpt-4o-mini")


@pytest.mark.parametrize("kind", [[], {}, 7, None, True])
def test_a_part_of_a_kind_that_is_none_is_counted_all_the_same(kind: Any) -> None:
    part = {"type": kind, "text": "alpha beta gamma"}
    plain = tokens.count_messages([{"role": "user", "content": "alpha beta gamma"}], "gpt-4o")
    assert tokens.count_messages([{"role": "user", "content": [part]}], "gpt-4o") == plain
