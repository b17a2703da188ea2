"""What of a request the model reads, and one count for every way of asking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anthropic.types
import openai.types.chat
import pytest
from tokvigil import ConfigurationError, TokVigil, Usage, count_tokens, estimate, tokens
from tokvigil.dialects import read_call
from tokvigil.message_reading import MARKS, read_request

OPENAI_MODEL = "gpt-4o-mini"
CLAUDE = "claude-sonnet-4-5"
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
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
    assert wrapped == count_tokens(messages, model=OPENAI_MODEL)
    assert wrapped == estimate(OPENAI_MODEL, messages).input_tokens


@pytest.mark.parametrize("messages", ANTHROPIC_HISTORIES.values(), ids=ANTHROPIC_HISTORIES)
def test_an_anthropic_history_counts_the_same_before_and_in_the_call(messages: list[Any]) -> None:
    wrapped = on_the_wire("/v1/messages", CLAUDE, messages)
    assert wrapped == count_tokens(messages, model=CLAUDE)
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
    assert wrapped == estimate(CLAUDE, [QUESTION], tools=tools).input_tokens
    assert count_tokens([QUESTION], model=CLAUDE) < wrapped < 100


def test_anthropics_system_text_counts_as_a_system_message() -> None:
    system = {"role": "system", "content": "Be brief."}
    apart = on_the_wire("/v1/messages", CLAUDE, [QUESTION], system="Be brief.")
    assert 0 <= count_tokens([system, QUESTION], model=CLAUDE) - apart <= 2 * tokens.TOKENS_PER_MESSAGE


def test_the_usual_tool_loop_may_append_the_answers_own_message() -> None:
    as_dicts = OPENAI_HISTORIES["tools"]
    as_objects = [QUESTION, OpenAIAnswer.message, TOOL_RESULT]
    assert estimate(OPENAI_MODEL, as_objects) == estimate(OPENAI_MODEL, as_dicts)
    assert count_tokens(as_objects, model=OPENAI_MODEL) == count_tokens(as_dicts, model=OPENAI_MODEL)


def test_a_guard_takes_the_answers_own_message(tv: TokVigil, control_plane: Any) -> None:
    messages = [QUESTION, OpenAIAnswer.message, TOOL_RESULT]
    tv.evaluate(user_id="ada", model=OPENAI_MODEL, feature="chat", messages=messages)
    with tv.guard(user_id="ada", feature="chat", model=OPENAI_MODEL, messages=messages) as call:
        call.record(Usage(input_tokens=1, output_tokens=1))
    counted = {seen.body["input_tokens"] for seen in control_plane.calls("/v1/evaluate")}
    assert counted == {count_tokens(OPENAI_HISTORIES["tools"], model=OPENAI_MODEL)}


def test_anthropics_own_blocks_count_as_their_dicts() -> None:
    blocks = [
        anthropic.types.ThinkingBlock.model_validate(THINKING),
        anthropic.types.ToolUseBlock.model_validate(TOOL_USE),
    ]
    messages = [QUESTION, assistant(*blocks), tool_result("sunny")]
    assert count_tokens(messages, model=CLAUDE) == count_tokens(ANTHROPIC_HISTORIES["tools"], model=CLAUDE)


def test_an_object_of_plain_text_is_counted_exactly() -> None:
    said = openai.types.chat.ChatCompletionMessage(role="assistant", content="Sunny.")
    assert estimate(OPENAI_MODEL, [said], exact=True).method == "exact"
    assert estimate(OPENAI_MODEL, [OpenAIAnswer.message], exact=True).method == "estimated"


def test_fields_of_none_count_nothing() -> None:
    empty = {"name": None, "refusal": None, "audio": None, "tool_calls": None, "annotations": []}
    assert count_tokens([QUESTION | empty], model=OPENAI_MODEL) == count_tokens(
        [QUESTION], model=OPENAI_MODEL
    )


def test_a_tools_call_and_its_result_are_text() -> None:
    bare = [assistant(), tool_result([])]
    history = [assistant(TOOL_USE), tool_result("sunny")]
    assert 5 <= count_tokens(history, model="gpt-4o") - count_tokens(bare, model="gpt-4o") <= 15


def part_tokens(part: Any) -> int:
    with_part, without = ([{"role": "user", "content": content}] for content in ([part], []))
    return count_tokens(with_part, model="gpt-4o") - count_tokens(without, model="gpt-4o")


ALPHA_TOKENS = count_tokens("alpha beta gamma", model="gpt-4o")


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
    assert part_tokens(part) == (0 if "data" in part else pytest.approx(ALPHA_TOKENS, abs=1))


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
    assert part_tokens(part) == tokens.TOKENS_PER_FILE


def test_sound_that_the_model_has_spoken_is_an_attachment() -> None:
    spoken = {"role": "assistant", "audio": {"id": "audio_1", "data": "A" * 100_000}}
    silent = {"role": "assistant", "audio": None}
    counted = [count_tokens([message], model="gpt-4o-audio-preview") for message in (silent, spoken)]
    assert counted[1] - counted[0] == tokens.TOKENS_PER_FILE


class Stranger(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __getitem__(self, name: str) -> Any:
        return QUESTION[name]

    def __iter__(self) -> Any:
        return iter(QUESTION)

    def __len__(self) -> int:
        return len(QUESTION)


def test_any_mapping_is_a_message() -> None:
    assert count_tokens([Stranger()], model="gpt-4o") == count_tokens([QUESTION], model="gpt-4o")


@pytest.mark.parametrize(
    "messages",
    [b"hello", None, 7, QUESTION, ["hello"], [None], [QUESTION, object()], [[QUESTION]], [Stranger]],
)
def test_what_are_no_messages_is_refused_with_a_word(messages: Any) -> None:
    for ask in (
        lambda: estimate("gpt-4o-mini", messages),
        lambda: count_tokens(messages, model="gpt-4o-mini"),
        lambda: count_tokens(messages, model="gpt-4o-mini", exact=True),
    ):
        with pytest.raises(ConfigurationError, match="messages are dicts, as OpenAI takes them"):
            ask()


def test_to_estimate_a_text_is_the_message_of_a_user() -> None:
    asked = [{"role": "user", "content": "hello"}]
    assert estimate("gpt-4o-mini", "hello").input_tokens == count_tokens(asked, model="gpt-4o-mini")
    assert count_tokens("hello", model="gpt-4o-mini") < count_tokens(asked, model="gpt-4o-mini")


@pytest.mark.parametrize("kind", [[], {}, 7, None, True])
def test_a_part_of_a_kind_that_is_none_is_counted_all_the_same(kind: Any) -> None:
    part = {"type": kind, "text": "alpha beta gamma"}
    plain = count_tokens([{"role": "user", "content": "alpha beta gamma"}], model="gpt-4o")
    assert count_tokens([{"role": "user", "content": [part]}], model="gpt-4o") == plain


TEXT = "alpha beta gamma"
REQUESTS: dict[str, Any] = {
    "chat": {"messages": [{"role": "user", "content": TEXT}]},
    "completions": {"prompt": [TEXT], "n": 2, "max_tokens": 5},
    "embeddings": {"input": TEXT, "encoding_format": "float", "dimensions": 256},
    "responses": {
        "instructions": "",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}],
    },
    "messages": {"system": TEXT, "messages": []},
    "contents": {
        "contents": [{"role": "user", "parts": [{"text": TEXT}]}],
        "safetySettings": [{"category": "HARM"}],
    },
    "converse": {
        "messages": [{"role": "user", "content": [{"text": TEXT}]}],
        "inferenceConfig": {"maxTokens": 9},
    },
    "cohere": {"message": TEXT, "stream": False},
    "speech": {"input": TEXT, "voice": "alloy", "response_format": "mp3"},
    "of tomorrow": {"ask": {"deeply": [[{"said": TEXT}]]}},
}


@pytest.mark.parametrize("request_fields", REQUESTS.values(), ids=REQUESTS)
def test_the_text_of_a_request_is_read_in_every_format(request_fields: Any) -> None:
    reading = read_request(
        {"model": "some-model", "user": "ada", "metadata": {"team": "search"}} | request_fields
    )
    assert [text for text in reading.texts if text != "mp3"] == [TEXT]
    assert (reading.files, reading.tokens) == (0, 0)


@pytest.mark.parametrize(
    ("value", "expected"), [([1, 2, 3], 3), ([[1, 2], [3]], 3), ([], 0), ([True, False], 0), ([1.5, 2.5], 0)]
)
def test_ids_of_tokens_are_tokens(value: Any, expected: int) -> None:
    assert read_request({"input": value}).tokens == expected


def test_what_the_model_reads_as_json_counts_with_its_names() -> None:
    tool = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    assert read_request({"tools": [tool]}).texts == [json.dumps([tool], separators=(",", ":"))]
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"type": "now", "id": 7}}
    assert read_request({"messages": [{"content": [use]}]}).texts == ["weather", '{"type":"now","id":7}']
    schema = {"generation_config": {"response_schema": {"type": "STRING"}, "temperature": 1}}
    assert read_request(schema).texts == ['{"type":"STRING"}']


def test_a_file_inside_of_arguments_is_no_text() -> None:
    picture = "data:image/png;base64," + "A" * 5_000
    reading = read_request(
        {"messages": [{"content": [{"name": "show", "input": {"picture": picture, "width": 7}}]}]}
    )
    assert (reading.files, reading.texts) == (1, ["show", '{"picture":"","width":7}'])


@pytest.mark.parametrize(
    "text",
    [
        "A" * 5_000,
        "data:image/png;base64,AAAA",
        "data: what we know so far",
        ",".join(map(str, range(2_000))),
    ],
)
def test_what_the_user_wrote_is_text_whatever_it_looks_like(text: str) -> None:
    for request in (
        {"messages": [{"role": "user", "content": text}]},
        {"input": text},
        {"contents": [{"text": text}]},
    ):
        reading = read_request(request)
        assert (reading.files, reading.texts) == (0, [text])


def test_a_list_of_numbers_in_an_unknown_place_is_no_file() -> None:
    assert read_request({"table": ",".join(map(str, range(2_000)))}).files == 0
    assert read_request({"picture": "A" * 2_000}).files == 1


def test_several_names_of_one_file_are_one_file() -> None:
    part = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}
    assert read_request({"input": [{"role": "user", "content": [part]}]}).files == 1
    both = [
        {"image": {"format": "png", "source": {"bytes": "AAAA"}}},
        {"document": {"source": {"bytes": "AAAA"}}},
    ]
    assert read_request({"messages": [{"role": "user", "content": both}]}).files == 2


def test_ids_and_marks_count_nothing_in_either_spelling() -> None:
    for name in ("tool_call_id", "toolCallId", "thoughtSignature", "mime_type", "mimeType"):
        assert name.replace("_", "").lower() in MARKS
        assert read_request({"contents": [{"parts": [{name: "x" * 500}]}]}).texts == []


def test_messages_that_are_nested_without_end_are_refused() -> None:
    endless: dict[str, Any] = {"role": "user"}
    endless["content"] = [endless]
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        count_tokens([endless], model="gpt-4o")
