"""Usage on its way to TokVigil in the background: batches, refusals, outages, forks and exits."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tokvigil import ConfigurationError, TokVigil, Usage, UsageEvent
from tokvigil.base_client import question
from tokvigil.checked import LATENCY_MS_MAX, TOKENS_MAX
from tokvigil.delivery import BATCH_EVENTS_MAX
from tokvigil.pending import PendingUsage
from tokvigil.reporting import BACKOFF_S_FIRST, BACKOFF_S_MAX, EXIT_S_MAX
from tokvigil.spool import Spool

BATCH = "/v1/usage/batch"
# Tracks one event and ends without a close.
TRACKS_AND_ENDS = """
import sys
from tokvigil import TokVigil, Usage, UsageEvent
client = TokVigil("tv_dev_id_secret", sys.argv[1], spool=sys.argv[2])
client.track(UsageEvent(request_id="r1", user_id="u", model="m", usage=Usage(input_tokens=1, output_tokens=1)))
"""


def event(request_id: str = "r1", **changes: Any) -> UsageEvent:
    said = {"user_id": "user_123", "usage": Usage(input_tokens=10, output_tokens=5)} | changes
    return UsageEvent(request_id=request_id, model="gpt-4o-mini", **said)


def wait_for(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def say_hi(client: TokVigil, wire_provider: Any) -> None:
    client.chat(
        "user_123",
        "chat",
        "gpt-4o-mini",
        [{"role": "user", "content": "Hi"}],
        provider_base_url=wire_provider.url + "/v1",
        provider_api_key="sk",
    )


def test_tracked_usage_arrives_by_itself(tv: TokVigil, control_plane: Any) -> None:
    for number in range(5):
        tv.track(event(str(number)))
    wait_for(lambda: len(control_plane.charged) == 5)
    sent = [each["request_id"] for seen in control_plane.calls(BATCH) for each in seen.body["events"]]
    assert sent == ["0", "1", "2", "3", "4"]
    wait_for(lambda: tv.pending_usage == ())


def test_a_full_batch_does_not_wait(
    tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.reporting.SEND_WITHIN_S", 60.0)
    for number in range(BATCH_EVENTS_MAX):
        tv.track(event(str(number)))
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
    tv.track(event("first"))
    wait_for(lambda: control_plane.calls(BATCH))
    for number in range(30):
        tv.track(event(str(number)))
        time.sleep(0.02)
    wait_for(lambda: len(control_plane.charged) == 31)
    assert [len(seen.body["events"]) for seen in control_plane.calls(BATCH)] == [1, 30]


def test_many_more_than_a_batch_all_arrive_once(tv: TokVigil, control_plane: Any) -> None:
    for number in range(3 * BATCH_EVENTS_MAX + 7):
        tv.track(event(str(number)))
    assert tv.flush() == 0
    sent = [each["request_id"] for seen in control_plane.calls(BATCH) for each in seen.body["events"]]
    assert sorted(sent) == sorted(map(str, range(3 * BATCH_EVENTS_MAX + 7)))
    assert all(len(seen.body["events"]) <= BATCH_EVENTS_MAX for seen in control_plane.calls(BATCH))


def test_batches_are_no_larger_than_the_server_takes(
    tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.delivery.BATCH_BYTES_MAX", 900)
    for number in range(12):
        tv.track(event(str(number), user_id="u" * 100))
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
    tv.track(event())
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
    tv.evaluate("user_123", "gpt-4o-mini")
    tv.track(event())
    wait_for(lambda: tv._reporter._is_backing_off())
    assert [pending.request_id for pending in tv.pending_usage] == ["r1"]
    tv.evaluate("user_123", "gpt-4o-mini")
    wait_for(lambda: "r1" in control_plane.charged)


def test_after_an_error_that_nobody_foresaw_the_sending_goes_on_by_itself(
    tv: TokVigil, control_plane: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tokvigil.background.AFTER_ERROR_S", 0.1)
    claim, failures = tv._reporter.store.claim, iter([MemoryError("for once")])

    def fail_once(count_max: int) -> Any:
        for error in failures:
            raise error
        return claim(count_max)

    monkeypatch.setattr(tv._reporter.store, "claim", fail_once)
    tv.track(event())
    wait_for(lambda: control_plane.charged)
    assert "the background work of TokVigil failed" in caplog.text


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_that_is_not_about_the_events_costs_none(
    tv: TokVigil, control_plane: Any, wire: Any, status: int
) -> None:
    """A proxy's, or TokVigil's own to a host that it does not know."""
    for number in range(5):
        tv._reporter.store.add(event(str(number)))
    control_plane.script(BATCH, wire.Answer(status, b"<html>", {"Content-Type": "text/html"}))
    assert tv.flush(0.1) == 5
    assert len(control_plane.calls(BATCH)) == 1
    assert tv.flush() == 0
    assert len(control_plane.charged) == 5


def test_a_flush_sends_all_though_some_cannot_be_read(control_plane: Any, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "usage", f"{control_plane.url} key")
    with TokVigil("key", control_plane.url, spool=tmp_path / "usage") as client:
        store = client._reporter.store
        assert isinstance(store, Spool)
        spool._destination = store._destination
        for number in range(3 * BATCH_EVENTS_MAX):
            spool.add(event(str(number)))
        with sqlite3.connect(tmp_path / "usage") as db:
            db.execute("UPDATE event SET body = '?' WHERE request_id = '7'")
        assert client.flush() == 0
    spool.close()
    assert len(control_plane.charged) == 3 * BATCH_EVENTS_MAX - 1


def test_a_client_that_does_nothing_reports_for_processes_that_died(
    control_plane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.reporting.ADOPT_EVERY_S", 0.2)
    idle = TokVigil("tv_dev_id_secret", control_plane.url, spool=tmp_path / "usage")
    script = TRACKS_AND_ENDS.replace("sys.argv[1]", "'http://127.0.0.1:9'").replace(
        "import sys", "import os, sys"
    )
    subprocess.run(
        [sys.executable, "-c", script + "os._exit(0)", "", str(tmp_path / "usage")], check=True, timeout=30
    )
    with sqlite3.connect(tmp_path / "usage") as db:
        assert idle._reporter.store._destination != ""  # type: ignore[union-attr]
        db.execute("UPDATE event SET destination = ?", (idle._reporter.store._destination,))  # type: ignore[union-attr]
    wait_for(lambda: list(control_plane.charged) == ["r1"])
    idle.close()


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
        tv.track(event(str(number)))
    assert tv.flush() == 0
    assert sorted(control_plane.charged, key=int) == [str(n) for n in range(12) if n != 5]
    assert "request 5 was refused" in caplog.text
    assert len(control_plane.calls(BATCH)) < 12


def test_a_conflicting_event_does_not_stop_the_others(
    tv: TokVigil, control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    control_plane.charged["first"] = {"something": "else"}
    tv.track(event("first"))
    tv.track(event("second"))
    assert tv.flush() == 0
    assert control_plane.charged["second"]["user_id"] == "user_123"
    assert control_plane.charged["first"] == {"something": "else"}
    assert "request first was refused: conflict" in caplog.text


def test_a_wrong_clock_does_not_cost_the_report(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    error = {"code": "VALIDATION_ERROR", "errors": [{"field": "occurred_at", "message": "in the future"}]}
    control_plane.script(
        BATCH, wire.Answer(200, {"results": [{"request_id": "r1", "status": "invalid", "error": error}]})
    )
    tv.track(event(occurred_at=datetime(2031, 1, 1, tzinfo=UTC)))
    assert tv.flush() == 0
    assert "occurred_at" not in control_plane.charged["r1"]


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_refusal_that_may_pass_keeps_the_event(
    tv: TokVigil, control_plane: Any, wire: Any, status: int
) -> None:
    control_plane.script(BATCH, wire.Answer(status))
    tv._reporter.store.add(event())
    assert tv.flush(0) == 1
    # It does not wait long for an answer, so on a busy machine the refusal may still be on its way.
    deadline = time.monotonic() + 10
    while control_plane.scripts[BATCH] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pending.request_id for pending in tv.pending_usage] == ["r1"]
    assert tv.flush() == 0


@pytest.mark.parametrize("body", [{}, {"results": []}, {"results": [7, {"status": "recorded"}]}, b"<html>"])
def test_a_nonsense_answer_settles_nothing(tv: TokVigil, control_plane: Any, wire: Any, body: Any) -> None:
    control_plane.script(BATCH, wire.Answer(200, body))
    tv.track(event())
    assert tv.flush() == 1
    assert tv.flush() == 0
    assert list(control_plane.charged) == ["r1"]


def test_a_flush_takes_no_longer_than_it_may(control_plane: Any, wire: Any) -> None:
    control_plane.script(BATCH, *[wire.Answer(503)] * 100)
    with TokVigil("key", control_plane.url) as client:
        client.track(event())
        started = time.monotonic()
        assert client.flush(timeout=0.5) == 1
        assert time.monotonic() - started < 2.0
        control_plane.scripts[BATCH].clear()


def test_closing_sends_what_is_pending(control_plane: Any) -> None:
    with TokVigil("key", control_plane.url, spool=False) as client:
        client.track(event())
    assert list(control_plane.charged) == ["r1"]


def test_what_is_reported_during_a_flush_waits_and_during_a_close_goes_out(
    control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.reporting.SEND_WITHIN_S", 60.0)
    take = control_plane.defaults[BATCH]
    client = TokVigil("key", control_plane.url, spool=False)

    def take_while_another_call_ends(seen: Any) -> Any:
        if len(control_plane.calls(BATCH)) < 4:
            client.track(event(f"during {len(control_plane.calls(BATCH))}"))
        return take(seen)

    control_plane.defaults[BATCH] = take_while_another_call_ends
    client.track(event("before"))
    assert client.flush() == 1
    assert set(control_plane.charged) == {"before"}
    assert client.close() is None
    assert set(control_plane.charged) == {"before", "during 1", "during 2", "during 3"}


def test_what_a_closed_http_client_could_not_send_is_sent_by_the_next_one(
    control_plane: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = httpx2.Client()
    client = TokVigil("key", control_plane.url, spool=tmp_path / "usage", http_client=given)
    given.close()
    client.track(event())
    client.close()
    assert "not reported yet, and kept in" in caplog.text
    with TokVigil("key", control_plane.url, spool=tmp_path / "usage") as following:
        assert following.flush() == 0
    assert list(control_plane.charged) == ["r1"]


def test_a_flush_beside_a_sending_that_does_not_end_says_what_is_left(
    tv: TokVigil, control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with tv._reporter._delivery._sending:
        tv.track(event())
        assert tv.flush(0.1) == 1
    assert "another thread is sending" in caplog.text


def test_a_call_that_is_being_decided_when_its_client_is_closed_does_not_go_out(
    control_plane: Any, wire_provider: Any, wire: Any
) -> None:
    client = TokVigil("key", control_plane.url, spool=False, http_client=httpx2.Client())
    deciding, closed = threading.Event(), threading.Event()

    def decide_late(seen: Any) -> Any:
        deciding.set()
        closed.wait(10)
        return wire.Answer(200, wire.decision(seen.body["request_id"]))

    control_plane.defaults["/v1/evaluate"] = decide_late

    def close() -> None:
        deciding.wait(10)
        client._reporter._in_flight.let_none_begin()
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
    client = TokVigil("key", control_plane.url, spool=False)
    for number in range(2 * BATCH_EVENTS_MAX - 1):
        client._reporter.store.add(event(str(number)))
    first = threading.Thread(target=client.close)
    first.start()
    taking.wait(10)
    client.close()
    first.join()
    assert len(control_plane.charged) == 2 * BATCH_EVENTS_MAX - 1


def test_on_a_full_disk_nothing_spins_and_flush_and_close_say_the_truth(
    control_plane: Any, tmp_path: Path, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = TokVigil("key", control_plane.url, spool=tmp_path / "usage")
    store = client._reporter.store
    assert isinstance(store, Spool)
    for number in range(5):
        store.add(event(str(number)))
    assert store._db is not None
    store._db.execute("PRAGMA query_only = ON")  # it can be read only
    assert client.flush(5.0) == 0
    assert client.flush(5.0) == 0
    client.close()
    assert len(control_plane.charged) == 5
    assert len(control_plane.calls(BATCH)) == 1
    assert len(caplog.records) < 100


def test_a_flush_waits_for_what_another_process_sends_of_this_one(control_plane: Any, tmp_path: Path) -> None:
    first, other = (TokVigil("key", control_plane.url, spool=tmp_path / "usage") for _ in range(2))
    first.track(event())
    claimed: list[str] = []
    wait_for(lambda: claimed.extend(each.request_id for each in other._reporter.store.claim(10)) or claimed)
    assert first.flush(0.3) == 1
    threading.Timer(0.3, other._reporter.store.remove, [claimed]).start()
    assert first.flush() == 0
    first.close()
    assert first.flush() == 0, "a closed client has nothing to send"
    other.close()


def test_a_close_that_was_interrupted_is_over(
    control_plane: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = TokVigil("key", control_plane.url, spool=False)
    client._reporter.store.add(event())

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(client._reporter, "flush", interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.close()
    assert "not reported, and lost with this client: usage of 1 calls" in caplog.text
    assert client._reporter._closed.is_set()
    client.track(event("later"))
    assert "usage of request later came after close()" in caplog.text


@pytest.mark.parametrize("timeout", [float("inf"), 1e10, 0.0, -1.0])
def test_a_flush_takes_any_timeout(tv: TokVigil, timeout: float) -> None:
    assert tv.flush(timeout) == 0


def test_a_report_in_the_middle_of_another_waits_for_no_other_thread(tv: TokVigil) -> None:
    """As a signal handler's does."""
    store = tv._reporter.store

    def report_in_the_middle() -> None:
        with store.lock:
            other = threading.Thread(target=tv.track, args=[event("other")])
            other.start()
            time.sleep(0.1)  # until it waits
            tv.track(event("mine"))
        other.join()

    reporting = threading.Thread(target=report_in_the_middle, daemon=True)
    reporting.start()
    reporting.join(10)
    assert not reporting.is_alive()


def test_a_child_forked_in_the_middle_of_a_close_is_closed(
    control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = TokVigil("key", control_plane.url, spool=False)
    client._reporter._in_flight.let_none_begin()
    client._reporter.restart_in_child()
    client.track(event())
    assert "came after close()" in caplog.text
    client.close()


def test_however_long_the_outage_the_next_try_is_no_more_than_a_minute_away(tv: TokVigil, wire: Any) -> None:
    reporter = tv._reporter
    reporter._failures = 5_000
    reporter._transport._connections.close()
    reporter.store.add(event())
    reporter._try_to_send()
    assert BACKOFF_S_FIRST < reporter._send_from - time.monotonic() <= BACKOFF_S_MAX
    reporter._since_sent = BATCH_EVENTS_MAX
    assert reporter._next_batch_in_s() > BACKOFF_S_FIRST, "new reports do not wake it"


def test_a_forked_process_of_multiprocessing_sends_its_usage_at_its_end(control_plane: Any) -> None:
    script = """
import multiprocessing, sys
from tokvigil import TokVigil, Usage, UsageEvent
client = TokVigil("key", sys.argv[1], spool=False)
def work():
    client.track(UsageEvent(request_id="r1", user_id="u", model="m", usage=Usage(input_tokens=1, output_tokens=1)))
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
"""
    subprocess.run([sys.executable, "-c", script, control_plane.url], check=True, timeout=60)
    assert list(control_plane.charged) == ["r1"]


def test_closing_without_a_control_plane_and_without_a_spool_says_what_is_lost(
    unreachable: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.client.EXIT_S_MAX", 0.3)
    with TokVigil("key", unreachable, spool=False) as client:
        client.track(event())
    assert "lost with this client: usage of 1 calls" in caplog.text


def test_a_call_still_open_at_the_close_is_reported_as_what_it_may_use(
    control_plane: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = TokVigil("tv_dev_id_secret", control_plane.url, spool=tmp_path / "usage")
    with client.guard("user_123", "chat", "gpt-4o-mini", input_tokens=10) as call:
        client.close()
        call.record(Usage(input_tokens=10, output_tokens=3))
    assert "recorded already" in caplog.text
    (report,) = control_plane.charged.values()
    assert (report["request_id"], report["status"]) == (call.request_id, "partial")


@pytest.mark.parametrize("spool", [True, False])
def test_a_stream_still_open_at_the_close_is_reported_as_far_as_it_was_seen(
    control_plane: Any, wire_provider: Any, spool: bool
) -> None:
    client = TokVigil("tv_dev_id_secret", control_plane.url, spool=spool)
    wire_provider.pause_after(4)
    stream = client.chat(
        "user_123",
        "chat",
        "gpt-4o-mini",
        [{"role": "user", "content": "Hi"}],
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


def test_a_call_that_waits_for_its_retry_at_the_close_has_failed(control_plane: Any) -> None:
    with TokVigil("key", control_plane.url) as client:
        call = client._transport.run(client._desk.open(question("u", "m", input_tokens=1), None))
        client._reporter.pause("the same request", call)
    (report,) = control_plane.charged.values()
    assert (report["request_id"], report["status"]) == (call.request_id, "failed")


def test_pending_usage_in_memory_is_bounded_and_drops_the_oldest() -> None:
    pending = PendingUsage(events_max=2)
    events = [event(str(number)) for number in range(3)]
    assert [pending.add(each) for each in events] == [None, None, events[0]]
    assert pending.oldest() == (events[1], events[2])


def test_two_processes_do_not_send_the_same(tmp_path: Path) -> None:
    first, second = (Spool(tmp_path / "usage", "here") for _ in range(2))
    for number in range(10):
        first.add(event(str(number)))
    claimed = first.claim(6), second.claim(6)
    assert [len(events) for events in claimed] == [6, 4]
    assert {each.request_id for events in claimed for each in events} == set(map(str, range(10)))
    assert len(first) == 6
    second.remove([each.request_id for each in claimed[1]])
    first.put_back([each.request_id for each in claimed[0]])
    assert {each.request_id for each in second.claim(10)} == {each.request_id for each in claimed[0]}
    first.close()
    second.close()


def test_a_process_that_ends_without_a_close_has_sent_its_usage(control_plane: Any, tmp_path: Path) -> None:
    script = [sys.executable, "-c", TRACKS_AND_ENDS, control_plane.url, str(tmp_path / "usage")]
    subprocess.run(script, check=True, timeout=30)
    assert list(control_plane.charged) == ["r1"]


def test_a_process_and_its_forked_child_end_without_leaving_sockets_open(
    control_plane: Any, tmp_path: Path
) -> None:
    script = """
import gc, os, sys
from tokvigil import TokVigil
client = TokVigil("tv_dev_id_secret", sys.argv[1], spool=sys.argv[2])
client.evaluate("ana", "m")
child = os.fork()
client.evaluate("ben", "m")
gc.collect()
if child:
    os.waitpid(child, 0)
"""
    run = [sys.executable, "-X", "dev", "-c", script, control_plane.url, str(tmp_path / "usage")]
    assert subprocess.run(run, check=True, timeout=30, capture_output=True, text=True).stderr == ""


def test_a_process_that_ends_without_a_control_plane_ends_soon_and_leaves_its_usage(
    control_plane: Any, unreachable: str, tmp_path: Path
) -> None:
    port_of_the_dead = unreachable
    script = [sys.executable, "-c", TRACKS_AND_ENDS, port_of_the_dead, str(tmp_path / "usage")]
    started = time.monotonic()
    subprocess.run(script, check=True, timeout=30)
    assert time.monotonic() - started < EXIT_S_MAX + 5
    left = Spool(tmp_path / "usage", f"{port_of_the_dead} tv_dev_id")
    assert [each.request_id for each in left.oldest()] == ["r1"]
    left.close()


def test_a_child_forked_inside_a_guard_leaves_the_call_to_its_parent(
    tv: TokVigil, control_plane: Any
) -> None:
    with tv.guard("user_123", "chat", "gpt-4o-mini", input_tokens=10) as call:
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
    tv.track(event("before"))
    child = os.fork()
    if child == 0:
        tv.track(event("child"))
        os._exit(tv.flush())
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    tv.track(event("after"))
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
client = TokVigil("tv_dev_id_secret", sys.argv[1], spool=sys.argv[2])
def report(prefix, count):
    for n in range(count):
        client.track(UsageEvent(request_id=f"{prefix}-{n}", user_id="u", model="m",
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
    run = [sys.executable, "-c", script, control_plane.url, str(tmp_path / "usage")]
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


def test_an_event_that_cannot_be_written_does_not_stop_the_others(
    control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with TokVigil("key", control_plane.url, spool=False) as client:
        poison = event("poison")
        object.__setattr__(poison, "metadata", {"x": float("nan")})
        for each in (event("before"), poison, event("after")):
            client._reporter.store.add(each)
        assert client.flush() == 0
    assert sorted(control_plane.charged) == ["after", "before"]
    assert "poison was refused" in caplog.text


def test_a_close_under_traffic_lets_no_call_begin_and_loses_none(
    control_plane: Any, wire_provider: Any
) -> None:
    client = TokVigil("key", control_plane.url, spool=False)
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
from tokvigil import TokVigil, Usage, UsageEvent, spool_file
spool_file.BUSY_TIMEOUT_S = 20  # on a busy machine others may keep the file for long, and nobody closes a child's spool
client = TokVigil("tv_dev_id_secret", sys.argv[1], spool=sys.argv[2])
def report(request_id):
    client.track(UsageEvent(request_id=request_id, user_id="u", model="m",
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
    run = [sys.executable, "-c", script, control_plane.url, str(tmp_path / "usage")]
    assert subprocess.run(run, timeout=100).returncode == 0
    assert len(control_plane.charged) == 2 * 8 * 20
