from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import tokvigil
from tokvigil import TokVigil
from tokvigil.availability import FAILURES_TO_OPEN
from tokvigil.reporting import Reporter


def test_an_allowed_decision_is_typed(tv: TokVigil, control_plane: Any) -> None:
    decision = tv.evaluate(
        user_id="user_123",
        model="gpt-4o-mini",
        feature="chat",
        plan="free",
        input_tokens=812,
        max_output_tokens=400,
        run_id="run-1",
        metadata={"team": "blue"},
        explain=True,
    )

    assert decision.allowed
    assert decision.policy == tokvigil.PolicyRef(id="p1", name="Free plan", version=7, scope="plan")
    assert decision.estimated_cost_usd == Decimal("0.000198")
    assert decision.expires_at == datetime(2026, 11, 24, 0, 10, tzinfo=UTC)
    assert decision.max_output_tokens == 100
    assert not decision.degraded
    (seen,) = control_plane.seen
    assert (seen.method, seen.path) == ("POST", "/v1/evaluate")
    assert seen.headers["Authorization"] == "Bearer tv_dev_id_secret"
    assert seen.body == {
        "request_id": decision.request_id,
        "user_id": "user_123",
        "model": "gpt-4o-mini",
        "feature": "chat",
        "plan": "free",
        "input_tokens": 812,
        "max_output_tokens": 400,
        "run_id": "run-1",
        "metadata": {"team": "blue"},
        "explain": True,
    }


def test_a_block_is_one_line_in_the_log_that_names_its_reason_and_no_user(
    tv: TokVigil, control_plane: Any, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tokvigil")
    block = wire.blocked() | {"policy": {"id": "1", "name": "Free plan", "version": 2}}
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, block | {"request_id": seen.body["request_id"]}
    )
    decision = tv.evaluate(user_id="ada@example.com", model="gpt-4o-mini")
    assert caplog.messages == [f"request {decision.request_id} is blocked: {decision.reason_code}, Free plan"]


def test_a_block_is_an_answer_and_asked_for_once(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))

    decision = tv.evaluate(user_id="user_123", model="gpt-4o-mini")

    assert not decision.allowed
    assert decision.reason_code == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert (decision.retry_after, type(decision.retry_after)) == (3600, int)
    (state,) = decision.limit_state
    assert (state.limit, state.used, state.held, state.remaining, state.exceeded) == (50, 49, 1, 0, True)
    assert state.resets_at == datetime(2026, 11, 24, tzinfo=UTC)
    assert len(control_plane.seen) == 1


def test_costs_are_decimals_and_counts_are_integers(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    state = wire.blocked()["limit_state"][0] | {"metric": "cost_usd", "limit": "5.00", "used": "4.999999999"}
    state |= {"held": "0", "remaining": "0.000000001"}
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.decision("r", limit_state=[state])))

    (read,) = tv.evaluate(user_id="user_123", model="gpt-4o-mini").limit_state

    assert (read.limit, read.used, read.remaining) == (Decimal("5"), Decimal("4.999999999"), Decimal("1E-9"))
    assert isinstance(read.used, Decimal)


def test_an_amount_written_as_a_number_is_not_rounded_to_a_float(
    tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    body = b'{"request_id": "r", "allowed": true, "reason_code": "ALLOWED", "estimated_cost_usd": 0.1}'
    control_plane.script("/v1/evaluate", wire.Answer(200, body))
    decision = tv.evaluate(user_id="user_123", model="gpt-4o-mini", request_id="r")
    assert decision.estimated_cost_usd == Decimal("0.1")


def test_text_and_messages_are_counted_here_and_never_sent(tv: TokVigil, control_plane: Any) -> None:
    secret = "the acquisition closes on Friday"
    tv.evaluate(user_id="user_123", model="gpt-4o-mini", input_text=secret)
    tv.evaluate(user_id="user_123", model="gpt-4o-mini", messages=[{"role": "user", "content": secret}])

    counts = [seen.body["input_tokens"] for seen in control_plane.seen]
    assert counts[0] == tokvigil.count_tokens(secret, model="gpt-4o-mini")
    assert counts[1] == counts[0] + 7  # 3 for the message, 1 for its role, 3 for the reply
    assert all(b"acquisition" not in seen.raw for seen in control_plane.seen)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_retry_repeats_the_same_request_id(
    tv: TokVigil, control_plane: Any, wire: Any, status: int
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(status), wire.Answer(status))

    decision = tv.evaluate(user_id="user_123", model="gpt-4o-mini")

    assert decision.allowed
    assert not decision.degraded
    assert len(control_plane.seen) == 3
    assert len({seen.raw for seen in control_plane.seen}) == 1
    assert control_plane.seen[0].body["request_id"] == decision.request_id


def test_a_broken_connection_is_retried(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(hang_up=True))

    assert not tv.evaluate(user_id="user_123", model="gpt-4o-mini").degraded
    assert len(control_plane.seen) == 2


def test_a_call_that_used_up_its_time_is_not_tried_again(control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.decision("late"), delay_s=1.0))
    with TokVigil(api_key="key", base_url=control_plane.url, timeout=0.2, max_retries=1) as client:
        decision = client.evaluate(user_id="user_123", model="gpt-4o-mini", request_id="mine")

    assert (decision.request_id, decision.degraded) == ("mine", True)
    assert [seen.body["request_id"] for seen in control_plane.seen] == ["mine"]


def test_a_timeout_of_any_other_call_is_retried(control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/limits", wire.Answer(200, {}, delay_s=1.0), wire.Answer(200, {}))
    with TokVigil(api_key="key", base_url=control_plane.url, timeout=0.2, max_retries=1) as client:
        client.limits(user_id="user_123")

    assert len(control_plane.seen) == 2


@pytest.mark.parametrize("status", [401, 403, 409, 413, 415, 422, 500])
def test_other_answers_are_not_retried(tv: TokVigil, control_plane: Any, wire: Any, status: int) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(status))

    with contextlib.suppress(tokvigil.RefusedError):
        tv.evaluate(user_id="user_123", model="gpt-4o-mini")

    assert len(control_plane.seen) == 1


def test_retry_after_is_obeyed(control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(429, headers={"Retry-After": "1"}))
    started = datetime.now(UTC)

    with TokVigil(api_key="key", base_url=control_plane.url, timeout=5.0) as client:
        client.evaluate(user_id="user_123", model="gpt-4o-mini")

    assert (datetime.now(UTC) - started).total_seconds() >= 1.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, tokvigil.InvalidRequestError),
        (401, tokvigil.InvalidKeyError),
        (403, tokvigil.MissingScopeError),
        (409, tokvigil.IdempotencyConflictError),
        (422, tokvigil.InvalidRequestError),
        (418, tokvigil.RefusedError),
    ],
)
def test_a_refusal_is_a_typed_error_whatever_on_unreachable_says(
    tv: TokVigil, control_plane: Any, wire: Any, status: int, kind: type[tokvigil.RefusedError]
) -> None:
    problem = {
        "title": "No",
        "code": "SOME_CODE",
        "detail": "because",
        "errors": [{"field": "x", "message": "must be a y"}, {"field": "z"}, 7],
        "request_id": "req-9",
    }
    control_plane.script("/v1/evaluate", wire.Answer(status, problem))

    with pytest.raises(kind) as caught:
        tv.evaluate(user_id="user_123", model="gpt-4o-mini")

    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (error.status_code, error.code, error.request_id) == (status, "SOME_CODE", "req-9")
    assert error.errors == problem["errors"]
    assert str(error) == f"TokVigil answered {status}: because (x: must be a y; z; 7) [request req-9]"
    assert "secret" not in repr(caught.value)


def test_on_unreachable_allow_lets_the_call_out_and_says_so(
    unreachable: str, caplog: pytest.LogCaptureFixture
) -> None:
    with TokVigil(api_key="key", base_url=unreachable, max_retries=0) as client:
        decision = client.evaluate(user_id="user_123", model="gpt-4o-mini")

    assert (decision.allowed, decision.degraded, decision.reason_code) == (True, True, "DEGRADED_ALLOWED")
    assert decision.reason_class == "degraded"
    assert "cannot be reached" in caplog.text


def test_on_unreachable_block_stops_it(unreachable: str) -> None:
    with TokVigil(api_key="key", base_url=unreachable, max_retries=0, on_unreachable="block") as client:
        decision = client.evaluate(user_id="user_123", model="gpt-4o-mini")

    assert (decision.allowed, decision.degraded, decision.reason_code) == (False, True, "DEGRADED_BLOCKED")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome to the airport WLAN</html>",
        b"[]",
        b'{"allowed": tru',
        b"[" * 200_000,
        {"request_id": "r", "reason_code": "ALLOWED"},
        {"request_id": "r", "reason_code": "ALLOWED", "allowed": "true"},
        {"request_id": "r", "allowed": True},
        {"reason_code": "ALLOWED", "allowed": True},
    ],
)
def test_a_malformed_answer_is_never_taken_for_permission(control_plane: Any, wire: Any, body: Any) -> None:
    with TokVigil(api_key="key", base_url=control_plane.url, on_unreachable="block") as client:
        assert client.evaluate(user_id="user_123", model="gpt-4o-mini").allowed
        control_plane.script("/v1/evaluate", wire.Answer(200, body))
        decision = client.evaluate(user_id="user_123", model="gpt-4o-mini")

    assert (decision.allowed, decision.reason_code) == (False, "DEGRADED_BLOCKED")
    assert len(control_plane.calls("/v1/evaluate")) == 2, "the malformed answer is not asked for again"


def test_a_redirect_is_not_followed_with_the_key(control_plane: Any, wire: Any) -> None:
    with TokVigil(api_key="key", base_url=control_plane.url, on_unreachable="block") as client:
        assert client.evaluate(user_id="user_123", model="gpt-4o-mini").allowed
        control_plane.script("/v1/evaluate", wire.Answer(307, headers={"Location": "/elsewhere"}))
        assert not client.evaluate(user_id="user_123", model="gpt-4o-mini").allowed

    assert [seen.path for seen in control_plane.seen[:2]] == ["/v1/evaluate"] * 2
    assert control_plane.calls("/elsewhere") == []


def test_unknown_fields_are_ignored_and_absent_ones_have_defaults(
    tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    state = wire.blocked()["limit_state"][0] | {"colour": "red"}
    answer = {
        "request_id": "r",
        "allowed": True,
        "reason_code": "NEW_CODE",
        "limit_state": [state],
        "new": {},
    }
    control_plane.script("/v1/evaluate", wire.Answer(200, answer))

    decision = tv.evaluate(user_id="user_123", model="gpt-4o-mini")

    assert (decision.allowed, decision.reason_code, decision.policy) == (True, "NEW_CODE", None)
    assert decision.limit_state[0].remaining == 0


def test_a_value_that_is_no_json_is_a_configuration_error(tv: TokVigil, control_plane: Any) -> None:
    with pytest.raises(tokvigil.ConfigurationError):
        tv.evaluate(user_id="user_123", model="gpt-4o-mini", metadata={"when": datetime.now(UTC)})

    assert control_plane.seen == []


def test_a_client_is_shared_between_threads(tv: TokVigil, control_plane: Any) -> None:
    decisions: list[tokvigil.Decision] = []
    threads = [
        threading.Thread(
            target=lambda: decisions.append(tv.evaluate(user_id="user_123", model="gpt-4o-mini"))
        )
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({decision.request_id for decision in decisions if decision.allowed}) == 20


@pytest.mark.parametrize("how", ["evaluate", "guard"])
def test_a_question_that_was_interrupted_is_given_back_once(
    control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    reported = []
    report = Reporter.report
    monkeypatch.setattr(Reporter, "report", lambda self, event: (reported.append(event), report(self, event)))
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.decision(seen.body["request_id"]), delay_s=0.5
    )

    async def ask_and_cancel() -> None:
        async with tokvigil.AsyncTokVigil(api_key="key", base_url=control_plane.url) as tv:
            asked = (
                tv.evaluate(user_id="ada", model="m")
                if how == "evaluate"
                else tv.guard(user_id="ada", feature="chat", model="m").__aenter__()
            )
            asking = asyncio.ensure_future(asked)
            await asyncio.sleep(0.1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(ask_and_cancel())
    assert [json.loads(report.body)["status"] for report in reported] == ["cancelled"]
    assert [body["status"] for body in control_plane.charged.values()] == ["cancelled"]


class TimeLimit(Exception):
    """As Celery's SoftTimeLimitExceeded."""


class Timeout(BaseException):
    """As gevent's."""


@pytest.fixture
def alarm() -> Iterator[Any]:
    """`alarm(error, seconds)`: a signal handler raises it then."""
    before = signal.getsignal(signal.SIGALRM)

    def set_to(error: type[BaseException], seconds: float) -> None:
        def over(*_: object) -> None:
            raise error

        signal.signal(signal.SIGALRM, over)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield set_to
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("answer", ["allowed", "blocked"])
@pytest.mark.parametrize("error", [TimeLimit, TimeoutError, KeyboardInterrupt, SystemExit, Timeout])
def test_a_time_limit_of_the_application_ends_a_question(
    tv: TokVigil, control_plane: Any, wire: Any, alarm: Any, error: type[BaseException], answer: str
) -> None:
    decided = wire.decision if answer == "allowed" else wire.blocked
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, decided(seen.body["request_id"]), delay_s=0.4
    )
    alarm(error, 0.1)
    with pytest.raises(error):
        tv.guard(user_id="ada", model="gpt-4o-mini")
    assert tv.flush() == 0
    assert [body["status"] for body in control_plane.charged.values()] == ["cancelled"]
    assert len(control_plane.calls("/v1/evaluate")) == 1


def test_a_time_limit_of_the_application_ends_the_wait_for_another_attempt(
    tv: TokVigil, control_plane: Any, wire: Any, alarm: Any
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(503, headers={"Retry-After": "0.5"}))
    alarm(TimeLimit, 0.1)
    with pytest.raises(TimeLimit):
        tv.guard(user_id="ada", model="gpt-4o-mini")
    assert tv.flush() == 0
    assert [body["status"] for body in control_plane.charged.values()] == ["cancelled"]


def test_a_time_limit_ends_a_question_that_is_awaited(control_plane: Any, wire: Any) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.decision(seen.body["request_id"]), delay_s=0.4
    )

    async def ask() -> None:
        async with tokvigil.AsyncTokVigil(api_key="key", base_url=control_plane.url) as tv:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await tv.evaluate(user_id="ada", model="m")

    asyncio.run(ask())
    assert [body["status"] for body in control_plane.charged.values()] == ["cancelled"]


def test_what_is_decided_is_given_back_if_the_call_does_not_go_out(control_plane: Any) -> None:
    """As when a signal handler ends it while `on_decision` runs."""

    def ends(_: object) -> None:
        raise SystemExit

    with TokVigil(api_key="key", base_url=control_plane.url, on_decision=ends) as tv:
        with pytest.raises(SystemExit):
            tv.guard(user_id="ada", model="gpt-4o-mini")
        assert tv.flush() == 0
    assert [body["status"] for body in control_plane.charged.values()] == ["cancelled"]


def test_nothing_is_given_back_for_a_second_question_that_was_never_asked(
    tv: TokVigil, control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def catch_up(reporter: Reporter, deadline: float) -> Any:
        """And meanwhile others find that TokVigil is away."""
        yield 0.001
        for _ in range(FAILURES_TO_OPEN):
            tv._availability.failed(tokvigil.UnreachableError("away"), tv._availability.clock())
        return True

    monkeypatch.setattr(Reporter, "catch_up", catch_up)
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked() | {"reason_class": "transient"}))
    assert tv.evaluate(user_id="ada", model="gpt-4o-mini").reason_class == "transient"
    assert len(control_plane.seen) == 1
    assert tv.pending() == 0
