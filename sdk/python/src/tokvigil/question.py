"""One AI call as TokVigil is asked about it, and as it is reported."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple, Self

from tokvigil.answered_model import named
from tokvigil.attribution import Attribution
from tokvigil.checked import REQUEST_ID_CHARS_MAX
from tokvigil.json_values import present
from tokvigil.models import Usage, UsageEvent, UsageStatus, parts_to_wire


class Report(NamedTuple):
    """A usage report on its way: the JSON that is sent is the JSON that was written down."""

    request_id: str
    body: bytes

    @classmethod
    def of(cls, event: UsageEvent) -> Self:
        return cls(event.request_id, json.dumps(event.to_wire(), allow_nan=False).encode())

    @classmethod
    def all_of(cls, event: UsageEvent) -> list[Self]:
        """One for each model that the usage is of, the event's own last."""
        others = [
            replace(
                event,
                request_id=beside(event.request_id, number),
                model=model,
                usage=usage,
                requested_model=None,
                reported_cost_usd=None,
            )
            for number, (model, usage) in enumerate(event.usage.other_models.items())
        ]
        return [cls.of(each) for each in (*others, event)]


def beside(request_id: str, number: int) -> str:
    """The request id of what another model used for the same call: the same whenever it is reported."""
    suffix = f"+{number + 1}"
    if len(request_id) + len(suffix) > REQUEST_ID_CHARS_MAX:
        digest = sha256(request_id.encode()).hexdigest()
        request_id = request_id[: REQUEST_ID_CHARS_MAX - len(suffix) - len(digest)] + digest
    return request_id + suffix


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
    # What it is asked for; None: the default one.
    service_tier: str | None = None
    region: str | None = None
    # What else it will use at most, and nothing that this does not name; None: not known.
    quantities: Mapping[str, int] | None = None
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
                "service_tier": self.service_tier,
                "region": self.region,
                "quantities": self.quantities,
                "run_id": self.run_id,
                "provider": self.provider,
                "metadata": self.metadata,
                "dry_run": self.dry_run or None,
                "explain": self.explain or None,
            }
        )

    def report(
        self, status: UsageStatus, usage: Usage, *, latency_ms: int | None = None, answered_by: str = ""
    ) -> Report:
        """Of this call, stamped with the present time: a late report still belongs to this moment."""
        model, requested_model = named(self.model, answered_by, self.provider)
        return self._report(
            self.request_id,
            {
                "model": model,
                "requested_model": requested_model,
                "status": status,
                "latency_ms": latency_ms,
            },
            usage,
        )

    def reports_beside(self, status: UsageStatus, usage: Usage) -> list[Report]:
        """Of what other models used for this call: TokVigil prices a report by its model. They are sent once, however
        often the call is reported, because their request ids follow from the call's."""
        return [
            self._report(beside(self.request_id, number), {"model": model, "status": status}, used)
            for number, (model, used) in enumerate(usage.other_models.items())
        ]

    def _report(self, request_id: str, said: Mapping[str, Any], usage: Usage) -> Report:
        body = {
            "request_id": request_id,
            "user_id": self.user_id,
            **said,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "feature": self.feature,
            "plan": self.plan,
            "run_id": self.run_id,
            "provider": self.provider,
            "occurred_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "metadata": self.metadata,
            **parts_to_wire(usage),
        }
        return Report(request_id, json.dumps(present(body)).encode())
