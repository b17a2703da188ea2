"""What an application sees under our bridge is what it sees under granian's own WSGI; and how much may wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tokvigil_site.embedded import ports
from tokvigil_site.serving import command
from tokvigil_site.serving.threads import CALLS_MAX, THREADS
from tokvigil_site.testing import Answer
from tokvigil_site.tests.servers import CHECKOUT, await_true
from tokvigil_site.tests.serving.wire import exchange, head

START_S_MAX = 30.0
ECHO = "tokvigil_site.tests.serving.echo"
REQUESTS = {
    "plain": head("GET", "/"),
    "body": head("POST", "/a", content_length="5", content_type="text/plain") + b"h\xe9llo",
    "no body": head("POST", "/a", content_length="0"),
    "encoded slash": head("GET", "/a%2Fb/%2f"),
    "encoded percent": head("GET", "/a%252Fb%"),
    "bad escapes": head("GET", "/%zz/%2/%"),
    "utf-8": head("GET", "/caf%C3%A9/%E6%97%A5"),
    "utf-8 as it is": "GET /café?q=café HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    "NUL and line feed": head("GET", "/a%00b%0Ac"),
    "dots and slashes": head("GET", "//a/../b/./;p=1"),
    "query": head("GET", "/?a=1&b=%C3%A9&c=%FF&d=a+b&&e?f"),
    "empty query": head("GET", "/?"),
    "a proxy's form": b"GET http://elsewhere:81/a?b=c HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a proxy's form, no host": b"GET http://elsewhere:81/a HTTP/1.0\r\n\r\n",
    "HTTP/1.0": b"GET /a HTTP/1.0\r\n\r\n",
    "empty host": b"GET /a HTTP/1.1\r\nHost:\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "strange verb": head("BREW", "/coffee"),
    "headers twice": head("GET", "/", accept="a")[:-2]
    + b"Accept: b\r\nX-Odd: 1\r\nx-odd: 2\r\nX-Odd:\r\n\r\n",
    "two cookies": head("GET", "/", cookie="a=1, b=2")[:-2] + b"Cookie: c=3\r\n\r\n",
    "two types": head("POST", "/", content_type="a/b")[:-2] + b"Content-Type: c/d\r\n\r\n",
    "length twice": head("POST", "/", content_length="2")[:-2] + b"Content-Length: 2\r\n\r\nab",
    "two lengths": head("POST", "/", content_length="2")[:-2] + b"Content-Length: 3\r\n\r\nab",
    "no number": head("POST", "/", content_length="x"),
    "negative": head("POST", "/", content_length="-1"),
    "plus": head("POST", "/", content_length="+1") + b"a",
    "length and chunks": head("POST", "/", content_length="2", transfer_encoding="chunked") + b"0\r\n\r\n",
    "header that is no ASCII": head("GET", "/")[:-2] + b"X-Name: J\xfcrgen\r\nAuthorization: \xff\r\n\r\n",
    "connection": head("GET", "/", connection="close, X-Hop", x_hop="1", te="trailers", upgrade="h2c"),
    "forwarded": head("GET", "/", x_forwarded_for="1.2.3.4", x_forwarded_proto="https", forwarded="for=1"),
    "expects": head("POST", "/", content_length="2", expect="100-continue") + b"ab",
}


@dataclass(frozen=True, slots=True)
class Echo:
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    released: Path


@contextmanager
def echo(folder: Path, arguments: list[str], port: int) -> Iterator[Echo]:
    log, released = folder / f"{port}.log", folder / f"{port}.released"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HTTP_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=CHECKOUT,
            env={**inherited, "RELEASED": str(released)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        await_true(lambda: process.poll() is not None or not ports.is_free(port), within_s=START_S_MAX)
        await_true(lambda: _answers(port), within_s=START_S_MAX)
        yield Echo(port, process, log, released)
    finally:
        released.touch()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(port: int) -> bool:
    try:
        return exchange(port, head("GET", "/")).answer.status < 400
    except OSError:
        return False


@contextmanager
def bridged(folder: Path) -> Iterator[Echo]:
    port = ports.pick_free()
    *options, _ = command.granian(port)
    with echo(folder, [*options, f"{ECHO}:bridge"], port) as started:
        yield started


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Echo, Echo]]:
    folder, port = tmp_path_factory.mktemp("echo"), ports.pick_free()
    options = ["--interface", "wsgi", "--port", str(port), "--http", "1", "--no-ws", f"{ECHO}:application"]
    with ExitStack() as stack:
        wsgi = stack.enter_context(echo(folder, ["granian", *options], port))
        yield stack.enter_context(bridged(folder)), wsgi


def seen(server: Echo, request: bytes) -> tuple[int, Any, dict[str, str]]:
    answer: Answer = exchange(server.port, request, method=request.split(b" ", 1)[0].decode()).answer
    document = answer.json if answer.content else None
    if document:
        assert document.pop("SERVER_PORT") == str(server.port)
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in ("Date", "Transfer-Encoding", "Content-Length")
    }
    return answer.status, document, headers


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_looks_as_under_wsgi(servers: tuple[Echo, Echo], name: str) -> None:
    ours, wsgi = servers

    assert seen(ours, REQUESTS[name]) == seen(wsgi, REQUESTS[name])


def test_a_header_with_an_underscore_does_not_pass_for_another(servers: tuple[Echo, Echo]) -> None:
    request = head("GET", "/", x_forwarded_proto="http")[:-2] + b"X_Forwarded_Proto: https\r\n\r\n"

    assert seen(servers[0], request)[1]["HTTP_X_FORWARDED_PROTO"] == "http"


def test_an_application_that_fails_badly_costs_no_thread(servers: tuple[Echo, Echo]) -> None:
    for _ in range(THREADS + 1):
        assert exchange(servers[0].port, head("GET", "/end")).answer.status == 500

    assert seen(servers[0], head("GET", "/"))[0] == 200


def test_more_calls_than_may_wait_are_told_to_come_again(tmp_path: Path) -> None:
    surplus = 20
    with bridged(tmp_path) as server, ThreadPoolExecutor(CALLS_MAX + surplus) as pool:
        waiting = [
            pool.submit(exchange, server.port, head("GET", "/wait")) for _ in range(CALLS_MAX + surplus)
        ]
        await_true(lambda: sum(each.done() for each in waiting) >= surplus, within_s=START_S_MAX)
        refused = [each.result().answer for each in waiting if each.done()]
        assert {(answer.status, answer.headers["Retry-After"]) for answer in refused} == {(503, "1")}
        of_the_api = exchange(server.port, head("GET", "/v1/me")).answer
        assert (of_the_api.status, of_the_api.json["code"]) == (503, "UNAVAILABLE")
        server.released.touch()

        statuses = [each.result().answer.status for each in waiting]

    assert (statuses.count(200), statuses.count(503)) == (CALLS_MAX, surplus)


def test_calls_that_were_answered_make_room(servers: tuple[Echo, Echo]) -> None:
    connection = HTTPConnection("127.0.0.1", servers[0].port)
    for _ in range(CALLS_MAX + 1):
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        assert response.status == 200


def test_what_was_taken_is_answered_before_the_server_ends(tmp_path: Path) -> None:
    callers = 2 * THREADS
    with bridged(tmp_path) as server, ThreadPoolExecutor(callers) as pool:
        waiting = [pool.submit(exchange, server.port, head("GET", "/wait")) for _ in range(callers)]
        time.sleep(0.5)
        server.process.terminate()
        time.sleep(0.5)
        server.released.touch()

        assert [each.result().answer.status for each in waiting] == [200] * callers
        assert server.process.wait(START_S_MAX) == 0
        assert server.log.read_text() == ""


def test_it_can_be_started_alone(tmp_path: Path) -> None:
    port = ports.pick_free()
    arguments = ["tokvigil_site.serving", "--port", str(port), "--workers", "1"]
    with echo(tmp_path, arguments, port) as server:
        assert exchange(port, head("GET", "/healthz"), method="GET").answer.json == {"status": "ok"}
        server.process.terminate()
        assert server.process.wait(START_S_MAX) == 0
