"""A request's JSON body, read and written without touching the long strings in it: pictures, sounds, documents.

Reading 15 MB as JSON and writing it again would hold up an event loop for a tenth of a second. So a long string is
replaced by a short stand-in while the rest is read, and put back, byte for byte, when the body is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tokvigil import json_values

# Shorter bodies are read as a whole.
LARGE_BYTES = 256 * 1024
# Strings of a large body that are replaced.
LONG_BYTES = 64 * 1024
# A body with more strings is read as a whole too: hopping over them takes longer.
STRINGS_MAX = 20_000
# Of each end of a string, to tell a file by.
END_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class LongString:
    """As it stands between its quotes."""

    raw: bytes = field(repr=False)

    def whole(self) -> str:
        """Takes long for a file."""
        return _decoded(self.raw)

    def sample(self) -> str:
        """What shows as well as the whole whether it is a file."""
        raw = self.raw
        if b" " in raw or b"\\u" in raw or not raw.isascii():
            return self.whole()
        return _decoded(raw[:END_BYTES].rstrip(b"\\")) + _decoded(raw[-END_BYTES:])


@dataclass(frozen=True, slots=True)
class Body:
    """`fields` are what the body says, with stand-ins for the strings in `long`; `short` is how it says that."""

    raw: bytes = field(repr=False)
    fields: dict[str, Any] = field(repr=False)
    long: Mapping[str, LongString] = field(repr=False)
    short: bytes = field(default=b"{}", repr=False)

    def write(self, fields: Mapping[str, Any]) -> bytes:
        """A body with these fields, none of its own missing; the original bytes where they are unchanged.

        Raises `ConfigurationError` for what is nested deeper than can be written.
        """
        if fields is self.fields:
            return self.raw
        text = self.short.decode(json.detect_encoding(self.short), "surrogatepass")
        text = json_values.rewritten(text, self.fields, fields)
        # Half a character is written as its escape: no provider takes it otherwise.
        written = text.encode("utf-8", "backslashreplace")
        if not self.long:
            return written
        stand_ins = re.compile(b"|".join(re.escape(name.encode()) for name in self.long))
        return stand_ins.sub(lambda found: self.long[found[0].decode()].raw, written)


def read(raw: bytes) -> Body | None:
    """None for a body that is not one JSON object in UTF-8."""
    short, long = _shortened(raw) if len(raw) > LARGE_BYTES else (raw, {})
    fields = json_values.parse_object(short)
    return None if fields is None else Body(raw, fields, long, short)


def _shortened(raw: bytes) -> tuple[bytes, dict[str, LongString]]:
    """The body with stand-ins, which no body contains by chance, and what they stand for."""
    nonce = uuid4().hex
    pieces: list[bytes] = []
    long: dict[str, LongString] = {}
    kept_until = 0
    begin = raw.find(b'"')
    for _ in range(STRINGS_MAX):
        if begin < 0:
            break
        end = _end_of_string(raw, begin + 1)
        if end < 0:
            break
        if end - begin > LONG_BYTES:
            name = f"{nonce}-{len(long)}-"
            long[name] = LongString(raw[begin + 1 : end])
            pieces += (raw[kept_until : begin + 1], name.encode())
            kept_until = end
        begin = raw.find(b'"', end + 1)
    else:
        return raw, {}
    return b"".join((*pieces, raw[kept_until:])), long


def _end_of_string(raw: bytes, start: int) -> int:
    """Where the quote is that ends it; -1: nowhere."""
    end = raw.find(b'"', start)
    while end >= 0:
        backslashes = 0
        while raw[end - 1 - backslashes] == 0x5C:
            backslashes += 1
        if backslashes % 2 == 0:
            return end
        end = raw.find(b'"', end + 1)
    return -1


def _decoded(string: bytes) -> str:
    try:
        return str(json.loads(b'"' + string + b'"'))
    except (ValueError, RecursionError):
        return string.decode("utf-8", "replace")
