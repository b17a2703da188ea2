"""However `manage.py up` ends, nothing is left running that nobody asked for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tokvigil_site.embedded import stack
from tokvigil_site.tests.running.commands import STOP_S_MAX, Up, processes_of, servers_run, wait_until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def home(new_home: Callable[[], Path]) -> Path:
    return new_home()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_of_it_in_time(home: Path, number: signal.Signals) -> None:
    up = Up(home)
    assert len(processes_of(home)) >= 3, "up, web server, worker"
    assert up.end(number) < STOP_S_MAX
    assert up.process.returncode == 0, up.output
    assert up.output.endswith("Stopping\n")
    assert processes_of(home) == {}
    assert not servers_run(home)


def test_killed_it_leaves_only_its_servers_which_the_next_one_takes_over(home: Path) -> None:
    killed = Up(home)
    killed.end(signal.SIGKILL)
    assert wait_until(lambda: not processes_of(home), STOP_S_MAX), processes_of(home)
    assert servers_run(home)
    before = stack.status(home)

    following = Up(home)
    assert stack.status(home) == before
    assert following.key == killed.key
    assert following.get("/readyz").status == 200
    following.end()
    assert not servers_run(home)


def test_servers_that_somebody_else_started_are_left_running(home: Path) -> None:
    stack.start(home)
    Up(home).end()
    assert servers_run(home)


def test_a_web_process_that_is_killed_is_started_again(home: Path) -> None:
    up = Up(home)
    granian = {pid for pid, command in processes_of(home).items() if "granian" in command}
    killed = max(granian)
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 2 * STOP_S_MAX
    while not _answers(up):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    now = {pid for pid, command in processes_of(home).items() if "granian" in command}
    assert killed not in now
    assert len(now) == len(granian)
    up.end()


def _answers(up: Up) -> bool:
    try:
        return bool(up.get("/readyz").status == 200)
    except OSError:
        return False
