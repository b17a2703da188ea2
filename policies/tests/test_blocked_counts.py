"""Blocked calls counted by quarter hour: always as many as a plain count of the rows, whatever is asked."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from policies.blocked import counts, decision_log
from policies.blocked.counts import Question
from policies.models import BlockedDecision
from tenants.models import Environment
from usage.instants import from_ms
from usage.ledger.buckets import Range
from usage.ledger.periods import Period
from usage.windows import Window

pytestmark = pytest.mark.django_db(transaction=True)

BERLIN = ZoneInfo("Europe/Berlin")
# The clocks are set back on 25 October, and the month ends a week later.
START, END = datetime(2026, 10, 24, tzinfo=BERLIN), datetime(2026, 11, 3, tzinfo=BERLIN)
POLICY = UUID("6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f")
ROWS = 400


def decision(environment: Environment, number: int, at: datetime, **fields: Any) -> BlockedDecision:
    given = {
        "request_id": f"r-{number}", "user_id": "ana", "feature": "chat", "plan": "free", "run_id": "",
        "model": "gpt", "reason_code": "USER_BLOCKED", "policy_id": None, **fields,
    }  # fmt: skip
    return BlockedDecision(
        environment=environment, stream_id=f"{number}-0", decided_at=at, reason_class="forbidden", message="",
        policy_name="", limit_state=[], **given,
    )  # fmt: skip


@pytest.fixture
def decisions(environment: Environment, other_environment: Environment) -> list[BlockedDecision]:
    chosen = random.Random(11)
    seconds = int((END - START).total_seconds())
    rows = [
        decision(
            environment,
            number,
            START.astimezone(UTC) + timedelta(seconds=chosen.randrange(seconds), milliseconds=number),
            user_id=chosen.choice(["ana", "bob", "cy"]),
            feature=chosen.choice(["chat", "", "summary"]),
            plan=chosen.choice(["free", ""]),
            run_id=chosen.choice(["", "run-1"]),
            model=chosen.choice(["gpt", "opus"]),
            reason_code=chosen.choice(["USER_BLOCKED", "MODEL_DENIED"]),
            policy_id=chosen.choice([None, POLICY]),
        )
        for number in range(ROWS)
    ]
    strangers = [decision(other_environment, ROWS + number, START) for number in range(5)]
    decision_log.ensure(row.decided_at for row in [*rows, *strangers])
    # As the worker stores them: some entries twice, and many batches.
    for first in range(0, ROWS, 37):
        BlockedDecision.objects.bulk_create(rows[first : first + 50], ignore_conflicts=True)
    BlockedDecision.objects.bulk_create(strangers)
    assert BlockedDecision.objects.filter(environment=environment).count() == ROWS
    return rows


def plain(environment: Environment, period: Range, column: str, filters: dict[str, str]) -> dict[Any, int]:
    names = {"policy": "coalesce(policy_id::text, '')"}
    where = "".join(f" AND {names.get(name, name)} = %s" for name in filters)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {names.get(column, column)}, count(*) FROM blocked_decision WHERE environment_id = %s"  # noqa: S608 (our own names)
            f" AND decided_at >= %s AND decided_at < %s {where} GROUP BY 1",
            [environment.pk, period.start, period.end, *filters.values()],
        )
        return dict(cursor.fetchall())


PERIODS = [
    Range(START, END),
    Range(datetime(2026, 10, 25, tzinfo=BERLIN), datetime(2026, 10, 26, tzinfo=BERLIN)),
    Range(datetime(2026, 10, 1, tzinfo=BERLIN), datetime(2026, 11, 1, tzinfo=BERLIN)),
    Range(datetime(2026, 10, 25, 1, 7, 3, tzinfo=UTC), datetime(2026, 11, 1, 0, 0, 0, 1, tzinfo=UTC)),
    Range(datetime(2026, 10, 25, 1, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, 9, tzinfo=UTC)),
]
FILTERS: list[dict[str, str]] = [
    {},
    {"user_id": "ana"},
    {"feature": ""},
    {"reason_code": "MODEL_DENIED", "model": "opus"},
    {"policy": str(POLICY)},
    {"policy": ""},
    {"run_id": "run-1", "user_id": "bob"},
]


@pytest.mark.parametrize("period", PERIODS, ids=lambda period: f"{period.start:%d %H:%M}")
def test_counts_are_those_of_the_rows(
    environment: Environment, decisions: list[BlockedDecision], period: Range
) -> None:
    for filters in FILTERS:
        question = Question(environment.pk, period, filters)
        for column in ("user_id", "feature", "model", "policy", "reason_code"):
            expected = plain(environment, period, column, filters)
            assert dict(counts.most(question, column, 100)) == expected, (column, filters)
            assert dict(counts.all_of(question, column)) == expected


def test_each_day_of_the_zone_has_its_own_also_when_the_clocks_are_set_back(
    environment: Environment, decisions: list[BlockedDecision]
) -> None:
    period = Range(START, END)
    spans = Period(START, END).spans(Window.DAY, BERLIN)
    bounds = [from_ms(span.start) for span in spans]
    assert len(bounds) == 10

    found = counts.over_time(Question(environment.pk, period), bounds)

    expected: dict[tuple[int, str], int] = {}
    for row in decisions:
        day = (row.decided_at.astimezone(BERLIN).date() - START.date()).days
        expected[day, row.reason_code] = expected.get((day, row.reason_code), 0) + 1
    assert {(day, reason): calls for day, reason, calls in found} == expected


def test_what_leaves_with_its_month_is_counted_no_more(
    environment: Environment, decisions: list[BlockedDecision], settings: Any
) -> None:
    settings.BLOCKED_DECISIONS_KEPT_DAYS = 1
    question = Question(environment.pk, Range(START, END))
    assert decision_log.keep_up(datetime(2026, 11, 20, tzinfo=UTC))
    left = plain(environment, Range(START, END), "model", {})
    assert 0 < sum(left.values()) < ROWS
    assert dict(counts.most(question, "model", 10)) == left


def test_the_newest_are_looked_up_for_whether_they_passed(
    environment: Environment, decisions: list[BlockedDecision], monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = sorted(decisions, key=lambda row: row.decided_at)[-1]
    monkeypatch.setattr(counts, "recorded", lambda environment_id, ids: {newest.request_id} & set(ids))
    monkeypatch.setattr(counts, "LOOKED_UP_MAX", 10)
    found = counts.look_up(Question(environment.pk, Range(START, END)))
    assert (found.looked_up, found.passed) == (10, 1)
