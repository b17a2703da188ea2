"""Server-sent events out of bytes that arrive in any pieces. Pure.

Each event keeps its bytes as they came, so that what is read here can be passed on unchanged, or left out as
a whole. The format is that of the HTML standard ("Interpreting an event stream"), but for one thing: what
stands at the end without a blank line is an event too, because providers end their streams that way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokvigil.dialects.bulk import Condensed

# An image in base64 is one event. What is larger than this, or never ends, is passed on before it is read.
EVENT_BYTES_MAX = 16 * 1024 * 1024

# Atomic, so that the two bytes of one "\r\n" never pass for two line ends.
_LINE_END = rb"(?>\r\n|\n|\r)"
# A line feed after two "\r" is a line of its own: nobody need wait for it.
_EVENT_END = re.compile(rb"\r\r|" + _LINE_END + _LINE_END)
_LINES = re.compile(_LINE_END)
_EVENT_END_BYTES_MAX = 4
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its bytes with the blank line after it, its name ("" if it has none), its data lines joined.

    `data` is None for a comment, for bytes of an event that is passed on before it is read, and for one that is too
    large to be read. `raw` has no bytes that were passed on before.
    """

    raw: bytes
    name: str = ""
    data: str | None = None
    is_too_large: bool = False


class EventParser:
    """Feed it bytes; it gives each event once it is whole. The raw bytes of all events are the bytes fed."""

    def __init__(self) -> None:
        self._pending = Condensed()
        # No event ends within the first so many bytes of what is pending.
        self._searched = 0
        # What is pending was passed on.
        self._is_passed = False

    def feed(self, data: bytes) -> list[Event]:
        passed = len(self._pending) if self._is_passed else 0
        self._pending += data
        events, start = [], 0
        while (end := self._end_of_event(start)) is not None:
            events.append(self._event(start, end, passed))
            start, passed = end, 0
            self._is_passed = False
        del self._pending[:start]
        if self._is_passed or len(self._pending) > EVENT_BYTES_MAX:
            self._is_passed = True
            events.append(Event(bytes(self._pending[passed:])))
            self._pending.condense()
        self._searched = max(0, len(self._pending) - _EVENT_END_BYTES_MAX + 1)
        return events

    def finish(self) -> list[Event]:
        """The event that nothing ended."""
        end = len(self._pending)
        return [self._event(0, end, end if self._is_passed else 0)] if end else []

    def _event(self, start: int, end: int, passed: int) -> Event:
        raw = bytes(self._pending[start:end])
        if self._pending.is_cut:
            self._pending.is_cut = False
            return Event(raw[passed:], is_too_large=True)
        return _read(raw, passed)

    def _end_of_event(self, start: int) -> int | None:
        found = _EVENT_END.search(self._pending, max(start, self._searched))
        if found is None:
            return None
        # A "\r" at the very end may be half of a "\r\n".
        may_go_on = found[0] in (b"\n\r", b"\r\n\r") and found.end() == len(self._pending)
        return None if may_go_on else found.end()


def _read(raw: bytes, passed: int) -> Event:
    name, data = "", []
    for line in _LINES.split(raw.removeprefix(_BYTE_ORDER_MARK)):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(_text(value))
        elif field == b"event":
            name = _text(value)
    return Event(raw[passed:], name, "\n".join(data) if data else None)


def _text(value: bytes) -> str:
    return value.removeprefix(b" ").decode("utf-8", "replace")
