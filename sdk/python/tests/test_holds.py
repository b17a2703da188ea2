"""Calls under way: their holds stay open, and an ending that was put off is reported once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from tokvigil import TokVigil
from tokvigil.calls import Call
from tokvigil.endings import Ending
from tokvigil.holds import EXTEND_AGAIN_S, EXTEND_EVERY_S, EXTEND_S_MAX, Holds
from tokvigil.question import Question, Report

from sdk.python.tests.wrapped import Books, pending_of, wait_for


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def holds(clock: Clock) -> Holds:
    return Holds(clock)


@pytest.fixture
def make(tv: TokVigil) -> Callable[[], Call]:
    """A call that was allowed, and not begun."""

    def call() -> Call:
        question = Question(user_id="user_123", model="gpt-4o-mini", input_tokens=10)
        opened = Call(question, tv._reporter)
        opened.allow(tv._transport.run(tv._evaluation.evaluate(question)))
        tv._reporter.journal.asks(opened.at_most())
        return opened

    return call


@pytest.fixture
def reporter(tv: TokVigil, clock: Clock) -> Any:
    """Its holds go by the clock of the test, and only the test has it work."""
    tv._reporter._background.stop(10)
    tv._reporter._holds._clock = clock
    return tv._reporter


def extension(call: Call) -> str:
    return f"/v1/reservations/{call.request_id}/extend"


@pytest.fixture
def extends(control_plane: Any, wire: Any) -> Callable[[Call], list[Any]]:
    """Has the control plane extend this call's hold; later, which times it did."""

    def extensions(call: Call) -> list[Any]:
        answer = wire.Answer(200, {"expires_at": "2026-11-24T00:20:00Z"})
        control_plane.defaults.setdefault(extension(call), lambda _: answer)
        return list(control_plane.calls(extension(call)))

    return extensions


def test_a_hold_is_extended_again_and_again_until_its_call_ends(
    holds: Holds, clock: Clock, make: Callable[..., Call]
) -> None:
    call = make()
    assert holds.began(call)
    assert holds.next_due_s() == EXTEND_EVERY_S
    for _ in range(3):
        clock.now_s += EXTEND_EVERY_S - 0.01
        assert holds.due() == []
        clock.now_s += 0.01
        assert holds.due() == [call.request_id]
        holds.extend_in(call.request_id, EXTEND_EVERY_S)
        assert holds.due() == []
    holds.ended(call.request_id)
    clock.now_s += 10 * EXTEND_EVERY_S
    assert holds.due() == []
    assert holds.next_due_s() is None


def test_the_hold_of_a_guard_that_somebody_forgot_to_leave_is_not_extended_for_ever(
    holds: Holds, clock: Clock, make: Callable[..., Call]
) -> None:
    call = make()
    holds.began(call)
    clock.now_s += EXTEND_S_MAX - 1
    assert holds.due() == [call.request_id]
    holds.extend_in(call.request_id, EXTEND_EVERY_S)
    clock.now_s += EXTEND_EVERY_S
    assert holds.due() == []
    assert holds.next_due_s() is None
    assert holds.open_calls() == [call], "its report still counts"


def test_a_forked_child_leaves_the_parents_calls_to_the_parent(
    holds: Holds, make: Callable[..., Call]
) -> None:
    call = make()
    holds.began(call)
    holds.restart_in_child()
    assert not holds.has(call.request_id)
    assert holds.open_calls() == []
    assert holds.next_due_s() is None


def test_no_call_begins_once_it_is_closing(holds: Holds, make: Callable[..., Call]) -> None:
    early = make()
    assert holds.began(early)
    holds.let_none_begin()
    assert not holds.began(make())
    assert holds.open_calls() == [early]


def test_the_reporter_extends_the_hold_of_a_long_call(
    reporter: Any, clock: Clock, extends: Callable[[Call], list[Any]], make: Callable[..., Call]
) -> None:
    call = make()
    assert reporter.begin(call, None)
    reporter.work()
    assert extends(call) == []
    clock.now_s += EXTEND_EVERY_S
    reporter.work()
    reporter.work()
    assert len(extends(call)) == 1
    call.end(Ending.REFUSED)
    clock.now_s += EXTEND_EVERY_S
    reporter.work()
    assert len(extends(call)) == 1


def test_a_hold_that_cannot_be_extended_stops_nothing(
    reporter: Any,
    clock: Clock,
    control_plane: Any,
    wire: Any,
    make: Callable[..., Call],
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = [make(), make()]
    for call in calls:
        reporter.begin(call, None)
        control_plane.script(extension(call), wire.Answer(503))
        control_plane.defaults[extension(call)] = lambda _: wire.Answer(200)
    clock.now_s += EXTEND_EVERY_S
    reporter.work()
    assert "the holds of long calls are not extended this time" in caplog.text
    seen = [len(control_plane.calls(extension(call))) for call in calls]
    assert sum(seen) == 1, "nobody waits for each of them in turn"
    clock.now_s += EXTEND_AGAIN_S
    control_plane.scripts.clear()
    reporter.work()
    assert [len(control_plane.calls(extension(call))) for call in calls] == [2, 1]


def test_many_long_calls_do_not_hold_up_the_reports_of_others(
    reporter: Any,
    clock: Clock,
    extends: Callable[[Call], list[Any]],
    make: Callable[..., Call],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokvigil.reporting.EXTEND_FOR_S", 0.0)
    call = make()
    reporter.begin(call, None)
    clock.now_s += EXTEND_EVERY_S
    assert reporter.work() == 0, "its turn comes again at once"
    assert extends(call) == []
    monkeypatch.setattr("tokvigil.reporting.EXTEND_FOR_S", 1.0)
    reporter.work()
    assert len(extends(call)) == 1


def test_in_a_long_backlog_holds_are_extended_between_two_rounds_of_sending(
    reporter: Any,
    clock: Clock,
    control_plane: Any,
    extends: Callable[[Call], list[Any]],
    make: Callable[..., Call],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("tokvigil.reporting.SEND_FOR_S", 0.2)
    monkeypatch.setattr("tokvigil.delivery.BATCH_EVENTS_MAX", 1)
    take = control_plane.defaults["/v1/usage/batch"]

    def take_slowly(seen: Any) -> Any:
        time.sleep(0.05)
        return take(seen)

    control_plane.defaults["/v1/usage/batch"] = take_slowly
    call = make()
    extends(call)
    reporter.begin(call, None)
    for number in range(12):
        body = json.dumps({"request_id": str(number)}).encode()
        reporter.journal.report(Report(str(number), body))
    clock.now_s += EXTEND_EVERY_S
    next_in_s = reporter.work()
    assert 1 <= len(control_plane.charged) < 12
    assert len(extends(call)) == 1
    assert 0 < next_in_s <= 1.0, "and it goes on soon"
    assert caplog.records == [], "nothing has failed"
    while reporter.journal.has_pending():
        reporter.work()
    assert len(control_plane.charged) == 12
    assert len(control_plane.calls("/v1/usage/batch")) == 12, "no batch was cut off by the end of a round"


def test_a_report_that_was_interrupted_may_be_made_again(
    tv: TokVigil, reporter: Any, make: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = make()
    reporter.begin(call, None)
    with monkeypatch.context() as patch:
        patch.setattr(tv._reporter.journal, "report", interrupt)
        with pytest.raises(KeyboardInterrupt):
            call.end(Ending.REFUSED)
    assert call.is_open
    assert reporter._holds.open_calls() == [call]
    call.end(Ending.REFUSED)
    assert [event.request_id for event in pending_of(tv)] == [call.request_id]
    assert reporter._holds.open_calls() == []


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_hold_that_is_gone_is_not_extended_again(
    reporter: Any, clock: Clock, control_plane: Any, make: Callable[..., Call]
) -> None:
    call = make()
    reporter.begin(call, None)
    for _ in range(2):
        clock.now_s += EXTEND_EVERY_S
        reporter.work()
    assert len(control_plane.calls(extension(call))) == 1


def test_reports_do_not_wait_for_extensions(
    reporter: Any, clock: Clock, control_plane: Any, make: Callable[..., Call]
) -> None:
    long, short = make(), make()
    reporter.begin(long, None)
    clock.now_s += EXTEND_EVERY_S
    short.end(Ending.REFUSED)
    reporter.work()
    assert [seen.path.rpartition("/")[2] for seen in control_plane.seen[-2:]] == ["batch", "extend"]


def test_an_ending_that_was_put_off_is_reported_when_somebody_asks(
    reporter: Any, books: Books, make: Callable[..., Call]
) -> None:
    call = make()
    reporter.begin(call, None)
    call.end_later(Ending.UNANSWERED)
    assert call.is_open
    assert call.reported is not None
    assert not call.is_open
    call.end(Ending.REFUSED)
    assert books.only().status == "partial", "the first report counts"


def test_an_ending_that_was_put_off_is_reported_once_in_the_background(
    tv: TokVigil, control_plane: Any, make: Callable[..., Call]
) -> None:
    call = make()
    tv._reporter.begin(call, None)
    call.end_later(Ending.UNANSWERED)
    wait_for(lambda: control_plane.charged)
    assert not call.is_open
    assert list(control_plane.charged) == [call.request_id]


def test_an_ending_that_was_put_off_for_a_call_of_the_parents_is_left_to_the_parent(
    reporter: Any, make: Callable[..., Call]
) -> None:
    call = make()
    reporter.begin(call, None)
    reporter._holds.restart_in_child()
    call.end_later(Ending.UNANSWERED)
    reporter._end_late_calls()
    assert call.is_open
