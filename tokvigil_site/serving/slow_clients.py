"""Clients that send a request's headers at once and its body a byte a second. For tests and the bench."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

DRIP_S = 1.0
ANSWER_BYTES_MAX = 65_536
CONNECT_S_MAX = 5.0


@dataclass(slots=True)
class SlowClient:
    """`answer` is what came back; `closed_after_s` counts from the end of the headers, None: still open."""

    connection: socket.socket
    begun: float
    answer: bytes = b""
    closed_after_s: float | None = None

    @property
    def status(self) -> int | None:
        return int(self.answer.split(b" ", 2)[1]) if self.answer else None

    def drip(self) -> None:
        try:
            self.connection.send(b"x")
        except OSError:
            self.close()

    def listen(self) -> None:
        try:
            received = self.connection.recv(ANSWER_BYTES_MAX)
        except OSError:
            received = b""
        self.answer += received
        if not received:
            self.close()

    def close(self) -> None:
        self.closed_after_s = time.monotonic() - self.begun
        self.connection.close()


@dataclass(slots=True)
class SlowClients:
    """`count` of them, from entering the block to leaving it. A thread drips for all."""

    port: int
    count: int
    path: str = "/v1/evaluate"
    headers: Mapping[str, str] = field(default_factory=dict)
    content_length: int = 1000
    # Sent with the headers.
    first: bytes = b"{"
    clients: list[SlowClient] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> SlowClients:
        self.clients = [self._connect() for _ in range(self.count)]
        self._thread = threading.Thread(target=self._run, name="slow-clients")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()
        for client in self.open:
            client.connection.close()

    @property
    def open(self) -> list[SlowClient]:
        return [client for client in self.clients if client.closed_after_s is None]

    @property
    def statuses(self) -> set[int | None]:
        return {client.status for client in self.clients}

    def await_closed(self, within_s: float) -> None:
        """Raises TimeoutError if the server keeps some of them open."""
        deadline = time.monotonic() + within_s
        while self.open:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.open)} of {self.count} slow clients are still connected")
            time.sleep(DRIP_S / 10)

    def _connect(self) -> SlowClient:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=CONNECT_S_MAX)
        headers = {"Host": "localhost", "Content-Length": str(self.content_length), **self.headers}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + self.first)
        connection.setblocking(False)
        return SlowClient(connection=connection, begun=time.monotonic())

    def _run(self) -> None:
        next_drip = time.monotonic() + DRIP_S
        with selectors.DefaultSelector() as selector:
            for client in self.clients:
                selector.register(client.connection, selectors.EVENT_READ, client)
            while not self._ended.is_set():
                for key, _ in selector.select(timeout=DRIP_S / 20):
                    key.data.listen()
                    if key.data.closed_after_s is not None:
                        selector.unregister(key.fileobj)
                if time.monotonic() >= next_drip:
                    next_drip += DRIP_S
                    for client in self.open:
                        client.drip()
