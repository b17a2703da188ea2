from __future__ import annotations

import threading
import time

import pytest

from usage.timebox.gate import Full, Gate


def test_so_many_are_inside_at_once_and_the_next_waits_for_one_to_leave() -> None:
    gate = Gate(2, wait_s=5)
    gate.enter()
    gate.enter()
    threading.Timer(0.1, gate.leave).start()

    begun = time.monotonic()
    gate.enter()

    assert 0.05 < time.monotonic() - begun < 2


def test_who_finds_nobody_leaving_is_refused_and_those_after_it_at_once_until_one_leaves() -> None:
    gate = Gate(1, wait_s=0.2)
    gate.enter()
    with pytest.raises(Full):
        gate.enter()

    begun = time.monotonic()
    for _ in range(10):
        with pytest.raises(Full):
            gate.enter()
    assert time.monotonic() - begun < 0.2

    gate.leave()
    gate.enter()
    threading.Timer(0.05, gate.leave).start()
    gate.enter()


def test_who_has_no_time_to_wait_keeps_out_nobody_else() -> None:
    gate = Gate(1, wait_s=5)
    gate.enter()
    with pytest.raises(Full):
        gate.enter(within_s=0)

    threading.Timer(0.05, gate.leave).start()
    gate.enter()
