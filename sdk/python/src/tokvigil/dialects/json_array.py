"""The objects of a JSON array that arrives in any pieces. Pure."""

from __future__ import annotations

import re

# What is larger than this is not read, nor anything after it.
OBJECT_BYTES_MAX = 16 * 1024 * 1024

_MARKS = re.compile(rb'["\\{}]')


class ArrayParser:
    """Feed it the bytes of an array; it gives each object of it once it is whole."""

    def __init__(self) -> None:
        self._object = bytearray()
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._reads = True

    def feed(self, data: bytes) -> list[bytes]:
        if not self._reads:
            return []
        objects, start, at = [], 0, 0
        if self._is_escaped and data:
            self._is_escaped, at = False, 1
        while (mark := _MARKS.search(data, at)) is not None:
            at = mark.end()
            if self._in_string:
                at = self._read_in_string(mark[0], at, len(data))
            elif mark[0] == b"{":
                start = mark.start() if self._depth == 0 else start
                self._depth += 1
            elif mark[0] == b"}" and self._depth > 0:
                self._depth -= 1
                if self._depth == 0:
                    objects.append(bytes(self._object + data[start:at]))
                    self._object.clear()
            elif mark[0] == b'"':
                self._in_string = True
        self._keep(data[start:])
        return objects

    def _read_in_string(self, mark: bytes, at: int, length: int) -> int:
        """Where to go on: after the escaped byte, which may not have come yet."""
        if mark == b'"':
            self._in_string = False
        elif mark == b"\\":
            self._is_escaped = at == length
            return at + 1
        return at

    def _keep(self, rest: bytes) -> None:
        if self._depth > 0:
            self._object += rest
        if len(self._object) > OBJECT_BYTES_MAX:
            self._reads = False
            self._object.clear()
