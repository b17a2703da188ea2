"""The server: it answers as the provider that a request is meant for, unless it is told to misbehave."""

from __future__ import annotations

import gzip
import json
import socket
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

from . import anthropic, gemini, openai
from .exchange import Answer, Provider, Refused, Seen, Stream

PAUSE_S_MAX = 30
POLL_S = 0.005
GZIP = {"content-encoding": "gzip"}
GZIP_WBITS = 31
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mishap:
    """What becomes of a request. Without a status the connection is closed: without a word, or half-way."""

    status: int | None = None
    headers: Mapping[str, str] | None = None
    halves: bool = False


@dataclass(frozen=True, slots=True)
class Break:
    """What becomes of a stream after so many of its events."""

    kind: Literal["pause", "cut", "error"]
    after: int


class WireProvider:
    """OpenAI, Azure, Anthropic and Gemini at `url`.

    `seen` holds the requests in the order of their arrival, `aborted` those whose client went away before the answer
    was complete. The modules of the providers hold what they say: `server.openai.USAGE`, `server.gemini.TEXT`.
    """

    openai = openai
    anthropic = anthropic
    gemini = gemini

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.aborted: list[Seen] = []
        # Before each answer.
        self.delay_s = 0.0
        # As real providers do for a client that accepts it; streams are compressed by some.
        self.gzip_answers = True
        self.gzip_streams = False
        # Streams go out in fragments of this size, through the middle of events and characters.
        self.fragment_bytes: int | None = None
        # Set while a stream waits for `resume`.
        self.paused = threading.Event()
        self._resumed = threading.Event()
        self._mishaps: deque[Mishap] = deque()
        self._breaks: deque[Break] = deque()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def fail(
        self,
        status: int,
        *,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """The next requests get this status and the provider's own error body."""
        sent = dict(headers or {})
        if retry_after is not None:
            sent["retry-after"] = f"{retry_after:g}"
        self._mishaps.extend([Mishap(status, sent)] * times)

    def hang_up(self, times: int = 1) -> None:
        """The next requests are read and their connections closed."""
        self._mishaps.extend([Mishap()] * times)

    def cut_answer(self) -> None:
        """Of the next request's answer, no stream, only the first half is sent; then its connection is closed."""
        self._mishaps.append(Mishap(halves=True))

    def pause_after(self, events: int) -> None:
        """The next stream sends so many events, then waits for `resume`."""
        self.paused.clear()
        self._resumed.clear()
        self._breaks.append(Break("pause", events))

    def resume(self) -> None:
        self._resumed.set()

    def cut_after(self, events: int) -> None:
        """The next stream sends so many events, then its connection is closed."""
        self._breaks.append(Break("cut", events))

    def error_after(self, events: int) -> None:
        """The next stream sends so many events, then the provider's error event as its last."""
        self._breaks.append(Break("error", events))

    def close(self) -> None:
        self.resume()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that resets a connection it has no more use for is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(wire: WireProvider) -> type[BaseHTTPRequestHandler]:
    """A connection's requests, one after the other."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_request(self) -> None:
            seen = self._read()
            wire.seen.append(seen)
            try:
                self._answer(seen)
            except ConnectionError:
                wire.aborted.append(seen)
                self.close_connection = True

        do_GET = do_POST = do_DELETE = handle_request

        def _read(self) -> Seen:
            url = urlsplit(self.path)
            chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
            length = int(self.headers.get("Content-Length") or 0)
            raw = b"".join(self._chunks()) if chunked else self.rfile.read(length)
            return Seen(
                method=self.command,
                path=url.path,
                query=dict(parse_qsl(url.query)),
                headers={name.lower(): value for name, value in self.headers.items()},
                body=_json_or_none(raw),
                raw=raw,
            )

        def _chunks(self) -> Iterable[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def _answer(self, seen: Seen) -> None:
            provider = _provider(seen)
            self._wait(threading.Event(), wire.delay_s)
            mishap = _next(wire._mishaps)
            halves = mishap is not None and mishap.halves
            if mishap is not None and mishap.status is None and not halves:
                self.close_connection = True
                return
            reply = _reply(provider, seen, mishap)
            headers = provider.headers(f"req_{len(wire.seen)}")
            if isinstance(reply, Stream):
                self._send_stream(reply, provider, headers)
            else:
                self._send(reply, headers, halves)

        def _send(self, answer: Answer, headers: Mapping[str, str], halves: bool) -> None:
            content = json.dumps(answer.body).encode()
            encoding = GZIP if wire.gzip_answers and self._takes_gzip() else {}
            if encoding:
                content = gzip.compress(content)
            length = {"content-length": str(len(content))}
            kind = {"content-type": "application/json"}
            self._begin(answer.status, {**kind, **length, **encoding, **headers, **answer.headers})
            self.wfile.write(content[: len(content) // 2] if halves else content)
            self.close_connection = self.close_connection or halves

        def _send_stream(self, stream: Stream, provider: Provider, headers: Mapping[str, str]) -> None:
            encoding = GZIP if wire.gzip_streams and self._takes_gzip() else {}
            pack = _Gzip() if encoding else _Plain()
            kind = {"content-type": stream.content_type, "transfer-encoding": "chunked"}
            self._begin(200, {**kind, **encoding, **headers})
            broken = _next(wire._breaks)
            after = len(stream.events) if broken is None else broken.after
            for event in stream.events[:after]:
                self._send_chunk(pack.event(event))
            if broken is not None and broken.kind == "cut":
                self.close_connection = True
                return
            if broken is not None and broken.kind == "pause":
                wire.paused.set()
                self._wait(wire._resumed, PAUSE_S_MAX)
            fails = broken is not None and broken.kind == "error"
            rest = [stream.error or provider.stream_error()] if fails else stream.events[after:]
            for event in rest:
                self._send_chunk(pack.event(event))
            self._send_chunk(pack.end())
            self.wfile.write(b"0\r\n\r\n")

        def _begin(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _send_chunk(self, data: bytes) -> None:
            size = wire.fragment_bytes or len(data)
            for start in range(0, len(data), size or 1):
                self._stop_if_client_left()
                fragment = data[start : start + size]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(fragment), fragment))

        def _wait(self, end: threading.Event, seconds_max: float) -> None:
            """Raises `ConnectionError` as soon as the client goes away."""
            deadline = time.monotonic() + seconds_max
            while time.monotonic() < deadline and not end.wait(POLL_S):
                self._stop_if_client_left()

        def _stop_if_client_left(self) -> None:
            try:
                left = self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
            except BlockingIOError:
                return
            if left:
                raise ConnectionAbortedError

        def _takes_gzip(self) -> bool:
            return "gzip" in self.headers.get("Accept-Encoding", "")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class _Plain:
    def event(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class _Gzip:
    """One gzip stream whose events can be read as they come."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(wbits=GZIP_WBITS)

    def event(self, data: bytes) -> bytes:
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._compressor.flush()


def _provider(seen: Seen) -> Provider:
    """By what no other provider's requests have."""
    if gemini.METHOD.fullmatch(seen.path) or "x-goog-api-key" in seen.headers:
        return gemini
    if anthropic.HOSTED.fullmatch(seen.path) or "anthropic-version" in seen.headers:
        return anthropic
    if seen.path.startswith("/v1/messages"):
        return anthropic
    return openai


def _reply(provider: Provider, seen: Seen, mishap: Mishap | None) -> Answer | Stream:
    if mishap is not None and mishap.status is not None:
        body = provider.error(seen, mishap.status, "The provider fails as the test wants it to.")
        return Answer(body, mishap.status, mishap.headers or {})
    try:
        return provider.answer(seen)
    except Refused as refused:
        return Answer(provider.error(seen, refused.status, str(refused)), refused.status)


def _next(queue: deque[T]) -> T | None:
    """Other threads take from it too."""
    try:
        return queue.popleft()
    except IndexError:
        return None


def _json_or_none(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None
