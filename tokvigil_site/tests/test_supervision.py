"""When what ended is started again, and when that is given up. Real processes; only the time is made up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokvigil_site.children import Child
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.supervision import BACK_OFF_S, STEADY_S, GaveUp, Supervision

END_S_MAX = 10.0
MUCH_LATER_S = 10 * STEADY_S


class Looks:
    """A supervision of one thing, and what it said."""

    def __init__(self, supervised: object) -> None:
        self.said: list[str] = []
        self._supervision = Supervision([supervised], self.said.append)  # type: ignore[list-item]
        self._begun_s = time.monotonic()

    def at(self, seconds: float) -> None:
        """A look so long after the beginning."""
        self._supervision.look(self._begun_s + seconds)


@pytest.fixture
def ending(tmp_path: Path) -> Iterator[Callable[[], Child]]:
    """Makes children that end at once, whenever they are started."""
    children: list[Child] = []

    def make() -> Child:
        children.append(Child(name="thing", module=("no_such_module",), log=tmp_path / "thing.log"))
        children[-1].start()
        await_end(children[-1])
        return children[-1]

    yield make
    for child in children:
        child.kill()


def await_end(child: Child) -> None:
    deadline = time.monotonic() + END_S_MAX
    while child.status() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_runs_is_left_alone(tmp_path: Path) -> None:
    child = Child(
        name="thing", module=("timeit", "-n", "1", "import time; time.sleep(60)"), log=tmp_path / "log"
    )
    child.start()
    looks = Looks(child)
    looks.at(0)
    assert child.status() is None
    assert looks.said == []
    child.kill()


def test_each_start_in_a_row_waits_longer_and_the_last_one_is_the_last(ending: Callable[[], Child]) -> None:
    child = ending()
    looks = Looks(child)
    now_s = 0.0
    for number, pause_s in enumerate(BACK_OFF_S, start=1):
        looks.at(now_s)
        assert len(looks.said) == number
        if pause_s:
            looks.at(now_s + pause_s - 0.01)
            assert child.status() is not None, "it was started too early"
            now_s += pause_s
            looks.at(now_s)
        await_end(child)
    with pytest.raises(GaveUp) as gave_up:
        looks.at(now_s)
    assert str(gave_up.value) == (
        f"Thing ended by itself (status 1), and 8 starts in a row did not help. {child.log} says why."
    )
    assert child.log.read_text().count("No module named no_such_module") == 1 + len(BACK_OFF_S)


def test_what_ran_for_a_while_begins_a_new_row(ending: Callable[[], Child]) -> None:
    child = ending()
    looks = Looks(child)
    for time_around in range(2 * len(BACK_OFF_S)):
        looks.at((1 + time_around) * MUCH_LATER_S)
        await_end(child)
    assert all("started again now" in line for line in looks.said)


def test_one_line_says_what_happened_and_where_the_log_is(ending: Callable[[], Child]) -> None:
    child = ending()
    looks = Looks(child)
    looks.at(0)
    (line,) = looks.said
    told = f"Thing ended by itself (status 1); it is started again now. Its log is {child.log}"
    assert line.partition(" ")[2] == told


def test_a_start_that_fails_is_said_and_tried_again() -> None:
    class Unstartable:
        name = "server"
        log = Path("/nowhere/server.log")

        def ended(self) -> str | None:
            return "is gone"

        def start(self) -> None:
            raise StackError("the port is taken\nand more")

    looks = Looks(Unstartable())
    looks.at(0)
    looks.at(0)
    assert [line.partition(" ")[2] for line in looks.said] == [
        "Server is gone; it is started again now. Its log is /nowhere/server.log",
        "Server could not be started: the port is taken",
        "Server is gone; it is started again in 1 s. Its log is /nowhere/server.log",
    ]


def test_it_goes_on_when_nobody_reads_what_it_says(ending: Callable[[], Child]) -> None:
    def closed(_line: str) -> None:
        raise BrokenPipeError

    child = ending()
    Supervision([child], closed).look(time.monotonic())
    await_end(child)
    assert child.log.read_text().count("No module named no_such_module") == 2
