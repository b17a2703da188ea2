"""The connections to the control plane: how many, for how long, through what."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from tokvigil import (
    AsyncTokVigil,
    ConfigurationError,
    TokVigil,
    UnreachableError,
    Usage,
    UsageEvent,
    certificates,
    links,
)
from tokvigil.links import Answer, Request

from sdk.python.tests.conftest import ControlPlane
from sdk.python.tests.forward_proxy import ForwardProxy
from sdk.python.tests.self_signed import self_signed
from sdk.python.tests.wrapped import pending_of, wait_for

EVENT = UsageEvent(request_id="r1", user_id="ada", model="m", usage=Usage(input_tokens=1, output_tokens=1))


@pytest.fixture(autouse=True)
def limits(control_plane: Any, wire: Any) -> None:
    control_plane.defaults["/v1/limits"] = lambda _: wire.Answer(200, {"limit_state": []})


def test_a_closed_client_asks_nothing(control_plane: Any) -> None:
    never_used = TokVigil(api_key="key", base_url=control_plane.url)
    used = TokVigil(api_key="key", base_url=control_plane.url)
    used.limits(user_id="ada")
    for client in (never_used, used):
        client.close()
        with pytest.raises(ConfigurationError, match="this TokVigil client is closed"):
            client.limits(user_id="ada")


def test_a_closed_async_client_asks_nothing(control_plane: Any) -> None:
    async def close_and_ask() -> None:
        client = AsyncTokVigil(api_key="key", base_url=control_plane.url)
        await client.limits(user_id="ada")
        await client.close()
        await client.limits(user_id="ada")

    with pytest.raises(ConfigurationError, match="this TokVigil client is closed"):
        asyncio.run(close_and_ask())


def test_a_question_that_never_left_is_no_sign_that_tokvigil_is_back(control_plane: Any, wire: Any) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda _: wire.Answer(503)
    with TokVigil(api_key="key", base_url=control_plane.url, max_retries=0) as client:
        client.evaluate(user_id="ada", model="gpt-4o-mini")
        with pytest.raises(ConfigurationError):
            client.evaluate(user_id="ada", model=object())  # type: ignore[arg-type]
        assert client._availability._failures == 1


class HangsUpOnce:
    """A connection that breaks once, and then finds nobody."""

    sent = 0

    def send(self, request: Request) -> Answer:
        self.sent += 1
        if self.sent == 1:
            raise UnreachableError("hung up", may_have_arrived=True)
        raise UnreachableError("refused")

    def close(self) -> None: ...


def test_what_the_first_attempt_may_hold_is_given_back_though_the_second_found_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TokVigil, "_linked", lambda *_: HangsUpOnce())
    options: Any = {"max_retries": 1, "on_unreachable": "block", "journal": False}
    with TokVigil(api_key="key", base_url="http://tokvigil.test", **options) as client:
        client.evaluate(user_id="ada", model="gpt-4o-mini")
        assert [event.status for event in pending_of(client)] == ["cancelled"]
        client.evaluate(user_id="ada", model="gpt-4o-mini")
        assert client.pending() == 1, "nothing arrived of the second"


def ask(url: str, *, awaited: bool = False, **options: Any) -> None:
    """A question and a report, each answered."""
    options = {"timeout": 5.0, "journal": False} | options

    async def main() -> None:
        async with AsyncTokVigil(api_key="key", base_url=url, **options) as tv:
            assert not (await tv.evaluate(user_id="ada", model="gpt-4o-mini")).degraded
            tv.report(EVENT)

    if awaited:
        asyncio.run(main())
        return
    with TokVigil(api_key="key", base_url=url, **options) as tv:
        assert not tv.evaluate(user_id="ada", model="gpt-4o-mini").degraded
        tv.report(EVENT)


@pytest.fixture
def proxy() -> Iterator[ForwardProxy]:
    server = ForwardProxy()
    yield server
    server.close()


@pytest.mark.parametrize("awaited", [False, True])
def test_questions_and_reports_go_through_the_proxy(
    control_plane: Any, proxy: ForwardProxy, awaited: bool
) -> None:
    ask(control_plane.url, awaited=awaited, proxy=f"http://joe:hunter%402@127.0.0.1:{proxy.port}")
    paths = ["/v1/evaluate", "/v1/usage/batch"]
    assert proxy.seen == [("POST", control_plane.url + path) for path in paths]
    assert proxy.credentials == {"Basic " + base64.b64encode(b"joe:hunter@2").decode()}
    assert [seen.path for seen in control_plane.seen] == paths
    assert {seen.headers["Authorization"] for seen in control_plane.seen} == {"Bearer key"}


@pytest.mark.parametrize("awaited", [False, True])
def test_https_goes_through_the_proxy_unseen(proxy: ForwardProxy, tmp_path: Path, awaited: bool) -> None:
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    plane = ControlPlane()
    plane.server.socket = context.wrap_socket(plane.server.socket, server_side=True)
    address = f"localhost:{plane.server.server_address[1]}"
    url = f"https://{address}"
    ask(url, awaited=awaited, proxy=f"http://127.0.0.1:{proxy.port}", verify=certificate)
    assert set(proxy.seen) == {("CONNECT", address)}
    assert [seen.path for seen in plane.seen] == ["/v1/evaluate", "/v1/usage/batch"]
    plane.close()


@pytest.mark.parametrize("awaited", [False, True])
def test_the_environment_names_a_proxy_and_its_exceptions(
    control_plane: Any, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch, awaited: bool
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    ask(control_plane.url, awaited=awaited)
    assert len(proxy.seen) == 2
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ask(control_plane.url, awaited=awaited)
    assert len(proxy.seen) == 2


def test_a_proxy_that_is_away_is_an_outage_and_its_password_is_not_shown(
    control_plane: Any, unreachable: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = unreachable.replace("http://", "http://joe:hunter2@")
    with TokVigil(
        api_key="key", base_url=control_plane.url, proxy=address, max_retries=0, journal=False
    ) as tv:
        decision = tv.evaluate(user_id="ada", model="gpt-4o-mini")
    assert decision.reason_code == "DEGRADED_ALLOWED"
    assert control_plane.seen == []
    assert "hunter2" not in caplog.text + decision.message + repr(tv)


@pytest.mark.parametrize(
    "proxy", ["127.0.0.1:3128", "ftp://127.0.0.1", "http://", "http://x:port", "socks5://x"]
)
def test_a_proxy_that_can_never_work_is_refused_at_once(proxy: str) -> None:
    with pytest.raises(ConfigurationError, match="proxy"):
        TokVigil(api_key="key", base_url="http://tokvigil.test", proxy=proxy)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_no_thread_reads_certificates_while_the_process_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of OpenSSL's would stay locked in the child."""
    reading, began = threading.Event(), threading.Event()

    def read_slowly() -> ssl.SSLContext:
        reading.set()
        began.set()
        time.sleep(0.3)
        reading.clear()
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    monkeypatch.setattr(httpcore2, "default_ssl_context", read_slowly)
    thread = threading.Thread(
        target=TokVigil(api_key="key", base_url="http://tokvigil.test")._chat._connections._with_certificates
    )
    thread.start()
    began.wait()
    child = os.fork()
    if child == 0:
        os._exit(reading.is_set() or not certificates._reading.acquire(timeout=1))
    assert os.waitpid(child, 0)[1] == 0
    thread.join()


@pytest.mark.parametrize("verify", ["/no/such/file", 7])
def test_certificates_that_do_not_exist_are_refused_at_once(verify: Any) -> None:
    with pytest.raises(ConfigurationError, match="verify"):
        TokVigil(api_key="key", base_url="https://tokvigil.test", verify=verify)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="this system does not list descriptors"
)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def event_loops() -> int:
    gc.collect()
    return sum(isinstance(each, asyncio.AbstractEventLoop) for each in gc.get_objects())


@needs_proc
@pytest.mark.parametrize("ends", ["as asyncio.run", "without a word"])
def test_event_loops_leave_nothing_behind(control_plane: Any, ends: str) -> None:
    tv = AsyncTokVigil(api_key="key", base_url=control_plane.url, journal=False)

    def run_one() -> None:
        if ends == "as asyncio.run":
            asyncio.run(tv.evaluate(user_id="ada", model="gpt-4o-mini"))
            return
        loop = asyncio.new_event_loop()
        loop.run_until_complete(tv.evaluate(user_id="ada", model="gpt-4o-mini"))
        loop.close()

    run_one()
    loops, before = event_loops(), descriptors()
    for _ in range(40):
        run_one()
    assert event_loops() <= loops + 1
    # The server is in this process too.
    assert descriptors() <= before + 4
    asyncio.run(tv.close())


@needs_proc
def test_a_loop_that_ends_closes_its_connections_at_once(control_plane: Any) -> None:
    tv = AsyncTokVigil(api_key="key", base_url=control_plane.url, journal=False)
    before = descriptors()

    async def ask_some() -> None:
        await asyncio.gather(*[tv.evaluate(user_id="ada", model="gpt-4o-mini") for _ in range(5)])
        assert descriptors() >= before + 5

    gc.disable()
    try:
        asyncio.run(ask_some())
        wait_for(lambda: descriptors() <= before)
    finally:
        gc.enable()
    asyncio.run(tv.close())


@needs_proc
def test_close_ends_the_connections_of_all_loops_and_threads(control_plane: Any) -> None:
    before = descriptors()
    tv = AsyncTokVigil(api_key="key", base_url=control_plane.url, journal=False)
    elsewhere = asyncio.new_event_loop()
    thread = threading.Thread(target=elsewhere.run_forever, daemon=True)
    thread.start()
    asked = asyncio.run_coroutine_threadsafe(tv.evaluate(user_id="ada", model="gpt-4o-mini"), elsewhere)
    assert not asked.result(10).degraded

    async def main() -> None:
        assert not (await tv.evaluate(user_id="ada", model="gpt-4o-mini")).degraded
        assert descriptors() > before + 4
        await tv.close()

    asyncio.run(main())
    wait_for(lambda: descriptors() <= before + 3)  # the loop's own
    elsewhere.call_soon_threadsafe(elsewhere.stop)
    thread.join()
    elsewhere.close()


@pytest.mark.parametrize("awaited", [False, True])
def test_a_burst_waits_for_connections_and_leaves_few(
    control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch, awaited: bool
) -> None:
    monkeypatch.setattr(links, "LINKS_MAX", 8)
    monkeypatch.setattr(links, "KEPT_MAX", 3)
    at_once = Most()

    def answer(seen: Any) -> Any:
        with at_once:
            time.sleep(0.02)
        return wire.Answer(200, wire.decision(seen.body["request_id"]))

    control_plane.defaults["/v1/evaluate"] = answer

    async def ask_all() -> None:
        async with AsyncTokVigil(
            api_key="key", base_url=control_plane.url, timeout=10.0, journal=False
        ) as tv:
            decisions = await asyncio.gather(*[tv.evaluate(user_id="ada", model="m") for _ in range(40)])
            assert not any(decision.degraded for decision in decisions)
            assert len(tv._links._of_loops.here().idle) == 3

    if awaited:
        asyncio.run(ask_all())
    else:
        with (
            TokVigil(api_key="key", base_url=control_plane.url, timeout=10.0, journal=False) as tv,
            ThreadPoolExecutor(40) as pool,
        ):
            decisions = list(pool.map(lambda _: tv.evaluate(user_id="ada", model="m"), range(40)))
            assert not any(decision.degraded for decision in decisions)
            assert len(tv._links._idle) == 3
    assert at_once.most == 8


class Most:
    """How many were inside at once, at most."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


@needs_proc
def test_connections_that_nobody_used_for_long_are_closed(
    control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        TokVigil(api_key="key", base_url=control_plane.url, journal=False) as tv,
        ThreadPoolExecutor(6) as pool,
    ):
        list(pool.map(lambda _: tv.evaluate(user_id="ada", model="m"), range(30)))
        many = len(tv._links._idle)
        monkeypatch.setattr(links, "KEPT_S", -1.0)
        for _ in range(many):
            assert not tv.evaluate(user_id="ada", model="m").degraded
        assert len(tv._links._idle) == 0


def test_a_question_takes_the_connection_of_the_one_before(control_plane: Any) -> None:
    with TokVigil(api_key="key", base_url=control_plane.url, journal=False) as tv:
        for _ in range(5):
            tv.evaluate(user_id="ada", model="m")
            (link,) = tv._links._idle
            assert "Request Count: " in repr(link.pool.connections[0])
        assert "Request Count: 5" in repr(link.pool.connections[0])


def test_each_address_of_a_host_has_its_share_of_the_time(
    control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where IPv6 goes nowhere: the first says nothing, and there is time left for the second."""
    port = control_plane.server.server_address[1]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.9", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    connect, tried = httpcore2.SyncBackend.connect_tcp, []

    def connect_tcp(backend: Any, host: str, port: int, timeout: float, *rest: Any, **options: Any) -> Any:
        tried.append(host)
        if host == "127.0.0.9":
            time.sleep(timeout)
            raise httpcore2.ConnectTimeout
        return connect(backend, host, port, timeout, *rest, **options)

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect_tcp)
    url = f"http://tokvigil.test:{port}"
    with TokVigil(api_key="key", base_url=url, timeout=1.0, max_retries=0, journal=False) as tv:
        assert not tv.evaluate(user_id="ada", model="gpt-4o-mini").degraded
    assert tried == ["127.0.0.9", "127.0.0.1"]


def test_only_asyncio_is_known(control_plane: Any) -> None:
    """As under trio, whose tasks run without an event loop of asyncio."""
    tv = AsyncTokVigil(api_key="key", base_url=control_plane.url, journal=False)
    with pytest.raises(ConfigurationError, match="asyncio"):
        tv.evaluate(user_id="ada", model="gpt-4o-mini").send(None)
    assert control_plane.seen == []
    asyncio.run(tv.close())


@pytest.mark.parametrize("base_url", ["http://joe:hunter2@tokvigil.test", "https://joe@tokvigil.test/v1"])
def test_a_password_in_the_address_is_refused_and_not_shown(base_url: str) -> None:
    """The HTTP libraries send it in place of the API key."""
    with pytest.raises(ConfigurationError, match=r"base_url .* 'tokvigil.test") as caught:
        TokVigil(api_key="key", base_url=base_url)
    assert "hunter2" not in repr(caught.value)
    assert "joe" not in repr(caught.value)


@pytest.mark.parametrize("awaited", [False, True])
def test_an_answer_about_another_request_is_none_and_ends_its_connection(
    control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch, awaited: bool
) -> None:
    """As two processes get that share a connection: each reads what the other asked for."""
    connections = []
    accept = control_plane.server.process_request
    monkeypatch.setattr(
        control_plane.server, "process_request", lambda *made: (connections.append(made), accept(*made))
    )
    wrong = iter([False, True])

    def decide(seen: Any) -> Any:
        if next(wrong, False):
            return wire.Answer(200, wire.decision("of another call"))
        return wire.Answer(200, wire.blocked(seen.body["request_id"]))

    control_plane.defaults["/v1/evaluate"] = decide

    async def main() -> list[Any]:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url) as tv:
            return [await tv.evaluate(user_id="ada", model="gpt-4o-mini") for _ in range(3)]

    if awaited:
        decisions = asyncio.run(main())
    else:
        with TokVigil(api_key="key", base_url=control_plane.url) as tv:
            decisions = [tv.evaluate(user_id="ada", model="gpt-4o-mini") for _ in range(3)]
    assert [decision.allowed for decision in decisions] == [False] * 3
    assert not any(decision.degraded for decision in decisions)
    assert len(control_plane.calls("/v1/evaluate")) == 4
    assert len(connections) == 2


@pytest.mark.parametrize("on_unreachable", ["allow", "block"])
def test_answers_about_other_requests_only_are_an_outage(
    control_plane: Any, wire: Any, on_unreachable: Any, caplog: pytest.LogCaptureFixture
) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda _: wire.Answer(200, wire.decision("of another call"))
    with TokVigil(
        api_key="key", base_url=control_plane.url, max_retries=1, on_unreachable=on_unreachable
    ) as tv:
        decision = tv.evaluate(user_id="ada", model="gpt-4o-mini")
    assert (decision.degraded, decision.allowed) == (True, on_unreachable == "allow")
    assert "of another call" in caplog.text


def test_a_receipt_for_another_report_is_none(control_plane: Any, wire: Any) -> None:
    receipt = {"request_id": "r2", "duplicate": False, "cost_usd": "1", "priced": True}
    control_plane.defaults["/v1/usage"] = lambda _: wire.Answer(201, receipt)
    with (
        TokVigil(api_key="key", base_url=control_plane.url, max_retries=0) as tv,
        pytest.raises(UnreachableError, match="about request r2") as raised,
    ):
        tv.report_now(EVENT)
    assert raised.value.reason == "answer"
