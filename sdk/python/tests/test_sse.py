"""Server-sent events, however their bytes are cut."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil.dialects import bulk, sse
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


def test_the_second_of_two_carriage_returns_ends_an_event_at_once() -> None:
    """No line feed that may follow belongs to it."""
    parser = EventParser()
    assert parser.feed(b"data: 1\r") == []
    assert parser.feed(b"\r") == [Event(b"data: 1\r\r", "", "1")]
    assert parser.feed(b"data: 2\r\r") == [Event(b"data: 2\r\r", "", "2")]
    assert parser.feed(b"\ndata: 3\r\n\r\n") == [Event(b"\ndata: 3\r\n\r\n", "", "3")]


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


def test_a_large_event_is_passed_on_as_it_comes_and_read_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 10)
    parser = EventParser()
    assert parser.feed(b"data: 1\n\n") == [Event(b"data: 1\n\n", "", "1")]
    assert parser.feed(b"data: 234") == []
    assert parser.feed(b"56") == [Event(b"data: 23456")]
    assert parser.feed(b"78") == [Event(b"78")]
    assert parser.feed(b"9\n\ndata: 3\n\nda") == [
        Event(b"9\n\n", "", "23456789"),
        Event(b"data: 3\n\n", "", "3"),
    ]
    assert parser.feed(b"ta: 3456789") == [Event(b"data: 3456789")]
    assert parser.finish() == [Event(b"", "", "3456789")]


def test_of_a_large_event_its_bulk_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 10_000)
    monkeypatch.setattr(bulk, "LARGE_BYTES", 10_000)
    picture = b'data: {"picture": "' + b"QUJD" * 10_000 + b'", "tokens": 7}\n\n'
    for piece_bytes in (1_000, 7_777, 50_000):
        pieces = [picture[at : at + piece_bytes] for at in range(0, len(picture), piece_bytes)]
        events = parse(*pieces, b"data: 1\n\n")
        assert b"".join(event.raw for event in events) == picture + b"data: 1\n\n"
        *_, large, small = events
        assert json.loads(large.data or "")["tokens"] == 7
        assert small.data == "1"
        assert piece_bytes == 50_000 or len(large.data or "") < 20_000


def test_an_event_that_grows_byte_by_byte_is_searched_once() -> None:
    started = time.process_time()
    parser = EventParser()
    parser.feed(b"data: ")
    for _ in range(30_000):
        assert parser.feed(b"x" * 10) == []
    assert [len(event.data or "") for event in parser.feed(b"\n\n")] == [300_000]
    assert time.process_time() - started < 5, "20 times that if each search began at the start"
