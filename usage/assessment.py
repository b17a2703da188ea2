"""What is known of a call before it is counted.

Evaluate makes it and the reserve script keeps it with the hold: a repeated evaluate answers from it, and the report of
the call finds in it whom, when and by which policy the call was allowed. Blocked calls take it along on their way to
the table of blocked decisions.

Processes of two versions share the store while a deploy goes on, so its form is a contract. A field is known by its
place: new ones come last and have a default, none is ever removed or moved. Then an older version reads what it knows
of a newer record, and a newer one reads an older record. Where that is not enough, FORMAT is raised: a version refuses
records of a later format (`Unreadable`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from usage.amounts import Amounts, Models, Pair, Per, Subjects
from usage.boosts import raised
from usage.metrics import COLUMNS, Metric
from usage.money import TOKENS_PER_RATE
from usage.windows import Window

FORMAT = 1


class Unreadable(Exception):
    """A record in the counter store that this version cannot read."""


class PolicyRef(msgspec.Struct, frozen=True, array_like=True):
    """The policy, and the version of it, that a decision rests on."""

    id: str
    name: str
    version: int
    scope: str


# What is limited, without how much of it.
LimitKind = tuple[Metric, Window, Per, Models]


def pair_of(kind: LimitKind) -> Pair | None:
    """The counter it reads; None for concurrency, which is counted by the reservations in flight."""
    metric, window, per, models = kind
    return None if metric is Metric.CONCURRENCY else Pair(per, window, models)


class LimitRef(msgspec.Struct, frozen=True, array_like=True):
    """A limit as it applies to one call. `policy` is its place in the assessment's policies; money is nano-USD."""

    policy: int
    metric: Metric
    window: Window
    per: Per
    amount: int
    resets_at_ms: int | None
    enforce: bool
    # Which it counts; none: all.
    models: Models = ()

    @property
    def pair(self) -> Pair | None:
        return pair_of(self.kind)

    @property
    def kind(self) -> LimitKind:
        return self.metric, self.window, self.per, self.models


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
    """New fields come last and have a default: see above."""

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
    max_output_tokens: int | None = None
    format: int = FORMAT
    # The least output that is worth a call, if the call named no cap of its own: down to this it takes what its limits
    # leave. None: it is held as asked for, or not at all.
    least_output_tokens: int | None = None
    # What its tokens are held at, nano-USD per million tokens; 0 without a price.
    input_rate: int = 0
    output_rate: int = 0
    # Whom it goes to, as the application says; "": not said.
    provider: str = ""
    # What boosts add to limits, whose amounts are with it; by `boosts.raised`. None: no boost runs.
    boosted: dict[str, int] | None = None
    # The row of the key that asked. None: an older version wrote it.
    api_key_id: int | None = None
    # What is held beside the tokens' rates, in nano-USD: fees, and what dearer kinds of tokens that were announced cost
    # more.
    fees_nano: int = 0
    # How it is to be served; "" is no region.
    service_tier: str = "default"
    region: str = ""

    @property
    def requests(self) -> int:
        """Every call is one."""
        return 1

    @property
    def amounts(self) -> Amounts:
        """What the call asks for, or is expected to need."""
        return Amounts(*_amounts(self))

    @property
    def least(self) -> Amounts:
        """What the call needs in any case."""
        return (
            self.amounts if self.least_output_tokens is None else self.with_output(self.least_output_tokens)
        )

    def with_output(self, output_tokens: int) -> Amounts:
        """What the call takes that produces so much."""
        if output_tokens == self.output_tokens:
            return self.amounts
        cost = self.fees_nano + held_cost_nano(
            self.input_tokens, self.input_rate, output_tokens, self.output_rate
        )
        return msgspec.structs.replace(self.amounts, output_tokens=output_tokens, cost_nano=cost)

    @property
    def subjects(self) -> Subjects:
        return Subjects(user_id=self.user_id, feature=self.feature, plan=self.plan, run_id=self.run_id)

    def boosted_by(self, limit: LimitRef) -> int:
        """What boosts add to it."""
        return (
            0 if self.boosted is None else self.boosted.get(raised(limit.per, limit.metric, limit.window), 0)
        )

    @property
    def override(self) -> PolicyRef | None:
        return self.policies[0] if self.has_override else None


_amounts: Callable[[Assessment], tuple[int, ...]] = attrgetter(*COLUMNS)
_ASKED = tuple(column for column in COLUMNS if column != "requests")


def asked(amounts: Amounts) -> dict[str, int]:
    """The fields of an assessment that say what its call asks for."""
    return {column: getattr(amounts, column) for column in _ASKED}


def held_cost_nano(input_tokens: int, input_rate: int, output_tokens: int, output_rate: int) -> int:
    """In nano-USD, rounded up; the rates are per million tokens."""
    return -(-(input_tokens * input_rate + output_tokens * output_rate) // TOKENS_PER_RATE)


def affordable_output(nano: int, input_tokens: int, input_rate: int, output_rate: int) -> int:
    """The most output that costs no more than so much, together with the input; below 0 if the input costs more.

    `output_rate` is above 0.
    """
    return (nano * TOKENS_PER_RATE - input_tokens * input_rate) // output_rate


_decoder = msgspec.msgpack.Decoder(Assessment)
_encoder = msgspec.msgpack.Encoder()
_LIMITS = Assessment.__struct_fields__.index("limits")


def pack(assessment: Assessment) -> bytes:
    return _encoder.encode(assessment)


def unpack(packed: bytes) -> Assessment:
    """Without the limits that only a later version knows, of a window or metric of its own. Raises Unreadable."""
    return _read(packed)[0]


def unpack_decided(packed: bytes, readings: Sequence[Reading]) -> tuple[Assessment, tuple[Reading, ...]]:
    """As `unpack`, with the readings of the limits that are left. Raises Unreadable."""
    assessment, unknown = _read(packed)
    left = tuple(reading for place, reading in enumerate(readings) if place not in unknown)
    if len(left) != len(assessment.limits):
        raise Unreadable(f"{len(assessment.limits)} limits and {len(left)} readings of them")
    return assessment, left


def _read(packed: bytes) -> tuple[Assessment, frozenset[int]]:
    """With the places of the limits that this version does not know."""
    try:
        assessment, unknown = _decoder.decode(packed), frozenset[int]()
    except (msgspec.DecodeError, RecursionError):
        assessment, unknown = _read_what_is_known(packed)
    if assessment.format > FORMAT:
        raise Unreadable(f"format {assessment.format}, this version knows {FORMAT}")
    return assessment, unknown


def _read_what_is_known(packed: bytes) -> tuple[Assessment, frozenset[int]]:
    try:
        fields = msgspec.msgpack.decode(packed)
        limits = msgspec.convert(fields[_LIMITS], list[Any])
        known = {place: limit for place, limit in enumerate(limits) if _is_known(limit)}
        unknown = frozenset(range(len(limits))) - known.keys()
        fields[_LIMITS] = list(known.values())
        return msgspec.convert(fields, Assessment), unknown
    except (msgspec.DecodeError, RecursionError, TypeError, LookupError) as error:
        raise Unreadable(str(error)) from error


def _is_known(limit: Any) -> bool:
    try:
        msgspec.convert(limit, LimitRef)
    except msgspec.ValidationError:
        return False
    return True
