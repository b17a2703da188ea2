from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from threading import Event

import pytest

from usage.timebox import patience
from usage.timebox.background import Background, TooSlow
from usage.timebox.gate import Gate


@pytest.fixture
def held() -> Iterator[Event]:
    """What the work of a test waits for; set at its end."""
    event = Event()
    yield event
    event.set()


def background(threads: int = 4, of_group: int = 2, waiting_max: int = 100) -> Background:
    return Background("test", threads=threads, threads_per_group=of_group, waiting_max=waiting_max)


def test_it_returns_what_the_work_returns_and_raises_what_it_raises() -> None:
    pool = background()

    assert pool.start("a", 1, lambda: 7).result() == 7
    with pytest.raises(ZeroDivisionError):
        pool.start("a", 2, lambda: 1 // 0).result()


def test_work_goes_on_when_its_caller_can_wait_no_longer(held: Event) -> None:
    pool, done = background(), Event()

    def work() -> None:
        held.wait()
        done.set()

    begun = time.monotonic()
    with patience.within(0.1), pytest.raises(TooSlow):
        pool.start("a", 1, work).result()
    assert time.monotonic() - begun < 1
    held.set()

    assert done.wait(5)


def test_many_who_ask_for_the_same_get_one_job(held: Event) -> None:
    pool = background()
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        held.wait()
        return len(calls)

    jobs = [pool.start("a", "the same", work) for _ in range(10)]
    held.set()

    assert [job.result() for job in jobs] == [1] * 10


def test_who_comes_late_to_work_that_takes_long_does_not_wait_for_it(held: Event) -> None:
    pool = background()
    pool.start("a", 1, held.wait)
    time.sleep(0.3)

    begun = time.monotonic()
    with patience.within(0.2), pytest.raises(TooSlow):
        pool.start("a", 1, held.wait).result()

    assert time.monotonic() - begun < 0.1


def test_who_waits_for_a_place_waits_so_much_less_for_the_work(held: Event) -> None:
    pool, work_gate = background(), Gate(places=1, wait_s=5)
    work_gate.enter()
    threading.Timer(0.6, work_gate.leave).start()

    begun = time.monotonic()
    with patience.within(0.8, Gate(places=1, wait_s=5), work_gate), pytest.raises(TooSlow):
        pool.start("a", 1, held.wait).result()

    assert 0.6 < time.monotonic() - begun < 1.2


def test_one_group_does_not_take_all_threads(held: Event) -> None:
    pool = background(threads=4, of_group=2)
    for number in range(20):
        pool.start("large", number, held.wait)

    assert pool.start("small", "other", lambda: "done").done.result(5) == "done"


def test_groups_take_turns(held: Event) -> None:
    pool = background(threads=1, of_group=1)
    order: list[str] = []
    pool.start("first", 0, held.wait)
    last = [pool.start("large", number, lambda: order.append("large")) for number in range(1, 4)][-1]
    pool.start("small", 9, lambda: order.append("small"))
    held.set()
    last.done.result(5)

    assert order.index("small") <= 1


def test_what_a_group_could_not_begin_is_begun_when_it_may(held: Event) -> None:
    pool = background(threads=4, of_group=1)
    jobs = [pool.start("a", number, held.wait) for number in range(5)]
    held.set()

    assert [job.done.result(5) for job in jobs] == [True] * 5


def test_nothing_stays_when_all_is_done() -> None:
    pool = Background("ends", threads=4, threads_per_group=2, waiting_max=100)
    for number in range(20):
        pool.start(number, number, int)

    deadline = time.monotonic() + 5
    while [each for each in threading.enumerate() if each.name == "ends"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_too_much_work_is_refused(held: Event) -> None:
    pool = background(waiting_max=2)
    pool.start("a", 1, held.wait)
    pool.start("b", 2, held.wait)

    with pytest.raises(TooSlow):
        pool.start("c", 3, held.wait)
