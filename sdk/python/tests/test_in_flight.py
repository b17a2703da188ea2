"""Calls under way: their holds stay open, and a retry finds the call it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokvigil import TokVigil
from tokvigil.evaluation import Question
from tokvigil.in_flight import EXTEND_AGAIN_S, EXTEND_EVERY_S, EXTEND_S_MAX, RETRY_WITHIN_S, InFlight
from tokvigil.open_call import OpenCall

from sdk.python.tests.wrapped import Books


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def in_flight(clock: Clock) -> InFlight:
    return InFlight(clock)


@pytest.fixture
def make(tv: TokVigil) -> Callable[[str], OpenCall]:
    """A call that was allowed, and not begun."""

    def call(user_id: str = "user_123") -> OpenCall:
        question = Question(user_id=user_id, model="gpt-4o-mini", input_tokens=10)
        decision = tv._transport.run(tv._evaluation.evaluate(question))
        opened = OpenCall(question, "openai", tv._reporter)
        opened.allow(decision)
        return opened

    return call


def test_a_hold_is_extended_again_and_again_until_its_call_ends(
    in_flight: InFlight, clock: Clock, make: Callable[..., OpenCall]
) -> None:
    call = make()
    in_flight.began(call)
    assert in_flight.next_due_s() == EXTEND_EVERY_S
    for _ in range(3):
        clock.now_s += EXTEND_EVERY_S - 0.01
        assert in_flight.due_for_extension() == []
        clock.now_s += 0.01
        assert in_flight.due_for_extension() == [call.request_id]
        in_flight.extend_in(call.request_id, EXTEND_EVERY_S)
        assert in_flight.due_for_extension() == []
    in_flight.ended(call.request_id)
    clock.now_s += 10 * EXTEND_EVERY_S
    assert in_flight.due_for_extension() == []
    assert in_flight.next_due_s() is None


def test_the_hold_of_a_guard_that_somebody_forgot_to_leave_is_not_extended_for_ever(
    in_flight: InFlight, clock: Clock, make: Callable[..., OpenCall]
) -> None:
    call = make()
    in_flight.began(call)
    clock.now_s += EXTEND_S_MAX - 1
    assert in_flight.due_for_extension() == [call.request_id]
    in_flight.extend_in(call.request_id, EXTEND_EVERY_S)
    clock.now_s += EXTEND_EVERY_S
    assert in_flight.due_for_extension() == []
    assert in_flight.next_due_s() is None
    assert in_flight.open_calls() == [call], "its report still counts"


def test_a_retry_takes_the_call_that_paused_first_and_each_only_once(
    in_flight: InFlight, make: Callable[..., OpenCall]
) -> None:
    first, second, other = make(), make(), make()
    in_flight.pause("a", first)
    in_flight.pause("a", second)
    in_flight.pause("b", other)
    assert in_flight.resume("a") is first
    assert in_flight.resume("a") is second
    assert in_flight.resume("a") is None
    assert in_flight.resume("b") is other


def test_a_paused_call_nobody_comes_back_for_is_given_up(
    in_flight: InFlight, clock: Clock, make: Callable[..., OpenCall]
) -> None:
    early, late = make(), make()
    in_flight.pause("a", early)
    clock.now_s += 10
    in_flight.pause("a", late)
    assert in_flight.next_due_s() == RETRY_WITHIN_S - 10
    clock.now_s += RETRY_WITHIN_S - 10.01
    assert in_flight.given_up() == []
    clock.now_s += 0.01
    assert in_flight.given_up() == [early]
    assert in_flight.resume("a") is late
    in_flight.pause("a", late)
    assert in_flight.given_up(all_of_them=True) == [late]
    assert in_flight.given_up(all_of_them=True) == []


def test_a_forked_child_leaves_the_parents_calls_to_the_parent(
    in_flight: InFlight, make: Callable[..., OpenCall]
) -> None:
    call = make()
    done: list[str] = []
    in_flight.began(call)
    in_flight.pause("a", call)
    in_flight.restart_in_child()
    in_flight.defer(call.request_id, lambda: done.append("reported"))
    in_flight.do_deferred()
    assert in_flight.resume("a") is None
    assert in_flight.next_due_s() is None
    assert done == []


def test_what_is_deferred_is_done_once(in_flight: InFlight, make: Callable[..., OpenCall]) -> None:
    call = make()
    done: list[str] = []
    in_flight.began(call)
    in_flight.defer(call.request_id, lambda: done.append("reported"))
    in_flight.do_deferred()
    in_flight.do_deferred()
    assert done == ["reported"]


def given_clock(tv: TokVigil, clock: Clock) -> Any:
    reporter = tv._reporter
    reporter._in_flight._clock = clock
    return reporter


def test_the_reporter_extends_the_hold_of_a_long_call(
    tv: TokVigil, clock: Clock, control_plane: Any, wire: Any, make: Callable[..., OpenCall]
) -> None:
    reporter, call = given_clock(tv, clock), make()
    path = f"/v1/reservations/{call.request_id}/extend"
    control_plane.defaults[path] = lambda _: wire.Answer(200, {"expires_at": "2026-11-24T00:20:00Z"})
    reporter.begin(call)
    reporter._work()
    assert control_plane.calls(path) == []
    clock.now_s += EXTEND_EVERY_S
    reporter._work()
    reporter._work()
    assert len(control_plane.calls(path)) == 1
    call.report_failed()
    clock.now_s += EXTEND_EVERY_S
    reporter._work()
    assert len(control_plane.calls(path)) == 1


def test_a_hold_that_cannot_be_extended_stops_nothing(
    tv: TokVigil,
    clock: Clock,
    control_plane: Any,
    wire: Any,
    make: Callable[..., OpenCall],
    caplog: pytest.LogCaptureFixture,
) -> None:
    reporter, calls = given_clock(tv, clock), [make(), make()]
    paths = [f"/v1/reservations/{call.request_id}/extend" for call in calls]
    for call, path in zip(calls, paths, strict=True):
        reporter.begin(call)
        control_plane.script(path, wire.Answer(503))
        control_plane.defaults[path] = lambda _: wire.Answer(200)
    clock.now_s += EXTEND_EVERY_S
    reporter._work()
    assert "the holds of long calls are not extended this time" in caplog.text
    assert sum(len(control_plane.calls(path)) for path in paths) == 1, "nobody waits for each of them in turn"
    clock.now_s += EXTEND_AGAIN_S
    control_plane.scripts.clear()
    reporter._work()
    assert [len(control_plane.calls(path)) for path in paths] == [2, 1]


def test_many_long_calls_do_not_hold_up_the_reports_of_others(
    tv: TokVigil,
    clock: Clock,
    control_plane: Any,
    wire: Any,
    make: Callable[..., OpenCall],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokvigil.reporting.EXTEND_FOR_S", 0.0)
    reporter, call = given_clock(tv, clock), make()
    path = f"/v1/reservations/{call.request_id}/extend"
    control_plane.defaults[path] = lambda _: wire.Answer(200, {"expires_at": "2026-11-24T00:20:00Z"})
    reporter.begin(call)
    clock.now_s += EXTEND_EVERY_S
    assert reporter._work() == 0, "its turn comes again at once"
    assert control_plane.calls(path) == []
    monkeypatch.setattr("tokvigil.reporting.EXTEND_FOR_S", 1.0)
    reporter._work()
    assert len(control_plane.calls(path)) == 1


def test_a_report_that_was_interrupted_may_be_made_again(
    tv: TokVigil, make: Callable[..., OpenCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = make()
    tv._reporter.begin(call)
    with monkeypatch.context() as patch:
        patch.setattr(tv._reporter.store, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            call.report_failed()
    assert call.is_open
    assert tv._reporter._in_flight.open_calls() == [call]
    call.report_failed()
    assert [event.request_id for event in tv.pending_usage] == [call.request_id]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_hold_that_is_gone_is_not_extended_again(
    tv: TokVigil, clock: Clock, control_plane: Any, make: Callable[..., OpenCall]
) -> None:
    reporter, call = given_clock(tv, clock), make()
    reporter.begin(call)
    for _ in range(2):
        clock.now_s += EXTEND_EVERY_S
        reporter._work()
    assert len(control_plane.calls(f"/v1/reservations/{call.request_id}/extend")) == 1


def test_reports_do_not_wait_for_extensions(
    tv: TokVigil, clock: Clock, control_plane: Any, make: Callable[..., OpenCall]
) -> None:
    reporter, long, short = given_clock(tv, clock), make(), make()
    reporter.begin(long)
    clock.now_s += EXTEND_EVERY_S
    reporter.store.add(short.failed())
    reporter._work()
    assert [seen.path.rpartition("/")[2] for seen in control_plane.seen[-2:]] == ["batch", "extend"]


def test_the_reporter_reports_a_call_nobody_came_back_for_as_failed(
    tv: TokVigil, clock: Clock, books: Books, make: Callable[..., OpenCall]
) -> None:
    reporter, call = given_clock(tv, clock), make()
    reporter.begin(call)
    reporter.pause("a", call)
    clock.now_s += RETRY_WITHIN_S - 0.01
    reporter._work()
    assert books.settled() == []
    clock.now_s += 0.01
    reporter._work()
    assert (books.only().status, books.only().usage.output_tokens) == ("failed", 0)


def test_a_closing_client_waits_for_no_retry(
    tv: TokVigil, control_plane: Any, make: Callable[..., OpenCall]
) -> None:
    call = make()
    tv._reporter.begin(call)
    tv._reporter.pause("a", call)
    tv.close()
    assert control_plane.charged[call.request_id]["status"] == "failed"


def test_a_report_that_was_put_off_is_made_when_somebody_asks(
    tv: TokVigil, books: Books, make: Callable[..., OpenCall]
) -> None:
    call = make()
    tv._reporter.begin(call)
    call.put_off(call.report_unheard)
    assert call.reported is not None
    assert not call.is_open
    assert call.report_failed() == call.reported, "the first report counts"
    assert books.only().status == "partial"
