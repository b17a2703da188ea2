"""Blocked decisions, from the counter store's stream to the table of blocked decisions.

The reserve script writes what it decided on (assessment and readings) to a bounded stream; `drain` decides the same
once more, for deciding is pure, and stores the result. An entry is dropped from the stream only when its row is
committed; one that is read twice is still one row. One that cannot be read is named in the log and set aside.

A call is one row, however often it is asked for: where it is blocked again under its request id within a day, the later
decision takes the place of the earlier one (asked_again.py).

The table has a partition for each month. One leaves, with its rows and with what was counted of them, when its last
decision is older than `BLOCKED_DECISIONS_KEPT_DAYS`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
from django.conf import settings
from django.db import IntegrityError, transaction

from policies.blocked import asked_again, counts
from policies.deciding import evaluate_answer
from policies.deciding.decision import Decision, decide
from policies.models import BlockedDecision
from tenants.models import Environment
from usage.assessment import Assessment, Unreadable
from usage.counting import blocked_stream
from usage.counting.blocked_stream import BlockedEntry
from usage.instants import from_ms
from usage.ledger.months import Monthly, StillRead, is_missing, month_of, months_from, next_month, of_month

logger = logging.getLogger("tokvigil.decisions")


TABLE = Monthly("blocked_decision")
AHEAD_MONTHS = 3
BATCH_MAX = 500
BATCHES_MAX = 200


def drain(environment: Environment, *, batches_max: int = BATCHES_MAX) -> int:
    """The number of decisions taken from the stream, the oldest first. Raises StoreUnavailable, DatabaseError."""
    stored = 0
    for _ in range(batches_max):
        entries = blocked_stream.blocked(environment.pk, BATCH_MAX)
        rows = _rows(environment.pk, entries)
        store(list(rows.values()))
        unread = [entry for entry in entries if entry.stream_id not in rows]
        blocked_stream.set_aside(environment.pk, unread)
        blocked_stream.drop_blocked(environment.pk, [entry.stream_id for entry in entries])
        stored += len(rows)
        if len(entries) < BATCH_MAX:
            break
    return stored


def store(rows: list[BlockedDecision]) -> None:
    """Those that are stored already stay as they are; of calls asked again the last stays. Raises DatabaseError."""
    try:
        _insert(rows)
    except IntegrityError as error:
        if not is_missing(error):
            raise
        ensure(row.decided_at for row in rows)
        _insert(rows)


def _insert(rows: list[BlockedDecision]) -> None:
    with transaction.atomic():
        BlockedDecision.objects.bulk_create(
            asked_again.replacing(rows), ignore_conflicts=True, batch_size=BATCH_MAX
        )


def ensure(times: Iterable[datetime]) -> None:
    """Makes the partitions that hold these times. Raises OperationalError."""
    TABLE.ensure(map(month_of, times))


def keep_up(now: datetime) -> list[str]:
    """Makes the partitions of the coming months and deletes those that are over; the names of these.

    Raises OperationalError.
    """
    TABLE.finish()
    TABLE.ensure(months_from(month_of(now), AHEAD_MONTHS + 1))
    kept_since = now - timedelta(days=settings.BLOCKED_DECISIONS_KEPT_DAYS)
    over = [each.month for each in TABLE.partitions() if of_month(next_month(each.month)) <= kept_since]
    gone = []
    for month in over:
        with suppress(StillRead):
            gone += TABLE.drop(month)
    left = min((each.month for each in TABLE.partitions()), default=None)
    if gone and left is not None:
        counts.forget_before(of_month(left))
    return gone


def _rows(environment_id: int, entries: Sequence[BlockedEntry]) -> dict[str, BlockedDecision]:
    """By entry; without those that cannot be read, which the log names."""
    rows = {}
    for entry in entries:
        try:
            rows[entry.stream_id] = _row(environment_id, entry)
        except Unreadable as error:
            logger.error(
                "blocked decision %s of environment %s cannot be read: %s",
                entry.stream_id,
                environment_id,
                error,
            )
    return rows


def _row(environment_id: int, entry: BlockedEntry) -> BlockedDecision:
    blocked, readings, at_ms = entry.read()
    try:
        decided = decide(blocked, readings, at_ms)
    except LookupError as error:
        raise Unreadable(f"it names a policy that it does not carry: {error}") from error
    if decided.verdict.allowed:
        raise Unreadable("it was blocked by a limit that only a later version knows")
    return row(environment_id, entry.stream_id, at_ms, blocked, decided)


def row(
    environment_id: int, stream_id: str, at_ms: int, blocked: Assessment, decided: Decision
) -> BlockedDecision:
    """What is stored of a decision that blocked."""
    verdict = decided.verdict
    return BlockedDecision(
        environment_id=environment_id,
        stream_id=stream_id,
        decided_at=from_ms(at_ms),
        request_id=blocked.request_id,
        user_id=blocked.user_id,
        feature=blocked.feature,
        plan=blocked.plan,
        run_id=blocked.run_id,
        model=blocked.model,
        api_key_id=blocked.api_key_id,
        reason_code=verdict.reason_code,
        reason_class=verdict.reason_class.value,
        message=verdict.message,
        policy_id=None if verdict.policy is None else verdict.policy.id,
        policy_name="" if verdict.policy is None else verdict.policy.name,
        policy_version=None if verdict.policy is None else verdict.policy.version,
        limit_state=msgspec.to_builtins(evaluate_answer.limit_states(blocked, decided, held=False)),
        estimated_cost_nano=decided.amounts.cost_nano if blocked.priced else None,
        needed_input_tokens=blocked.least.input_tokens,
        needed_output_tokens=blocked.least.output_tokens,
        needed_cost_nano=blocked.least.cost_nano if blocked.priced else None,
    )
