"""Blocked calls that are alike and shortly after each other are one row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from policies.blocked.bursts import grouped
from policies.models import BlockedDecision

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def call(number: int, seconds_ago: int, **fields: Any) -> BlockedDecision:
    of = {"user_id": "ana", "feature": "chat", "model": "m", "reason_code": "USER_BLOCKED", **fields}
    return BlockedDecision(pk=number, decided_at=NOON - timedelta(seconds=seconds_ago), **of)


def ids(decisions: list[BlockedDecision], most: int = 50) -> list[list[int]]:
    return [[each.pk for each in burst.decisions] for burst in grouped(decisions, most)]


def test_equal_calls_within_a_minute_of_the_one_before_are_one_burst() -> None:
    assert ids([call(5, 0), call(4, 60), call(3, 120), call(2, 181), call(1, 182)]) == [[5, 4, 3], [2, 1]]


def test_calls_of_others_in_between_do_not_part_it() -> None:
    assert ids([call(4, 0), call(3, 1, user_id="ben"), call(2, 2), call(1, 3, user_id="ben")]) == [
        [4, 2],
        [3, 1],
    ]


def test_what_differs_is_another_row() -> None:
    others = [
        {"user_id": "ben"},
        {"feature": "code"},
        {"model": "n"},
        {"reason_code": "NO_POLICY"},
        {"policy_id": "6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f"},
    ]
    calls = [call(9, 0), *(call(number, 1, **fields) for number, fields in enumerate(others))]
    assert [len(burst) for burst in ids(calls)] == [1] * 6


def test_calls_are_taken_until_there_would_be_too_many_rows() -> None:
    calls = [call(5, 0), call(4, 1, user_id="ben"), call(3, 2), call(2, 3, user_id="cy"), call(1, 4)]
    assert ids(calls, most=2) == [[5, 3], [4]]
