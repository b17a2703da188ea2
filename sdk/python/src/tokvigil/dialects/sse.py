"""Server-sent events out of bytes that arrive in any pieces. Pure.

Each event keeps its bytes as they came, so that what is read here can be passed on unchanged, or left out as
a whole. The format is that of the HTML standard ("Interpreting an event stream"), but for one thing: what
stands at the end without a blank line is an event too, because providers end their streams that way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# An image in base64 is one event. What is larger than this, or never ends, is passed on unread.
EVENT_BYTES_MAX = 16 * 1024 * 1024

# Atomic, so that the two bytes of one "\r\n" never pass for two line ends.
_LINE_END = rb"(?>\r\n|\n|\r)"
_EVENT_END = re.compile(_LINE_END + _LINE_END)
_LINES = re.compile(_LINE_END)
_EVENT_END_BYTES_MAX = 4
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its bytes with the blank line after it, its name ("" if it has none), its data lines joined.

    `data` is None for a comment, and for bytes that were not read.
    """

    raw: bytes
    name: str = ""
    data: str | None = None


class EventParser:
    """Feed it bytes; it gives each event once it is whole. The raw bytes of all events are the bytes fed."""

    def __init__(self) -> None:
        self._pending = bytearray()
        # No event ends within the first so many bytes of what is pending.
        self._searched = 0
        self._reads = True

    def feed(self, data: bytes) -> list[Event]:
        if not self._reads:
            return [Event(data)]
        self._pending += data
        events, start = [], 0
        while (end := self._end_of_event(start)) is not None:
            events.append(_read(bytes(self._pending[start:end])))
            start = end
        del self._pending[:start]
        self._searched = max(0, len(self._pending) - _EVENT_END_BYTES_MAX + 1)
        if len(self._pending) > EVENT_BYTES_MAX:
            self._reads = False
            events.append(Event(self._take()))
        return events

    def finish(self) -> list[Event]:
        """The event that nothing ended."""
        return [_read(self._take())] if self._pending else []

    def _end_of_event(self, start: int) -> int | None:
        found = _EVENT_END.search(self._pending, max(start, self._searched))
        # A "\r" at the very end may be half of a "\r\n".
        may_go_on = found is not None and self._pending.endswith(b"\r") and found.end() == len(self._pending)
        return None if found is None or may_go_on else found.end()

    def _take(self) -> bytes:
        taken = bytes(self._pending)
        self._pending.clear()
        self._searched = 0
        return taken


def _read(raw: bytes) -> Event:
    name, data = "", []
    for line in _LINES.split(raw.removeprefix(_BYTE_ORDER_MARK)):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(_text(value))
        elif field == b"event":
            name = _text(value)
    return Event(raw, name, "\n".join(data) if data else None)


def _text(value: bytes) -> str:
    return value.removeprefix(b" ").decode("utf-8", "replace")
