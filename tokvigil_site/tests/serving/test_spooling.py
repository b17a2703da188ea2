"""Answers of unknown length: whole or an error, without memory or a thread for who reads slowly, and only so many."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path

import pytest

from tokvigil_site.serving import spooling
from tokvigil_site.serving.spooling import SPOOLING_MAX, TooLong, spooled
from tokvigil_site.serving.threads import THREADS
from tokvigil_site.tests.servers import await_true
from tokvigil_site.tests.serving.test_bridge import Echo, bridged
from tokvigil_site.tests.serving.wire import LINE_BYTES, LINES, TIMEOUT_S, exchange, head

WITHIN_S = 20.0
MEMORY_KB_MAX = 60_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Echo]:
    with bridged(tmp_path) as started:
        yield started


def opened(server: Echo, path: str, stack: ExitStack) -> HTTPResponse:
    """The answer as far as its headers."""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S))
    connection.sendall(head("GET", path))
    response = HTTPResponse(connection, method="GET")
    response.begin()
    return response


def memory_kb(server: Echo) -> int:
    """Of the server's processes, those that are in memory now."""
    group = server.process.pid
    pids = [path.parent.name for path in Path("/proc").glob("[0-9]*/stat") if _group(path) == group]
    return sum(
        int(line.split()[1])
        for pid in pids
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )


def _group(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[2])
    except OSError:
        return 0


def test_it_arrives_whole_and_is_closed(server: Echo) -> None:
    answer = exchange(server.port, head("GET", "/stream"), method="GET").answer
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain")
    assert answer.headers["Content-Length"] == str(LINE_BYTES * LINES)
    assert answer.content == (b"x" * (LINE_BYTES - 1) + b"\n") * LINES
    await_true((server.released.parent / "closed").exists, within_s=WITHIN_S)


def test_those_who_read_slowly_cost_neither_memory_nor_a_thread(server: Echo) -> None:
    exchange(server.port, head("GET", "/"), method="GET")
    before = memory_kb(server)
    with ExitStack() as stack:
        for _ in range(SPOOLING_MAX + 2):
            response = opened(server, "/stream", stack)
            assert response.status == 200
            response.read(LINE_BYTES)
        time.sleep(1)
        assert memory_kb(server) - before < MEMORY_KB_MAX < LINE_BYTES * LINES / 1024


@pytest.mark.parametrize("number", [0, 3, LINES - 1])
def test_what_fails_is_an_error_and_no_part_of_an_answer(server: Echo, number: int) -> None:
    answer = exchange(server.port, head("GET", f"/stream/fails-at/{number}"), method="GET").answer
    assert (answer.status, answer.content) == (500, b"")


def test_only_so_many_are_made_at_once_and_others_are_served_meanwhile(server: Echo) -> None:
    assert SPOOLING_MAX < THREADS
    waits = head("GET", "/stream/wait")
    with ThreadPoolExecutor(SPOOLING_MAX) as pool:
        made = [pool.submit(exchange, server.port, waits, method="GET") for _ in range(SPOOLING_MAX)]

        def is_full() -> bool:
            return len(list(server.released.parent.glob("waiting-*"))) == SPOOLING_MAX

        await_true(is_full, within_s=WITHIN_S)
        refused = exchange(server.port, waits, method="GET").answer
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert exchange(server.port, head("GET", "/"), method="GET").answer.status == 200
        server.released.touch()
        assert {each.result().answer.status for each in made} == {200}
    assert exchange(server.port, waits, method="GET").answer.status == 200


def test_a_file_is_gone_when_it_was_sent_or_could_not_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "MEMORY_BYTES_MAX", 10)
    monkeypatch.setattr(spooling, "FILE_BYTES_MAX", 50)
    assert spooled([b"a" * 5, b"b" * 5]) == b"aaaaabbbbb"
    made = spooled([b"a" * 5] * 10)
    assert not isinstance(made, bytes)
    assert Path(made.name).read_bytes() == b"a" * 50
    made.close()
    assert not Path(made.name).exists()
    before = set(Path(made.name).parent.glob("tokvigil-answer-*"))
    with pytest.raises(TooLong):
        spooled([b"a" * 5] * 11)
    assert set(Path(made.name).parent.glob("tokvigil-answer-*")) == before
