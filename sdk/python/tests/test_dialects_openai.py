"""OpenAI's formats: chat, completions, embeddings, responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokvigil import ConfigurationError, Usage, tokens
from tokvigil.dialects import AnswerReader, ProviderCall, answers, bulk, read_call, sse
from tokvigil.endings import Ending

HOST = "api.openai.com"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"

MESSAGES = [{"role": "user", "content": "How long is the Danube?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    },
}
USAGE = {
    "prompt_tokens": 1_200,
    "completion_tokens": 90,
    "total_tokens": 1_290,
    "prompt_tokens_details": {"cached_tokens": 1_024, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
}
SAID = Usage(input_tokens=1_200, output_tokens=90, cached_input_tokens=1_024, reasoning_tokens=64)


def call(path: str, *, host: str = HOST, **fields: Any) -> ProviderCall:
    fields = {"model": "gpt-4o"} | fields
    found = read_call("POST", path, host, {"content-type": "application/json"}, json.dumps(fields).encode())
    assert found is not None
    return found


def chat(**fields: Any) -> ProviderCall:
    return call(CHAT, **({"messages": MESSAGES} | fields))


def sent(a_call: ProviderCall, cap: int | None = None) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(a_call.outgoing(cap).body)
    return fields


def chunk(choices: list[Any], **fields: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
    return b"data: " + json.dumps({**head, "choices": choices, **fields}).encode() + b"\n\n"


def says(content: str, **delta: Any) -> bytes:
    return chunk([{"index": 0, "delta": {"content": content, **delta}, "finish_reason": None}])


STREAM = [
    says("", role="assistant", refusal=None),
    says("About 2,850 "),
    says("kilometres: größer."),
    chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
]
USAGE_CHUNK = chunk([], usage=USAGE)
DONE = b"data: [DONE]\n\n"


def pass_through(a_call: ProviderCall, *pieces: bytes) -> tuple[bytes, AnswerReader]:
    reader = a_call.reader()
    seen = b"".join([*map(reader.feed, pieces), reader.finish()])
    return seen, reader


class TestChatRequest:
    def test_says_model_cap_and_stream(self) -> None:
        asked = chat(max_completion_tokens=100, n=3, stream=True)
        assert (asked.provider, asked.model) == ("openai", "gpt-4o")
        assert (asked.max_output_tokens, asked.streams) == (300, True)
        assert chat().max_output_tokens is None
        assert chat().streams is False

    def test_is_sent_byte_for_byte_if_nothing_changes(self) -> None:
        body = b'{ "model": "gpt-4o",\n "max_tokens": 50, "messages": [], "temperature": 1.10 }'
        found = read_call("POST", CHAT, HOST, {}, body)
        assert found is not None
        assert found.outgoing(None).body == body
        assert found.outgoing(50).body == body
        assert found.outgoing(1_000).body == body

    def test_a_lower_cap_is_written_under_the_callers_name(self) -> None:
        assert sent(chat(max_tokens=50), 20)["max_tokens"] == 20
        assert sent(chat(max_completion_tokens=50), 20)["max_completion_tokens"] == 20

    @pytest.mark.parametrize("n", ["4", " 4 ", "4.0", 4.0])
    def test_a_number_may_be_written_as_lenient_servers_take_it(self, n: Any) -> None:
        assert chat(n=n, max_tokens=10).max_output_tokens == 40
        assert sent(chat(n=n, max_tokens=50), 100) == sent(chat(n=n), None) | {"max_tokens": 25}
        assert call(COMPLETIONS, prompt="x", max_tokens=10, best_of=n).max_output_tokens == 40

    @pytest.mark.parametrize("n", ["many", "", "-4", "0", 1.5, True, [], "9" * 300, "inf", float("inf")])
    def test_what_is_no_number_of_answers_is_one(self, n: Any) -> None:
        assert chat(n=n, max_tokens=10).max_output_tokens == 10

    @pytest.mark.parametrize("cap", [-1, 0, None, "50", True, 1.5])
    def test_what_is_no_cap_is_none(self, cap: Any) -> None:
        assert chat(max_tokens=cap).max_output_tokens is None

    def test_unlimited_gives_way_to_a_cap(self) -> None:
        assert sent(chat(max_tokens=-1), 20)["max_tokens"] == 20

    def test_text_survives_a_change(self) -> None:
        messages = [{"role": "user", "content": "größer 你好 😀 \ud800"}]
        assert sent(chat(messages=messages), 5)["messages"] == messages

    def test_its_input_is_counted_as_its_messages_are(self) -> None:
        assert chat().count_input() == tokens.count_tokens(MESSAGES, model="gpt-4o")

    def test_tools_and_schemas_are_input(self) -> None:
        plain, tool = (
            chat().count_input(),
            tokens.count_text(json.dumps(WEATHER, separators=(",", ":")), "gpt-4o"),
        )
        assert chat(tools=[WEATHER]).count_input() == pytest.approx(plain + tool, abs=3)
        assert chat(functions=[WEATHER["function"]]).count_input() > plain + 20
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER["function"]}}
        assert chat(response_format=schema).count_input() > plain + 20

    @pytest.mark.parametrize("messages", [None, "text", [1, None], {}, [[]], [{"role": 1, "content": {}}]])
    def test_messages_that_the_provider_will_refuse_do_no_harm(self, messages: Any) -> None:
        assert chat(messages=messages).count_input() >= 0

    def test_what_is_nested_too_deeply_to_be_walked_is_counted_by_its_bytes(self) -> None:
        deep: Any = "x"
        for _ in range(400):
            deep = {"a": [deep]}
        assert call("/v1/unknown", input=deep).count_input() > 0


class TestAskingForUsage:
    def test_a_stream_is_asked_for_its_usage(self) -> None:
        assert sent(chat(stream=True))["stream_options"] == {"include_usage": True}
        assert sent(call(COMPLETIONS, prompt="x", stream=True))["stream_options"] == {"include_usage": True}

    def test_what_else_is_in_the_stream_options_stays(self) -> None:
        asked = chat(stream=True, stream_options={"include_obfuscation": False, "include_usage": False})
        assert sent(asked)["stream_options"] == {"include_obfuscation": False, "include_usage": True}

    def test_nothing_is_asked_where_it_is_not_needed_or_not_taken(self) -> None:
        own = {"include_usage": True}
        assert sent(chat(stream=True, stream_options=own))["stream_options"] == own
        untouched = [
            chat(),
            call(RESPONSES, input="x", stream=True),
            # Mistral refuses the question, and says its usage unasked.
            call(CHAT, host="api.mistral.ai", messages=MESSAGES, stream=True),
            # Azure refuses it in old versions, and over the caller's documents.
            azure("2024-02-01", stream=True),
            azure("2024-10-21", stream=True, data_sources=[{"type": "azure_search"}]),
        ]
        for asked in untouched:
            assert "stream_options" not in sent(asked)

    @pytest.mark.parametrize("version", ["2024-10-21", "2025-01-01-preview", "preview"])
    def test_azure_is_asked_where_it_understands(self, version: str) -> None:
        assert sent(azure(version, stream=True))["stream_options"] == {"include_usage": True}
        assert azure(version, stream=True).provider == "azure"

    def test_a_body_that_aws_signed_is_not_changed(self) -> None:
        body = json.dumps({"model": "openai.gpt-oss-120b", "messages": MESSAGES, "stream": True}).encode()
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIA/x"}
        found = read_call("POST", CHAT, "bedrock-runtime.eu-west-1.amazonaws.com", headers, body)
        assert found is not None
        assert found.provider == "aws"
        assert found.outgoing(None).body == body
        assert pass_through(found, *STREAM, USAGE_CHUNK)[0] == b"".join([*STREAM, USAGE_CHUNK])


def azure(version: str, **fields: Any) -> ProviderCall:
    path = f"/openai/deployments/my-gpt/chat/completions?api-version={version}"
    return call(path, host="acme.openai.azure.com", messages=MESSAGES, **fields)


class TestChatStream:
    def test_the_chunk_that_only_we_asked_for_is_not_seen(self) -> None:
        seen, reader = pass_through(chat(stream=True), *STREAM, USAGE_CHUNK, DONE)
        assert seen == b"".join([*STREAM, DONE])
        assert reader.figures() == SAID

    def test_who_asked_for_usage_sees_it(self) -> None:
        asked = chat(stream=True, stream_options={"include_usage": True})
        seen, reader = pass_through(asked, *STREAM, USAGE_CHUNK, DONE)
        assert seen == b"".join([*STREAM, USAGE_CHUNK, DONE])
        assert reader.figures() == SAID

    def test_it_is_the_same_wherever_its_bytes_are_cut(self) -> None:
        stream = b"".join([*STREAM, USAGE_CHUNK, DONE])
        asked = chat(stream=True)
        expected = b"".join([*STREAM, DONE])
        for cut in range(0, len(stream)):
            seen, reader = pass_through(asked, stream[:cut], stream[cut:])
            assert seen == expected
            assert reader.figures() == SAID
        seen, reader = pass_through(asked, *(bytes([byte]) for byte in stream))
        assert (seen, reader.figures()) == (expected, SAID)

    def test_no_part_of_an_event_is_seen_before_its_end(self) -> None:
        reader = chat(stream=True).reader()
        assert reader.feed(STREAM[0] + STREAM[1][:40]) == STREAM[0]
        assert reader.feed(STREAM[1][40:]) == STREAM[1]

    @pytest.mark.parametrize(
        ("path", "fields"),
        [
            (CHAT, {"stream_options": {"include_usage": True}}),
            (RESPONSES, {}),
            ("/v1/messages", {}),
            ("/v1beta/models/gemini-2.5-flash:streamGenerateContent", {}),
            ("/v1/images/generations", {}),
        ],
    )
    def test_where_no_event_is_left_out_each_piece_is_seen_at_once(
        self, path: str, fields: dict[str, Any]
    ) -> None:
        reader = call(path, stream=True, **fields).reader()
        for piece in (*STREAM, STREAM[0][:40], STREAM[0][40:], STREAM[1][:-1], b"\n", STREAM[2][:-2]):
            assert reader.feed(piece) == piece
        assert reader.finish() == b""

    def test_lines_without_blank_ones_between_them_are_seen_and_read(self) -> None:
        lines = [event.replace(b"\n\n", b"\n") for event in (*STREAM, USAGE_CHUNK, DONE)]
        reader = chat(stream=True, stream_options={"include_usage": True}).reader()
        assert [reader.feed(line) for line in lines] == lines
        assert reader.finish() == b""
        assert reader.figures() == SAID

    def test_usage_is_known_before_the_connection_ends(self) -> None:
        reader = chat(stream=True).reader()
        for piece in STREAM:
            reader.feed(piece)
        assert reader.figures() is None
        reader.feed(USAGE_CHUNK)
        assert reader.figures() == SAID

    def test_usage_beside_the_last_choice_counts_and_is_seen(self) -> None:
        """As Mistral and Groq say it."""
        last = chunk([{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}], usage=USAGE)
        seen, reader = pass_through(chat(stream=True), *STREAM[:3], last, DONE)
        assert seen == b"".join([*STREAM[:3], last, DONE])
        assert reader.figures() == SAID

    def test_of_the_usage_so_far_beside_no_choice_the_last_counts(self) -> None:
        """Only after the last choice it is that of the whole call."""
        stream: list[bytes] = []
        for said in (30, 60, 90):
            so_far = {"prompt_tokens": 50, "completion_tokens": said, "total_tokens": 50 + said}
            stream += [says("word " * 30), chunk([], usage=so_far)]
        reader = chat(stream=True).reader()
        for piece in stream[:-1]:
            reader.feed(piece)
            assert not reader.is_complete()
        cut = reader.counted()
        assert (cut.input_tokens, cut.output_tokens) == (50, tokens.count_text("word " * 90, "gpt-4o"))
        for last in ([stream[-1], DONE], [stream[-1]]):
            seen, reader = pass_through(chat(stream=True), *stream[:-1], *last)
            assert seen == b"".join([*stream[::2], *last[1:]])
            assert reader.figures() == Usage(input_tokens=50, output_tokens=90)

    def test_usage_so_far_is_not_that_of_the_whole_call(self) -> None:
        """As vLLM says it with continuous_usage_stats."""
        running = chunk(
            [{"index": 0, "delta": {"content": "Ab"}, "finish_reason": None}],
            usage={"prompt_tokens": 31, "completion_tokens": 44, "total_tokens": 75},
        )
        reader = chat(stream=True).reader()
        reader.feed(running)
        assert reader.figures() is None
        assert reader.counted() == Usage(input_tokens=31, output_tokens=44, source="estimated")

    def test_azures_first_chunk_without_choices_is_seen(self) -> None:
        first = chunk([], prompt_filter_results=[{"prompt_index": 0}], usage=None)
        seen, _ = pass_through(chat(stream=True), first, *STREAM, USAGE_CHUNK, DONE)
        assert seen == b"".join([first, *STREAM, DONE])

    def test_a_cut_stream_is_estimated_by_the_text_that_came(self) -> None:
        asked = chat(stream=True)
        reader = asked.reader()
        for piece in STREAM[:3]:
            reader.feed(piece)
        assert reader.figures() is None
        assert reader.counted() == Usage(
            input_tokens=asked.count_input(),
            output_tokens=tokens.count_text("About 2,850 kilometres: größer.", "gpt-4o"),
            source="estimated",
        )

    def test_all_that_the_model_wrote_is_text(self) -> None:
        asked = chat(stream=True)
        plain = asked.reader()
        plain.feed(says("Hm."))
        reader = asked.reader()
        reader.feed(says("Hm."))
        called = {
            "index": 0,
            "function": {"name": "get_current_weather", "arguments": '{"location": "Wien"}'},
        }
        for delta in (
            {"tool_calls": [called]},
            {"refusal": "I cannot help with that."},
            {"reasoning_content": "The user wants the weather of Vienna."},
        ):
            before = reader.counted().output_tokens
            reader.feed(chunk([{"index": 1, "delta": delta}]))
            assert reader.counted().output_tokens > before + 4

    def test_of_a_stream_that_brought_nothing_nobody_knows_what_was_used(self) -> None:
        assert chat(stream=True).reader().counted() is None

    @pytest.mark.parametrize(
        ("model", "fields"),
        [
            ("gpt-5-mini", {}),
            ("ft:o4-mini-2025-04-16:acme::x", {}),
            ("openai/o3", {}),
            ("gpt-4o", {"reasoning_effort": "low"}),
            ("any", {"reasoning": {"effort": "medium"}}),
        ],
    )
    def test_the_text_of_a_model_that_reasons_does_not_tell_what_was_used(
        self, model: str, fields: dict[str, Any]
    ) -> None:
        reader = chat(model=model, stream=True, **fields).reader()
        reader.feed(says("The"))
        assert reader.counted() is None

    def test_a_deployment_may_turn_out_to_be_a_model_that_reasons(self) -> None:
        reader = chat(model="team-chat", stream=True).reader()
        reader.feed(chunk([{"index": 0, "delta": {"content": "The"}}], model="gpt-5-mini-2025-08-07"))
        assert reader.counted() is None

    @pytest.mark.parametrize("effort", ["none", None])
    def test_reasoning_that_is_switched_off_hides_nothing(self, effort: str | None) -> None:
        reader = chat(stream=True, reasoning_effort=effort).reader()
        reader.feed(says("The"))
        assert reader.counted().output_tokens == 1

    @pytest.mark.parametrize(
        "event",
        [
            b'data: {"error": {"message": "overloaded", "code": 503}}\n\n',
            b"data: not json\n\n",
            b"data: [1, 2]\n\n",
            b"event: error\ndata:\n\n",
            b": OPENROUTER PROCESSING\n\n",
            b'data: {"choices": {"0": 1}, "usage": 7}\n\n',
            b'data: {"choices": [null, {"delta": "x"}], "usage": {"prompt_tokens": "many"}}\n\n',
        ],
    )
    def test_an_event_of_any_other_shape_is_passed_on(self, event: bytes) -> None:
        seen, reader = pass_through(chat(stream=True), STREAM[1], event)
        assert seen == STREAM[1] + event
        assert reader.figures() is None
        assert reader.counted().output_tokens > 0

    def test_plain_json_in_place_of_a_stream_is_read(self) -> None:
        body = json.dumps({"choices": [], "usage": USAGE}).encode()
        for start in (b"", b"\n "):
            seen, reader = pass_through(chat(stream=True), start, body[:20], body[20:])
            assert (seen, reader.figures()) == (start + body, SAID)


class TestFormOfAnswer:
    """What the request says of streaming is not always what comes."""

    @pytest.mark.parametrize("stream", ["true", "True", "1", "yes", 1, 1.0])
    def test_what_lenient_servers_take_for_true_asks_for_a_stream(self, stream: Any) -> None:
        asked = chat(stream=stream)
        assert asked.streams
        assert sent(asked)["stream_options"] == {"include_usage": True}
        seen, reader = pass_through(asked, *STREAM, USAGE_CHUNK, DONE)
        assert (seen, reader.figures()) == (b"".join([*STREAM, DONE]), SAID)
        assert reader.ending() is Ending.COMPLETE

    def test_the_caller_may_ask_for_usage_as_leniently(self) -> None:
        unasked = chat(stream=True, stream_options={"include_usage": "false"})
        assert sent(unasked)["stream_options"] == {"include_usage": True}
        asked = chat(stream="true", stream_options={"include_usage": "true"})
        assert sent(asked)["stream_options"] == {"include_usage": "true"}
        assert pass_through(asked, *STREAM, USAGE_CHUNK)[0] == b"".join([*STREAM, USAGE_CHUNK])

    @pytest.mark.parametrize("stream", ["false", "0", 0, 2, None, "perhaps", [True]])
    def test_anything_else_asks_for_none(self, stream: Any) -> None:
        asked = chat(stream=stream)
        assert not asked.streams
        assert "stream_options" not in sent(asked)

    def test_a_stream_that_nobody_asked_for_is_read_as_one(self) -> None:
        stream = b"".join([*STREAM, USAGE_CHUNK, DONE])
        for start in (b"", b": hello\n\n", b"event: x\n", b"id: 1\n", b"retry: 5\n\n"):
            for cut in range(40):
                seen, reader = pass_through(chat(), (start + stream)[:cut], (start + stream)[cut:])
                assert seen == start + stream
                assert reader.figures() == SAID
        seen, reader = pass_through(chat(), *(bytes([byte]) for byte in b"\n" + stream))
        assert (seen, reader.figures()) == (b"\n" + stream, SAID)

    @pytest.mark.parametrize("text", [b"d", b"data", b"dat no event", b"event", b"retry later", b"i", b" "])
    def test_a_text_that_only_begins_as_an_event_passes(self, text: bytes) -> None:
        for pieces in ([text], [text[:1], text[1:]], [bytes([byte]) for byte in text]):
            for asked in (chat(), chat(stream=True)):
                seen, reader = pass_through(asked, *pieces)
                assert seen == text
                assert reader.ending() is Ending.UNANSWERED

    def test_what_is_no_stream_of_events_passes_at_once(self) -> None:
        """Raw sound, although a stream was asked for."""
        asked = call("/v1/audio/speech", model="tts-1", input="one two", stream=True)
        for sound in (b"A" * 4_096, b"\xff\xf3\0\0", b"RIFF\0\0", b"ID3\4", b"\0\0\1\2", b"\xef\xbb\xbf\xff"):
            reader = asked.reader()
            assert reader.feed(sound) == sound
            assert reader.feed(b"more") == b"more"
            assert reader.finish() == b""
            assert reader.figures() is None
            characters = {"input_characters": len("one two")}
            assert reader.counted() == Usage(
                input_tokens=0, output_tokens=0, quantities=characters, source="estimated"
            )

    def test_events_are_read_after_a_mark_and_blank_lines(self) -> None:
        for start in (b"\xef\xbb\xbf", b"\n\r\n", b"\xef\xbb\xbf\n\n"):
            stream = start + b"".join([*STREAM, USAGE_CHUNK, DONE])
            for cut in range(12):
                seen, reader = pass_through(chat(stream=True), stream[:cut], stream[cut:])
                assert seen == start + b"".join([*STREAM, DONE])
                assert reader.figures() == SAID


def says_with(content: str, usage: dict[str, int]) -> bytes:
    return chunk([{"index": 0, "delta": {"content": content}}], usage=usage)


ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class TestFiguresOfZeros:
    """No call with a prompt reads nothing: servers that cannot count say zeros."""

    COUNTED = tokens.count_text("About 2,850 kilometres: größer.", "gpt-4o")

    @pytest.mark.parametrize("usage", [ZEROS, ZEROS | {"completion_tokens": 3}])
    def test_they_are_counted_here(self, usage: dict[str, int]) -> None:
        whole = {"choices": [{"message": {"content": "About 2,850 kilometres: größer."}}], "usage": usage}
        with_each = [says_with(text, usage) for text in ("About 2,850 ", "kilometres: größer.")]
        for pieces in (
            [json.dumps(whole).encode()],
            [*STREAM, chunk([], usage=usage), DONE],
            [*with_each, DONE],
            [*with_each],
        ):
            _, reader = pass_through(chat(stream=pieces[0].startswith(b"d")), *pieces)
            assert reader.figures() is None
            assert reader.ending() is Ending.COMPLETE
            expected = Usage(
                input_tokens=tokens.count_tokens(MESSAGES, model="gpt-4o"),
                output_tokens=self.COUNTED,
                source="estimated",
            )
            assert reader.counted() == expected

    def test_no_output_beside_text_is_counted_here_too(self) -> None:
        usage = {"prompt_tokens": 1_200, "completion_tokens": 0, "total_tokens": 1_200}
        whole = {"choices": [{"message": {"content": "About 2,850 kilometres: größer."}}], "usage": usage}
        for pieces in ([json.dumps(whole).encode()], [*STREAM, chunk([], usage=usage), DONE]):
            _, reader = pass_through(chat(stream=pieces[0].startswith(b"d")), *pieces)
            assert reader.figures() is None
            assert reader.counted() == Usage(
                input_tokens=1_200, output_tokens=self.COUNTED, source="estimated"
            )
        empty = {"choices": [{"message": {"content": ""}}], "usage": usage}
        _, reader = pass_through(chat(), json.dumps(empty).encode())
        assert reader.figures() == Usage(input_tokens=1_200, output_tokens=0)

    def test_the_output_that_they_say_counts_if_it_is_more(self) -> None:
        whole = {"choices": [{"message": {"content": "x"}}], "usage": ZEROS | {"completion_tokens": 400}}
        for model in ("gpt-4o", "o3"):
            _, reader = pass_through(chat(model=model), json.dumps(whole).encode())
            assert reader.counted().output_tokens == 400

    def test_zeros_do_not_tell_that_a_model_did_not_reason(self) -> None:
        _, reader = pass_through(chat(model="o3", stream=True), says_with("x", ZEROS), DONE)
        assert (reader.figures(), reader.counted()) == (None, None)

    def test_zeros_until_the_last_chunk_and_zeros_after_it_change_nothing(self) -> None:
        first, last = says_with("x", ZEROS), chunk([], usage=USAGE)
        for pieces in ([first, last], [first, last, DONE], [first, last, says_with("", ZEROS), DONE]):
            assert pass_through(chat(stream=True), *pieces)[1].figures() == SAID

    def test_the_prompt_alone_is_not_the_end(self) -> None:
        """Some servers say first what they have read."""
        reader = chat(stream=True).reader()
        reader.feed(chunk([], usage={"prompt_tokens": 1_200, "completion_tokens": 0, "total_tokens": 1_200}))
        assert not reader.is_complete()
        for piece in (*STREAM, USAGE_CHUNK):
            reader.feed(piece)
        assert reader.figures() == SAID

    def test_a_call_without_a_prompt_may_read_nothing(self) -> None:
        answer = json.dumps({"choices": [{"text": "x"}], "usage": ZEROS | {"completion_tokens": 1}}).encode()
        _, reader = pass_through(call(COMPLETIONS, prompt=""), answer)
        assert reader.figures() == Usage(input_tokens=0, output_tokens=1)


class TestChatAnswer:
    ANSWER = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "gpt-4o-2024-08-06",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "About 2,850 km."}}],
            "usage": USAGE,
        }
    ).encode()

    def test_it_passes_at_once_and_its_usage_is_read_at_its_end(self) -> None:
        reader = chat().reader()
        assert reader.feed(self.ANSWER[:30]) == self.ANSWER[:30]
        assert reader.feed(self.ANSWER[30:]) == self.ANSWER[30:]
        assert reader.figures() is None
        assert reader.finish() == b""
        assert reader.figures() == SAID

    def test_whoever_leaves_when_all_of_it_has_come_has_used_what_the_provider_says(self) -> None:
        reader = chat(max_tokens=3).reader()
        for piece in (self.ANSWER[:30], self.ANSWER[30:]):
            reader.feed(piece)
        reader.counted()
        assert reader.figures() == SAID

    def test_what_the_provider_says_of_a_whole_answer_is_not_raised_by_counting(self) -> None:
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        choice = {"message": {"content": "many more words than the provider bills"}}
        reader = chat().reader()
        reader.feed(json.dumps({"choices": [choice], "usage": usage}).encode())
        reader.counted()
        assert reader.figures() == Usage(input_tokens=7, output_tokens=2)

    def test_looking_at_an_answer_that_has_not_come_whole_changes_nothing(self) -> None:
        reader = chat().reader()
        reader.feed(self.ANSWER[:-5])
        assert reader.counted() is None
        assert reader.counted() is None
        reader.feed(self.ANSWER[-5:])
        reader.finish()
        assert reader.figures() == SAID

    def test_without_usage_its_text_is_counted(self) -> None:
        answer = json.dumps({"choices": [{"message": {"content": "About 2,850 km."}}]}).encode()
        _, reader = pass_through(chat(), answer)
        assert reader.figures() is None
        assert reader.counted().output_tokens == tokens.count_text("About 2,850 km.", "gpt-4o")

    @pytest.mark.parametrize(
        "answer",
        [
            {"request_id": "f15c114e"},
            {"id": "1", "model": "glm-4.7", "task_status": "PROCESSING"},
            {"choices": []},
            {"choices": 7},
            {"choices": [{"message": {"content": ""}}]},
        ],
    )
    def test_an_answer_in_which_nothing_is_said_does_not_tell_what_was_used(
        self, answer: dict[str, Any]
    ) -> None:
        """Such as one that only says that the answer will come."""
        for pieces in (
            [json.dumps(answer).encode()],
            [b"data: " + json.dumps(answer).encode(), b"\n\n", DONE],
        ):
            _, reader = pass_through(chat(), *pieces)
            assert (reader.figures(), reader.counted()) == (None, None)

    @pytest.mark.parametrize(
        ("path", "answer"),
        [
            (CHAT, {"choices": [{"message": {"content": "one two"}, "finish_reason": "error"}]}),
            (CHAT, {"choices": [{"delta": {"content": "one two"}, "finish_reason": "error"}]}),
            (COMPLETIONS, {"choices": [{"text": "one two"}]}),
            (
                RESPONSES,
                {
                    "status": "failed",
                    "usage": None,
                    "output": [{"content": [{"type": "output_text", "text": "one two"}]}],
                },
            ),
            ("/v1/messages", {"content": [{"type": "text", "text": "one two"}]}),
            (
                "/v1beta/models/gemini-2.0-flash:generateContent",
                {"candidates": [{"content": {"parts": [{"text": "one two"}]}}]},
            ),
        ],
    )
    def test_text_beside_an_error_was_not_refused(self, path: str, answer: dict[str, Any]) -> None:
        with_error = {"error": {"code": 502, "message": "upstream lost"}} | answer
        asked = call(path, messages=MESSAGES)
        _, reader = pass_through(asked, json.dumps(with_error).encode())
        assert (reader.figures(), reader.ending()) == (None, Ending.CUT)
        assert reader.counted() == Usage(
            input_tokens=asked.count_input(),
            output_tokens=tokens.count_text("one two", asked.model),
            source="estimated",
        )

    def test_text_beside_an_error_in_the_one_event_of_a_stream_was_not_refused(self) -> None:
        only = chunk([{"delta": {"content": "one two"}}], error={"code": 502, "message": "upstream lost"})
        _, reader = pass_through(chat(stream=True), only)
        assert (reader.ending(), reader.counted().output_tokens) == (Ending.CUT, 2)

    def test_of_an_answer_that_was_cut_nobody_knows_what_was_used(self) -> None:
        reader = chat().reader()
        reader.feed(self.ANSWER[:-5])
        assert reader.counted() is None
        reader.finish()
        assert (reader.counted(), reader.ending()) == (None, Ending.UNANSWERED)

    @pytest.mark.parametrize(
        ("answer", "ending"),
        [
            (b"", Ending.UNANSWERED),
            (b"<html>", Ending.REFUSED),
            (b"[]", Ending.UNANSWERED),
            (b"null", Ending.UNANSWERED),
            (b'{"error": {"message": "x"}}', Ending.REFUSED),
            (b'{"choices": 7}', Ending.COMPLETE),
            (b"\xff", Ending.UNANSWERED),
            (b'{"choices": ' + b"[" * 2_000 + b"]" * 2_000 + b"}", Ending.UNANSWERED),
        ],
    )
    def test_an_answer_of_any_other_shape_passes(self, answer: bytes, ending: Ending) -> None:
        seen, reader = pass_through(chat(), answer)
        assert seen == answer
        assert (reader.figures(), reader.ending()) == (None, ending)

    def test_an_answer_beyond_the_bound_passes_unread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bulk, "LARGE_BYTES", 100)
        monkeypatch.setattr(bulk, "BYTES_MAX", 100)
        seen, reader = pass_through(chat(), self.ANSWER[:180], self.ANSWER[180:])
        assert seen == self.ANSWER
        assert reader.figures() is None
        assert (reader.counted(), reader.ending()) == (None, Ending.UNANSWERED)

    @pytest.mark.parametrize(
        ("path", "item"),
        [
            ("/v1/images/generations", {"b64_json": "QUJD" * 10_000}),
            ("/v1/images/generations", {"url": "data:image/png;base64," + "QUJD" * 10_000}),
            (EMBEDDINGS, {"embedding": [-0.017, 1e-05, 7] * 2_000}),
            (EMBEDDINGS, {"embedding": "QUJD" * 10_000}),
        ],
    )
    def test_pictures_and_vectors_hide_no_figures_however_large_they_are(
        self, path: str, item: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bulk, "LARGE_BYTES", 30_000)
        monkeypatch.setattr(bulk, "BYTES_MAX", 200_000)
        for indent in (None, 1):
            raw = json.dumps({"data": [item] * 9, "usage": USAGE}, indent=indent).encode()
            for piece_bytes in (1_000, 7_777):
                pieces = [raw[at : at + piece_bytes] for at in range(0, len(raw), piece_bytes)]
                seen, reader = pass_through(call(path, model="gpt-image-1"), *pieces)
                assert (seen, reader.figures()) == (raw, SAID)

    def test_of_a_large_stream_too_every_figure_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 5_000)
        monkeypatch.setattr(bulk, "LARGE_BYTES", 5_000)
        image = says("", images=[{"image_url": {"url": "data:image/png;base64," + "QUJD" * 5_000}}])
        stream = b"".join([*STREAM[:2], image, *STREAM[2:], USAGE_CHUNK, DONE])
        pieces = [stream[at : at + 1_000] for at in range(0, len(stream), 1_000)]
        seen, reader = pass_through(chat(stream=True), *pieces)
        assert seen == stream.replace(USAGE_CHUNK, b"")
        assert reader.figures() == SAID

    def test_text_before_an_event_that_is_too_large_to_read_does_not_tell_what_was_used(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 1_000)
        monkeypatch.setattr(bulk, "LARGE_BYTES", 1_000)
        monkeypatch.setattr(bulk, "BYTES_MAX", 2_000)
        stream = b"".join([*STREAM[:3], b"data: " + b'{"x": ' * 1_000 + b"\n\n", *STREAM[2:]])
        pieces = [stream[at : at + 500] for at in range(0, len(stream), 500)]
        seen, reader = pass_through(chat(stream=True), *pieces)
        assert (seen, reader.figures(), reader.counted()) == (stream, None, None)

    def test_of_very_long_text_a_part_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(answers, "TEXT_CHARS_MAX", 100)
        reader = chat(stream=True).reader()
        for _ in range(100):
            reader.feed(says("one two three "))
        expected = tokens.count_text("one two three " * 100, "gpt-4o")
        assert reader.counted().output_tokens == pytest.approx(expected, rel=0.05)


class TestCompletions:
    def test_the_cap_is_per_answer_to_each_prompt(self) -> None:
        assert call(COMPLETIONS, prompt="x", max_tokens=10).max_output_tokens == 10
        assert call(COMPLETIONS, prompt="x", max_tokens=10, n=2, best_of=5).max_output_tokens == 50
        assert call(COMPLETIONS, prompt=["x", "y"], max_tokens=10, n=2).max_output_tokens == 40
        assert call(COMPLETIONS, prompt=[1, 2, 3], max_tokens=10).max_output_tokens == 10
        assert sent(call(COMPLETIONS, prompt=["x", "y"]), 30)["max_tokens"] == 15

    def test_prompts_are_texts_or_tokens(self) -> None:
        assert call(COMPLETIONS, prompt="one two").count_input() == 2
        assert call(COMPLETIONS, prompt=["one two", "three"]).count_input() == 4  # with the mark between them
        assert call(COMPLETIONS, prompt=[1, 2, 3]).count_input() == 3
        assert call(COMPLETIONS, prompt=[[1, 2, 3], [4]]).count_input() == 4
        assert call(COMPLETIONS, prompt=None).count_input() == 0

    def test_a_stream_of_texts_is_counted(self) -> None:
        reader = call(COMPLETIONS, prompt="x", stream=True).reader()
        reader.feed(b'data: {"object":"text_completion","choices":[{"text":"one two","index":0}]}\n\n')
        assert reader.counted().output_tokens == 2


class TestEmbeddings:
    def test_they_have_no_cap(self) -> None:
        asked = call(EMBEDDINGS, model="text-embedding-3-small", input="one two")
        assert asked.max_output_tokens is None
        assert b"max" not in asked.outgoing(10).body
        assert asked.count_input() == 2

    def test_token_arrays_count_as_their_length(self) -> None:
        """As LangChain sends them."""
        assert call(EMBEDDINGS, input=[[1, 2, 3], [4, 5]]).count_input() == 5

    def test_usage_has_no_output(self) -> None:
        answer = {"object": "list", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
        _, reader = pass_through(call(EMBEDDINGS, input="x"), json.dumps(answer).encode())
        assert reader.figures() == Usage(input_tokens=8, output_tokens=0)

    def test_usage_without_input_is_counted_here(self) -> None:
        for usage in ({"prompt_tokens": 0, "total_tokens": 0}, ZEROS):
            answer = {"object": "list", "data": [], "usage": usage}
            _, reader = pass_through(call(EMBEDDINGS, input="one two"), json.dumps(answer).encode())
            assert reader.figures() is None
            assert reader.counted() == Usage(input_tokens=2, output_tokens=0, source="estimated")

    def test_vectors_are_no_output_even_when_they_were_cut(self) -> None:
        reader = call(EMBEDDINGS, input="one two").reader()
        reader.feed(b'{"data": [{"embedding": [0.1, 0.2, 0.3')
        assert reader.counted() == Usage(input_tokens=2, output_tokens=0, source="estimated")


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind, **fields}).encode() + b"\n\n"


RESPONSE_USAGE = {
    "input_tokens": 1_200,
    "output_tokens": 90,
    "total_tokens": 1_290,
    "input_tokens_details": {"cached_tokens": 1_024, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 64},
}


class TestResponses:
    STREAM = [
        event("response.created", response={"id": "resp_1", "status": "in_progress", "usage": None}),
        event("response.reasoning_summary_text.delta", delta="Rivers."),
        event("response.output_text.delta", item_id="msg_1", output_index=0, delta="About 2,850 "),
        event("response.output_text.delta", item_id="msg_1", output_index=0, delta="kilometres."),
    ]

    def test_instructions_input_and_tools_are_counted(self) -> None:
        plain = call(RESPONSES, input="one two").count_input()
        assert plain == tokens.count_tokens([{"role": "user", "content": "one two"}], model="gpt-4o")
        assert call(RESPONSES, input="one two", instructions="three four").count_input() >= plain + 2
        assert call(RESPONSES, input="one two", tools=[{"type": "web_search"}]).count_input() > plain

    @pytest.mark.parametrize(
        "item",
        [
            {"role": "user", "content": "alpha beta gamma"},
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "alpha beta gamma"}],
            },
            {"type": "function_call", "call_id": "c", "name": "alpha", "arguments": "beta gamma"},
            {"type": "function_call_output", "call_id": "c", "output": "alpha beta gamma"},
            {"type": "function_call_output", "output": [{"type": "input_text", "text": "alpha beta gamma"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "alpha beta gamma"}]},
        ],
    )
    def test_every_kind_of_item_is_counted(self, item: dict[str, Any]) -> None:
        without_text = {name: value for name, value in item.items() if name == "role"}
        empty = call(RESPONSES, input=[without_text]).count_input()
        assert 3 <= call(RESPONSES, input=[item]).count_input() - empty <= 5

    def test_an_image_is_an_attachment(self) -> None:
        image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 100_000}
        counted = call(RESPONSES, input=[{"role": "user", "content": [image]}]).count_input()
        assert tokens.TOKENS_PER_FILE <= counted < tokens.TOKENS_PER_FILE + 20

    @pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
    def test_the_last_event_says_the_usage(self, kind: str) -> None:
        last = event(kind, response={"id": "resp_1", "usage": RESPONSE_USAGE})
        stream = b"".join([*self.STREAM, last])
        for cut in range(len(stream)):
            seen, reader = pass_through(call(RESPONSES, input="x", stream=True), stream[:cut], stream[cut:])
            assert seen == stream
            assert reader.figures() == SAID

    def test_a_failure_without_usage_is_estimated(self) -> None:
        _, reader = pass_through(
            call(RESPONSES, input="x", stream=True),
            *self.STREAM,
            event("response.failed", response={"usage": None}),
        )
        assert reader.figures() is None
        assert reader.counted().output_tokens > 0

    def test_a_cut_stream_is_estimated_by_its_deltas(self) -> None:
        reader = call(RESPONSES, input="one two", stream=True).reader()
        for piece in (*self.STREAM, event("response.audio.delta", delta="UklGRg" * 50)):
            reader.feed(piece)
        assert reader.figures() is None
        assert reader.counted() == Usage(
            input_tokens=tokens.count_tokens([{"role": "user", "content": "one two"}], model="gpt-4o"),
            output_tokens=tokens.count_text("Rivers.About 2,850 kilometres.", "gpt-4o"),
            source="estimated",
        )

    def test_a_whole_answer_says_its_usage(self) -> None:
        answer = {"object": "response", "status": "completed", "output": [], "usage": RESPONSE_USAGE}
        _, reader = pass_through(call(RESPONSES, input="x"), json.dumps(answer).encode())
        assert reader.figures() == SAID

    def test_a_whole_answer_without_usage_is_counted(self) -> None:
        message = {"type": "message", "content": [{"type": "output_text", "text": "one two"}]}
        _, reader = pass_through(call(RESPONSES, input="x"), json.dumps({"output": [message]}).encode())
        assert reader.counted().output_tokens == 2

    def test_a_response_in_the_background_cannot_be_settled(self) -> None:
        with pytest.raises(ConfigurationError, match="stream it"):
            call(RESPONSES, input="x", background=True)
        assert call(RESPONSES, input="x", background=True, stream=True).streams

    def test_compacting_is_a_call_without_cap(self) -> None:
        asked = call("/v1/responses/compact", input=[{"role": "user", "content": "one two"}])
        assert asked.count_input() > 2
        assert asked.outgoing(5).body == asked.outgoing(None).body


def test_a_refusal_has_openais_shape() -> None:
    assert chat().refusal("No budget is left.", "limit_exceeded") == {
        "error": {
            "message": "No budget is left.",
            "type": "ai_usage_blocked",
            "param": None,
            "code": "limit_exceeded",
        }
    }
