"""The event stream of Amazon Bedrock, however its bytes are cut."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil import Usage
from tokvigil.dialects import aws_event_stream, read_call
from tokvigil.dialects.anthropic import MessagesCall
from tokvigil.dialects.aws_event_stream import Message, MessageParser

from sdk.python.tests.wire_provider import anthropic, aws_events
from sdk.python.tests.wire_provider.exchange import Seen, Stream

EVENT = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "grüße 😀"}}
STREAM = (
    aws_events.chunk(EVENT)
    + aws_events.message({}, b"")
    + aws_events.exception("throttlingException", "Wait")
)
PATH = "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke-with-response-stream"
BODY = (
    b'{"anthropic_version":"bedrock-2023-05-31","max_tokens":500,"messages":[{"role":"user","content":"hi"}]}'
)
SEEN = Seen(
    method="POST",
    path=PATH,
    query={},
    headers={"authorization": "k"},
    body=json.loads(BODY),
    raw=BODY,
)


def parse(*pieces: bytes) -> list[Message]:
    parser = MessageParser()
    return [message for piece in pieces for message in parser.feed(piece)]


def test_messages_are_the_same_wherever_their_bytes_are_cut() -> None:
    whole = parse(STREAM)
    assert [message.event() for message in whole] == [
        EVENT,
        None,
        {"type": "error", "error": {"type": "throttlingException", "message": "Wait"}},
    ]
    for cut in range(len(STREAM)):
        assert parse(STREAM[:cut], STREAM[cut:]) == whole
    assert parse(*(bytes([byte]) for byte in STREAM)) == whole


@given(
    st.lists(
        st.tuples(
            st.dictionaries(
                st.text(max_size=20).filter(lambda name: len(name.encode()) < 255), st.text(), max_size=3
            ),
            st.binary(max_size=50),
        ),
        max_size=4,
    ),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_messages_are_read_as_they_were_written(
    messages: list[tuple[dict[str, str], bytes]], cuts: list[int]
) -> None:
    stream = b"".join(aws_events.message(headers, payload) for headers, payload in messages)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(bounds)]
    assert [(message.headers, message.payload) for message in parse(*pieces)] == messages


@given(st.binary(max_size=100), st.integers(0, 100))
def test_bytes_that_are_no_such_stream_end_the_reading(noise: bytes, cut: int) -> None:
    assert parse(noise[:cut], noise[cut:]) == []
    parser = MessageParser()
    parser.feed(noise + bytes(100))
    assert parser.is_broken
    assert parser.feed(STREAM) == []


def test_a_message_that_claims_to_be_huge_is_not_waited_for() -> None:
    prelude = struct.pack(">II", aws_event_stream.MESSAGE_BYTES_MAX + 1, 0)
    parser = MessageParser()
    parser.feed(prelude + struct.pack(">I", crc32(prelude)))
    assert parser.is_broken


def test_headers_of_all_types_are_passed_over() -> None:
    values = [b"\0", b"\1", b"\2x", b"\3xx", b"\4xxxx", b"\5" + 8 * b"x", b"\6\0\3abc", b"\10" + 8 * b"x"]
    values += [b"\11" + 16 * b"x", b"\7\0\2ok"]
    head = b"".join(b"\1" + bytes([97 + at]) + value for at, value in enumerate(values))
    prelude = struct.pack(">II", 16 + len(head), len(head))
    checked = prelude + struct.pack(">I", crc32(prelude)) + head
    (message,) = parse(checked + struct.pack(">I", crc32(checked)))
    assert message.headers == {"j": "ok"}


@pytest.mark.parametrize(
    "payload", [b"", b"7", b"{}", b'{"bytes": 7}', b'{"bytes": "!"}', b'{"bytes": "W10="}']
)
def test_a_payload_that_holds_no_event_is_passed_over(payload: bytes) -> None:
    (message,) = parse(aws_events.message({":message-type": "event"}, payload))
    assert message.event() is None


@pytest.mark.parametrize("piece_bytes", [1, 7, 10_000])
def test_claude_on_bedrock_is_read_while_it_streams(piece_bytes: int) -> None:
    call = read_call("POST", PATH, "bedrock-runtime.us-east-1.amazonaws.com", {}, BODY)
    assert call is not None
    assert (call.model, call.provider) == ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "aws")
    assert call.max_output_tokens == 500
    assert b'"max_tokens":100' in call.outgoing(100).body
    stream = anthropic.answer(SEEN)
    assert isinstance(stream, Stream)
    raw = b"".join(stream.events)
    reader = call.reader()
    shown = [reader.feed(raw[start : start + piece_bytes]) for start in range(0, len(raw), piece_bytes)]
    assert b"".join([*shown, reader.finish()]) == raw
    assert reader.figures() == anthropic.USAGE


CONVERSE_USAGE = {"inputTokens": 30, "outputTokens": 628, "totalTokens": 658}


@pytest.mark.parametrize(
    ("verb", "last"),
    [
        (
            "converse-stream",
            aws_events.message({":event-type": "metadata"}, json.dumps({"usage": CONVERSE_USAGE}).encode()),
        ),
        ("invoke-with-response-stream", aws_events.chunk({"metadata": {"usage": CONVERSE_USAGE}})),
        (
            "invoke-with-response-stream",
            aws_events.chunk(
                {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 30, "outputTokenCount": 628}}
            ),
        ),
    ],
)
def test_the_last_event_of_any_model_on_bedrock_says_its_usage(verb: str, last: bytes) -> None:
    call = read_call(
        "POST", f"/model/amazon.nova-pro-v1%3A0/{verb}", "amazonaws.com", {}, b'{"messages": []}'
    )
    assert call is not None
    said = json.dumps({"contentBlockIndex": 0, "delta": {"text": "word"}}).encode()
    reader = call.reader()
    reader.feed(aws_events.message({":event-type": "contentBlockDelta"}, said) + last)
    assert reader.figures() is None
    reader.finish()
    assert reader.figures() == Usage(input_tokens=30, output_tokens=628)


def test_figures_before_bytes_that_cannot_be_read_are_not_the_last() -> None:
    usage = aws_events.message({":event-type": "metadata"}, json.dumps({"usage": CONVERSE_USAGE}).encode())
    call = read_call("POST", "/model/m/converse-stream", "amazonaws.com", {}, b'{"messages": []}')
    assert call is not None
    reader = call.reader()
    for piece in (usage, b"no such message", usage):
        reader.feed(piece)
    reader.finish()
    assert (reader.figures(), reader.counted()) == (None, None)


@pytest.mark.parametrize(
    "model", ["anthropic.claude-3", "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fp"]
)
def test_claude_on_bedrock_is_known_by_its_request_whatever_its_model_is_called(model: str) -> None:
    call = read_call("POST", f"/model/{model}/invoke", "amazonaws.com", {}, BODY)
    other = read_call(
        "POST", f"/model/{model}/invoke", "amazonaws.com", {}, b'{"prompt": "hi", "max_gen_len": 9}'
    )
    assert isinstance(call, MessagesCall)
    assert other is not None
    assert not isinstance(other, MessagesCall)
