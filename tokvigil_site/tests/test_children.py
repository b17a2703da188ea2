"""Child processes: how they are awaited and ended, whatever they do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokvigil_site import interruptions
from tokvigil_site.children import Child, ChildError, stop_all

ROOT = Path(__file__).resolve().parents[2]
# A child that leaves a process behind in its session, tells its number, and then does as it is told.
SCRIPT = """
import os, signal, subprocess, sys, time
left = subprocess.Popen(["sleep", "60"])
{first}
print(left.pid, flush=True)
{then}
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Makes children that run Python code; gone afterwards."""
    made: list[Child] = []

    def make(*, first: str = "", then: str = "time.sleep(60)") -> Child:
        number = len(made)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"child_{number}.py").write_text(SCRIPT.format(first=first, then=then))
        variables = {"PYTHONPATH": str(folder)}
        made.append(Child(name="thing", module=(f"child_{number}",), log=folder / "log", variables=variables))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.kill()


def left_behind(child: Child) -> int:
    child.await_ready(lambda: child.log.read_text().endswith("\n"), within_s=10)
    return int(child.log.read_text())


def is_gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_one_that_ends_before_it_is_ready_is_named_with_the_end_of_its_log(
    child: Callable[..., Child],
) -> None:
    thing = child(then="sys.exit('the port is taken')")
    with pytest.raises(ChildError, match=r"(?s)The thing ended by itself \(status 1\).*the port is taken"):
        thing.await_ready(lambda: False, within_s=10)


def test_one_that_is_never_ready_is_named_too(child: Callable[..., Child]) -> None:
    with pytest.raises(ChildError, match="The thing was not ready within 0 s"):
        child().await_ready(lambda: False, within_s=0.1)


@pytest.mark.parametrize("first", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_stopped_it_leaves_nothing_also_if_it_would_not_end(child: Callable[..., Child], first: str) -> None:
    thing = child(first=first)
    pid = left_behind(thing)
    thing.stop(within_s=0.5)
    assert thing.status() == -(signal.SIGKILL if first else signal.SIGTERM)
    assert is_gone(pid)


def test_several_that_would_not_end_are_stopped_in_the_time_of_one(child: Callable[..., Child]) -> None:
    things = [child(first="signal.signal(signal.SIGTERM, signal.SIG_IGN)") for _ in range(3)]
    for thing in things:
        left_behind(thing)
    begun = time.monotonic()
    stop_all(things, within_s=1)
    assert time.monotonic() - begun < 2


def test_what_one_that_died_left_behind_ends_with_it(child: Callable[..., Child]) -> None:
    """Else an old web process would keep the port, and an old worker take tasks."""
    thing = child(then="os.kill(os.getpid(), signal.SIGKILL)")
    pid = left_behind(thing)
    deadline = time.monotonic() + 10
    while thing.status() is None:
        assert time.monotonic() < deadline
    assert thing.status() == -signal.SIGKILL
    assert is_gone(pid)


def test_started_again_it_goes_on_in_the_same_log(child: Callable[..., Child]) -> None:
    thing = child()
    first = left_behind(thing)
    thing.stop(within_s=5)
    thing.start()
    thing.await_ready(lambda: thing.log.read_text().count("\n") == 2, within_s=10)
    assert thing.log.read_text().startswith(f"{first}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_while_it_is_held_back(number: signal.Signals) -> None:
    code = (
        "import os, sys\n"
        "from tokvigil_site import interruptions\n"
        "interruptions.raise_as_ctrl_c()\n"
        "try:\n"
        "    with interruptions.held_back():\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        print('not yet')\n"
        "    print('never')\n"
        "except KeyboardInterrupt:\n"
        "    print('now')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("not yet\nnow\n", "")


def test_without_an_interruption_all_is_as_before() -> None:
    before = [signal.getsignal(number) for number in interruptions.INTERRUPTIONS]
    with interruptions.held_back():
        assert [signal.getsignal(number) for number in interruptions.INTERRUPTIONS] != before
    assert [signal.getsignal(number) for number in interruptions.INTERRUPTIONS] == before
