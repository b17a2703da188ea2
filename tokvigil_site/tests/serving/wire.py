"""Requests byte for byte, over a socket. Holds no test."""

from __future__ import annotations

import http.client
import socket
import time
from dataclasses import dataclass

from tokvigil_site.testing import Answer

TIMEOUT_S = 15.0
# Of an answer that is sent while it is made: more than sockets hold.
LINES, LINE_BYTES = 2_000, 64 * 1024


@dataclass(frozen=True, slots=True)
class Timed:
    answer: Answer
    after_s: float


def exchange(port: int, request: bytes, *, method: str = "POST") -> Timed:
    """Sends what is given and no more, and reads one answer."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        content = response.read()
        answer = Answer(
            response.status, content, {name.title(): value for name, value in response.getheaders()}
        )
    return Timed(answer, time.monotonic() - begun)


def head(method: str, path: str, **headers: str) -> bytes:
    """A request without its body; `content_length=5` is `Content-Length: 5`."""
    lines = [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as listed:
        return [int(child) for child in listed.read().split()]
