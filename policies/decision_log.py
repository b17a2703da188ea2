"""Blocked decisions, from the counter store's stream to the table of blocked decisions.

The reserve script writes what it decided on (assessment and readings) to a bounded stream; `drain` decides the same
once more, for deciding is pure, and stores the result. An entry is dropped from the stream only when its row is
committed; one that is read twice is still one row.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from policies import evaluate_answer
from policies.decision import decide
from policies.models import BlockedDecision
from tenants.models import Environment
from usage import assessment
from usage.assessment import Reading
from usage.counting import blocked_stream

BATCH_MAX = 500
BATCHES_MAX = 200


def drain(environment: Environment, *, batches_max: int = BATCHES_MAX) -> int:
    """The number of decisions stored, the oldest first. Raises StoreUnavailable, DatabaseError."""
    stored = 0
    for _ in range(batches_max):
        entries = blocked_stream.blocked(environment.pk, BATCH_MAX)
        BlockedDecision.objects.bulk_create(
            [_row(environment.pk, *entry) for entry in entries], ignore_conflicts=True, batch_size=BATCH_MAX
        )
        blocked_stream.drop_blocked(environment.pk, [stream_id for stream_id, _, _, _ in entries])
        stored += len(entries)
        if len(entries) < BATCH_MAX:
            break
    return stored


def _row(
    environment_id: int, stream_id: str, packed: bytes, readings: tuple[Reading, ...], at_ms: int
) -> BlockedDecision:
    blocked = assessment.unpack(packed)
    decided = decide(blocked, readings, at_ms)
    verdict = decided.verdict
    return BlockedDecision(
        environment_id=environment_id,
        stream_id=stream_id,
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
        estimated_cost_nano=blocked.cost_nano if blocked.priced else None,
    )
