"""A control plane with too much to do is not away: calls that it cannot decide in time are blocked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from tokvigil import AIUsageBlockedError, AsyncTokVigil, Decision, TokVigil, links
from tokvigil.retries import WAIT_S_MAX

from sdk.python.tests.wrapped import CHAT

REPOSITORY = Path(__file__).resolve().parents[3]
ON_UNREACHABLE = ["allow", "last_known"]
BURST = 2000


def is_busy(decision: Decision) -> bool:
    return (decision.allowed, decision.degraded, decision.reason_code) == (False, True, "DEGRADED_BLOCKED")


@pytest.mark.parametrize("on_unreachable", ON_UNREACHABLE)
def test_too_many_requests_are_a_block_and_no_outage(
    control_plane: Any, wire: Any, on_unreachable: Any, caplog: pytest.LogCaptureFixture
) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda _: wire.Answer(429)
    with TokVigil(
        api_key="key", base_url=control_plane.url, timeout=0.7, on_unreachable=on_unreachable
    ) as tv:
        decisions = [tv.evaluate(user_id="ada", model="gpt-4o-mini") for _ in range(4)]
        assert all(is_busy(decision) for decision in decisions)
        assert {(each.reason_class, each.retry_after) for each in decisions} == {("degraded", 1)}
        assert "TokVigil is busy" in decisions[0].message
        control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
            200, wire.decision(seen.body["request_id"])
        )
        assert not tv.evaluate(user_id="ada", model="gpt-4o-mini").degraded, "it is asked as before"
        assert tv.pending() == 0, "nothing was held, so nothing is given back"
    assert len([record for record in caplog.records if "busy" in record.getMessage()]) == 1


def test_too_many_requests_are_tried_again_as_long_as_there_is_time(control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", *[wire.Answer(429)] * 3)
    with TokVigil(api_key="key", base_url=control_plane.url, timeout=5.0, max_retries=0) as tv:
        assert not tv.evaluate(user_id="ada", model="gpt-4o-mini").degraded
    assert len(control_plane.calls("/v1/evaluate")) == 4


@pytest.mark.parametrize(
    ("asked", "retry_after"), [("60", 60), ("1.5", 2), ("inf", WAIT_S_MAX), ("9" * 400, WAIT_S_MAX)]
)
def test_a_retry_after_that_is_too_late_ends_the_attempts_and_is_passed_on(
    control_plane: Any, wire: Any, asked: str, retry_after: int
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(429, headers={"Retry-After": asked}))
    with TokVigil(api_key="key", base_url=control_plane.url, timeout=1.0, on_unreachable="allow") as tv:
        decision = tv.evaluate(user_id="ada", model="gpt-4o-mini")
    assert is_busy(decision)
    assert decision.retry_after == retry_after
    assert len(control_plane.calls("/v1/evaluate")) == 1


def test_a_wrapped_client_raises_the_block(control_plane: Any, wire: Any, wire_provider: Any) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda _: wire.Answer(429)
    with TokVigil(api_key="key", base_url=control_plane.url, timeout=0.3) as tv:
        client = tv.wrap(openai.OpenAI(api_key="sk", base_url=wire_provider.url + "/v1"), user_id="ada")
        with pytest.raises(AIUsageBlockedError) as caught:
            client.chat.completions.create(**CHAT)
    assert isinstance(caught.value, openai.PermissionDeniedError)
    assert (caught.value.http_status, caught.value.http_headers) == (429, {"Retry-After": "1"})
    assert wire_provider.seen == []


@pytest.mark.parametrize("on_unreachable", ON_UNREACHABLE)
@pytest.mark.parametrize("trouble", ["slow", 408, 503, 504])
def test_a_question_that_is_lost_while_others_are_answered_is_blocked(
    control_plane: Any, wire: Any, trouble: Any, on_unreachable: Any
) -> None:
    """A server that sheds load, or has no time for one of many."""

    timeout_s = 2.0 if trouble == "slow" else 10.0
    all_arrived = threading.Barrier(4 + 1)
    another_was_answered = threading.Event()

    def answer(seen: Any) -> Any:
        if seen.body["user_id"] == "ada":
            all_arrived.wait(10)
            another_was_answered.wait(10)
            return wire.Answer(200, {}, delay_s=2 * timeout_s) if trouble == "slow" else wire.Answer(trouble)
        return wire.Answer(200, wire.decision(seen.body["request_id"]))

    control_plane.defaults["/v1/evaluate"] = answer
    with (
        TokVigil(
            api_key="key",
            base_url=control_plane.url,
            timeout=timeout_s,
            max_retries=0,
            on_unreachable=on_unreachable,
        ) as tv,
        ThreadPoolExecutor(4) as pool,
    ):
        lost = [pool.submit(tv.evaluate, user_id="ada", model="gpt-4o-mini") for _ in range(4)]
        all_arrived.wait(10)
        assert not tv.evaluate(user_id="bob", model="gpt-4o-mini").degraded
        another_was_answered.set()
        decisions = [each.result() for each in lost]
        assert all(is_busy(decision) for decision in decisions)
        assert not tv.evaluate(user_id="bob", model="gpt-4o-mini").degraded, "nobody leaves it alone"
        assert tv.flush() == 0
    given_back = {body["request_id"]: body["status"] for body in control_plane.charged.values()}
    assert given_back == {decision.request_id: "cancelled" for decision in decisions}


@pytest.mark.parametrize("trouble", ["slow", 503])
def test_a_server_that_answers_nobody_is_away(control_plane: Any, wire: Any, trouble: Any) -> None:
    control_plane.script(
        "/v1/evaluate",
        wire.Answer(200, wire.decision("earlier")),
        wire.Answer(200, {}, delay_s=1.0) if trouble == "slow" else wire.Answer(503),
    )
    with TokVigil(api_key="key", base_url=control_plane.url, timeout=0.3, max_retries=0) as tv:
        assert not tv.evaluate(user_id="ada", model="gpt-4o-mini").degraded
        assert tv.evaluate(user_id="ada", model="gpt-4o-mini").reason_code == "DEGRADED_ALLOWED"


@pytest.mark.parametrize("on_unreachable", ON_UNREACHABLE)
@pytest.mark.parametrize("awaited", [False, True])
def test_a_full_pool_lets_no_call_out(
    control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch, awaited: bool, on_unreachable: Any
) -> None:
    monkeypatch.setattr(links, "LINKS_MAX", 2)
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.blocked(seen.body["request_id"]), delay_s=0.3
    )
    ask = ask_in_tasks if awaited else ask_in_threads
    decisions = ask(control_plane.url, 12, timeout=0.8, on_unreachable=on_unreachable)
    assert [decision for decision in decisions if decision.allowed] == []
    assert 0 < sum(is_busy(decision) for decision in decisions) < 12
    assert len(control_plane.calls("/v1/usage/batch")) <= 2, (
        "most were never asked, so there is nothing to give back"
    )


def test_an_event_loop_that_was_held_up_has_not_shown_that_tokvigil_is_away(
    control_plane: Any, wire: Any
) -> None:
    """The block has arrived, and there was no time to read it."""
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.blocked(seen.body["request_id"])
    )

    async def main() -> Decision:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url, timeout=1.0) as tv:
            asked = asyncio.create_task(tv.evaluate(user_id="ada", model="gpt-4o-mini", input_tokens=10))
            for _ in range(3):
                await asyncio.sleep(0)
            time.sleep(1.05)
            return await asked

    decision = asyncio.run(main())
    assert not decision.allowed


def test_a_time_out_beside_one_that_was_noticed_late_is_this_process_s_own(
    control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda _: wire.Answer(200, {}, delay_s=3.0)
    # The one is late whatever happens; the other never is, and its loop is free.
    late = iter([-1.0])
    monkeypatch.setattr(links, "STALLED_SHARE", 99.0)

    async def main() -> list[Decision]:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url, timeout=0.5, max_retries=0) as tv:
            first = asyncio.create_task(tv.evaluate(user_id="ada", model="gpt-4o-mini", input_tokens=10))
            await asyncio.sleep(0.2)
            second = asyncio.create_task(tv.evaluate(user_id="bob", model="gpt-4o-mini", input_tokens=10))
            await asyncio.sleep(0.2)
            monkeypatch.setattr(links, "LATE_S", next(late))
            await first
            monkeypatch.setattr(links, "LATE_S", 60.0)
            return [await first, await second]

    assert all(is_busy(decision) for decision in asyncio.run(main()))


def test_a_name_is_looked_up_though_the_loops_own_threads_are_all_busy(control_plane: Any, wire: Any) -> None:
    """As of an application whose threads wait for AI calls."""
    url = control_plane.url.replace("127.0.0.1", "localhost")
    go_on = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        busy = asyncio.create_task(asyncio.to_thread(go_on.wait, 60))
        await asyncio.sleep(0)
        try:
            async with AsyncTokVigil(api_key="key", base_url=url, timeout=30.0) as tv:
                assert not (await tv.evaluate(user_id="ada", model="gpt-4o-mini")).degraded
                assert await tv.flush(30) == 0
        finally:
            go_on.set()
            await busy

    asyncio.run(asyncio.wait_for(main(), 50))


NO_DESCRIPTORS = """
import asyncio, os, resource, sys
from tokvigil import AsyncTokVigil, TokVigil

options = {"api_key": "key", "base_url": sys.argv[1], "journal": False}
call = {"model": "gpt-4o-mini", "input_tokens": 1}

async def main():
    async with AsyncTokVigil(**options) as awaited:
        await awaited.evaluate(user_id="warm", **call)
        with TokVigil(**options) as tv:
            tv.evaluate(user_id="warm", **call)
            while tv._links._idle:
                tv._links._idle.pop().pool.close()
            idle = awaited._links._of_loops.here().idle
            while idle:
                await idle.pop().pool.aclose()
            open_now = len(os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            hogs = []
            try:
                while True:
                    hogs.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
            decisions = [tv.evaluate(user_id=f"ada_{number}", **call) for number in range(4)]
            decisions += [await awaited.evaluate(user_id=f"bob_{number}", **call) for number in range(4)]
            for hog in hogs:
                os.close(hog)
            decisions += [tv.evaluate(user_id="eve", **call), await awaited.evaluate(user_id="eve", **call)]
            print(*[decision.reason_code for decision in decisions])

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_process_that_has_run_out_of_descriptors_lets_no_call_out(
    control_plane: Any, wire: Any, host: str
) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.blocked(seen.body["request_id"])
    )
    url = control_plane.url.replace("127.0.0.1", host)
    run = subprocess.run(
        [sys.executable, "-c", NO_DESCRIPTORS, url], capture_output=True, text=True, timeout=120, check=False
    )
    code = wire.blocked()["reason_code"]
    assert run.stdout.split() == [*["DEGRADED_BLOCKED"] * 8, code, code], run.stderr


@pytest.fixture
def crowded() -> Iterator[str]:
    """The address of a control plane that blocks everything, after 100 ms."""
    command = [sys.executable, "-m", "sdk.python.tests.fast_control_plane", "0.1"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def ask_in_threads(url: str, count: int, **options: Any) -> list[Decision]:
    decisions: list[Decision] = []
    at_once = threading.Barrier(count)
    with TokVigil(api_key="key", base_url=url, **options) as tv:

        def ask(number: int) -> None:
            at_once.wait()
            decisions.append(tv.evaluate(user_id=f"user_{number}", model="gpt-4o-mini", input_tokens=10))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return decisions


def ask_in_tasks(url: str, count: int, **options: Any) -> list[Decision]:
    async def main() -> list[Decision]:
        async with AsyncTokVigil(api_key="key", base_url=url, **options) as tv:
            asked = [
                tv.evaluate(user_id=f"user_{n}", model="gpt-4o-mini", input_tokens=10) for n in range(count)
            ]
            return await asyncio.gather(*asked)

    return asyncio.run(main())


@pytest.mark.parametrize("on_unreachable", ON_UNREACHABLE)
@pytest.mark.parametrize("ask", [ask_in_threads, ask_in_tasks])
def test_a_burst_of_thousands_over_their_limit_gets_nothing_through(
    crowded: str, ask: Callable[..., list[Decision]], on_unreachable: Any, record_property: Any
) -> None:
    began = time.perf_counter()
    decisions = ask(crowded, BURST, on_unreachable=on_unreachable)
    said = Counter(decision.reason_code for decision in decisions)
    record_property("said", dict(said))
    print(f"{ask.__name__}, {on_unreachable}: {dict(said)} in {time.perf_counter() - began:.1f} s")
    assert len(decisions) == BURST
    assert [decision for decision in decisions if decision.allowed] == []
    assert set(said) <= {"DAILY_REQUEST_LIMIT_EXCEEDED", "DEGRADED_BLOCKED"}


@pytest.mark.parametrize("ask", [ask_in_threads, ask_in_tasks])
def test_a_burst_that_has_the_time_is_answered(crowded: str, ask: Callable[..., list[Decision]]) -> None:
    said = Counter(decision.reason_code for decision in ask(crowded, BURST, timeout=60))
    assert said["DAILY_REQUEST_LIMIT_EXCEEDED"] > BURST / 2, said
