"""Threads that come while the work is being done have it done together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from usage.timebox import patience
from usage.timebox.background import TooSlow
from usage.timebox.gate import Gate
from usage.timebox.together import Together

WAIT_S = 10.0


class Work:
    """Doubles numbers; the first item of a group is done when `go` is set. Refuses what is negative."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.rounds.append(list(items))
        self.begun.set()
        if len(self.rounds) == 1:
            assert self.go.wait(WAIT_S)
        if min(items) < 0:
            raise ValueError(f"negative among {len(items)}")
        return [2 * item for item in items]


def together(work: Work, most: int = 3, **how: Any) -> Together[int, int]:
    return Together(
        work, **{"group": lambda item: abs(item) // 100, "name": lambda item: item, "most": most, **how}
    )


def waiting(shared: Together[int, int]) -> int:
    return sum(map(len, shared._waiting.values()))


class Callers:
    """Each on a thread of its own, one after the other; the first is under way when the others come."""

    def __init__(self, shared: Together[int, int], work: Work, items: Sequence[int]) -> None:
        self.pool = ThreadPoolExecutor(len(items))
        self.answers: list[Future[int]] = []
        for come, item in enumerate(items):
            self.answers.append(self.pool.submit(shared.do, item))
            assert work.begun.wait(WAIT_S)
            while waiting(shared) < come:
                assert not self.answers[-1].done()
        work.go.set()
        self.pool.shutdown()

    def results(self) -> list[int]:
        return [answer.result() for answer in self.answers]


def test_one_alone_is_done_at_once() -> None:
    work = Work()
    work.go.set()
    shared = together(work)
    assert [shared.do(1), shared.do(2)] == [2, 4]
    assert work.rounds == [[1], [2]]
    assert not shared._waiting


def test_those_who_come_meanwhile_are_done_together_at_most_so_many_at_once() -> None:
    work = Work()
    shared = together(work, most=3)
    callers = Callers(shared, work, [1, 2, 3, 4, 5])
    assert callers.results() == [2, 4, 6, 8, 10]
    assert work.rounds == [[1], [2, 3, 4], [5]]
    assert not shared._waiting


def test_two_of_one_name_are_not_done_in_one_go() -> None:
    work = Work()
    callers = Callers(together(work), work, [1, 2, 2, 3])
    assert callers.results() == [2, 4, 4, 6]
    assert work.rounds == [[1], [2, 3], [2]]


def test_what_is_raised_for_several_meets_only_those_for_whom_it_is_raised_alone() -> None:
    work = Work()
    callers = Callers(together(work), work, [1, 2, -3, 4])
    assert [answer.result() for n, answer in enumerate(callers.answers) if n != 2] == [2, 4, 8]
    with pytest.raises(ValueError, match="negative among 1"):
        callers.answers[2].result()
    assert work.rounds[:2] == [[1], [2, -3, 4]]
    assert sorted(work.rounds[2:]) == [[-3], [2], [4]]


def test_one_who_dies_hands_over() -> None:
    work = Work()

    def dies(items: Sequence[int]) -> list[int]:
        answers = work(items)
        if 2 in items:
            raise SystemExit
        return answers

    shared = together(work)
    shared._work = dies
    callers = Callers(shared, work, [1, 2, 3])
    assert callers.answers[0].result() == 2
    with pytest.raises(SystemExit):
        callers.answers[1].result()
    assert callers.answers[2].result() == 6
    assert not shared._waiting


def test_groups_do_not_wait_for_each_other() -> None:
    work = Work()
    shared = together(work)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(shared.do, 1)
        assert work.begun.wait(WAIT_S)
        assert shared.do(100) == 200
        work.go.set()
        assert slow.result() == 2


def test_those_who_wait_take_a_place_at_the_gate() -> None:
    work = Work()
    shared, gate = together(work), Gate(1, wait_s=0)

    def first() -> int:
        with patience.within(WAIT_S, gate):
            return shared.do(1)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(first)
        assert work.begun.wait(WAIT_S)
        with patience.within(WAIT_S, gate), pytest.raises(TooSlow):
            shared.do(2)
        work.go.set()
        assert answer.result() == 2
    assert work.rounds == [[1]]
