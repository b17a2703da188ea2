"""How many output tokens are expected, while the ledger answers late or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event

import pytest
from django.db import OperationalError

from usage.ledger import expected_output
from usage.ledger.expected_output import WITHOUT_HISTORY
from usage.timebox import patience

SUBJECT = (1, "chat", "test-model")
BUSY_MACHINE_S = 0.4


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int | Exception | None]:
    """What the next reads of the ledger find, or how they fail; the last goes for all after it."""
    found: list[int | Exception | None] = []

    def read(*_subject: object) -> int | None:
        answer = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(expected_output, "_read", read)
    return found


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """The ledger answers when this is set."""
    answers = Event()

    def read(*_subject: object) -> int:
        answers.wait(30)
        return 77

    monkeypatch.setattr(expected_output, "_read", read)
    yield answers
    answers.set()


def expected() -> int:
    with patience.within(1):
        return expected_output.expected_output(*SUBJECT)


def await_expected(tokens: int) -> None:
    deadline = time.monotonic() + 5
    while expected() != tokens:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_first_caller_waits_for_a_ledger_that_answers(reads: list[int | Exception | None]) -> None:
    reads.append(300)

    assert expected() == 300


def test_nobody_waits_long_for_one_that_does_not_and_who_asks_later_is_told(slow: Event) -> None:
    begun = time.monotonic()
    for _ in range(10):
        assert expected() == WITHOUT_HISTORY
    assert time.monotonic() - begun < 0.4 + BUSY_MACHINE_S

    slow.set()
    await_expected(77)


def test_who_asks_again_after_an_absence_waits_for_what_came_since(
    reads: list[int | Exception | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first calls of a burst would hold far too much, in each process."""
    reads += [None, 300]
    monkeypatch.setattr(expected_output, "ABSENCE_KEPT_S", 0.05)
    assert expected() == WITHOUT_HISTORY
    time.sleep(0.1)

    assert expected() == 300


def test_a_failure_is_remembered(reads: list[int | Exception | None]) -> None:
    reads += [OperationalError("away"), 300]

    assert [expected() for _ in range(5)] == [WITHOUT_HISTORY] * 5


def test_what_was_known_before_a_failure_is_given_meanwhile(
    reads: list[int | Exception | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads += [300, OperationalError("away"), 500]
    monkeypatch.setattr(expected_output, "KEPT_S", 0.05)
    assert expected() == 300
    monkeypatch.setattr(expected_output, "KEPT_S", 0.5)
    time.sleep(0.1)

    begun = time.monotonic()
    while time.monotonic() - begun < 0.3:
        assert expected() == 300
        time.sleep(0.01)
    await_expected(500)
