"""Usage on disk: what is left of it when a process, a disk or a record breaks."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokvigil import TokVigil, Usage, UsageEvent
from tokvigil.owner_file import OWNER_NEW_S, OwnerFile
from tokvigil.pending import PendingUsage
from tokvigil.spool import LEAVE_ALONE_S, Spool, SpoolBusyError, is_locked
from tokvigil.spool_file import APPLICATION_ID, BUSY_TIMEOUT_S, default_path

# `TOKVIGIL_KILLS=200` is the long run.
KILLS = int(os.environ.get("TOKVIGIL_KILLS", "12"))
CHATS_WITHOUT_END = """
import sys
from tokvigil import TokVigil
control_plane, provider, spool, first = sys.argv[1:]
with TokVigil("tv_dev_id_secret", control_plane, spool=spool) as client:
    print("ready", flush=True)
    for n in range(int(first), int(first) + 10_000):
        client.chat(f"user_{n}", "chat", "gpt-4o-mini", [{"role": "user", "content": f"user_{n}"}],
                    provider_base_url=provider + "/v1", provider_api_key="sk")
"""


def event(request_id: str = "r1", output_tokens: int = 5) -> UsageEvent:
    usage = Usage(input_tokens=10, output_tokens=output_tokens)
    return UsageEvent(request_id=request_id, user_id="user_123", model="gpt-4o-mini", usage=usage)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "usage.sqlite3"


def rows(path: Path, table: str) -> list[Any]:
    with sqlite3.connect(path) as db:
        return db.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 (a table named here)


def test_each_call_is_reported_once_however_its_process_is_killed(
    control_plane: Any, provider: Any, path: Path
) -> None:
    chance = random.Random(20261124)
    for kill in range(KILLS):
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                CHATS_WITHOUT_END,
                control_plane.url,
                provider.url,
                path,
                str(kill * 10_000),
            ],
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        before = len(provider.seen)
        deadline = time.monotonic() + 20
        while len(provider.seen) == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()

    with TokVigil("tv_dev_id_secret", control_plane.url, spool=path) as client:
        assert client.flush() == 0

    called = Counter(seen.body["messages"][0]["content"] for seen in provider.seen if seen.body)
    reported = Counter(body["user_id"] for body in control_plane.charged.values())
    assert len(called) >= KILLS
    assert set(called) <= set(reported)
    assert max(reported.values()) == 1
    # One call at most of each process had not reached the provider yet.
    assert len(set(reported) - set(called)) <= KILLS
    assert rows(path, "event") == []


def test_a_call_under_way_is_on_disk_with_what_is_held_for_it(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, wire: Any
) -> None:
    found = []

    def look(seen: Any) -> Any:
        with sqlite3.connect(tv._reporter.store.path) as db:  # type: ignore[union-attr]
            found.extend(db.execute("SELECT body, owner IS NOT NULL FROM event").fetchall())
        return wire.Answer(200, wire.completion())

    provider.defaults["/v1/chat/completions"] = look
    chat()
    ((body, owned),) = found
    assert owned
    assert '"status": "partial"' in body
    assert '"output_tokens": 100' in body
    assert tv.flush() == 0
    assert rows(tv._reporter.store.path, "event") == []  # type: ignore[union-attr]


def test_the_answers_usage_replaces_what_was_held(
    control_plane: Any, chat: Any, path: Path, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.client.EXIT_S_MAX", 0.1)
    control_plane.script("/v1/usage/batch", *[wire.Answer(503)] * 100)
    with TokVigil("tv_dev_id_secret", control_plane.url, max_retries=0, spool=path) as client:
        chat(client)
    control_plane.scripts["/v1/usage/batch"].clear()
    with TokVigil("tv_dev_id_secret", control_plane.url, spool=path) as client:
        assert [pending.usage.output_tokens for pending in client.pending_usage] == [90]
        assert client.flush() == 0
    (body,) = control_plane.charged.values()
    assert (body["status"], body["output_tokens"], body["cached_input_tokens"]) == ("succeeded", 90, 1_024)


def test_a_living_process_keeps_its_events_and_a_dead_one_leaves_them(path: Path) -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from test_spool import event; "
        "from tokvigil.spool import Spool; Spool(sys.argv[1], 'here').hold(event()); "
        "print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, path, str(Path(__file__).parent)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    spool = Spool(path, "here")
    spool.adopt()
    assert len(spool) == 0
    child.kill()
    child.wait()
    child.stdout.close()
    spool.adopt()
    assert spool.oldest() == (event(),)
    spool.close()
    assert [file.name for file in path.parent.iterdir() if "owner" in file.name] == []


def test_a_forked_child_has_a_spool_of_its_own_on_the_same_file(path: Path) -> None:
    spool = Spool(path, "here")
    spool.hold(event("parent"))
    child = os.fork()
    if child == 0:
        spool.add(event("child"))
        os._exit(len(spool) - 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert [pending.request_id for pending in spool.oldest()] == ["child"]
    other = Spool(path, "here")
    assert len(other) == 1, "the parent lives, and its event is its own"
    spool.close()
    assert len(other) == 2
    other.close()


def test_events_go_only_where_they_were_made_for(path: Path, control_plane: Any) -> None:
    elsewhere = Spool(path, "elsewhere")
    elsewhere.add(event())
    with TokVigil("tv_dev_id_secret", control_plane.url, spool=path) as client:
        assert client.pending_usage == ()
        assert client.flush() == 0
    assert control_plane.charged == {}
    assert len(elsewhere) == 1
    elsewhere.close()


def test_a_new_secret_of_the_same_key_sends_what_the_old_one_left(path: Path, control_plane: Any) -> None:
    old = TokVigil("tv_dev_id_old", control_plane.url, spool=path)
    old._reporter.store.add(event())
    old._reporter.store.close()
    with TokVigil("tv_dev_id_new", control_plane.url + "/", spool=path) as client:
        assert client.flush() == 0
    assert list(control_plane.charged) == ["r1"]


def test_a_full_disk_is_said_and_costs_no_event(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(path, "here")
    spool.add(event("on disk"))
    assert spool._db is not None
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(100):
        spool.add(event(str(number)))
    assert len(spool) == 101
    assert {pending.request_id for pending in spool.oldest()} == {"on disk", *map(str, range(100))}
    assert "database or disk is full" in caplog.text
    spool.close()


def test_a_place_that_cannot_be_written_is_said_and_usage_stays_in_memory(
    chat: Any, control_plane: Any, tmp_path: Path, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with TokVigil("key", control_plane.url, max_retries=0, spool=tmp_path / "file" / "usage") as client:
        assert chat(client).text == "Hello!"
        assert len(client.pending_usage) == 1
    assert "cannot be used" in caplog.text
    assert len(control_plane.charged) == 1


def test_a_record_that_cannot_be_read_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(path, "here")
    for number in range(3):
        spool.add(event(str(number)))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE event SET body = '{\"request_id\": 7' WHERE request_id = '1'")
    assert [pending.request_id for pending in spool.oldest()] == ["0", "2"]
    assert rows(path, "quarantine") == [], "looking moves nothing"
    assert [pending.request_id for pending in spool.claim(10)] == ["0", "2"]
    assert [row[1:4] for row in rows(path, "quarantine")] == [("1", '{"request_id": 7', "cannot be read")]
    assert "cannot be read" in caplog.text
    spool.close()


def test_a_refused_event_is_set_aside_with_the_reason(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/usage/batch", wire.Answer(422, {"detail": "no such model"}))
    result = chat()
    assert tv.flush() == 0
    ((_, request_id, _, reason, _),) = rows(tv._reporter.store.path, "quarantine")  # type: ignore[union-attr]
    assert request_id == result.request_id
    assert "no such model" in reason


@pytest.mark.parametrize("sign", ["header", "-wal", "-shm", ".owner-0123"])
def test_a_corrupt_spool_is_moved_away_and_a_new_one_begun(
    path: Path, sign: str, caplog: pytest.LogCaptureFixture
) -> None:
    Spool(path, "here").close()
    kept = path.read_bytes()[:16] if sign == "header" else b""
    path.write_bytes(kept + b"this is no database" * 1000)
    if sign != "header":
        path.with_name(path.name + sign).touch()
    spool = Spool(path, "here")
    spool.add(event())
    assert spool.oldest() == (event(),)
    spool.close()
    (moved,) = [file for file in path.parent.iterdir() if ".corrupt-" in file.name]
    assert b"this is no database" in moved.read_bytes()
    assert "is corrupt" in caplog.text


def test_a_file_that_never_was_a_spool_is_left_alone_however_often_it_is_named(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_text("a letter to Ada")
    spools = [Spool(path, "here"), Spool(path, "here")]
    for spool in spools:
        spool.add(event())
        assert spool.oldest() == (event(),)
    assert path.read_text() == "a letter to Ada"
    assert list(path.parent.iterdir()) == [path]
    assert "name another file" in caplog.text
    for spool in spools:
        spool.close()


FOREIGN = {
    "another table": "CREATE TABLE customer (name TEXT)",
    "a table beside ours": "CREATE TABLE event (place, destination, request_id, owner, body);"
    " CREATE TABLE customer (name TEXT)",
    "a table of our name": "CREATE TABLE event (id INTEGER PRIMARY KEY, title TEXT)",
    "another application": "PRAGMA application_id = 7",
}


@pytest.mark.parametrize("made", FOREIGN.values(), ids=FOREIGN)
def test_somebody_elses_database_gets_no_tables_of_ours(
    path: Path, made: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.executescript(made)
    db.close()
    before = path.read_bytes(), path.stat().st_mode
    spool = Spool(path, "here")
    spool.add(event())
    assert spool.oldest() == (event(),)
    spool.close()
    assert (path.read_bytes(), path.stat().st_mode) == before
    assert list(path.parent.iterdir()) == [path]
    assert "name another file" in caplog.text


def application_id(path: Path) -> int:
    with sqlite3.connect(path) as db:
        (found,) = db.execute("PRAGMA application_id").fetchone()
    return int(found)


def test_a_spool_of_an_earlier_version_is_taken_and_marked(path: Path) -> None:
    earlier = Spool(path, "here")
    earlier.add(event())
    earlier.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id = 0")
    db.close()
    spool = Spool(path, "here")
    assert spool.oldest() == (event(),)
    spool.close()
    assert application_id(path) == APPLICATION_ID


def test_a_marked_spool_stays_ours_whatever_was_added_to_it(path: Path) -> None:
    Spool(path, "here").close()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (note TEXT)")
    db.close()
    spool = Spool(path, "here")
    spool.add(event())
    assert len(rows(path, "event")) == 1
    spool.close()


@pytest.mark.parametrize("word", ["false", "False", "0", "off", "NO", " no "])
def test_the_variable_may_say_that_there_is_no_spool(
    word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chat: Any, control_plane: Any, wire: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("TOKVIGIL_SPOOL", word)
    assert default_path() is None
    before = sorted(tmp_path.rglob("*"))
    with TokVigil("tv_dev_id_secret", control_plane.url) as client:
        chat(client)
        assert client.flush() == 0
    assert len(control_plane.charged) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "on", "Yes", "", None])
def test_the_variable_may_ask_for_the_file_that_is_taken_anyway(
    word: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("TOKVIGIL_SPOOL")
    if word is not None:
        monkeypatch.setenv("TOKVIGIL_SPOOL", word)
    assert default_path() == tmp_path / "tokvigil" / "usage.sqlite3"


def test_an_event_comes_back_from_disk_as_it_was_written(path: Path) -> None:
    written = UsageEvent(
        request_id="r1",
        user_id="użytkownik",
        model="m",
        usage=Usage(input_tokens=10, output_tokens=9, cached_input_tokens=3, reasoning_tokens=2),
        status="partial",
        feature="chat",
        latency_ms=7,
        metadata={"a": 1, "b": None, "c": "x"},
    )
    spool = Spool(path, "here")
    spool.add(written)
    (read,) = spool.oldest()
    assert read == written
    assert read.to_wire() == written.to_wire()
    spool.close()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_file_that_another_process_keeps_locked_costs_no_event_and_hardly_any_time(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(path, "here")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        for number in range(50):
            spool.add(event(str(number)))
        # One wait of 50 ms, and not fifty: an event loop may be behind it.
        assert time.monotonic() - started < 50 * BUSY_TIMEOUT_S / 2
        assert len(spool) == 50
        other.execute("ROLLBACK")
    assert caplog.text.count("locked") == 1
    time.sleep(LEAVE_ALONE_S)
    spool.add(event("on disk again"))
    assert [row[2] for row in rows(path, "event")] == ["on disk again"]
    assert len(spool) == 51
    # And with the next sending, the others.
    spool.put_back([claimed.request_id for claimed in spool.claim(1)])
    assert len(rows(path, "event")) == 51
    assert spool.close() == 0


def test_what_fell_into_memory_is_written_down_at_the_close(path: Path) -> None:
    spool = Spool(path, "here")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        spool.add(event())
        other.execute("ROLLBACK")
    time.sleep(LEAVE_ALONE_S)
    assert spool.close() == 0
    assert [row[2] for row in rows(path, "event")] == ["r1"]


def test_what_could_not_be_put_back_is_sent_again_by_this_process(path: Path) -> None:
    spool = Spool(path, "here")
    spool.add(event())
    assert spool.claim(10) == (event(),)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        spool.put_back(["r1"])
        other.execute("ROLLBACK")
    time.sleep(LEAVE_ALONE_S)
    assert (len(spool), spool.has_pending()) == (1, True)
    assert spool.claim(10) == (event(),)
    spool.close()


def test_what_was_settled_while_the_file_was_locked_is_not_sent_again(path: Path) -> None:
    spool = Spool(path, "here")
    for request_id in ("taken", "refused", "left"):
        spool.add(event(request_id))
    spool.claim(10)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        spool.remove(["taken"])
        spool.give_up("refused", "invalid")
        spool.put_back(["left"])
        other.execute("ROLLBACK")
    time.sleep(LEAVE_ALONE_S)
    assert [pending.request_id for pending in spool.claim(10)] == ["left"]
    assert [row[2] for row in rows(path, "event")] == ["left"]
    assert [row[1] for row in rows(path, "quarantine")] == ["refused"]
    spool.close()


def test_a_disk_that_takes_nothing_more_does_not_let_settled_events_stand_in_the_way(path: Path) -> None:
    spool = Spool(path, "here")
    for number in range(5):
        spool.add(event(str(number)))
    assert spool._db is not None
    spool._db.execute("PRAGMA query_only = ON")  # it can be read only
    spool.remove([pending.request_id for pending in spool.claim(2)])
    spool.add(event("in memory"))
    assert [pending.request_id for pending in spool.claim(3)] == ["2", "3", "4"]
    spool.remove(["2", "3", "4"])
    assert [pending.request_id for pending in spool.claim(3)] == ["in memory"]
    spool._db.execute("PRAGMA query_only = OFF")
    spool.claim(1)
    assert [row[2] for row in rows(path, "event")] == ["in memory"]
    spool.close()


def test_a_report_is_not_lost_to_a_lock_that_is_over_at_the_close(path: Path) -> None:
    spool = Spool(path, "here")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        spool.add(event())
        other.execute("ROLLBACK")
    assert spool.close() == 0
    assert [row[2] for row in rows(path, "event")] == ["r1"]


def test_nobody_takes_a_locked_file_for_an_empty_one(path: Path) -> None:
    spool = Spool(path, "here")
    spool.add(event())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        spool.hold(event("under way"))  # in vain, and for a second nobody tries again
        assert spool.has_pending()
        assert spool.count_of(["r1"]) is None
        with pytest.raises(SpoolBusyError):
            spool.claim(10)
        other.execute("ROLLBACK")
    time.sleep(LEAVE_ALONE_S)
    assert spool.claim(10) == (event(),)
    spool.close()


def test_a_file_that_could_not_be_opened_is_opened_later(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.spool.OPEN_AGAIN_S", 0.1)
    path.parent.parent.mkdir(exist_ok=True)
    path.parent.write_text("in the way")
    spool = Spool(path, "here")
    spool.add(event())
    assert "cannot be used, usage is kept in memory; it is tried again in" in caplog.text
    path.parent.unlink()
    time.sleep(0.1)
    assert spool.claim(10) == (event(),)
    assert [row[2] for row in rows(path, "event")] == ["r1"]
    spool.close()


def test_a_log_that_others_recover_just_now_is_locked() -> None:
    recovering = sqlite3.OperationalError("database is locked")
    recovering.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
    assert is_locked(recovering)
    assert not is_locked(OSError("no such file"))


@pytest.mark.parametrize("on_disk", [True, False])
def test_of_two_reports_of_a_call_the_first_is_kept(path: Path, on_disk: bool) -> None:
    store = Spool(path, "here") if on_disk else PendingUsage()
    first, second = event(), replace(event(), status="partial")
    store.hold(second)
    store.add(first)
    store.add(second)
    store.hold(second)
    assert store.claim(10) == (first,)
    store.add(second)
    store.put_back(["r1"])
    assert store.oldest() == (first,)
    store.close()


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_claimed_event_may_be_replaced(path: Path, on_disk: bool) -> None:
    store = Spool(path, "here") if on_disk else PendingUsage()
    changed = replace(event(), status="partial")
    store.add(event())
    store.claim(10)
    store.replace(changed)
    store.put_back(["r1"])
    assert store.claim(10) == (changed,)
    store.replace(replace(event("unknown"), status="partial"))
    assert len(store) == 1
    store.close()


def test_a_transaction_that_ctrl_c_left_open_locks_nobody_out(path: Path) -> None:
    spool, other = Spool(path, "here"), Spool(path, "here")
    assert spool._db is not None
    spool._db.execute("BEGIN IMMEDIATE")  # where the interruption came
    spool.add(event("after it"))
    other.add(event("from the other"))
    assert {row[2] for row in rows(path, "event")} == {"after it", "from the other"}
    spool.close()
    other.close()


def test_a_signal_handler_may_report_in_the_middle_of_anything(path: Path) -> None:
    spool = Spool(path, "here")
    number = itertools.count()

    def report(*_: object) -> None:
        spool.add(event(f"signal {next(number)}"))

    before = signal.signal(signal.SIGALRM, report)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for own in range(1_000):
            spool.add(event(str(own)))
            spool.put_back([claimed.request_id for claimed in spool.claim(3)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    signals = next(number)
    assert signals > 10
    assert len(spool) == 1_000 + signals
    spool.close()


def test_a_forked_childs_events_stay_though_its_parent_lets_go_of_the_file(path: Path) -> None:
    spool = Spool(path, "here")
    spool.add(event("parent"))
    go, went = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        for number in range(5):
            spool.add(event(f"child {number}"))
        os.kill(os.getpid(), signal.SIGKILL)
    spool.close()
    # Whoever opens and closes it now would take the file's log away from a child that locked nothing.
    Spool(path, "here").close()
    os.write(went, b"x")
    os.waitpid(child, 0)
    assert [row[2] for row in rows(path, "event")] == ["parent", *(f"child {n}" for n in range(5))]


def test_an_owner_file_that_was_tidied_away_comes_back(path: Path) -> None:
    spool = Spool(path, "here")
    spool.hold(event())
    for file in path.parent.glob("*.owner-*"):
        file.unlink()
    spool.adopt()
    other = Spool(path, "here")
    assert len(other) == 0, "the event is still its owner's"
    spool.close()
    other.close()


def test_a_file_that_was_tidied_away_is_made_again_with_what_was_in_it(path: Path) -> None:
    spool = Spool(path, "here")
    spool.add(event())
    path.unlink()
    spool.adopt()
    assert [row[2] for row in rows(path, "event")] == ["r1"]
    spool.close()


def test_every_process_notices_that_the_file_was_made_again(path: Path) -> None:
    first, second = Spool(path, "here"), Spool(path, "here")
    first.add(event("before"))
    second.hold(event("held"))
    for file in path.parent.glob(f"{path.name}*"):
        if "owner" not in file.name:
            file.unlink()
    first.adopt()
    second.adopt()
    second.add(event("after"))
    first.adopt()
    second.adopt()
    assert {row[2]: row[3] is None for row in rows(path, "event")} == {
        "before": True,
        "held": False,
        "after": True,
    }
    first.close()
    second.close()


def test_what_cannot_be_moved_to_a_new_file_stays_in_memory(path: Path) -> None:
    spool = Spool(path, "here")
    spool.add(event())
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")
    spool.adopt()
    assert spool.claim(10) == (event(),)
    assert spool.close() == 1


def test_what_is_no_owner_file_is_left_alone(path: Path) -> None:
    spool = Spool(path, "here")
    spool.add(event())
    strange = path.with_name(f"{path.name}.owner-a-folder")
    strange.mkdir()
    os.utime(strange, (time.time() - 2 * OWNER_NEW_S,) * 2)
    spool.adopt()
    assert strange.exists()
    spool.close()


def test_how_many_are_pending_does_not_count_what_is_settled(path: Path) -> None:
    spool = Spool(path, "here")
    for number in range(6):
        spool.add(event(str(number)))
    claimed = spool.claim(2)
    assert spool._db is not None
    spool._db.execute("PRAGMA query_only = ON")
    spool.remove([each.request_id for each in claimed])
    spool.remove(["2"])
    assert len(spool) == 3
    spool._db.execute("PRAGMA query_only = OFF")
    spool.close()


def test_the_files_of_processes_that_died_with_nothing_else_here_go(path: Path) -> None:
    spool = Spool(path, "here")
    spool.add(event())
    old, others = (path.with_name(f"{name}.owner-{'0' * 32}") for name in (path.name, "another"))
    for file, age_s in ((old, 2 * OWNER_NEW_S), (others, 2 * OWNER_NEW_S)):
        file.touch()
        os.utime(file, (time.time() - age_s,) * 2)
    new = path.with_name(f"{path.name}.owner-{'1' * 32}")
    new.touch()
    own = OwnerFile(path, spool._owner)
    os.utime(own._path, (time.time() - 2 * OWNER_NEW_S,) * 2)
    spool.adopt()
    assert [file.exists() for file in (old, new, others, own._path)] == [False, True, True, True]
    spool.close()


def test_a_folder_that_was_tidied_away_is_made_again_with_what_was_in_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(path, "here")
    spool.hold(event("held"))
    spool.add(event("pending"))
    shutil.rmtree(path.parent)
    spool.add(event("later"))
    spool.adopt()
    assert [pending.request_id for pending in spool.oldest()] == ["pending", "later"]
    assert {row[2]: row[3] is not None for row in rows(path, "event")} == {
        "held": True,
        "pending": False,
        "later": False,
    }
    assert "is made again" in caplog.text
    spool.close()


def test_a_fork_that_is_interrupted_leaves_nothing_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(path, "here")
    with monkeypatch.context() as patched:
        patched.setattr(spool, "_let_go", interrupt)
        patched.setattr(sys, "unraisablehook", lambda _: None)  # Python says it, and forks all the same
        reap(os.fork())
    reap(os.fork())
    done = threading.Thread(target=spool.add, args=(event(),), daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()
    assert len(spool) == 1
    spool.close()


def interrupt() -> None:
    raise KeyboardInterrupt


def reap(child: int) -> None:
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
