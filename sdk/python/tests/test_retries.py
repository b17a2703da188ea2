from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from tokvigil.retries import DELAY_S_MAX, RETRY_AFTER_S_MAX, WAIT_S_MAX, RetryPolicy, parse_retry_after

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_delays_grow_stay_bounded_and_end() -> None:
    policy = RetryPolicy(retries_max=10)
    for attempt in range(10):
        delays = [policy.delay_s(attempt) for _ in range(50)]
        ceiling = min(DELAY_S_MAX, 0.2 * 2**attempt)
        assert all(delay is not None and ceiling / 2 <= delay <= ceiling for delay in delays)
        assert len(set(delays)) > 1  # jitter
    assert policy.delay_s(10) is None


def test_the_servers_wish_is_a_lower_bound() -> None:
    policy = RetryPolicy(retries_max=2)
    assert policy.delay_s(0, 3.0) == 3.0
    assert policy.delay_s(0, RETRY_AFTER_S_MAX + 0.1) is None


def test_the_applications_random_numbers_stay_what_they_are() -> None:
    before = random.getstate()
    RetryPolicy(retries_max=2).delay_s(1)
    assert random.getstate() == before


def test_no_retries_means_one_attempt() -> None:
    assert RetryPolicy(retries_max=0).delay_s(0) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        ("1.5", 1.5),
        ("-4", 0.0),
        ("nan", None),
        ("inf", WAIT_S_MAX),
        ("-inf", 0.0),
        ("9" * 400, WAIT_S_MAX),
        ("Fri, 31 Dec 9999 23:59:59 GMT", WAIT_S_MAX),
        ("soon", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds
