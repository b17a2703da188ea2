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

    another_was_answered = threading.Event()

    def answer(seen: Any) -> Any:
        if seen.body["user_id"] == "ada":
            another_was_answered.wait(5)
            return wire.Answer(200, {}, delay_s=2.0) if trouble == "slow" else wire.Answer(trouble)
        return wire.Answer(200, wire.decision(seen.body["request_id"]))

    control_plane.defaults["/v1/evaluate"] = answer
    with (
        TokVigil(
            api_key="key",
            base_url=control_plane.url,
            timeout=1.0,
            max_retries=0,
            on_unreachable=on_unreachable,
        ) as tv,
        ThreadPoolExecutor(4) as pool,
    ):
        lost = [pool.submit(tv.evaluate, user_id="ada", model="gpt-4o-mini") for _ in range(4)]
        time.sleep(0.1)
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
    assert said["DAILY_REQUEST_LIMIT_EXCEEDED"] > BURST / 10, (
        "most have their answer, however slow the machine"
    )
