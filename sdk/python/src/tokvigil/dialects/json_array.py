"""The objects of a JSON array that arrives in any pieces. Pure."""

from __future__ import annotations

import re

from tokvigil.dialects.bulk import Condensed

_MARKS = re.compile(rb'["\\{}]')


class ArrayParser:
    """Feed it the bytes of an array; it gives each object of it once it is whole. None: it is too large to be read."""

    def __init__(self) -> None:
        self._object = Condensed()
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def feed(self, data: bytes) -> list[bytes | None]:
        objects: list[bytes | None] = []
        start = at = 0
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
                    objects.append(None if self._object.is_cut else bytes(self._object + data[start:at]))
                    self._object = Condensed()
            elif mark[0] == b'"':
                self._in_string = True
        if self._depth > 0:
            self._object.add(data[start:])
        return objects

    def _read_in_string(self, mark: bytes, at: int, length: int) -> int:
        """Where to go on: after the escaped byte, which may not have come yet."""
        if mark == b'"':
            self._in_string = False
        elif mark == b"\\":
            self._is_escaped = at == length
            return at + 1
        return at
