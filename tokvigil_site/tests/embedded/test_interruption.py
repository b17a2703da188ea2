"""Starts that run at the same time, and starts that are killed half-way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokvigil_site.embedded import placement, process, stack
from tokvigil_site.tests.embedded.servers import query

# A start of both takes about 0.3 s.
INTERRUPTED_STARTS = 16
INTERRUPTION_STEP_S = 0.025


@pytest.fixture(scope="module")
def own_home(open_folder: Path) -> Iterator[Path]:
    yield open_folder / "own"
    stack.delete(open_folder / "own")


@pytest.fixture
def new_home(open_folder: Path) -> Iterator[Path]:
    yield open_folder / "new"
    stack.delete(open_folder / "new")


def test_concurrent_starts_give_one_stack_per_home(own_home: Path, open_folder: Path) -> None:
    other_home = open_folder / "other"
    starters = [_starting(home) for home in (own_home, other_home, own_home, other_home)]
    answers = [starter.communicate()[0] for starter in starters]
    try:
        assert answers[0].startswith("DATABASE_URL=postgresql://")
        assert answers[0] == answers[2]
        assert answers[1] == answers[3]
        assert answers[0] != answers[1]
        assert None not in _pids(own_home) + _pids(other_home)
        assert len({*_pids(own_home), *_pids(other_home)}) == 4
    finally:
        stack.delete(other_home)


def test_starts_killed_at_any_time_leave_nothing_broken(new_home: Path) -> None:
    _kill_a_start(new_home, when=_after(0.2))
    _kill_a_start(new_home, when=lambda: any(new_home.glob("postgres.new-*/PG_VERSION")))
    assert not (new_home / "postgres").exists()
    _kill_a_start(new_home, when=_after(0.7))
    _kill_a_start(new_home, when=(new_home / "postgres" / "postmaster.pid").exists)
    assert query(stack.start(new_home).database_url, "SELECT 1") == 1
    stack.start(new_home)
    assert not any(new_home.glob("postgres.new-*"))


def test_the_servers_outlive_a_killed_starter_and_are_reused(own_home: Path) -> None:
    script = "import sys, time, pathlib\nfrom tokvigil_site.embedded import stack\n"
    script += "stack.start(pathlib.Path(sys.argv[1]))\nprint('up', flush=True)\ntime.sleep(60)"
    starter = subprocess.Popen(
        [sys.executable, "-c", script, own_home],
        cwd=placement.CHECKOUT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    left_running = _pids(own_home)
    assert None not in left_running
    stack.start(own_home)
    assert _pids(own_home) == left_running


def test_a_killed_owner_gives_up_its_claim(own_home: Path) -> None:
    script = "import sys, time, pathlib\nfrom tokvigil_site.embedded import stack\n"
    script += "with stack.claimed(pathlib.Path(sys.argv[1])):\n print('mine', flush=True)\n time.sleep(60)"
    owner = subprocess.Popen(
        [sys.executable, "-c", script, own_home], cwd=placement.CHECKOUT, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"mine\n"
    with pytest.raises(BlockingIOError), stack.claimed(own_home):
        pass
    owner.kill()
    owner.wait()
    owner.stdout.close()
    with stack.claimed(own_home):
        pass


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
def test_an_interrupted_start_is_stopped_whenever_the_interruption_comes(own_home: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from tokvigil_site import interruptions\n"
        "from tokvigil_site.embedded import stack\n"
        "home = pathlib.Path(sys.argv[1])\n"
        "interruptions.raise_as_ctrl_c()\n"
        "print('starting', flush=True)\n"
        "try:\n"
        "    stack.start(home, durable=False)\n"
        "except KeyboardInterrupt:\n"
        "    pass\n"
        "finally:\n"
        "    interruptions.ignore()\n"
        "    stack.stop(home)\n"
    )
    stack.start(own_home)
    data = Path(stack.servers(own_home)[0].log).parent
    stack.stop(own_home)
    for step in range(INTERRUPTED_STARTS):
        starter = subprocess.Popen(
            [sys.executable, "-c", script, own_home], cwd=placement.CHECKOUT, stdout=subprocess.PIPE
        )
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"starting\n"
        time.sleep(step * INTERRUPTION_STEP_S)
        starter.send_signal(signal.SIGINT)
        assert starter.wait(20) == 0
        starter.stdout.close()
        assert _processes_in(data) == [], f"interrupted after {step * INTERRUPTION_STEP_S:.2f} s"


def _processes_in(data: Path) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{data}/" in line:
            found.append(line)
    return found


def _starting(home: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tokvigil_site.embedded", "start", "--home", str(home)]
    return subprocess.Popen(command, cwd=placement.CHECKOUT, stdout=subprocess.PIPE, text=True)


def _kill_a_start(home: Path, *, when: Callable[[], bool]) -> None:
    starter = _starting(home)
    assert process.wait_until(when, timeout_s=20)
    starter.kill()
    starter.communicate()


def _after(seconds: float) -> Callable[[], bool]:
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() > moment


def _pids(home: Path) -> tuple[int | None, int | None]:
    now = stack.status(home)
    return now.postgres_pid, now.valkey_pid
