"""A row of the ledger before it is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec

from usage.amounts import Amounts, Subjects, counts_of
from usage.ledger.models import Status
from usage.metrics import COLUMNS as COUNTED_COLUMNS
from usage.metrics import COUNTS, TOKEN_PARTS

_ONE_CALL = Amounts(requests=1)


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
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
    used: Amounts
    # False: the model has no price, and `used` no cost.
    priced: bool
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    quantities: Mapping[str, int] | None = None
    # Of all that it used what has no rate.
    unpriced_quantities: tuple[str, ...] = ()
    requested_model: str = ""
    service_tier: str = ""
    region: str = ""
    price_id: int | None = None
    reported_cost_nano: int | None = None
    latency_ms: int | None = None
    policy_id: UUID | None = None
    policy_version: int | None = None
    api_key_id: int | None = None
    metadata: dict[str, Any] | None = None

    @property
    def amounts(self) -> Amounts:
        """What is charged: nothing for a call that failed or was cancelled before it used a token."""
        used_nothing = self.used == _ONE_CALL
        return Amounts() if used_nothing and self.status in (Status.FAILED, Status.CANCELLED) else self.used

    @property
    def cost_nano(self) -> int | None:
        return self.used.cost_nano if self.priced else None


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
    **dict.fromkeys(COUNTS, "bigint"),
    **dict.fromkeys(TOKEN_PARTS, "bigint"),
    "cost_nano": "bigint",
    "reported_cost_nano": "bigint",
    "requested_model": "text",
    "service_tier": "text",
    "region": "text",
    "quantities": "jsonb",
    "unpriced_quantities": "jsonb",
    "price_id": "bigint",
    "latency_ms": "int",
    "policy_id": "uuid",
    "policy_version": "int",
    "api_key_id": "bigint",
    "metadata": "jsonb",
}
NAMES = ", ".join(COLUMNS)
# What a row adds of what a reversal copies instead of negating it.
SIGN = "(CASE status WHEN 'reversal' THEN -1 ELSE 1 END)"
# Whether a row is not, or not wholly, priced.
UNPRICED = "(cost_nano IS NULL OR unpriced_quantities IS NOT NULL)"
# What it adds to the number of such calls. An adjustment takes its call off once nothing of it is unpriced any more.
UNPRICED_CALLS = f"""CASE WHEN NOT {UNPRICED} THEN 0 WHEN status = '{Status.REVERSAL}' THEN -1
    WHEN status <> '{Status.ADJUSTMENT}' THEN 1 WHEN unpriced_quantities = '[]' THEN -1 ELSE 0 END"""
# What a reversal has the opposite of.
NEGATED = {*COUNTED_COLUMNS, *TOKEN_PARTS}

_parts: Callable[[NewEvent], tuple[int, ...]] = attrgetter(*TOKEN_PARTS)


def values(event: NewEvent) -> tuple[Any, ...]:
    """In the order of COLUMNS."""
    subjects = event.subjects
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
        *counts_of(event.amounts),
        *_parts(event),
        event.cost_nano,
        event.reported_cost_nano,
        event.requested_model,
        event.service_tier,
        event.region,
        json.dumps(event.quantities) if event.quantities else None,
        json.dumps(event.unpriced_quantities) if event.unpriced_quantities else None,
        event.price_id,
        event.latency_ms,
        event.policy_id,
        event.policy_version,
        event.api_key_id,
        None if event.metadata is None else json.dumps(event.metadata),
    )
