"""The messages of an AWS event stream out of bytes that arrive in any pieces. Pure.

`application/vnd.amazon.eventstream`, in which Amazon Bedrock streams. A message: its length, the length of its headers,
a checksum of both; headers; a payload; a checksum of all (numbers big-endian, 32 bits).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct, error
from typing import Any
from zlib import crc32

from tokvigil import json_values
from tokvigil.json_values import string

# AWS allows 16 MiB and some headers. What is larger is not such a stream.
MESSAGE_BYTES_MAX = 25 * 1024 * 1024

_PRELUDE = Struct(">III")
_CHECKSUM_BYTES = 4
_MESSAGE_BYTES_MIN = _PRELUDE.size + _CHECKSUM_BYTES
_LENGTH = Struct(">H")
_STRING = 7
# Bytes and strings say their length; these are the sizes of the values of all other types.
_SIZED = frozenset({6, _STRING})
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


@dataclass(frozen=True, slots=True)
class Message:
    """`headers`: those whose value is a string."""

    headers: Mapping[str, str]
    payload: bytes

    def event(self) -> Mapping[str, Any] | None:
        """The model's event in it, as it is (converse) or in base64 (invoke), or an error as an event.

        None for anything else.
        """
        fields = json_values.parse_object(self.payload)
        if self.headers.get(":message-type") in ("exception", "error"):
            kind = self.headers.get(":exception-type") or self.headers.get(":error-code", "")
            message = string((fields or {}).get("message")) or self.headers.get(":error-message", "")
            return {"type": "error", "error": {"type": kind, "message": message}}
        if fields and "bytes" not in fields:
            return fields
        try:
            return json_values.parse_object(base64.b64decode(string((fields or {}).get("bytes"))))
        except binascii.Error:
            return None


class MessageParser:
    """Feed it bytes; it gives each message once it is whole. `is_broken`: its bytes are no such stream, so it reads no
    further."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self.is_broken = False

    def feed(self, data: bytes) -> list[Message]:
        if self.is_broken:
            return []
        self._pending += data
        messages, start = [], 0
        while (length := self._length_at(start)) is not None:
            messages.append(_read(bytes(self._pending[start : start + length])))
            start += length
        del self._pending[: len(self._pending) if self.is_broken else start]
        return messages

    def _length_at(self, start: int) -> int | None:
        """Of the message that begins here; None until all of it has come."""
        if len(self._pending) - start < _PRELUDE.size:
            return None
        length, headers_length, checksum = _PRELUDE.unpack_from(self._pending, start)
        is_one = crc32(self._pending[start : start + _PRELUDE.size - _CHECKSUM_BYTES]) == checksum
        if not is_one or not _MESSAGE_BYTES_MIN + headers_length <= length <= MESSAGE_BYTES_MAX:
            self.is_broken = True
            return None
        return int(length) if len(self._pending) - start >= length else None


def _read(raw: bytes) -> Message:
    _, headers_length, _ = _PRELUDE.unpack_from(raw)
    payload = _PRELUDE.size + headers_length
    return Message(dict(_headers(raw[_PRELUDE.size : payload])), raw[payload:-_CHECKSUM_BYTES])


def _headers(raw: bytes) -> Iterator[tuple[str, str]]:
    """As far as they can be read."""
    at = 0
    try:
        while at < len(raw):
            name, kind, at = raw[at + 1 : at + 1 + raw[at]], raw[at + 1 + raw[at]], at + 2 + raw[at]
            if kind in _SIZED:
                size, at = _LENGTH.unpack_from(raw, at)[0], at + _LENGTH.size
            else:
                size = _SIZES[kind]
            if kind == _STRING:
                yield name.decode("utf-8", "replace"), raw[at : at + size].decode("utf-8", "replace")
            at += size
    except (IndexError, KeyError, error):
        return
