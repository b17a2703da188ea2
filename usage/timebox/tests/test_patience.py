from __future__ import annotations

import threading
import time

import pytest

from usage.timebox import patience
from usage.timebox.gate import Full, Gate


def left() -> float:
    found = patience.left_s()
    assert found is not None
    return found


def test_without_a_block_there_is_no_limit() -> None:
    assert (patience.left_s(), patience.given_s()) == (None, None)


def test_of_nested_blocks_the_shorter_holds() -> None:
    with patience.within(10):
        with patience.within(1):
            assert left() <= 1
        with patience.within(100):
            assert 9 < left() <= 10
            assert patience.given_s() == 10
        with patience.within_share(0.5):
            assert 4 < left() <= 5
    assert patience.left_s() is None


def test_time_that_is_over_is_not_negative() -> None:
    with patience.within(0.01):
        time.sleep(0.02)
        assert patience.left_s() == 0


def test_a_block_is_of_its_thread_alone() -> None:
    seen: list[float | None] = []
    with patience.within(1):
        thread = threading.Thread(target=lambda: seen.append(patience.left_s()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_place_is_taken_by_the_first_wait_and_left_at_the_end() -> None:
    gate = Gate(1, wait_s=0)
    with patience.within(1, gate):
        gate.enter()
        gate.leave()
        patience.begin_to_wait()
        with patience.within(0.5):
            patience.begin_to_wait()
        with pytest.raises(Full):
            gate.enter()
    gate.enter()


def test_who_got_no_place_leaves_none() -> None:
    gate = Gate(1, wait_s=0)
    gate.enter()
    with patience.within(1, gate), pytest.raises(Full):
        patience.begin_to_wait()
    gate.leave()
    gate.enter()
    with pytest.raises(Full):
        gate.enter()
