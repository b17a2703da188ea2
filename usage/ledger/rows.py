"""A row of the ledger before it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from usage.amounts import Amounts, Subjects
from usage.ledger.models import Status
from usage.metrics import COLUMNS as COUNTED_COLUMNS
from usage.prices.cost import TokenUse


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """A usage event, ready to be written: priced, and placed in time."""

    environment_id: int
    request_id: str
    # SHA-256 of the report as sent; None for an estimate, which a report may replace.
    body_digest: bytes | None
    charged_at: datetime
    occurred_at: datetime | None
    subjects: Subjects
    model: str
    provider: str
    status: Status
    tokens: TokenUse
    cost_nano: int | None
    price_id: int | None = None
    reported_cost_nano: int | None = None
    latency_ms: int | None = None
    policy_id: UUID | None = None
    policy_version: int | None = None
    api_key_id: int | None = None
    metadata: dict[str, Any] | None = None

    @property
    def counts_as_request(self) -> bool:
        """A call that failed or was cancelled before it used a token consumes no quota."""
        used_nothing = self.tokens.input_tokens == 0 and self.tokens.output_tokens == 0
        return not (used_nothing and self.status in (Status.FAILED, Status.CANCELLED))

    @property
    def amounts(self) -> Amounts:
        return Amounts(
            requests=1 if self.counts_as_request else 0,
            input_tokens=self.tokens.input_tokens,
            output_tokens=self.tokens.output_tokens,
            cost_nano=self.cost_nano or 0,
        )


# Of usage_event, as `values` writes them; xid, recorded_at and id are defaults.
COLUMNS: dict[str, str] = {
    "environment_id": "bigint",
    "request_id": "text",
    "charged_at": "timestamptz",
    "occurred_at": "timestamptz",
    "user_id": "text",
    "feature": "text",
    "plan": "text",
    "run_id": "text",
    "model": "text",
    "provider": "text",
    "status": "text",
    "requests": "smallint",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cached_input_tokens": "bigint",
    "cache_write_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "cost_nano": "bigint",
    "reported_cost_nano": "bigint",
    "price_id": "bigint",
    "latency_ms": "int",
    "policy_id": "uuid",
    "policy_version": "int",
    "api_key_id": "bigint",
    "metadata": "jsonb",
}
NAMES = ", ".join(COLUMNS)
# What a reversal has the opposite of.
NEGATED = {*COUNTED_COLUMNS, "cached_input_tokens", "cache_write_tokens", "reasoning_tokens"}


def values(event: NewEvent) -> tuple[Any, ...]:
    """In the order of COLUMNS."""
    subjects, tokens, amounts = event.subjects, event.tokens, event.amounts
    return (
        event.environment_id,
        event.request_id,
        event.charged_at,
        event.occurred_at,
        subjects.user_id,
        subjects.feature,
        subjects.plan,
        subjects.run_id,
        event.model,
        event.provider,
        event.status.value,
        amounts.requests,
        tokens.input_tokens,
        tokens.output_tokens,
        tokens.cached_input_tokens,
        tokens.cache_write_tokens,
        tokens.reasoning_tokens,
        event.cost_nano,
        event.reported_cost_nano,
        event.price_id,
        event.latency_ms,
        event.policy_id,
        event.policy_version,
        event.api_key_id,
        None if event.metadata is None else json.dumps(event.metadata),
    )
