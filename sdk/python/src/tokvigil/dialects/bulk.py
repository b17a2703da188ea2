"""What makes an answer large and says nothing of its use: pictures and sound in base64, vectors. Pure.

It is dropped while the answer comes: little is kept of it then, and that is read in no time.
"""

from __future__ import annotations

import re

# Less is kept as it comes.
LARGE_BYTES = 1024 * 1024
# What is larger without its bulk is not read.
BYTES_MAX = 32 * 1024 * 1024

# The rest of a string, which may go on in what has not come yet; and a whole array of numbers. No word is that long.
_BULK = re.compile(rb'(["\[,])(?:[\w+/=-]{1000,}+|(?<=\[)[\d.,eE+\s-]{1000,}+(?=\]))')
# Always kept: the end of an event may have begun.
_LAST_BYTES = 4


class Condensed(bytearray):
    """JSON that arrives in any pieces, without its bulk as soon as it is large. It stays JSON, unless it `is_cut`."""

    is_cut = False
    _condense_at = 0

    def add(self, data: bytes) -> None:
        self += data
        self.condense()

    def condense(self) -> None:
        """Twice as much must come before it is done again, so that each byte is looked at a few times only."""
        if len(self) > max(self._condense_at, LARGE_BYTES):
            self[:] = _BULK.sub(rb"\1", self)
            if len(self) > BYTES_MAX:
                self.is_cut = True
                del self[:-_LAST_BYTES]
            self._condense_at = 2 * len(self)
