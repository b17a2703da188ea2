"""Server-sent events, however their bytes are cut."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil.dialects import sse
from tokvigil.dialects.sse import Event, EventParser

TWO_EVENTS = (
    b": keep-alive\n\n"
    b'event: message_start\ndata: {"type":"message_start"}\n\n'
    b'data: {"text": "gr\xc3\xbc\xc3\x9fe"}\n\n'
)
LINE_ENDS = [b"\n", b"\r\n", b"\r"]


def parse(*pieces: bytes) -> list[Event]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish()


def read(events: list[Event]) -> list[tuple[str, str | None]]:
    return [(event.name, event.data) for event in events]


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_events_are_the_same_wherever_their_bytes_are_cut(line_end: bytes) -> None:
    stream = TWO_EVENTS.replace(b"\n", line_end)
    whole = parse(stream)
    assert read(whole) == [
        ("", None),
        ("message_start", '{"type":"message_start"}'),
        ("", '{"text": "grüße"}'),
    ]
    for cut in range(len(stream)):
        assert parse(stream[:cut], stream[cut:]) == whole
    assert parse(*(bytes([byte]) for byte in stream)) == whole


@given(
    st.lists(st.sampled_from([b"data", b":", b" ", b"x", b"event", b"\n", b"\r", b"\r\n"]), max_size=30),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_any_bytes_come_out_as_they_went_in(tokens: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(tokens)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(bounds)]
    assert b"".join(event.raw for event in parse(*pieces)) == stream
    assert parse(*pieces) == parse(stream)


def test_an_event_is_given_as_soon_as_its_blank_line_is_there() -> None:
    parser = EventParser()
    assert parser.feed(b"data: 1\n") == []
    assert read(parser.feed(b"\ndata: 2")) == [("", "1")]
    assert read(parser.feed(b"\n\n")) == [("", "2")]


def test_the_lines_of_an_event_are_joined() -> None:
    assert read(parse(b"data: {\ndata:  1\ndata:}\n\n")) == [("", "{\n 1\n}")]


def test_fields_nobody_asked_for_are_passed_over() -> None:
    assert read(parse(b"id: 7\nretry: 10\n: hello\ndata: x\nunknown\n\n")) == [("", "x")]


def test_a_byte_order_mark_is_no_part_of_a_field() -> None:
    assert read(parse(b"\xef\xbb\xbfdata: x\n\n")) == [("", "x")]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n"])
def test_the_last_event_needs_no_blank_line(end: bytes) -> None:
    stream = b"data: 1\n\ndata: 2" + end
    assert read(parse(stream)) == [("", "1"), ("", "2")]
    assert b"".join(event.raw for event in parse(stream)) == stream


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert read(parse(b"data: \xff\xfe\n\n")) == [("", "��")]


def test_an_event_without_end_is_passed_on_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 10)
    parser = EventParser()
    assert parser.feed(b"data: 1\n\n") == [Event(b"data: 1\n\n", "", "1")]
    assert parser.feed(b"data: 234") == []
    assert parser.feed(b"56") == [Event(b"data: 23456")]
    assert parser.feed(b"\n\ndata: 3\n\n") == [Event(b"\n\ndata: 3\n\n")]
    assert parser.finish() == []


def test_an_event_that_grows_byte_by_byte_is_searched_once() -> None:
    started = time.process_time()
    parser = EventParser()
    parser.feed(b"data: ")
    for _ in range(30_000):
        assert parser.feed(b"x" * 10) == []
    assert [len(event.data or "") for event in parser.feed(b"\n\n")] == [300_000]
    assert time.process_time() - started < 5, "20 times that if each search began at the start"
