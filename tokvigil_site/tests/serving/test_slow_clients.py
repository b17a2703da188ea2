"""Clients that send or read slowly cost connections, no threads: everybody else is answered as before."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tenants.api.http import LARGE_BODY_BYTES_MAX
from tenants.models import Environment
from tokvigil_site.serving import BODY_DEADLINE_S
from tokvigil_site.serving.bodies import LARGE_BYTES
from tokvigil_site.serving.slow_clients import SlowClients
from tokvigil_site.testing import Api, apply_policies, limits
from tokvigil_site.tests.servers import (
    Traffic,
    WebApi,
    WebProcess,
    session_variables,
    web_processes,
)
from tokvigil_site.tests.serving.wire import TIMEOUT_S, children, head, resident_bytes

CALLERS = 4
# An evaluate takes a few milliseconds; a thread that waits for a body takes 10 s.
ANSWER_S_MAX = 3.0
# A deadline is seen late on a busy machine.
LATE_S_MAX = 4.0
STATIC = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"
MIB = 1024 * 1024


@pytest.fixture
def allowing(environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1000000, per: environment}"))


@contextmanager
def others_are_answered(web: WebApi) -> Iterator[list[float]]:
    """Callers that evaluate meanwhile, every one of them answered and in time. How long each took, in seconds."""
    took: list[float] = []

    def call(caller: int, turn: int) -> None:
        begun = time.monotonic()
        assert web.evaluate(f"user_{caller}")["allowed"]
        took.append(time.monotonic() - begun)
        time.sleep(0.01)

    with Traffic(CALLERS, call):
        yield took
    assert len(took) > CALLERS
    assert max(took) < ANSWER_S_MAX


def kinds(port: int, api: Api, count: int) -> dict[str, SlowClients]:
    """Who can have a body read: with a key, with a key that is none, and with no key at all."""
    stranger = api.text[:-4] + "AAAA"
    json, form = {"Content-Type": "application/json"}, {"Content-Type": "application/x-www-form-urlencoded"}
    return {
        "caller": SlowClients(port, count, headers={**json, "Authorization": f"Bearer {api.text}"}),
        "stranger": SlowClients(
            port, count, path="/v1/usage", headers={**json, "Authorization": f"Bearer {stranger}"}
        ),
        "passer-by": SlowClients(
            port, count, path="/admin/login/", headers={**form, "Cookie": f"csrftoken={'a' * 32}"}
        ),
    }


def test_200_slow_bodies_hinder_nobody_and_end_at_the_deadline(
    web: WebApi, server: WebProcess, allowing: None
) -> None:
    slow = kinds(server.port, web, 70)
    with ExitStack() as stack:
        for clients in slow.values():
            stack.enter_context(clients)
        with others_are_answered(web):
            for clients in slow.values():
                clients.await_closed(BODY_DEADLINE_S + LATE_S_MAX)

    for clients in slow.values():
        assert clients.statuses == {408}
        ends = [client.closed_after_s for client in clients.clients if client.closed_after_s is not None]
        assert BODY_DEADLINE_S - 1 < min(ends) <= max(ends) < BODY_DEADLINE_S + LATE_S_MAX
    for name, content_type in (("caller", b"application/problem+json"), ("passer-by", b"text/plain")):
        answers = {client.answer for client in slow[name].clients}
        assert all(b"content-type: " + content_type in answer for answer in answers)
    assert b'"code":"REQUEST_TIMEOUT"' in slow["caller"].clients[0].answer


def test_large_slow_bodies_take_a_bounded_amount_of_memory(
    web: WebApi, server: WebProcess, allowing: None
) -> None:
    (worker,) = children(server.pid)
    assert web.evaluate()["allowed"]
    before = resident_bytes(worker)

    # All but the last bytes of a batch are there.
    clients = SlowClients(
        server.port,
        400,
        path="/v1/usage/batch",
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {web.text}"},
        content_length=LARGE_BODY_BYTES_MAX,
        first=b" " * (LARGE_BODY_BYTES_MAX - 100),
    )
    with clients, others_are_answered(web):
        peak = max(_watched(worker, seconds=4))
        # The oldest made room.
        assert {client.status for client in clients.clients[:200]} == {408}
        assert {client.status for client in clients.clients[-100:]} == {None}
        # Others' batches and long prompts find room as well.
        assert web.evaluate(input_text="long " * 8000, input_tokens=None)["allowed"]

    assert peak - before < 256 * MIB


def test_slow_readers_take_a_bounded_amount_of_memory(
    web: WebApi, server: WebProcess, allowing: None
) -> None:
    (worker,) = children(server.pid)
    assert web.evaluate()["allowed"]
    before = resident_bytes(worker)

    with ExitStack() as stack, others_are_answered(web):
        for _ in range(300):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", server.port))
            reader.sendall(head("GET", STATIC))
        peak = max(_watched(worker, seconds=3))

    assert peak - before < 200 * MIB


def _watched(pid: int, *, seconds: int) -> Iterator[int]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield resident_bytes(pid)
        time.sleep(0.1)


def test_1200_slow_connections_leave_room_for_others(web: WebApi, server: WebProcess, allowing: None) -> None:
    (worker,) = children(server.pid)
    before = resident_bytes(worker)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {web.text}"}

    clients = SlowClients(server.port, 1200, headers=headers, content_length=LARGE_BYTES, first=b" " * 8_000)
    with clients, others_are_answered(web):
        peak = max(_watched(worker, seconds=4))
        assert len(clients.open) == 1200

    assert peak - before < 128 * MIB


def test_few_open_files_at_the_start_are_no_limit(api: Api, allowing: None, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api.text}"}
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            (server,) = stack.enter_context(web_processes(1, tmp_path, session_variables()))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        stack.enter_context(SlowClients(server.port, 400, headers=headers))
        with others_are_answered(WebApi(api, server.port)):
            time.sleep(1)


def test_a_client_that_leaves_is_no_error(web: WebApi, server: WebProcess, allowing: None) -> None:
    said = len(server.child.log.read_text())
    for clients in kinds(server.port, web, 10).values():
        with clients:
            time.sleep(0.1)
    for request in (head("GET", STATIC), head("POST", "/v1/evaluate", content_length="0")):
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            leaving.sendall(request)
    time.sleep(0.5)

    assert web.evaluate()["allowed"]
    assert server.child.log.read_text()[said:] == ""


def test_a_server_that_is_stopped_ends_though_bodies_are_slow(
    api: Api, allowing: None, tmp_path: Path
) -> None:
    with web_processes(1, tmp_path, session_variables()) as (server,):
        web = WebApi(api, server.port)
        assert web.evaluate()["allowed"]
        with ExitStack() as stack:
            slow = [stack.enter_context(clients) for clients in kinds(server.port, api, 10).values()]
            # Half of the headers, and none.
            for begun in (b"POST /v1/evaluate HTTP/1.1\r\nHos", b""):
                unfinished = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                unfinished.sendall(begun)
            time.sleep(0.5)
            begun_at = time.monotonic()
            server.child.stop(within_s=TIMEOUT_S)

            assert time.monotonic() - begun_at < BODY_DEADLINE_S + LATE_S_MAX
            for clients in slow:
                clients.await_closed(1)
                assert clients.statuses == {408}
        assert server.child.status() == 0
