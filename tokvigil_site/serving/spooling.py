"""Answers whose length nobody knows before they are made, such as exports: they go to a file first, then to the client.

So an answer is whole or is an error, a slow client keeps no thread, and a long one needs no memory: granian sends a
file piece by piece, as fast as the client takes it. What it is given while it is made, it would keep in memory.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

# Of the threads of a process (threads.THREADS) that make such answers; evaluates and reports need the others.
SPOOLING_MAX = 4
# What is shorter needs no file.
MEMORY_BYTES_MAX = 1024 * 1024
FILE_BYTES_MAX = 4 * 1024**3
# Granian opens the file by its name, in a moment of its own.
OPENED_WITHIN_S = 30.0


class TooLong(Exception):
    """The answer has more bytes than are kept for a client."""


class Places:
    """So many answers may be made at once, in one process."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(SPOOLING_MAX)

    @contextmanager
    def one(self) -> Iterator[bool]:
        """Whether there is one."""
        taken = self._free.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._free.release()


def spooled(pieces: Iterable[bytes]) -> bytes | IO[bytes]:
    """All of it; as a file with a name if it is long, which is gone when it is closed. Raises TooLong."""
    gathered = bytearray()
    left = iter(pieces)
    for piece in left:
        gathered += piece
        if len(gathered) > MEMORY_BYTES_MAX:
            return _in_file(bytes(gathered), left)
    return bytes(gathered)


def _in_file(first: bytes, rest: Iterable[bytes]) -> IO[bytes]:
    file = tempfile.NamedTemporaryFile(prefix="tokvigil-answer-")  # noqa: SIM115 (whoever sends it closes it)
    try:
        length = file.write(first)
        for piece in rest:
            length += file.write(piece)
            if length > FILE_BYTES_MAX:
                raise TooLong(f"the answer is longer than {FILE_BYTES_MAX} bytes")
        file.flush()
    except BaseException:
        file.close()
        raise
    return file
