"""One AI call as TokVigil is asked about it, and as it is reported."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from tokvigil.attribution import Attribution
from tokvigil.json_values import present
from tokvigil.models import Usage, UsageEvent, UsageStatus


class Report(NamedTuple):
    """A usage report on its way: the JSON that is sent is the JSON that was written down."""

    request_id: str
    body: bytes

    @classmethod
    def of(cls, event: UsageEvent) -> Self:
        return cls(event.request_id, json.dumps(event.to_wire(), allow_nan=False).encode())


def new_request_id() -> str:
    """A UUIDv7: unique without coordination, and in order of time, which keeps the server's index compact."""
    milliseconds = time.time_ns() // 1_000_000
    bits = (milliseconds & ((1 << 48) - 1)) << 80 | int.from_bytes(os.urandom(10))
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One AI call that may go out or not. `input_tokens` None: not known."""

    user_id: str
    model: str
    feature: str | None = None
    plan: str | None = None
    input_tokens: int | None = None
    max_output_tokens: int | None = None
    # The same when it is asked again. If the caller named it, the caller may ask and report by this name again later.
    request_id: str = field(default_factory=new_request_id)
    is_named_by_caller: bool = False
    run_id: str | None = None
    # The provider that will be called, as the price book names it; None: unknown.
    provider: str | None = None
    metadata: Mapping[str, Any] | None = None
    dry_run: bool = False
    explain: bool = False

    @classmethod
    def of(cls, attribution: Attribution, model: str, **details: Any) -> Self:
        """A call of the user that the attribution names."""
        return cls(
            user_id=attribution.user_id or "",
            model=model,
            feature=attribution.feature,
            plan=attribution.plan,
            run_id=attribution.run_id,
            metadata=attribution.metadata,
            **details,
        )

    @property
    def subject(self) -> tuple[str, str | None, str, str | None]:
        """What a later decision is about too: user, feature, model and plan."""
        return self.user_id, self.feature, self.model, self.plan

    def to_wire(self) -> dict[str, Any]:
        """The JSON body of POST /v1/evaluate; what is not said is left out."""
        return present(
            {
                "request_id": self.request_id,
                "user_id": self.user_id,
                "model": self.model,
                "feature": self.feature,
                "plan": self.plan,
                "input_tokens": self.input_tokens,
                "max_output_tokens": self.max_output_tokens,
                "run_id": self.run_id,
                "provider": self.provider,
                "metadata": self.metadata,
                "dry_run": self.dry_run or None,
                "explain": self.explain or None,
            }
        )

    def report(self, status: UsageStatus, usage: Usage, *, latency_ms: int | None = None) -> Report:
        """Of this call, stamped with the present time: a late report still belongs to this moment."""
        body = {
            "request_id": self.request_id,
            "user_id": self.user_id,
            "model": self.model,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "status": status,
            "feature": self.feature,
            "plan": self.plan,
            "run_id": self.run_id,
            "provider": self.provider,
            "latency_ms": latency_ms,
            "occurred_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "metadata": self.metadata,
            "cached_input_tokens": usage.cached_input_tokens or None,
            "cache_write_tokens": usage.cache_write_tokens or None,
            "reasoning_tokens": usage.reasoning_tokens or None,
        }
        return Report(self.request_id, json.dumps(present(body)).encode())
