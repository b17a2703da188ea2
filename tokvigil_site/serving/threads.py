"""The threads that run the WSGI application, each on one complete request at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from io import BytesIO, RawIOBase
from queue import SimpleQueue
from typing import IO, Any, Protocol

from tokvigil_site.serving.environ import Environ
from tokvigil_site.serving.spooling import OPENED_WITHIN_S, Places, spooled

logger = logging.getLogger("tokvigil.serving")

THREADS = 16
# About a second's evaluates. Whoever comes on top had better ask again than wait.
CALLS_MAX = 1000
BYTES_MAX = 64 * 1024 * 1024
STOP_S_MAX = 1.0

Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
ResponseHeaders = list[tuple[str, str]]


class Answering(Protocol):
    """Where an answer goes. Any thread may call it, once; a client that left is no error."""

    def response_bytes(self, status: int, headers: ResponseHeaders, body: bytes) -> None: ...
    def response_file_range(
        self, status: int, headers: ResponseHeaders, file: str, start: int, end: int
    ) -> None: ...


class TooBusy(Exception):
    """As many calls wait, or long answers are made, as may."""


class Threads:
    """Takes calls from the event loop's thread, in the order they come."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._calls: SimpleQueue[tuple[Environ, Answering, asyncio.Future[None]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._long_answers = Places()
        # What is taken and not answered yet.
        self._open = 0
        self._open_bytes = 0
        self._answered: deque[tuple[asyncio.Future[None], TooBusy | None]] = deque()
        self._woken = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = [
            threading.Thread(target=self._work, name=f"call-{number}", daemon=True)
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """What was taken before is answered first."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join(STOP_S_MAX)

    async def answer(self, environ: Environ, body: BytesIO | RawIOBase, to: Answering) -> None:
        """Returns when the answer is given. Raises TooBusy."""
        size = len(body.getbuffer()) if isinstance(body, BytesIO) else 0
        if self._open >= CALLS_MAX or self._open_bytes + size > BYTES_MAX:
            raise TooBusy
        self._open += 1
        self._open_bytes += size
        environ["wsgi.input"] = body
        environ["wsgi.file_wrapper"] = File
        done = self._loop.create_future()
        self._calls.put((environ, to, done))
        try:
            await done
        finally:
            self._open -= 1
            self._open_bytes -= size

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            environ, to, done = call
            refused: TooBusy | None = None
            try:
                self._run(environ, to)
            except TooBusy as error:
                refused = error
            except BaseException:
                # Whatever it is, the thread is needed.
                logger.exception("%s %s failed", environ["REQUEST_METHOD"], environ["PATH_INFO"])
                to.response_bytes(500, [], b"")
            self._tell(done, refused)

    def _run(self, environ: Environ, to: Answering) -> None:
        """One request: called, answered, closed. Raises TooBusy, then nothing is answered yet."""
        started = Started()
        answer: Any = self._application(environ, started)
        try:
            if isinstance(answer, File):
                answer.answer(started, to)
            elif getattr(answer, "streaming", False):
                self._spool(answer, started, to)
            else:
                to.response_bytes(started.status, started.headers, b"".join(answer))
        finally:
            if hasattr(answer, "close"):
                answer.close()

    def _spool(self, answer: Iterable[bytes], started: Started, to: Answering) -> None:
        with self._long_answers.one() as has_place:
            if not has_place:
                raise TooBusy
            made = spooled(answer)
        if isinstance(made, bytes):
            to.response_bytes(started.status, started.headers, made)
            return
        length = made.tell()
        headers = [*started.headers, ("Content-Length", str(length))]
        to.response_file_range(started.status, headers, made.name, 0, length)
        self._loop.call_soon_threadsafe(self._loop.call_later, OPENED_WITHIN_S, made.close)

    def _tell(self, done: asyncio.Future[None], refused: TooBusy | None) -> None:
        # Waking the loop is dear; those who are answered while it wakes up share it.
        self._answered.append((done, refused))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        # Before the last look at the queue: who comes after that look wakes the loop again.
        self._woken = False
        while self._answered:
            done, refused = self._answered.popleft()
            if done.done():
                continue
            if refused is None:
                done.set_result(None)
            else:
                done.set_exception(refused)


class Started:
    """WSGI's `start_response`."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: ResponseHeaders = []

    def __call__(self, status: str, headers: ResponseHeaders, exc_info: Any = None) -> None:
        self.status = int(status[:3])
        self.headers = headers


class File:
    """WSGI's `wsgi.file_wrapper`: granian sends the file piece by piece, as fast as the client takes it."""

    def __init__(self, file: IO[bytes], block_size: int = 0) -> None:
        self._file = file
        # WhiteNoise wraps the file for a part of it.
        self._opened = getattr(file, "fileobj", file)
        self.close = file.close

    def __iter__(self) -> Iterable[bytes]:
        yield self._file.read()

    def answer(self, started: Started, to: Answering) -> None:
        name = getattr(self._opened, "name", None)
        length = int(dict(started.headers).get("Content-Length", 0))
        if not isinstance(name, str) or length == 0:
            to.response_bytes(started.status, started.headers, self._file.read())
            return
        start = self._opened.tell()
        to.response_file_range(started.status, started.headers, name, start, start + length)
