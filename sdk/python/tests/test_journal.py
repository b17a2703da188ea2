"""Usage on disk: what is left of it when a process, a disk or a line breaks."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tokvigil import TokVigil, Usage, UsageEvent, journal_file
from tokvigil.journal import COMPACT_BYTES, Journal, default_folder, directory_in
from tokvigil.journal_file import (
    HEADER,
    NEW_S_MAX,
    NEW_SUFFIX,
    STALE_S,
    SUFFIX,
    JournalFile,
    files_in,
    is_in_use,
    line,
    read_reports,
)
from tokvigil.quarantine import read
from tokvigil.question import Report

# `TOKVIGIL_KILLS=200` is the long run.
KILLS = int(os.environ.get("TOKVIGIL_KILLS", "12"))
NOBODY = 65_534
CHATS_WITHOUT_END = """
import sys
from tokvigil import TokVigil
control_plane, provider, folder, first = sys.argv[1:]
with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane, journal=folder) as client:
    print("ready", flush=True)
    for n in range(int(first), int(first) + 10_000):
        client.chat(user_id=f"user_{n}", feature="chat", model="gpt-4o-mini",
                    messages=[{"role": "user", "content": f"user_{n}"}],
                    provider_base_url=provider + "/v1", provider_api_key="sk")
"""


def report(request_id: str = "r1", output_tokens: int = 5, **more: Any) -> Report:
    body = {"request_id": request_id, "user_id": "ada", "model": "m", "output_tokens": output_tokens}
    return Report(request_id, json.dumps({"input_tokens": 10, "status": "succeeded"} | body | more).encode())


def partial(request_id: str = "r1", output_tokens: int = 100) -> Report:
    return report(request_id, output_tokens, status="partial")


def event(request_id: str = "r1", **more: Any) -> UsageEvent:
    usage = Usage(input_tokens=10, output_tokens=9, cached_input_tokens=3, reasoning_tokens=2)
    return UsageEvent(request_id=request_id, user_id="użytkownik", model="m", usage=usage, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


def files(folder: Path, destination: str = "here") -> list[Path]:
    return files_in(directory_in(folder, destination))


def on_disk(folder: Path, destination: str = "here") -> dict[str, bytes]:
    """What would be reported if all processes ended now. Of a call that several files have, they say the same."""
    found: dict[str, bytes] = {}
    for path in files(folder, destination):
        for request_id, body in read_reports(path).pending.items():
            assert found.setdefault(request_id, body) == body
    return found


def statuses(folder: Path) -> dict[str, str]:
    return {request_id: json.loads(body)["status"] for request_id, body in on_disk(folder).items()}


def ids(journal: Journal) -> list[str]:
    return [each.request_id for each in journal.pending()]


def settle(journal: Journal, *request_ids: str) -> None:
    journal.settle(dict.fromkeys(request_ids))


def abandon(journal: Journal) -> None:
    """As if its process were killed."""
    for file in (journal._file, journal._taken):
        if file is not None:
            file.close()


def leave(folder: Path, *lines: bytes, cut: int = 0, destination: str = "here", host: str = "") -> Path:
    """What a process that was killed has left."""
    file = JournalFile.create(directory_in(folder, destination), destination, b"".join(lines))
    file.close()
    if cut:
        os.truncate(file.path, file.path.stat().st_size - cut)
    return file.path.rename(file.path.with_name(f"{host}{file.path.name[len(host) :]}"))


def begin(journal: Journal, request_id: str, *, report_at_most: Report | None = None) -> None:
    journal.asks(partial(request_id))
    journal.sent(request_id, report_at_most)


# Kills


def test_each_call_is_reported_once_however_its_process_is_killed(
    control_plane: Any, provider: Any, folder: Path
) -> None:
    chance = random.Random(20261124)
    for kill in range(KILLS):
        arguments = [control_plane.url, provider.url, folder, str(kill * 10_000)]
        child = subprocess.Popen(
            [sys.executable, "-c", CHATS_WITHOUT_END, *arguments], stdout=subprocess.PIPE
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

    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=folder) as client:
        assert client.flush() == 0

    called = Counter(seen.body["messages"][0]["content"] for seen in provider.seen if seen.body)
    reported = Counter(body["user_id"] for body in control_plane.charged.values())
    assert len(called) >= KILLS
    assert set(called) <= set(reported)
    assert max(reported.values()) == 1
    # One call at most of each process had not reached the provider yet.
    assert len(set(reported) - set(called)) <= KILLS
    assert list(folder.rglob(f"*{SUFFIX}")) == []
    assert list(folder.rglob("quarantine*")) == [], "no two reports of a call differed"


WRITES_WITHOUT_END = """
import itertools, json, os, sys
from tokvigil import journal
from tokvigil.question import Report
journal.PENDING_MAX, journal.COMPACT_BYTES = 20, 2_000
mine = journal.Journal(sys.argv[1], "here")
def report(number, status):
    request_id = f"{sys.argv[2]}-{number}"
    return Report(request_id, json.dumps({"request_id": request_id, "status": status, "x": "x" * 40}).encode())
def did(what, *numbers):
    os.write(1, b"".join(b"%s %d\\n" % (what, number) for number in numbers))
for number in itertools.count():
    did(b"asking", number)
    mine.asks(report(number, "at most"))
    did(b"asked", number)
    mine.sent(report(number, "").request_id, None)
    did(b"sent", number)
    if number % 7 == 0:
        continue
    mine.report(report(number, "ended"))
    did(b"ended", number)
    if number % 100 < 70:
        numbers = [int(each.rpartition("-")[2]) for each in mine.reported()[:2]]
        did(b"settling", *numbers)
        mine.settle({report(each, "").request_id: None for each in numbers})
        did(b"settled", *numbers)
"""


def test_no_kill_in_the_middle_of_making_files_smaller_loses_or_doubles_a_report(folder: Path) -> None:
    chance = random.Random(20261127)
    rotated = compacted = 0
    for kill in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITES_WITHOUT_END, folder, str(kill)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        seen = [child.stdout.readline() for _ in range(400)]
        time.sleep(chance.uniform(0, 0.01))
        child.send_signal(signal.SIGKILL)
        seen += child.communicate()[0].splitlines(keepends=True)
        last: dict[str, str] = {}
        for word, number in (text.split() for text in b"".join(seen).decode().splitlines()):
            last[f"{kill}-{number}"] = word
        found = on_disk(folder)
        for request_id, word in last.items():
            is_there = request_id in found
            assert is_there or word in ("asking", "settling", "settled"), (request_id, word)
            assert not (is_there and word == "settled"), request_id
            if is_there and word == "ended":
                assert json.loads(found[request_id])["status"] == "ended"
        rotated += len(files(folder)) > 1
        compacted += all(f'"{kill}-1"'.encode() not in path.read_bytes() for path in files(folder))
        for path in files(folder):
            path.unlink()
    assert rotated
    assert compacted


class Killed(BaseException):
    pass


# What changes anything outside of the process.
SYSTEM_CALLS = ("open", "write", "replace", "unlink", "close", "ftruncate", "mkdir")


@contextmanager
def killed_at(call: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system call of this number does not take place any more."""
    number = itertools.count()

    def count(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            if next(number) == call:
                raise Killed
            return real(*arguments, **named)

        return counted

    with monkeypatch.context() as patch:
        for name in SYSTEM_CALLS:
            patch.setattr(os, name, count(getattr(os, name)))
        yield


def compacts(journal: Journal) -> None:
    for number in range(20):
        settle(journal, f"before {number}")


def rotates(journal: Journal) -> None:
    for number in range(5):
        journal.report(report(f"after {number}"))


@pytest.mark.parametrize("change", [compacts, rotates])
@pytest.mark.parametrize("call", range(24))
def test_a_kill_at_any_system_call_leaves_each_report_once(
    folder: Path, call: int, change: Callable[[Journal], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.PENDING_MAX", 33)
    journal = Journal(folder, "here")
    begin(journal, "under way")
    for number in range(30):
        journal.report(report(f"before {number}"))
    monkeypatch.setattr(journal, "_compact_at", 1_000)
    gone: set[str] = set()
    settled, reported = journal.settle, journal.report
    # What was done before the kill; one more may be.
    monkeypatch.setattr(journal, "settle", lambda each: (settled(each), gone.update(each)))
    there = set(on_disk(folder))
    monkeypatch.setattr(journal, "report", lambda each: (reported(each), there.add(each.request_id)))
    with killed_at(call, monkeypatch):
        try:
            change(journal)
            was_killed = False
        except Killed:
            was_killed = True
    found = on_disk(folder)
    assert statuses(folder)["under way"] == "partial"
    assert there - found.keys() - gone == set() or (was_killed and len(there - found.keys() - gone) == 1)
    assert len(found.keys() - (there - gone)) <= was_killed
    other = Journal(folder, "here")
    for descriptor in locked(folder):
        os.close(descriptor)
    while other.take_over():
        settle(other, *ids(other))
    assert on_disk(folder) == {}


def test_a_call_under_way_is_on_disk_with_what_is_held_for_it(
    chat: Any, tv: TokVigil, control_plane: Any, provider: Any, wire: Any
) -> None:
    found = []

    def look(seen: Any) -> Any:
        (path,) = files_in(tv._reporter.journal.directory)  # type: ignore[arg-type]
        found.append((is_in_use(path), *read_reports(path).pending.values()))
        return wire.Answer(200, wire.completion())

    provider.defaults["/v1/chat/completions"] = look
    chat()
    ((in_use, body),) = found
    assert in_use
    assert (json.loads(body)["status"], json.loads(body)["output_tokens"]) == ("partial", 100)
    assert tv.flush() == 0
    (path,) = files_in(tv._reporter.journal.directory)  # type: ignore[arg-type]
    assert read_reports(path).pending == {}


def test_a_process_that_dies_while_it_asks_gives_back_what_may_be_held(folder: Path) -> None:
    journal = Journal(folder, "here")
    journal.asks(partial())
    abandon(journal)
    (left,) = on_disk(folder).values()
    assert json.loads(left) == json.loads(report(output_tokens=0, input_tokens=0, status="cancelled").body)


def test_the_answers_usage_replaces_what_was_held(
    control_plane: Any, chat: Any, folder: Path, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.client.EXIT_S_MAX", 0.1)
    control_plane.script("/v1/usage/batch", *[wire.Answer(503)] * 100)
    with TokVigil(
        api_key="tv_dev_id_secret", base_url=control_plane.url, max_retries=0, journal=folder
    ) as client:
        chat(client)
    control_plane.scripts["/v1/usage/batch"].clear()
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=folder) as client:
        assert client.flush() == 0
    (body,) = control_plane.charged.values()
    assert (body["status"], body["output_tokens"], body["cached_input_tokens"]) == ("succeeded", 90, 1_024)


# Several processes


def test_a_living_process_keeps_its_reports_and_a_dead_one_leaves_them(folder: Path) -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from test_journal import begin, report; "
        "from tokvigil.journal import Journal; mine = Journal(sys.argv[1], 'here'); begin(mine, 'r1'); "
        "mine.report(report('r2')); print('written', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, folder, str(Path(__file__).parent)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    journal = Journal(folder, "here")
    assert not journal.take_over()
    assert len(journal) == 0
    child.kill()
    child.wait()
    child.stdout.close()
    assert journal.take_over()
    assert journal.pending() == [report("r2"), partial("r1")]
    settle(journal, "r1", "r2")
    assert not journal.take_over()
    assert files(folder) == []


def test_a_forked_child_has_a_journal_of_its_own(folder: Path) -> None:
    journal = Journal(folder, "here")
    journal.report(report("parent"))
    child = os.fork()
    if child == 0:
        is_empty = len(journal) == 0
        journal.report(report("child"))
        os._exit(0 if is_empty and ids(journal) == ["child"] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    other = Journal(folder, "here")
    assert other.take_over()
    assert ids(other) == ["child"], "the parent lives, and its report is its own"
    settle(other, "child")
    assert not other.take_over()
    journal.close()
    assert other.take_over()
    assert ids(other) == ["parent"]


def test_a_forked_childs_reports_stay_though_its_parent_lets_go_of_its_own(folder: Path) -> None:
    journal = Journal(folder, "here")
    journal.report(report("parent"))
    go, went = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        for number in range(5):
            journal.report(report(f"child {number}"))
        os.kill(os.getpid(), signal.SIGKILL)
    journal.close()
    os.write(went, b"x")
    os.waitpid(child, 0)
    assert set(on_disk(folder)) == {"parent", *(f"child {n}" for n in range(5))}


def test_a_child_keeps_no_file_of_its_parent_locked_whenever_it_was_forked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent may die first, and others then wait for these files."""
    monkeypatch.setattr("tokvigil.journal.PENDING_MAX", 3)
    journal, over = Journal(folder, "here"), threading.Event()

    def leave_and_take() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            journal.report(report(str(number)))
            if journal.take_over():
                settle(journal, *ids(journal))

    thread = threading.Thread(target=leave_and_take)
    thread.start()
    codes = set()
    for _ in range(150):
        child = os.fork()
        if child == 0:
            os._exit(1 if locked(folder) else 0)
        codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    over.set()
    thread.join()
    assert codes == {0}
    journal.close()


def opened(folder: Path) -> dict[int, str]:
    """What this process has open below it, by descriptor."""
    paths = {}
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            paths[descriptor] = os.readlink(f"/proc/self/fd/{descriptor}")
    return {descriptor: path for descriptor, path in paths.items() if path.startswith(str(folder))}


def locked(folder: Path) -> list[int]:
    """Descriptors of the journals that this process has open to write them."""
    return [each for each in opened(folder) if fcntl.fcntl(each, fcntl.F_GETFL) & os.O_APPEND]


def test_a_fork_that_is_interrupted_leaves_nothing_locked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(folder, "here")
    with monkeypatch.context() as patched:
        patched.setattr(journal, "hold_for_fork", interrupt)
        patched.setattr(sys, "unraisablehook", lambda _: None)  # Python says it, and forks all the same
        reap(os.fork())
    reap(os.fork())
    done = threading.Thread(target=journal.report, args=(report(),), daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()
    assert len(journal) == 1
    journal.close()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def reap(child: int) -> None:
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def test_reports_go_only_where_they_were_made_for(folder: Path, control_plane: Any) -> None:
    leave(folder, line("final", *report()), destination="elsewhere")
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=folder) as client:
        assert client.flush() == 0
    assert control_plane.charged == {}
    assert set(on_disk(folder, "elsewhere")) == {"r1"}


def test_a_new_secret_of_the_same_key_sends_what_the_old_one_left(folder: Path, control_plane: Any) -> None:
    old = TokVigil(api_key="tv_dev_id_old", base_url=control_plane.url, journal=folder)
    old._reporter.journal.report(report())
    old._reporter.journal.close()
    with TokVigil(api_key="tv_dev_id_new", base_url=control_plane.url + "/", journal=folder) as client:
        assert client.flush() == 0
    assert list(control_plane.charged) == ["r1"]


def test_two_threads_that_look_for_what_others_left_lose_no_file(folder: Path) -> None:
    left = {f"r{number}" for number in range(60)}
    for request_id in left:
        leave(folder, line("final", *report(request_id)))
    journal, taken = Journal(folder, "here"), Counter[str]()

    def take_all() -> None:
        while files(folder):
            journal.take_over()
            mine = ids(journal)
            settle(journal, *mine)
            taken.update(mine)

    threads = [threading.Thread(target=take_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert taken.keys() == left
    assert locked(folder) == []


def test_while_one_thread_reads_what_others_left_another_takes_no_second_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for request_id in ("r1", "r2"):
        leave(folder, line("final", *report(request_id)))
    journal = Journal(folder, "here")
    reading, go_on = threading.Event(), threading.Event()
    real = JournalFile.read

    def read_slowly(file: JournalFile) -> Any:
        reading.set()
        go_on.wait(10)
        return real(file)

    monkeypatch.setattr(JournalFile, "read", read_slowly)
    first = threading.Thread(target=journal.take_over)
    first.start()
    reading.wait(10)
    assert journal.take_over(), "there is something to come"
    assert len(locked(folder)) == 1
    assert len(journal) == 0
    go_on.set()
    first.join()
    assert len(journal) == 1


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_goes_while_it_is_being_taken_is_not_taken(
    folder: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = (leave(folder, line("final", *report())) for _ in range(2))
    real = journal_file._lock

    def lock_late(descriptor: int) -> bool:
        if what == "removed":
            path.unlink()
        else:
            other.replace(path)
        return real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(journal_file, "_lock", lock_late)
        assert JournalFile.take(path) is None
    assert locked(folder) == []


def test_what_was_taken_is_left_to_others_at_the_close(folder: Path) -> None:
    leave(folder, line("final", *report("r1")), line("final", *report("r2")))
    first, second = Journal(folder, "here"), Journal(folder, "here")
    assert first.take_over()
    assert not second.take_over(), "no two processes send the same"
    settle(first, "r1")
    assert first.close() == 0
    assert second.take_over()
    assert ids(second) == ["r2"]


def test_an_interrupted_look_at_what_others_left_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(folder, line("final", *report()))
    journal = Journal(folder, "here")
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.take_over()
    assert journal.take_over()
    assert ids(journal) == ["r1"]


# Lines


LINES = (
    line("asking", *partial("a")),
    line("asking", *partial("b")),
    line("sent", "a"),
    line("final", *report("b", 7)),
    line("asking", *partial("c")),
    line("forgot", "c"),
    line("sent", *partial("a", 60)),
    line("final", *report("d", 8)),
    line("done", "b"),
    line("final", *report("a", 9)),
)


def test_a_line_cut_at_any_byte_was_not_written(folder: Path) -> None:
    whole = b"".join(LINES)
    ends = list(itertools.accumulate(map(len, LINES), initial=0))
    for length in range(len(whole) + 1):
        written = max(end for end in ends if end <= length)
        uncut = on_disk_of(folder, whole[:written])
        path = leave(folder, whole[:length])
        journal = Journal(folder, "here")
        assert journal.take_over() == bool(uncut)
        assert dict(journal.pending()) == uncut
        # What is written after the cut is read all the same.
        first = ids(journal)[:1]
        settle(journal, *first)
        journal.close()
        assert on_disk(folder).keys() == uncut.keys() - set(first)
        path.unlink(missing_ok=True)
    assert list(folder.rglob("quarantine*")) == []


def on_disk_of(folder: Path, lines: bytes) -> dict[str, bytes]:
    path = leave(folder, lines)
    found = read_reports(path).pending
    path.unlink()
    return found


def test_what_was_asked_for_sent_and_reported_is_told_apart(folder: Path) -> None:
    found = {request_id: json.loads(body) for request_id, body in on_disk_of(folder, b"".join(LINES)).items()}
    assert {request_id: body["output_tokens"] for request_id, body in found.items()} == {"d": 8, "a": 9}
    found = {each: json.loads(body) for each, body in on_disk_of(folder, b"".join(LINES[:7])).items()}
    assert {each: (body["status"], body["output_tokens"]) for each, body in found.items()} == {
        "a": ("partial", 60),
        "b": ("succeeded", 7),
    }


def test_states_in_any_order_make_one_report_or_none(folder: Path) -> None:
    states = {
        "asking": line("asking", *partial()),
        "sent": line("sent", *partial(output_tokens=60)),
        "final": line("final", *report()),
        "forgot": line("forgot", "r1"),
        "done": line("done", "r1"),
    }
    path = leave(folder)
    header = path.read_bytes()
    for count in range(6):
        for order in itertools.permutations(states, count):
            path.write_bytes(header + b"".join(states[state] for state in order))
            found = read_reports(path)
            assert found.unreadable == []
            assert len(found.pending) <= 1
            if "done" in order:
                order = order[order.index("done") + 1 :]
            if "final" in order:
                assert found.pending == {"r1": report().body}
                continue
            if "forgot" in order:
                order = order[order.index("forgot") + 1 :]
            said = {"asking": "cancelled", "sent": "partial"}[order[-1]] if order else None
            assert [json.loads(body)["status"] for body in found.pending.values()] == [said] * bool(order)


def test_a_report_of_another_version_is_sent_byte_for_byte(folder: Path, control_plane: Any) -> None:
    body = (
        b'{"request_id": "r1",  "user_id":"u\xc5\xbcytkownik", "model": "m", "input_tokens": 1, "output_tokens": 2,'
        b' "quantities": {"audio_input_tokens": 7}, "service_tier": "flex", "status": "succeeded"}'
    )
    client = TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=folder)
    directory = client._reporter.journal.directory
    assert directory is not None
    JournalFile.create(directory, "any", line("final", "r1", body)).close()
    assert client.flush() == 0
    client.close()
    (seen,) = control_plane.calls("/v1/usage/batch")
    assert seen.raw == b'{"events": [' + body + b"]}"


def test_a_call_of_another_version_that_did_not_go_out_keeps_what_it_says_and_used_nothing(
    folder: Path,
) -> None:
    asked = report(status="partial", audio_tokens=7, quantities={"images": 2}, service_tier="flex")
    (body,) = on_disk_of(folder, line("asking", *asked)).values()
    expected = report(
        output_tokens=0, input_tokens=0, audio_tokens=0, status="cancelled", service_tier="flex"
    )
    assert json.loads(body) == json.loads(expected.body)


UNREADABLE = {
    "an unknown state": b'thought "r1" {"request_id": "r1"}\n',
    "no state": b"\n",
    "no id": b"final\n",
    "half an id": b'final "r\n',
    "an id that is no text": b"done [1]\n",
    "no report": b'final "r1" \n',
    "half a report": b'final "r1" {"request_id": "r\n',
    "a list": b'final "r1" [1]\n',
    "another call's report": b'final "r1" {"request_id": "r2"}\n',
    "a number that JSON has not": b'final "r1" {"request_id": "r1", "x": NaN}\n',
    "no UTF-8": b'final "r1" {"request_id": "r1", "x": "\xff"}\n',
    "a report too deep": b'final "r1" ' + b"[" * 100_000 + b"\n",
    "what a power failure left": b"\0" * 100 + b"\n",
}


@pytest.mark.parametrize("unreadable", UNREADABLE.values(), ids=UNREADABLE)
def test_a_line_that_cannot_be_read_is_set_aside(
    folder: Path, unreadable: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    leave(folder, line("final", *report("before")), unreadable, line("final", *report("after")))
    journal = Journal(folder, "here")
    assert on_disk(folder).keys() == {"before", "after"}
    assert not list(folder.rglob("quarantine*")), "looking moves nothing"
    assert journal.take_over()
    assert ids(journal) == ["before", "after"]
    (aside,) = read(directory_in(folder, "here"))
    assert (aside.reason, aside.destination) == ("it cannot be read", "here")
    assert aside.report == unreadable.decode("utf-8", "replace").strip()
    assert "1 lines of" in caplog.text


def test_a_refused_report_is_set_aside_with_the_reason(
    chat: Any, tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/usage/batch", wire.Answer(422, {"detail": "no such model"}))
    result = chat()
    assert tv.flush() == 0
    (aside,) = read(tv._reporter.journal.directory)  # type: ignore[arg-type]
    assert aside.request_id == result.request_id
    assert "no such model" in aside.reason


@pytest.mark.parametrize(
    "content", [b"", b"a letter to Ada\n", HEADER.replace(b"1", b"2") + b'"here"\nnews of the future\n']
)
def test_what_is_no_journal_of_this_version_is_left_alone(folder: Path, content: bytes) -> None:
    path = leave(folder)
    path.write_bytes(content)
    journal = Journal(folder, "here")
    assert not journal.take_over()
    journal.report(report())
    assert path.read_bytes() == content
    (folder / "x").mkdir()
    strange = path.with_name(f"a folder{SUFFIX}")
    strange.mkdir()
    assert not journal.take_over()
    assert strange.exists()
    journal.close()


# They are at the place of a file, and who reads them may wait for ever or read without an end.
FOREIGN = {
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("name", ["old.jsonl", "old.new", "quarantine", "quarantine-1"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_file_makes_nobody_wait(folder: Path, kind: str, name: str) -> None:
    directory = directory_in(folder, "here")
    directory.mkdir(parents=True)
    FOREIGN[kind](directory / name)
    os.utime(directory / name, (1, 1)) if kind != "device" else None
    script = """
import resource, sys
from contextlib import suppress
from pathlib import Path
from tokvigil.journal import Journal
from tokvigil.journal_file import destination_of, files_in, is_in_use, read_reports
from tokvigil.journal_survey import survey
from tokvigil.quarantine import send_again
from tokvigil.question import Report
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
folder, path = Path(sys.argv[1]), Path(sys.argv[2])
journal = Journal(folder, "here")
assert not journal.take_over()
journal.report(Report("r1", b'{"request_id": "r1"}'))
journal.settle({"r1": "refused"})
journal.report(Report("r2", b'{"request_id": "r2"}'))
with suppress(OSError):
    send_again(path.parent)
with suppress(OSError):
    assert survey(folder, "here").pending == 1
assert path not in files_in(path.parent)
assert destination_of(path) is None and is_in_use(path)
with suppress(OSError):
    read_reports(path)
    raise SystemExit("it was read")
journal.close()
"""
    run = [sys.executable, "-c", script, str(folder), str(directory / name)]
    subprocess.run(run, check=True, timeout=20)


def test_a_report_comes_back_from_disk_as_it_was_written_and_is_the_users_own(folder: Path) -> None:
    written = Report.of(event(status="partial", latency_ms=7, metadata={"a": 1, "b": None, "c": "x\ny"}))
    umask = os.umask(0)
    try:
        journal = Journal(folder, "here")
        journal.report(written)
        (path,) = files(folder)
        modes = [each.stat().st_mode & 0o777 for each in (path, path.parent, folder)]
        journal.settle({"r1": "refused"})
        quarantine = path.with_name("quarantine").stat().st_mode & 0o777
    finally:
        os.umask(umask)
    assert modes == [0o600, 0o700, 0o700]
    assert quarantine == 0o600
    journal.report(written)
    journal.close()
    other = Journal(folder, "here")
    assert other.take_over()
    assert other.pending() == [written]


def test_a_file_is_the_users_own_from_its_first_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_with = []
    real = os.open

    def opening(path: Any, flags: int, mode: int = 0o777, **named: Any) -> int:
        opened_with.append((Path(path).parent.stat().st_mode & 0o777, mode))
        return real(path, flags, mode, **named)

    monkeypatch.setattr(os, "open", opening)
    umask = os.umask(0)
    try:
        Journal(folder, "here").report(report())
    finally:
        os.umask(umask)
    assert opened_with == [(0o700, 0o600)]


# Disks


@contextmanager
def full_disk(bytes_max: int) -> Iterator[None]:
    """No file takes more; a write that goes beyond is cut there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_once_and_costs_no_report(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.TRY_AGAIN_S", 0.0)
    journal = Journal(folder, "here")
    journal.report(report("on disk"))
    (path,) = files(folder)
    with full_disk(path.stat().st_size + 10):
        for number in range(50):
            begin(journal, str(number))
            journal.report(report(str(number)))
        assert on_disk(folder).keys() == {"on disk"}, "what was written in part is not there"
        assert path.read_bytes().endswith(b"\n")
    assert list(path.parent.iterdir()) == [path]
    assert ids(journal) == ["on disk", *map(str, range(50))]
    assert len(caplog.records) == 1
    assert "so usage is kept in memory: [Errno 28] No space left on device" in caplog.text
    assert journal.close() == 0
    assert set(on_disk(folder)) == {"on disk", *map(str, range(50))}
    assert len(files(folder)) == 1


def test_what_a_full_disk_did_not_take_is_written_once_it_takes_something(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.TRY_AGAIN_S", 0.05)
    journal = Journal(folder, "here")
    journal.report(report("on disk"))
    begin(journal, "under way")
    with full_disk(10):
        journal.report(report("in memory"))
        begin(journal, "begun in memory")
        settle(journal, "on disk")
        time.sleep(0.1)
        journal.report(report("in memory too"))
        assert "on disk" in on_disk(folder), "the old file stays while no new one can be made"
    time.sleep(0.1)
    journal.report(report("on disk again"))
    assert statuses(folder) == {
        "under way": "partial",
        "begun in memory": "partial",
        "in memory": "succeeded",
        "in memory too": "succeeded",
        "on disk again": "succeeded",
    }
    assert len(files(folder)) == 1
    journal.close()


def test_a_full_disk_costs_callers_no_time(folder: Path) -> None:
    journal = Journal(folder, "here")
    for number in range(5_000):
        journal.report(report(str(number)))
    with full_disk(1_000):
        started = time.monotonic()
        for number in range(500):
            journal.report(report(f"later {number}"))
        assert time.monotonic() - started < 0.5
    journal.close()


def test_what_was_settled_on_a_full_disk_is_not_sent_again(folder: Path) -> None:
    journal = Journal(folder, "here")
    for request_id in ("taken", "refused", "left"):
        journal.report(report(request_id))
    with full_disk(10):
        journal.settle({"taken": None, "refused": "invalid"})
        assert ids(journal) == ["left"]
    assert journal.close() == 0
    assert set(on_disk(folder)) == {"left"}


def test_a_cut_of_half_a_line_that_fails_leaves_the_rest_readable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(folder, "here")
    journal.report(report("whole"))
    (path,) = files(folder)
    with full_disk(path.stat().st_size + 10), monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        journal.report(report("half"))
    assert set(on_disk(folder)) == {"whole"}
    journal.close()
    assert set(on_disk(folder)) == {"whole", "half"}


def test_a_place_that_cannot_be_written_is_said_and_usage_stays_in_memory(
    chat: Any, control_plane: Any, tmp_path: Path, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with TokVigil(
        api_key="key", base_url=control_plane.url, max_retries=0, journal=tmp_path / "file" / "usage"
    ) as client:
        assert chat(client).text == "Hello!"
        assert client.flush() == 0
    assert caplog.text.count("so usage is kept in memory") == 1
    assert len(control_plane.charged) == 1


def as_user(user: int, work: Callable[[], bool]) -> bool:
    """What it answers in a forked child of that user; only root may become another."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            if os.geteuid() == 0:
                os.setuid(user)
            os._exit(0 if work() else 1)
        os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_folder_that_nobody_may_enter_stops_no_report(control_plane: Any) -> None:
    with tempfile.TemporaryDirectory() as locked_folder:
        Path(locked_folder).chmod(0)

        def report_all() -> bool:
            deep = Path(locked_folder) / "deep" / "journal"
            client = TokVigil(api_key="key", base_url=control_plane.url, journal=deep)
            client.report(event())
            return client.flush() == 0

        assert as_user(NOBODY, report_all)
    assert list(control_plane.charged) == ["r1"]


def test_a_folder_that_could_not_be_made_is_made_later(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.TRY_AGAIN_S", 0.05)
    folder.parent.write_text("in the way")
    journal = Journal(folder, "here")
    journal.report(report())
    assert "so usage is kept in memory" in caplog.text
    folder.parent.unlink()
    time.sleep(0.1)
    begin(journal, "r2")
    assert set(on_disk(folder)) == {"r1", "r2"}
    journal.close()


def test_without_a_folder_usage_that_was_not_sent_is_lost_at_the_close() -> None:
    journal = Journal(None, "here")
    begin(journal, "r1")
    journal.report(report())
    assert journal.close() == 1


# Files that others remove


def test_a_file_that_was_tidied_away_is_made_again_with_what_was_in_it(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.RENEW_EVERY_S", 0.0)
    first, second = Journal(folder, "here"), Journal(folder, "here")
    first.report(report("first"))
    begin(second, "under way")
    for path in files(folder):
        path.unlink()
    first.tend()
    second.tend()
    second.report(report("second"))
    assert statuses(folder) == {"first": "succeeded", "second": "succeeded", "under way": "partial"}
    assert caplog.text.count("is made again") == 2
    first.close()
    second.close()


def test_a_folder_that_was_tidied_away_is_made_again_at_the_close_at_the_latest(folder: Path) -> None:
    journal = Journal(folder, "here")
    begin(journal, "under way")
    journal.report(report("pending"))
    shutil.rmtree(folder.parent)
    journal.report(report("later"))
    assert journal.close() == 0
    assert statuses(folder) == {"under way": "partial", "pending": "succeeded", "later": "succeeded"}


def test_what_cannot_be_written_again_stays_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokvigil.journal.RENEW_EVERY_S", 0.0)
    journal = Journal(folder, "here")
    journal.report(report())
    shutil.rmtree(folder.parent)
    folder.parent.write_text("in the way")
    journal.tend()
    assert ids(journal) == ["r1"]
    assert journal.close() == 1


def test_files_in_which_nothing_is_left_go(folder: Path) -> None:
    done = leave(folder, line("final", *report()), line("done", "r1"))
    abandoned, new = (done.with_name(f"{name}{NEW_SUFFIX}") for name in ("abandoned", "new"))
    for file in (abandoned, new):
        file.touch()
    os.utime(abandoned, (time.time() - 2 * NEW_S_MAX,) * 2)
    journal = Journal(folder, "here")
    assert not journal.take_over()
    assert [file.exists() for file in (done, abandoned, new)] == [False, False, True]
    journal.report(report())
    settle(journal, "r1")
    assert journal.close() == 0
    assert files(folder) == [], "a close with nothing left removes the file"


# Where locks do not tell


def age(path: Path, seconds: float) -> Path:
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_a_file_of_another_host_is_taken_only_when_it_is_stale(folder: Path) -> None:
    path = leave(folder, line("final", *report()), host="another!")
    journal = Journal(folder, "here")
    age(path, STALE_S - 20)
    assert not journal.take_over()
    age(path, STALE_S + 1)
    assert journal.take_over()
    assert ids(journal) == ["r1"]
    assert time.time() - path.stat().st_mtime < STALE_S, "it is this process's now"


def refuse_locks(number: int) -> Callable[..., None]:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.fixture(params=["no flock", "ENOLCK", "ENOTSUP"])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no flock":
        monkeypatch.setattr(journal_file, "fcntl", None)
    else:
        monkeypatch.setattr(journal_file.fcntl, "flock", refuse_locks(getattr(errno, request.param)))


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_process_lives_as_long_as_it_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.RENEW_EVERY_S", 0.0)
    living, other, third = (Journal(folder, "here") for _ in range(3))
    living.report(report())
    (path,) = files(folder)
    age(path, STALE_S - 20)
    assert is_in_use(path)
    assert not other.take_over()
    age(path, STALE_S + 1)
    assert not living.take_over(), "nobody takes his own"
    living.tend()
    assert not other.take_over()
    age(path, STALE_S + 1)
    assert other.take_over()
    age(path, STALE_S + 1)
    other.tend()
    assert not third.take_over()
    settle(other, "r1")
    assert files(folder) == []


@pytest.mark.usefixtures("without_locks")
def test_without_locks_all_is_written_settled_and_closed_as_with_them(folder: Path) -> None:
    journal = Journal(folder, "here")
    begin(journal, "under way")
    journal.report(report("left"))
    journal.report(report("gone"))
    settle(journal, "gone")
    journal._is_behind = True
    settle(journal, "none")
    journal.report(report("anew"))
    assert statuses(folder) == {"under way": "partial", "left": "succeeded", "anew": "succeeded"}
    assert len(files(folder)) == 1
    assert journal.close() == 0


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No locks, and no open file is removed, renamed or replaced."""
    monkeypatch.setattr(journal_file, "fcntl", None)

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*paths: Any, **named: Any) -> Any:
            if set(map(str, paths)) & set(opened(Path("/")).values()):
                raise PermissionError(13, "The process cannot access the file: it is being used", *paths[:1])
            return real(*paths, **named)

        return act

    for name in ("unlink", "remove", "rename", "replace"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))


@pytest.mark.usefixtures("windows")
def test_where_open_files_cannot_be_removed_nothing_is_left_over(
    folder: Path, control_plane: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tokvigil.journal.PENDING_MAX", 3)
    age(leave(folder, line("final", *report("left"))), STALE_S + 1)
    journal = Journal(folder, "here")
    assert journal.take_over()
    for number in range(9):
        begin(journal, str(number))
        journal.report(report(str(number)))
    assert set(on_disk(folder)) == {"left", *map(str, range(9))}
    for path in files(folder):
        if path != journal._file.path:  # type: ignore[union-attr]
            age(path, STALE_S + 1)
    while journal.take_over():
        settle(journal, *ids(journal))
    settle(journal, *ids(journal))
    journal._is_behind = True
    begin(journal, "anew")
    journal.forget("anew")
    assert len(files(folder)) == 1
    assert journal.close() == 0
    assert list(directory_in(folder, "here").iterdir()) == []
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, journal=folder) as client:
        client.report(event())
    assert list(control_plane.charged) == ["r1"]
    assert list(folder.rglob("*.*")) == []
    assert caplog.records == []


# Sizes


def test_a_file_stays_small_while_calls_come_and_go(folder: Path) -> None:
    journal = Journal(folder, "here")
    begin(journal, "long")
    sizes = set()
    for number in range(6_000):
        request_id = str(number)
        begin(journal, request_id)
        if number % 2:
            journal.forget(request_id)  # a blocked call
        else:
            journal.report(report(request_id))
            settle(journal, request_id)
        sizes.add(files(folder)[0].stat().st_size if number % 100 == 0 else 0)
    assert max(sizes) < 2 * COMPACT_BYTES
    assert statuses(folder) == {"long": "partial"}
    journal.close()


@pytest.fixture
def written_anew(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was written as a new file."""
    sizes = []
    real = JournalFile.create.__func__  # type: ignore[attr-defined]

    def counting(cls: Any, directory: Path, destination: str, lines: bytes = b"", *rest: Any) -> Any:
        sizes.append(len(lines))
        return real(cls, directory, destination, lines, *rest)

    monkeypatch.setattr(JournalFile, "create", classmethod(counting))
    return sizes


def test_a_large_backlog_is_not_written_anew_again_and_again(
    folder: Path, written_anew: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.COMPACT_BYTES", 1_000)
    journal = Journal(folder, "here")
    for number in range(3_000):
        journal.report(report(str(number)))
        begin(journal, f"blocked {number}")
        journal.forget(f"blocked {number}")
    (path,) = files(folder)
    assert 1 < len(written_anew) < 15
    assert sum(written_anew) < 2 * path.stat().st_size, "each is twice as large as the one before"
    settle(journal, *ids(journal))
    for number in range(10_000):
        begin(journal, f"blocked later {number}")
        journal.forget(f"blocked later {number}")
    (path,) = files(folder)
    assert path.stat().st_size < 100_000, "once it is over the file is small again"
    journal.close()


def test_a_file_that_cannot_be_made_smaller_is_not_tried_at_each_call(
    folder: Path, written_anew: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.COMPACT_BYTES", 1_000)
    journal = Journal(folder, "here")
    begin(journal, "under way")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "no")))
        for number in range(1_000):
            journal.report(report(str(number)))
            settle(journal, str(number))
    assert len(written_anew) < 12
    assert statuses(folder) == {"under way": "partial"}, "the old one is still written"
    journal.close()


def test_what_memory_does_not_hold_stays_in_files_and_is_sent_file_by_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.PENDING_MAX", 100)
    journal = Journal(folder, "here")
    begin(journal, "under way")
    for number in range(5_050):
        assert journal.report(report(str(number))) is None
        assert len(journal) <= 100
    assert len(files(folder)) == 51
    assert max(len(read_reports(path).pending) for path in files(folder)) <= 102
    assert statuses(folder)["under way"] == "partial"
    taken = list(ids(journal))
    settle(journal, *taken)
    while journal.take_over():
        assert len(journal) <= 101
        taken += ids(journal)
        settle(journal, *ids(journal))
    assert Counter(taken) == Counter(str(number) for number in range(5_050))
    assert statuses(folder) == {"under way": "partial"}
    journal.report(report("under way"))
    settle(journal, "under way")
    journal.close()
    assert files(folder) == []


def test_in_memory_pending_usage_is_bounded_and_the_oldest_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.PENDING_MAX", 2)
    (folder.parent).write_text("in the way")
    for where in (None, folder):
        journal = Journal(where, "here")
        assert [journal.report(report(name)) for name in "abcd"] == [None, None, "a", "b"]
        assert ids(journal) == ["c", "d"]
        assert journal.close() == 2


def test_a_full_disk_with_all_places_in_memory_taken_loses_no_call_under_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.PENDING_MAX", 3)
    journal = Journal(folder, "here")
    begin(journal, "under way")
    for number in range(3):
        journal.report(report(str(number)))
    (path,) = files(folder)
    # The report still fits, and a second file; that the call goes on there does not.
    with full_disk(path.stat().st_size + len(line("final", *report("3"))) + 5):
        assert journal.report(report("3")) == "0"
    assert statuses(folder)["under way"] == "partial"
    assert len(files(folder)) == 1
    journal.report(report("under way", 1))
    abandon(journal)
    (body,) = [each for name, each in on_disk(folder).items() if name == "under way"]
    assert body == report("under way", 1).body


# One call


@pytest.mark.parametrize("is_on_disk", [True, False])
def test_of_two_reports_of_a_call_the_first_is_kept(folder: Path, is_on_disk: bool) -> None:
    journal = Journal(folder if is_on_disk else None, "here")
    begin(journal, "r1")
    journal.report(report())
    journal.report(partial())
    assert journal.pending() == [report()]
    if is_on_disk:
        assert on_disk(folder) == {"r1": report().body}
    journal.close()


@pytest.mark.parametrize("where", ["own", "taken", "memory"])
def test_a_report_may_be_replaced(folder: Path, where: str) -> None:
    journal = Journal(None if where == "memory" else folder, "here")
    if where == "taken":
        leave(folder, line("final", *report()))
        assert journal.take_over()
    else:
        journal.report(report())
    journal.replace(report(output_tokens=6))
    journal.replace(report("unknown"))
    assert journal.pending() == [report(output_tokens=6)]
    if where != "memory":
        assert on_disk(folder) == {"r1": report(output_tokens=6).body}
        settle(journal, "r1")
        assert on_disk(folder) == {}
    journal.close()


def test_an_interrupted_write_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(folder, "here")
    journal.report(report("before"))
    real = os.write

    def write_and_interrupt(*arguments: Any) -> int:
        real(*arguments)
        raise KeyboardInterrupt

    for name, write in (("nothing", interrupt), ("something", write_and_interrupt)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(KeyboardInterrupt):
                journal.report(report(name))
    begin(journal, "after")
    assert set(on_disk(folder)) == {"before", "nothing", "something", "after"}
    journal.close()


def test_a_signal_handler_may_report_in_the_middle_of_anything(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil.journal.PENDING_MAX", 300)
    monkeypatch.setattr("tokvigil.journal.COMPACT_BYTES", 10_000)
    journal = Journal(folder, "here")
    number = itertools.count()
    settled, sent_again = Counter[str](), set[str]()

    def handle(*_: object) -> None:
        request_id = f"signal {next(number)}"
        begin(journal, request_id)
        journal.report(report(request_id))

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    try:
        for own in range(2_000):
            begin(journal, str(own))
            journal.report(report(str(own)))
            before_it = set(files(folder))
            first = ids(journal)[: own % 3]
            settle(journal, *first)
            if set(files(folder)) == before_it:
                settled.update(first)
            else:
                # The handler has left a full file for later, which may have them: TokVigil will know them then.
                sent_again.update(first)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    signals = next(number)
    assert signals > 10
    assert max(settled.values()) == 1
    reported = {*map(str, range(2_000)), *(f"signal {each}" for each in range(signals))}
    expected = reported - settled.keys() - sent_again
    assert len(sent_again) < 20
    assert expected <= on_disk(folder).keys() <= expected | sent_again
    assert set(statuses(folder).values()) <= {"succeeded"}
    assert max(len(read_reports(path).pending) for path in files(folder)) < 320
    journal.close()
    other = Journal(folder, "here")
    left: Counter[str] = Counter()
    while other.take_over():
        left.update(ids(other))
        settle(other, *ids(other))
    assert expected <= left.keys() <= expected | sent_again


def test_what_a_signal_handler_reports_while_a_file_gets_full_is_still_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be sent only after this process."""
    monkeypatch.setattr("tokvigil.journal.PENDING_MAX", 3)
    journal = Journal(folder, "here")
    for number in range(3):
        journal.report(report(str(number)))
    real, signals = os.write, iter(["signal"])

    def write_and_handle(*arguments: Any) -> int:
        for request_id in signals:
            journal.report(report(request_id))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_and_handle)
        journal.report(report("3"))
    assert set(on_disk(folder)) == {"0", "1", "2", "3", "signal"}
    assert journal._file is not None
    assert dict(journal.pending()) == read_reports(journal._file.path).pending
    journal.close()


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_signal_handler_that_closes_in_the_middle_of_a_write_loses_nothing(
    folder: Path, goes_on: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(folder, "here")
    journal.report(report("before"))
    begin(journal, "under way")
    real = os.write
    lost: list[int] = []

    def write_and_close(*arguments: Any) -> int:
        if not lost:
            lost.append(-1)
            lost[0] = journal.close()
            if not goes_on:
                raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_and_close)
        with suppress(KeyboardInterrupt):
            journal.report(report("meanwhile"))
    assert lost == [0]
    assert statuses(folder) == {"before": "succeeded", "meanwhile": "succeeded", "under way": "partial"}
    assert locked(folder) == []
    assert caplog.records == []


def test_how_many_are_pending_does_not_count_what_is_settled(folder: Path) -> None:
    journal = Journal(folder, "here")
    for number in range(6):
        journal.report(report(str(number)))
    with full_disk(10):
        settle(journal, "0", "1", "2")
        assert len(journal) == 3
    assert journal.has(["2", "3"])
    assert not journal.has(["2"])
    journal.close()


# Where it is


@pytest.mark.parametrize("word", ["false", "False", "0", "off", "NO", " no "])
def test_the_variable_may_say_that_there_is_no_journal(
    word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chat: Any, control_plane: Any, wire: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("TOKVIGIL_JOURNAL", word)
    assert default_folder() is None
    before = sorted(tmp_path.rglob("*"))
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url) as client:
        chat(client)
        assert client.flush() == 0
    assert len(control_plane.charged) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "on", "Yes", "", None])
def test_the_variable_may_ask_for_the_folder_that_is_taken_anyway(
    word: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("TOKVIGIL_JOURNAL")
    if word is not None:
        monkeypatch.setenv("TOKVIGIL_JOURNAL", word)
    assert default_folder() == tmp_path / "tokvigil"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that the system does not know")
def test_without_a_home_directory_usage_is_kept_in_memory(
    control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "XDG_STATE_HOME", "TOKVIGIL_JOURNAL"):
        monkeypatch.delenv(variable, raising=False)

    def report_all() -> bool:
        client = TokVigil(api_key="key", base_url=control_plane.url)
        client.report(event())
        return client._reporter.journal.directory is None and client.flush() == 0

    assert as_user(54_321, report_all)
    assert list(control_plane.charged) == ["r1"]
