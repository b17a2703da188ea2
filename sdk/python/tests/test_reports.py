"""Usage on its way to TokVigil in the background: batches, refusals, outages, forks and exits."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tokvigil import ConfigurationError, TokVigil, Usage, UsageEvent
from tokvigil.checked import LATENCY_MS_MAX, TOKENS_MAX
from tokvigil.delivery import BATCH_EVENTS_MAX
from tokvigil.journal_file import JournalFile
from tokvigil.question import Report
from tokvigil.reporting import BACKOFF_S_FIRST, BACKOFF_S_MAX, EXIT_S_MAX, Reporter

from sdk.python.tests.test_journal import files, full_disk, leave, line, on_disk
from sdk.python.tests.wrapped import pending_of

BATCH = "/v1/usage/batch"
# Tracks one event and ends without a close.
TRACKS_AND_ENDS = """
import sys
from tokvigil import TokVigil, Usage, UsageEvent
client = TokVigil(api_key="tv_dev_id_secret", base_url=sys.argv[1], journal=sys.argv[2])
client.report(UsageEvent(request_id="r1", user_id="u", model="m", usage=Usage(input_tokens=1, output_tokens=1)))
"""


def event(request_id: str = "r1", **changes: Any) -> UsageEvent:
    said = {"user_id": "user_123", "usage": Usage(input_tokens=10, output_tokens=5)} | changes
    return UsageEvent(request_id=request_id, model="gpt-4o-mini", **said)


def put(client: TokVigil, *request_ids: str) -> None:
    """Reports that nobody sends until the next `flush`."""
    rest(client)
    for request_id in request_ids:
        client._reporter.journal.report(Report.of(event(request_id)))


def rest(client: TokVigil) -> None:
    """Until the background has nothing to do."""
    background = client._reporter._background
    wait_for(lambda: background._thread is None or (background._due or 0.0) > time.monotonic() + 1)


def destination(control_plane: Any) -> str:
    return f"{control_plane.url} tv_dev_id"


def wait_for(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def say_hi(client: TokVigil, wire_provider: Any) -> None:
    client.chat(
        user_id="user_123",
        feature="chat",
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Hi"}],
        provider_base_url=wire_provider.url + "/v1",
        provider_api_key="sk",
    )


def test_tracked_usage_arrives_by_itself(tv: TokVigil, control_plane: Any) -> None:
    for number in range(5):
        tv.report(event(str(number)))
    wait_for(lambda: len(control_plane.charged) == 5)
    sent = [each["request_id"] for seen in control_plane.calls(BATCH) for each in seen.body["events"]]
    assert sent == ["0", "1", "2", "3", "4"]
    wait_for(lambda: tv.pending() == 0)


def test_a_full_batch_does_not_wait(
    tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.reporting.SEND_WITHIN_S", 60.0)
    for number in range(BATCH_EVENTS_MAX):
        tv.report(event(str(number)))
    wait_for(lambda: control_plane.charged)
    tv.flush()
    assert len(control_plane.charged) == BATCH_EVENTS_MAX


def test_while_calls_keep_coming_their_reports_share_batches(
    tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that come while a batch is on its way."""
    monkeypatch.setattr("tokvigil.reporting.BATCHES_APART_S", 1.0)
    take = control_plane.defaults[BATCH]

    def take_slowly(seen: Any) -> Any:
        time.sleep(0.1)
        return take(seen)

    control_plane.defaults[BATCH] = take_slowly
    rest(tv)
    tv.report(event("first"))
    wait_for(lambda: control_plane.calls(BATCH))
    for number in range(30):
        tv.report(event(str(number)))
        time.sleep(0.02)
    wait_for(lambda: len(control_plane.charged) == 31)
    assert [len(seen.body["events"]) for seen in control_plane.calls(BATCH)] == [1, 30]


def test_many_more_than_a_batch_all_arrive_once(tv: TokVigil, control_plane: Any) -> None:
    for number in range(3 * BATCH_EVENTS_MAX + 7):
        tv.report(event(str(number)))
    assert tv.flush() == 0
    sent = [each["request_id"] for seen in control_plane.calls(BATCH) for each in seen.body["events"]]
    assert sorted(sent) == sorted(map(str, range(3 * BATCH_EVENTS_MAX + 7)))
    assert all(len(seen.body["events"]) <= BATCH_EVENTS_MAX for seen in control_plane.calls(BATCH))


def test_batches_are_no_larger_than_the_server_takes(
    tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.delivery.BATCH_BYTES_MAX", 900)
    for number in range(12):
        tv.report(event(str(number), user_id="u" * 100))
    assert tv.flush() == 0
    batches = control_plane.calls(BATCH)
    assert sum(len(seen.body["events"]) for seen in batches) == 12
    assert len(batches) > 1
    assert all(len(seen.raw) <= 920 for seen in batches)


def test_a_report_whose_answer_was_lost_is_repeated_unchanged_and_charged_once(
    tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    def charge_then_fail(seen: Any) -> Any:
        del control_plane.defaults[BATCH]
        control_plane.defaults[BATCH] = settle
        settle(seen)
        return wire.Answer(503)

    settle = control_plane.defaults[BATCH]
    control_plane.defaults[BATCH] = charge_then_fail
    tv.report(event())
    assert tv.flush() == 0
    assert list(control_plane.charged) == ["r1"]
    assert len({seen.raw for seen in control_plane.calls(BATCH)}) == 1
    assert len(control_plane.calls(BATCH)) == 2


def test_an_outage_costs_nothing_and_its_end_is_noticed_with_the_next_evaluate(
    tv: TokVigil, control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.reporting.BACKOFF_S_FIRST", 60.0)
    control_plane.script("/v1/evaluate", wire.Answer(500))
    control_plane.script(BATCH, wire.Answer(503))
    tv.evaluate(user_id="user_123", model="gpt-4o-mini")
    tv.report(event())
    wait_for(lambda: tv._reporter._is_backing_off())
    assert [pending.request_id for pending in pending_of(tv)] == ["r1"]
    tv.evaluate(user_id="user_123", model="gpt-4o-mini")
    wait_for(lambda: "r1" in control_plane.charged)


def test_after_an_error_that_nobody_foresaw_the_sending_goes_on_by_itself(
    tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tokvigil.background.AFTER_ERROR_S", 0.1)
    pending, failures = tv._reporter.journal.pending, iter([MemoryError("for once")])

    def fail_once(count_max: int) -> Any:
        for error in failures:
            raise error
        return pending(count_max)

    monkeypatch.setattr(tv._reporter.journal, "pending", fail_once)
    tv.report(event())
    wait_for(lambda: control_plane.charged)
    assert "the background work of TokVigil failed" in caplog.text


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_that_is_not_about_the_events_costs_none(
    tv: TokVigil, control_plane: Any, wire: Any, status: int
) -> None:
    """A proxy's, or TokVigil's own to a host that it does not know."""
    put(tv, *"01234")
    control_plane.script(BATCH, wire.Answer(status, b"<html>", {"Content-Type": "text/html"}))
    assert tv.flush(0.1) == 5
    assert len(control_plane.calls(BATCH)) == 1
    assert tv.flush() == 0
    assert len(control_plane.charged) == 5


def test_a_flush_sends_what_others_left_though_some_cannot_be_read(
    control_plane: Any, tmp_path: Path
) -> None:
    where = destination(control_plane)
    finals = [line("final", *Report.of(event(str(number)))) for number in range(3 * BATCH_EVENTS_MAX)]
    finals[7] = b'final "7" ?\n'
    leave(tmp_path, *finals[:150], destination=where)
    leave(tmp_path, *finals[150:], destination=where)
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path) as client:
        assert client.flush() == 0
        assert files(tmp_path, where) == []
    assert len(control_plane.charged) == 3 * BATCH_EVENTS_MAX - 1


def test_a_flush_waits_for_what_another_thread_is_reading(
    control_plane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked, reading, real = count_work(monkeypatch), threading.Event(), JournalFile.read

    def read_slowly(file: JournalFile) -> Any:
        reading.set()
        time.sleep(0.5)
        return real(file)

    monkeypatch.setattr(JournalFile, "read", read_slowly)
    where = destination(control_plane)
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path) as client:
        rest(client)
        leave(tmp_path, line("final", *Report.of(event())), destination=where)
        first = threading.Thread(target=client.flush)
        first.start()
        reading.wait(10)
        before = len(worked)
        client._reporter._take_over_from = 0.0
        client._reporter.send_now()
        assert client.flush() == 0
        assert list(control_plane.charged) == ["r1"]
        assert len(worked) - before <= 2, "and nothing turns in circles meanwhile"
        first.join()


def test_a_client_that_does_nothing_reports_for_processes_that_died(
    control_plane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.reporting.TAKE_OVER_EVERY_S", 0.2)
    idle = TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path)
    script = f"{TRACKS_AND_ENDS}import os; os._exit(0)"
    subprocess.run([sys.executable, "-c", script, control_plane.url, tmp_path], check=True, timeout=30)
    wait_for(lambda: list(control_plane.charged) == ["r1"])
    wait_for(lambda: files(tmp_path, destination(control_plane)) == [])
    idle.close()


def test_what_many_processes_left_is_sent_one_file_after_the_other_without_a_rest(
    control_plane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.reporting.LOOK_AGAIN_S", 0.01)
    for number in range(20):
        report = Report.of(event(str(number)))
        leave(tmp_path, line("final", *report), destination=destination(control_plane))
    idle = TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path)
    wait_for(lambda: len(control_plane.charged) == 20)
    idle.close()


def count_work(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the background has worked."""
    times: list[float] = []
    work = Reporter.work

    def counted(reporter: Reporter) -> float:
        times.append(time.monotonic())
        return work(reporter)

    monkeypatch.setattr(Reporter, "work", counted)
    return times


def test_an_idle_client_uses_no_processor(
    control_plane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked = count_work(monkeypatch)
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path) as client:
        put(client, "r1")
        assert client.flush() == 0
        wait_for(lambda: worked)
        before, used_s = len(worked), time.process_time()
        time.sleep(1.0)
        assert time.process_time() - used_s < 0.05
        assert len(worked) == before
        assert client._reporter._next_in_s() > 15


def test_what_others_left_is_not_tried_all_the_time_while_the_control_plane_is_away(
    control_plane: Any, wire: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked = count_work(monkeypatch)
    control_plane.script(BATCH, *[wire.Answer(503)] * 1_000)
    for number in range(3):
        report = Report.of(event(str(number)))
        leave(tmp_path, line("final", *report), destination=destination(control_plane))
    client = TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path)
    wait_for(lambda: control_plane.calls(BATCH))
    time.sleep(1.5)
    assert len(worked) <= 5
    assert len(control_plane.calls(BATCH)) <= 4
    control_plane.scripts.clear()
    assert client.flush() == 0
    client.close()


def test_one_event_that_spoils_a_batch_is_found_and_set_aside(
    tv: TokVigil, control_plane: Any, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settle = control_plane.defaults[BATCH]

    def refuse_the_bad_one(seen: Any) -> Any:
        if any(sent["request_id"] == "5" for sent in seen.body["events"]):
            return wire.Answer(422, {"detail": "events[...]: no such thing"})
        return settle(seen)

    control_plane.defaults[BATCH] = refuse_the_bad_one
    for number in range(12):
        tv.report(event(str(number)))
    assert tv.flush() == 0
    assert sorted(control_plane.charged, key=int) == [str(n) for n in range(12) if n != 5]
    assert "request 5 was refused" in caplog.text
    assert len(control_plane.calls(BATCH)) < 12


def test_a_conflicting_event_does_not_stop_the_others(
    tv: TokVigil, control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    control_plane.charged["first"] = {"something": "else"}
    tv.report(event("first"))
    tv.report(event("second"))
    assert tv.flush() == 0
    assert control_plane.charged["second"]["user_id"] == "user_123"
    assert control_plane.charged["first"] == {"something": "else"}
    assert "request first was refused: conflict" in caplog.text


def test_a_wrong_clock_does_not_cost_the_report(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    error = {"code": "VALIDATION_ERROR", "errors": [{"field": "occurred_at", "message": "in the future"}]}
    control_plane.script(
        BATCH, wire.Answer(200, {"results": [{"request_id": "r1", "status": "invalid", "error": error}]})
    )
    tv.report(event(occurred_at=datetime(2031, 1, 1, tzinfo=UTC)))
    assert tv.flush() == 0
    assert "occurred_at" not in control_plane.charged["r1"]


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_refusal_that_may_pass_keeps_the_event(
    tv: TokVigil, control_plane: Any, wire: Any, status: int
) -> None:
    control_plane.script(BATCH, wire.Answer(status))
    put(tv, "r1")
    assert tv.flush(0) == 1
    # It does not wait long for an answer, so on a busy machine the refusal may still be on its way.
    deadline = time.monotonic() + 10
    while control_plane.scripts[BATCH] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pending.request_id for pending in pending_of(tv)] == ["r1"]
    assert tv.flush() == 0


@pytest.mark.parametrize("body", [{}, {"results": []}, {"results": [7, {"status": "recorded"}]}, b"<html>"])
def test_a_nonsense_answer_settles_nothing(tv: TokVigil, control_plane: Any, wire: Any, body: Any) -> None:
    control_plane.script(BATCH, wire.Answer(200, body))
    put(tv, "r1")
    assert tv.flush() == 1
    assert tv.flush() == 0
    assert list(control_plane.charged) == ["r1"]


def test_a_flush_takes_no_longer_than_it_may(control_plane: Any, wire: Any) -> None:
    control_plane.script(BATCH, *[wire.Answer(503)] * 100)
    with TokVigil(api_key="key", base_url=control_plane.url) as client:
        client.report(event())
        started = time.monotonic()
        assert client.flush(timeout=0.5) == 1
        assert time.monotonic() - started < 2.0
        control_plane.scripts[BATCH].clear()


def test_closing_sends_what_is_pending(control_plane: Any) -> None:
    with TokVigil(api_key="key", base_url=control_plane.url, journal=False) as client:
        client.report(event())
    assert list(control_plane.charged) == ["r1"]


def test_what_is_reported_during_a_flush_waits_and_during_a_close_goes_out(
    control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.reporting.SEND_WITHIN_S", 60.0)
    take = control_plane.defaults[BATCH]
    client = TokVigil(api_key="key", base_url=control_plane.url, journal=False)

    def take_while_another_call_ends(seen: Any) -> Any:
        if len(control_plane.calls(BATCH)) < 4:
            client.report(event(f"during {len(control_plane.calls(BATCH))}"))
        return take(seen)

    control_plane.defaults[BATCH] = take_while_another_call_ends
    client.report(event("before"))
    assert client.flush() == 1
    assert set(control_plane.charged) == {"before"}
    assert client.close() is None
    assert set(control_plane.charged) == {"before", "during 1", "during 2", "during 3"}


def test_what_closed_connections_could_not_send_is_sent_by_the_next_client(
    control_plane: Any, tmp_path: Path
) -> None:
    client = TokVigil(api_key="key", base_url=control_plane.url, journal=tmp_path)
    client._links.close()
    client.report(event())
    client.close()
    with TokVigil(api_key="key", base_url=control_plane.url, journal=tmp_path) as next_client:
        assert next_client.flush() == 0
    assert list(control_plane.charged) == ["r1"]


def test_a_flush_beside_a_sending_that_does_not_end_says_what_is_left(
    tv: TokVigil, control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with tv._reporter._delivery._sending:
        tv.report(event())
        assert tv.flush(0.1) == 1
    assert "another thread is sending" in caplog.text


def test_a_call_that_is_being_decided_when_its_client_is_closed_does_not_go_out(
    control_plane: Any, wire_provider: Any, wire: Any
) -> None:
    client = TokVigil(api_key="key", base_url=control_plane.url, journal=False)
    deciding, closed = threading.Event(), threading.Event()

    def decide_late(seen: Any) -> Any:
        deciding.set()
        closed.wait(10)
        return wire.Answer(200, wire.decision(seen.body["request_id"]))

    control_plane.defaults["/v1/evaluate"] = decide_late

    def close() -> None:
        deciding.wait(10)
        client._reporter._holds.let_none_begin()
        closed.set()

    threading.Thread(target=close).start()
    with pytest.raises(ConfigurationError, match="closed"):
        say_hi(client, wire_provider)
    assert wire_provider.seen == []
    assert client.flush() == 0
    assert [report["status"] for report in control_plane.charged.values()] == ["cancelled"]


def test_whoever_closes_a_client_that_is_being_closed_waits_for_the_other(
    control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.reporting.SEND_WITHIN_S", 60.0)
    take, taking = control_plane.defaults[BATCH], threading.Event()

    def take_slowly(seen: Any) -> Any:
        taking.set()
        time.sleep(0.3)
        return take(seen)

    control_plane.defaults[BATCH] = take_slowly
    client = TokVigil(api_key="key", base_url=control_plane.url, journal=False)
    put(client, *map(str, range(2 * BATCH_EVENTS_MAX - 1)))
    first = threading.Thread(target=client.close)
    first.start()
    taking.wait(10)
    client.close()
    first.join()
    assert len(control_plane.charged) == 2 * BATCH_EVENTS_MAX - 1


def test_on_a_full_disk_nothing_spins_and_flush_and_close_say_the_truth(
    control_plane: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = TokVigil(api_key="key", base_url=control_plane.url, journal=tmp_path)
    put(client, *"01234")
    with full_disk(10):
        assert client.flush(5.0) == 0
        assert client.flush(5.0) == 0
        client.close()
    assert len(control_plane.charged) == 5
    assert len(control_plane.calls(BATCH)) == 1
    assert len(caplog.records) == 1


def test_a_full_disk_is_said_once_in_fifty_calls(
    control_plane: Any, wire_provider: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tokvigil")
    with TokVigil(api_key="key", base_url=control_plane.url, journal=tmp_path) as client, full_disk(10):
        for _ in range(50):
            say_hi(client, wire_provider)
        assert client.flush() == 0
        assert len(caplog.records) == 1
    assert len(control_plane.charged) == len(wire_provider.seen) == 50


@pytest.mark.parametrize("takes_none", [True, False])
def test_of_two_that_close_a_client_at_once_one_says_what_became_of_its_reports(
    control_plane: Any, wire: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, takes_none: bool
) -> None:
    if takes_none:
        control_plane.script(BATCH, *[wire.Answer(503)] * 1_000)
    client = TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path)
    put(client, "r1")
    closers = [threading.Thread(target=client._reporter.close, args=[0.2]) for _ in range(8)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(10)
    left = on_disk(tmp_path, destination(control_plane))
    assert (set(left), len(control_plane.charged)) == (({"r1"}, 0) if takes_none else (set(), 1))
    assert "lost with this client" not in caplog.text
    assert caplog.text.count("kept in") == takes_none


def test_a_close_that_was_interrupted_is_over(
    control_plane: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = TokVigil(api_key="key", base_url=control_plane.url, journal=False)
    put(client, "r1")

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(client._reporter, "flush", interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.close()
    assert "not reported, and lost with this client: usage of 1 call" in caplog.text
    assert client._reporter._closed.is_set()
    client.report(event("later"))
    assert "usage of request later came after close()" in caplog.text


@pytest.mark.parametrize("timeout", [float("inf"), 1e10, 0.0, -1.0])
def test_a_flush_takes_any_timeout(tv: TokVigil, timeout: float) -> None:
    assert tv.flush(timeout) == 0


def test_a_report_in_the_middle_of_another_waits_for_no_other_thread(
    tv: TokVigil, control_plane: Any
) -> None:
    """As a signal handler's does."""

    def report_in_the_middle() -> None:
        with tv._reporter.journal.lock:
            other = threading.Thread(target=tv.report, args=[event("other")])
            other.start()
            time.sleep(0.1)  # until it waits
            tv.report(event("mine"))
        other.join()

    reporting = threading.Thread(target=report_in_the_middle, daemon=True)
    reporting.start()
    reporting.join(10)
    assert not reporting.is_alive()
    assert tv.flush() == 0
    assert {body["request_id"] for body in control_plane.charged.values()} == {"other", "mine"}


def test_a_child_forked_in_the_middle_of_a_close_is_closed(
    control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = TokVigil(api_key="key", base_url=control_plane.url, journal=False)
    client._reporter._holds.let_none_begin()
    client._reporter.restart_in_child()
    client.report(event())
    assert "came after close()" in caplog.text
    client.close()


def test_however_long_the_outage_the_next_try_is_no_more_than_a_minute_away(tv: TokVigil, wire: Any) -> None:
    reporter = tv._reporter
    put(tv, "r1")
    reporter._failures = 5_000
    reporter._transport._sender.close()
    reporter._try_to_send()
    assert BACKOFF_S_FIRST < reporter._send_from - time.monotonic() <= BACKOFF_S_MAX
    reporter._since_sent = BATCH_EVENTS_MAX
    assert reporter._next_batch_in_s() > BACKOFF_S_FIRST, "new reports do not wake it"


@pytest.mark.parametrize(
    "forks",
    ["multiprocessing.get_context('fork').Process", "billiard.Process", "multiprocessing.Pool"],
)
def test_a_forked_process_of_a_worker_pool_sends_its_usage_at_its_end(control_plane: Any, forks: str) -> None:
    if forks.startswith("billiard"):
        pytest.importorskip("billiard")
    if forks.endswith("Pool"):
        run = """
with multiprocessing.get_context("fork").Pool(1) as pool:
    pool.apply(work)
    pool.close()
    pool.join()
"""
    else:
        run = f"child = {forks}(target=work)\nchild.start()\nchild.join()"
    script = f"""
import multiprocessing, sys
import {forks.partition(".")[0]}
from tokvigil import TokVigil, Usage, UsageEvent
client = TokVigil(api_key="key", base_url=sys.argv[1], journal=False)
def work():
    client.report(UsageEvent(request_id="r1", user_id="u", model="m", usage=Usage(input_tokens=1, output_tokens=1)))
{run}
"""
    subprocess.run([sys.executable, "-c", script, control_plane.url], check=True, timeout=60)
    assert list(control_plane.charged) == ["r1"]


@pytest.mark.parametrize("on_disk", [True, False])
def test_clients_that_were_dropped_leave_no_thread_and_no_descriptor_and_their_reports_arrive(
    control_plane: Any, tmp_path: Path, on_disk: bool
) -> None:
    def use_and_drop(number: int) -> None:
        client = TokVigil(
            api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path if on_disk else False
        )
        client.evaluate(user_id="user_123", model="gpt-4o-mini")
        client.report(event(str(number)))

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    use_and_drop(-1)
    wait_for(lambda: len(control_plane.charged) == 1)
    wait_for(lambda: named_threads() == [])
    before = descriptors()
    for number in range(30):
        use_and_drop(number)
    wait_for(lambda: len(control_plane.charged) == 31)
    wait_for(lambda: named_threads() == [])
    wait_for(lambda: descriptors() <= before)
    if on_disk:
        with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path) as client:
            assert client.flush() == 0
            assert len(control_plane.calls(BATCH)) == 31, "nothing was sent twice"
        assert files(tmp_path, destination(control_plane)) == []


def named_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tokvigil-reports"]


def test_a_client_that_is_dropped_while_the_control_plane_is_away_lives_until_its_reports_arrive(
    control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(
        logging.CRITICAL, "tokvigil"
    )  # else pytest keeps the errors, with all that they were raised in
    monkeypatch.setattr("tokvigil.reporting.BACKOFF_S_FIRST", 0.1)
    control_plane.script(BATCH, *[wire.Answer(503)] * 3)
    TokVigil(api_key="key", base_url=control_plane.url, journal=False).report(event())
    gc.collect()
    wait_for(lambda: control_plane.charged)
    wait_for(lambda: gc.collect() >= 0 and named_threads() == [])


def test_that_reports_are_not_sent_yet_is_said_once_a_minute(
    control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tokvigil.reporting.BACKOFF_S_FIRST", 0.05)
    control_plane.script(BATCH, *[wire.Answer(503)] * 3)
    caplog.set_level(logging.DEBUG, "tokvigil")
    with TokVigil(api_key="key", base_url=control_plane.url, journal=False) as client:
        client.report(event())
        wait_for(lambda: control_plane.charged)
    said = [record for record in caplog.records if "not reported yet" in record.getMessage()]
    assert [record.levelname for record in said] == ["WARNING", "DEBUG", "DEBUG"]
    assert "usage of 1 call: " in said[0].getMessage()


def test_closing_without_a_control_plane_and_without_a_journal_says_what_is_lost(
    unreachable: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.client.EXIT_S_MAX", 0.3)
    with TokVigil(api_key="key", base_url=unreachable, journal=False) as client:
        client.report(event())
    assert "lost with this client: usage of 1 call" in caplog.text


def test_a_call_still_open_at_the_close_is_reported_as_what_it_may_use(
    control_plane: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=tmp_path)
    with client.guard(user_id="user_123", feature="chat", model="gpt-4o-mini", input_tokens=10) as call:
        client.close()
        call.record(Usage(input_tokens=10, output_tokens=3))
    assert "recorded already" in caplog.text
    (report,) = control_plane.charged.values()
    assert (report["request_id"], report["status"]) == (call.request_id, "partial")


@pytest.mark.parametrize("journal", [True, False])
def test_a_stream_still_open_at_the_close_is_reported_as_far_as_it_was_seen(
    control_plane: Any, wire_provider: Any, journal: bool
) -> None:
    client = TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=journal)
    wire_provider.pause_after(4)
    stream = client.chat(
        user_id="user_123",
        feature="chat",
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        provider_base_url=wire_provider.url + "/v1",
        provider_api_key="sk",
    )
    seen = next(iter(stream))
    client.close()
    wire_provider.resume()
    (report,) = control_plane.charged.values()
    assert (report["status"], seen != "") == ("partial", True)
    assert 0 < report["output_tokens"] < 90, "what was seen, not what was held"


def test_a_process_that_ends_without_a_close_has_sent_its_usage(control_plane: Any, tmp_path: Path) -> None:
    script = [sys.executable, "-c", TRACKS_AND_ENDS, control_plane.url, str(tmp_path)]
    subprocess.run(script, check=True, timeout=30)
    assert list(control_plane.charged) == ["r1"]


def test_a_process_and_its_forked_child_end_without_leaving_sockets_open(
    control_plane: Any, tmp_path: Path
) -> None:
    script = """
import gc, os, sys
from tokvigil import TokVigil
client = TokVigil(api_key="tv_dev_id_secret", base_url=sys.argv[1], journal=sys.argv[2])
client.evaluate(user_id="ana", model="m")
child = os.fork()
client.evaluate(user_id="ben", model="m")
gc.collect()
if child:
    os.waitpid(child, 0)
"""
    run = [sys.executable, "-X", "dev", "-c", script, control_plane.url, str(tmp_path)]
    assert subprocess.run(run, check=True, timeout=30, capture_output=True, text=True).stderr == ""


def test_a_process_that_ends_without_a_control_plane_ends_soon_and_leaves_its_usage(
    control_plane: Any, unreachable: str, tmp_path: Path
) -> None:
    port_of_the_dead = unreachable
    script = [sys.executable, "-c", TRACKS_AND_ENDS, port_of_the_dead, str(tmp_path)]
    started = time.monotonic()
    subprocess.run(script, check=True, timeout=30)
    assert time.monotonic() - started < EXIT_S_MAX + 5
    assert set(on_disk(tmp_path, f"{port_of_the_dead} tv_dev_id")) == {"r1"}


def test_a_child_forked_inside_a_guard_leaves_the_call_to_its_parent(
    tv: TokVigil, control_plane: Any
) -> None:
    with tv.guard(user_id="user_123", feature="chat", model="gpt-4o-mini", input_tokens=10) as call:
        child = os.fork()
        if child == 0:
            call.__exit__(None, None, None)
            tv.flush()
            os._exit(0)
        os.waitpid(child, 0)
        assert control_plane.charged == {}
        call.record(Usage(input_tokens=10, output_tokens=3))
    assert tv.flush() == 0
    (report,) = control_plane.charged.values()
    assert (report["status"], report["output_tokens"]) == ("succeeded", 3)


def test_parent_and_forked_child_report_their_own_usage_once(tv: TokVigil, control_plane: Any) -> None:
    tv.report(event("before"))
    child = os.fork()
    if child == 0:
        tv.report(event("child"))
        os._exit(tv.flush())
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    tv.report(event("after"))
    assert tv.flush() == 0
    sent = [each["request_id"] for seen in control_plane.calls(BATCH) for each in seen.body["events"]]
    assert set(sent) == {"before", "child", "after"}
    assert set(control_plane.charged) == set(sent)


def test_a_fork_while_other_threads_report_does_not_hang_the_child(
    control_plane: Any, tmp_path: Path
) -> None:
    script = """
import os, sys, threading
from tokvigil import TokVigil, Usage, UsageEvent
client = TokVigil(api_key="tv_dev_id_secret", base_url=sys.argv[1], journal=sys.argv[2])
def report(prefix, count):
    for n in range(count):
        client.report(UsageEvent(request_id=f"{prefix}-{n}", user_id="u", model="m",
                                usage=Usage(input_tokens=1, output_tokens=1)))
threads = [threading.Thread(target=report, args=(f"t{t}", 300)) for t in range(4)]
for thread in threads: thread.start()
children = []
for number in range(10):
    child = os.fork()
    if child == 0:
        report(f"c{number}", 5)
        client.flush()  # others go on adding, so something may be left
        os._exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
for thread in threads: thread.join()
sys.exit(max(codes) or client.flush())
"""
    run = [sys.executable, "-c", script, control_plane.url, str(tmp_path)]
    assert subprocess.run(run, timeout=60).returncode == 0
    assert len(control_plane.charged) == 4 * 300 + 10 * 5


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": ""},
        {"request_id": "half \ud800"},
        {"latency_ms": 1.5},
        {"usage": Usage(input_tokens=-1, output_tokens=0)},
        {"usage": Usage(input_tokens=1, output_tokens=float("nan"))},  # type: ignore[arg-type]
        {"usage": Usage(input_tokens=1, output_tokens=1, reasoning_tokens=None)},  # type: ignore[arg-type]
        {"usage": Usage(input_tokens=TOKENS_MAX + 1, output_tokens=1)},
        {"usage": Usage(input_tokens=1, output_tokens=10**5_000)},
        {"usage": Usage(input_tokens=5, output_tokens=1, cached_input_tokens=3, cache_write_tokens=3)},
        {"usage": Usage(input_tokens=5, output_tokens=1, reasoning_tokens=2)},
        {"latency_ms": LATENCY_MS_MAX + 1},
        {"metadata": {"x": float("nan")}},
        {"metadata": {"x": object()}},
    ],
)
def test_an_event_that_nobody_could_take_is_refused_when_it_is_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        event(**changes)


def test_a_close_under_traffic_lets_no_call_begin_and_loses_none(
    control_plane: Any, wire_provider: Any
) -> None:
    client = TokVigil(api_key="key", base_url=control_plane.url, journal=False)
    answered = []
    closed = threading.Event()

    def call_until_closed() -> None:
        while not closed.is_set():
            try:
                say_hi(client, wire_provider)
            except ConfigurationError:
                return
            answered.append(1)

    callers = [threading.Thread(target=call_until_closed) for _ in range(8)]
    for caller in callers:
        caller.start()
    wait_for(lambda: len(answered) > 20)
    client.close()
    closed.set()
    for caller in callers:
        caller.join()
    # What was being decided when the close began did not go out.
    went_out = [report for report in control_plane.charged.values() if report["status"] != "cancelled"]
    assert len(went_out) == len(wire_provider.seen) >= len(answered)
    assert {report["status"] for report in went_out} <= {"succeeded", "partial"}


def test_forks_from_several_threads_lose_no_event_and_hang_no_child(
    control_plane: Any, tmp_path: Path
) -> None:
    script = """
import os, sys, threading
from tokvigil import TokVigil, Usage, UsageEvent
client = TokVigil(api_key="tv_dev_id_secret", base_url=sys.argv[1], journal=sys.argv[2])
def report(request_id):
    client.report(UsageEvent(request_id=request_id, user_id="u", model="m",
                            usage=Usage(input_tokens=1, output_tokens=1)))
children = []
def fork_and_report(thread):
    for number in range(20):
        child = os.fork()
        if child == 0:
            report(f"child {thread} {number}")
            os._exit(0)
        children.append(child)
        report(f"parent {thread} {number}")
threads = [threading.Thread(target=fork_and_report, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
sys.exit(max(codes) or client.flush())
"""
    run = [sys.executable, "-c", script, control_plane.url, str(tmp_path)]
    assert subprocess.run(run, timeout=100).returncode == 0
    assert len(control_plane.charged) == 2 * 8 * 20
