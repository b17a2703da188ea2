"""One AI call between its decision and its report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tokvigil.estimating import OUTPUT_TOKENS_WITHOUT_CAP
from tokvigil.models import Decision, Usage, UsageEvent, UsageStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCall:
    """An allowed call: whose it is, what it asked for, since when it runs."""

    decision: Decision
    user_id: str
    model: str
    input_tokens: int
    # As asked for; None: not said.
    max_output_tokens: int | None = None
    feature: str | None = None
    plan: str | None = None
    run_id: str | None = None
    provider: str | None = None
    metadata: Mapping[str, Any] | None = None
    started_s: float = field(default_factory=time.perf_counter)

    def event(self, status: UsageStatus, usage: Usage) -> UsageEvent:
        """Its report, stamped now and never changed, so that a late one still belongs to this moment."""
        return UsageEvent(
            request_id=self.decision.request_id,
            user_id=self.user_id,
            model=self.model,
            usage=usage,
            status=status,
            feature=self.feature,
            plan=self.plan,
            run_id=self.run_id,
            provider=self.provider,
            latency_ms=round((time.perf_counter() - self.started_s) * 1000),
            occurred_at=datetime.now(UTC),
            metadata=self.metadata,
        )

    def unknown(self) -> UsageEvent:
        """The report if nobody ever learns what it used: what it may use at most."""
        held = (self.decision.reserved or {}).get("output_tokens")
        known = (held, self.decision.max_output_tokens, self.max_output_tokens)
        output_tokens = next(
            (tokens for tokens in known if isinstance(tokens, int)), OUTPUT_TOKENS_WITHOUT_CAP
        )
        usage = Usage(input_tokens=self.input_tokens, output_tokens=output_tokens, source="estimated")
        return self.event("partial", usage)
