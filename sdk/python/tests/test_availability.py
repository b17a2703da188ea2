"""The control plane away: what is decided, and how long it is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from typing import Any

import pytest
import tokvigil
from tokvigil import AsyncTokVigil, Decision, TokVigil
from tokvigil.availability import FAILURES_TO_OPEN, OPEN_S, Availability

ASKED = ("user_123", "chat", "gpt-4o-mini", None)
AWAY = tokvigil.UnreachableError("away")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def availability(clock: Clock) -> Availability:
    return Availability("last_known", clock)


def blocked(**changes: Any) -> Decision:
    fields = {
        "request_id": "r1",
        "allowed": False,
        "reason_code": "DAILY_REQUEST_LIMIT_EXCEEDED",
        "reason_class": "exhausted",
        "message": "Daily request limit of 50 reached.",
        "retry_after": 60,
    }
    return Decision(**(fields | changes))


def test_a_block_is_repeated_until_its_time_is_over(availability: Availability, clock: Clock) -> None:
    availability.remember(ASKED, blocked(suggested_model="gpt-4.1-nano"))
    clock.now += 20.5
    decision = availability.decide(ASKED, "r2", AWAY)
    assert decision.suggested_model is None, "nobody knows whether it is allowed now"
    assert (decision.allowed, decision.degraded, decision.request_id) == (False, True, "r2")
    assert (decision.reason_code, decision.reason_class) == ("DEGRADED_BLOCKED", "degraded")
    assert decision.retry_after == 40
    assert "Daily request limit of 50 reached" in decision.message
    clock.now += 39.5
    assert availability.decide(ASKED, "r3", AWAY).allowed


def test_a_block_that_waiting_cannot_lift_stays(availability: Availability, clock: Clock) -> None:
    availability.remember(ASKED, blocked(retry_after=None))
    clock.now += 1e6
    assert not availability.decide(ASKED, "r2", AWAY).allowed


def test_a_later_decision_replaces_the_one_before(availability: Availability) -> None:
    availability.remember(ASKED, blocked())
    availability.remember(ASKED, blocked(allowed=True, reason_class="allowed"))
    assert availability.decide(ASKED, "r2", AWAY).allowed
    assert availability._blocks == {}, "only blocks are kept"


@pytest.mark.parametrize(
    "decision",
    [blocked(reason_class="transient"), blocked(reason_class="too_large"), blocked(degraded=True)],
)
def test_what_says_nothing_of_later_is_not_remembered(availability: Availability, decision: Decision) -> None:
    availability.remember(ASKED, decision)
    assert availability.decide(ASKED, "r2", AWAY).allowed


def test_a_block_is_that_of_its_user_and_model_alone(availability: Availability) -> None:
    availability.remember(ASKED, blocked())
    other = ("user_456", "chat", "gpt-4o-mini", None)
    assert availability.decide(other, "r2", AWAY).allowed


def test_what_is_remembered_is_bounded(availability: Availability, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokvigil.availability.REMEMBERED_MAX", 2)
    users = [(str(n), None, "m", None) for n in range(3)]
    for user in users:
        availability.remember(user, blocked())
    assert [availability.decide(user, "r", AWAY).allowed for user in users] == [True, False, False]


def test_after_failures_in_a_row_one_call_at_a_time_asks_again(
    availability: Availability, clock: Clock
) -> None:
    for _ in range(FAILURES_TO_OPEN):
        availability.admit()
        availability.failed(AWAY, clock.now)
    with pytest.raises(tokvigil.UnreachableError):
        availability.admit()
    clock.now += OPEN_S
    availability.admit()
    with pytest.raises(tokvigil.UnreachableError):
        availability.admit()
    availability.answered()
    availability.admit()
    availability.admit()


@pytest.mark.parametrize("reason", ["timeout", "busy"])
@pytest.mark.parametrize("on_unreachable", ["last_known", "block", "allow"])
def test_what_a_user_may_be_shown_names_no_address_and_no_cause(
    clock: Clock, reason: Any, on_unreachable: Any
) -> None:
    error = tokvigil.UnreachableError("not at http://127.0.0.1:8471: ConnectError(111)")
    error.reason = reason
    availability = Availability(on_unreachable, clock)
    availability.remember(ASKED, blocked())
    message = availability.decide(ASKED, "r", error).message
    assert re.search(r"http|Error|127", message) is None
    assert "TokVigil cannot be reached" in message or "TokVigil is busy" in message


def test_an_outage_is_said_once_a_minute_and_at_its_end(
    availability: Availability, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        for _ in range(100):
            availability.decide(ASKED, "r", AWAY)
        clock.now += 60
    availability.answered()
    availability.answered()
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "request r is allowed without TokVigil, as call 1 since it went away",
        "request r is allowed without TokVigil, as call 101 since it went away",
        "request r is allowed without TokVigil, as call 201 since it went away",
        "TokVigil answers again; 300 calls were decided without it",
    ]


def test_a_client_repeats_the_last_block_without_asking(control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()), *[wire.Answer(503)] * 9)
    with TokVigil(api_key="key", base_url=control_plane.url, max_retries=0) as client:
        assert (
            client.evaluate(user_id="user_123", model="gpt-4o-mini").reason_code
            == "DAILY_REQUEST_LIMIT_EXCEEDED"
        )
        decisions = [client.evaluate(user_id="user_123", model="gpt-4o-mini") for _ in range(9)]
    assert {(each.allowed, each.reason_code) for each in decisions} == {(False, "DEGRADED_BLOCKED")}
    assert len(control_plane.calls("/v1/evaluate")) == 1 + FAILURES_TO_OPEN


def test_a_block_until_the_end_of_time_is_repeated_too(control_plane: Any, wire: Any) -> None:
    block = wire.blocked() | {"retry_after": 10**400}
    control_plane.script("/v1/evaluate", wire.Answer(200, block), *[wire.Answer(503)] * 9)
    with TokVigil(api_key="key", base_url=control_plane.url, max_retries=0) as tv:
        decisions = [tv.evaluate(user_id="ada", model="gpt-4o-mini") for _ in range(2)]
    assert [(each.allowed, each.retry_after, each.degraded) for each in decisions] == [
        (False, None, False),
        (False, None, True),
    ]


def test_a_dry_run_says_nothing_of_the_calls_to_come(control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()), wire.Answer(503))
    with TokVigil(api_key="key", base_url=control_plane.url, max_retries=0) as client:
        assert not client.evaluate(user_id="user_123", model="gpt-4o-mini", dry_run=True).allowed
        assert client.evaluate(user_id="user_123", model="gpt-4o-mini").allowed


def test_a_refusal_of_the_key_does_not_count_as_away(control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", *[wire.Answer(401)] * 5)
    with TokVigil(api_key="key", base_url=control_plane.url, max_retries=0) as client:
        for _ in range(5):
            with pytest.raises(tokvigil.InvalidKeyError):
                client.evaluate(user_id="user_123", model="gpt-4o-mini")
    assert len(control_plane.calls("/v1/evaluate")) == 5


def test_all_retries_of_an_evaluate_stay_within_the_timeout(control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", *[wire.Answer(503, delay_s=0.3)] * 10)
    with TokVigil(api_key="key", base_url=control_plane.url, timeout=0.8, max_retries=10) as client:
        started = time.perf_counter()
        assert client.evaluate(user_id="user_123", model="gpt-4o-mini").degraded
        took_s = time.perf_counter() - started
    assert 2 <= len(control_plane.calls("/v1/evaluate")) <= 3
    # Ten retries without the bound take more than ten seconds.
    assert took_s < 3


def drip(head: bytes, piece: bytes) -> str:
    """The address of a server that answers with a head and then never stops, a piece now and then."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(head)
            for _ in range(200):
                connection.sendall(piece)
                time.sleep(0.05)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", b" "),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b""),
    ],
    ids=["header", "body", "continue", "silent"],
)
@pytest.mark.parametrize("awaited", [False, True])
def test_a_control_plane_that_never_finishes_costs_no_more_than_the_timeout(
    head: bytes, piece: bytes, awaited: bool
) -> None:
    url = drip(head, piece)

    async def ask() -> bool:
        async with AsyncTokVigil(api_key="key", base_url=url, timeout=0.5, journal=False) as client:
            return (await client.evaluate(user_id="user_123", model="gpt-4o-mini")).degraded

    started = time.perf_counter()
    if awaited:
        assert asyncio.run(ask())
    else:
        with TokVigil(api_key="key", base_url=url, timeout=0.5, journal=False) as client:
            assert client.evaluate(user_id="user_123", model="gpt-4o-mini").degraded
    # Without the bound it takes the ten seconds that the server goes on.
    assert time.perf_counter() - started < 4
