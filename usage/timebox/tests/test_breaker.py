from __future__ import annotations

import threading
import time

import pytest

from usage.timebox.breaker import Breaker


class Away(Exception):
    pass


def opened(open_s: float = 0.1) -> Breaker:
    breaker = Breaker("the server", Away, open_s=open_s, failures_to_open=3)
    for _ in range(3):
        breaker.failed("no answer")
    return breaker


def in_another_thread(breaker: Breaker) -> list[object]:
    found: list[object] = []

    def admit() -> None:
        try:
            found.append(breaker.admit())
        except Away:
            found.append("away")

    thread = threading.Thread(target=admit)
    thread.start()
    thread.join()
    return found


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker("the server", Away, failures_to_open=3)
    for _ in range(5):
        breaker.failed("slow")
        breaker.failed("slow")
        breaker.succeeded()
    assert not breaker.is_open
    assert breaker.admit() is False

    assert opened().is_open
    with pytest.raises(Away, match="the server was away a moment ago"):
        opened().admit()


def test_one_probe_at_a_time_and_its_success_closes_it() -> None:
    breaker = opened()
    time.sleep(0.15)

    assert breaker.admit() is True
    assert in_another_thread(breaker) == ["away"]
    assert breaker.admit() is False
    breaker.succeeded()

    assert not breaker.is_open
    assert in_another_thread(breaker) == [False]


def test_a_probe_that_fails_leaves_it_open() -> None:
    breaker = opened()
    time.sleep(0.15)
    assert breaker.admit() is True
    breaker.failed("still away")

    with pytest.raises(Away):
        breaker.admit()


def test_the_success_of_a_call_from_before_does_not_close_it() -> None:
    breaker = opened()
    breaker.succeeded()

    assert breaker.is_open
