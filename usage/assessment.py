"""What is known of a call before it is counted.

Evaluate makes it and the reserve script keeps it with the hold: a repeated evaluate answers from it, and the report of
the call finds in it whom, when and by which policy the call was allowed. Blocked calls take it along on their way to
the table of blocked decisions.
"""

from __future__ import annotations

import msgspec

from usage.amounts import Amounts, Per, Subjects
from usage.metrics import Metric
from usage.windows import Window


class PolicyRef(msgspec.Struct, frozen=True, array_like=True):
    """The policy, and the version of it, that a decision rests on."""

    id: str
    name: str
    version: int
    scope: str


class LimitRef(msgspec.Struct, frozen=True, array_like=True):
    """A limit as it applies to one call. `policy` is its place in the assessment's policies; money is nano-USD."""

    policy: int
    metric: Metric
    window: Window
    per: Per
    amount: int
    resets_at_ms: int | None
    enforce: bool


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """How a limit's counter stood before the call."""

    used: int
    held: int


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A reason to block that needs no counter."""

    reason_code: str
    message: str
    policy: int | None


class Assessment(msgspec.Struct, frozen=True, array_like=True):
    request_id: str
    user_id: str
    feature: str
    plan: str
    run_id: str
    model: str
    # The winning override first, if there is one, then the guardrails.
    policies: tuple[PolicyRef, ...]
    has_override: bool
    limits: tuple[LimitRef, ...]
    # Why the call is blocked whatever the counters say; and why monitored policies would have blocked it.
    refusal: Refusal | None
    shadow_refusal: Refusal | None
    input_tokens: int
    output_tokens: int
    cost_nano: int
    priced: bool
    max_output_tokens: int | None

    @property
    def amounts(self) -> Amounts:
        return Amounts(1, self.input_tokens, self.output_tokens, self.cost_nano)

    @property
    def subjects(self) -> Subjects:
        return Subjects(user_id=self.user_id, feature=self.feature, plan=self.plan, run_id=self.run_id)

    @property
    def override(self) -> PolicyRef | None:
        return self.policies[0] if self.has_override else None


_decoder = msgspec.msgpack.Decoder(Assessment)
_encoder = msgspec.msgpack.Encoder()


def pack(assessment: Assessment) -> bytes:
    return _encoder.encode(assessment)


def unpack(packed: bytes) -> Assessment:
    return _decoder.decode(packed)
