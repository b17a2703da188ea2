"""Blocked decisions, from the counter store's stream to the table of blocked decisions.

The reserve script writes what it decided on (assessment and readings) to a bounded stream; `drain` decides the same
once more, for deciding is pure, and stores the result. An entry is dropped from the stream only when its row is
committed; one that is read twice is still one row. One that cannot be read is named in the log and set aside.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from policies import evaluate_answer
from policies.decision import decide
from policies.models import BlockedDecision
from tenants.models import Environment
from usage.assessment import Unreadable
from usage.counting import blocked_stream
from usage.counting.blocked_stream import BlockedEntry

logger = logging.getLogger("tokvigil.decisions")

BATCH_MAX = 500
BATCHES_MAX = 200


def drain(environment: Environment, *, batches_max: int = BATCHES_MAX) -> int:
    """The number of decisions stored, the oldest first. Raises StoreUnavailable, DatabaseError."""
    stored = 0
    for _ in range(batches_max):
        entries = blocked_stream.blocked(environment.pk, BATCH_MAX)
        rows = _rows(environment.pk, entries)
        BlockedDecision.objects.bulk_create(rows.values(), ignore_conflicts=True, batch_size=BATCH_MAX)
        unread = [entry for entry in entries if entry.stream_id not in rows]
        blocked_stream.set_aside(environment.pk, unread)
        blocked_stream.drop_blocked(environment.pk, [entry.stream_id for entry in entries])
        stored += len(rows)
        if len(entries) < BATCH_MAX:
            break
    return stored


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
    verdict = decided.verdict
    if verdict.allowed:
        raise Unreadable("it was blocked by a limit that only a later version knows")
    return BlockedDecision(
        environment_id=environment_id,
        stream_id=entry.stream_id,
        decided_at=datetime.fromtimestamp(at_ms / 1000, UTC),
        request_id=blocked.request_id,
        user_id=blocked.user_id,
        feature=blocked.feature,
        plan=blocked.plan,
        run_id=blocked.run_id,
        model=blocked.model,
        reason_code=verdict.reason_code,
        reason_class=verdict.reason_class.value,
        message=verdict.message,
        policy_id=None if verdict.policy is None else verdict.policy.id,
        policy_name="" if verdict.policy is None else verdict.policy.name,
        policy_version=None if verdict.policy is None else verdict.policy.version,
        limit_state=msgspec.to_builtins(evaluate_answer.limit_states(blocked, decided, held=False)),
        estimated_cost_nano=decided.amounts.cost_nano if blocked.priced else None,
    )
