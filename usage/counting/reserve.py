"""Check every limit of a call and hold what it may use, all or nothing: one script, one round trip.

The script names what the caller does not know: a later revision, another record of the end user, windows that are over,
counters that must first be rebuilt from the ledger. None of these answers took effect. Raises StoreUnavailable.
"""

from __future__ import annotations

from typing import Any

import msgspec
from django.conf import settings

from usage.amounts import Amounts, Metric, digest
from usage.assessment import Reading
from usage.counting.keys import environment_prefix
from usage.counting.store import store
from usage.counting.tracked import Counter

ANSWER_AWAITED_MS = int(settings.COUNTER_STORE_TIMEOUT_S * 1000)
METRIC_CODES = {
    Metric.REQUESTS: "r",
    Metric.TOKENS: "t",
    Metric.INPUT_TOKENS: "i",
    Metric.OUTPUT_TOKENS: "o",
    Metric.COST_USD: "c",
    Metric.CONCURRENCY: "k",
}


class Check(msgspec.Struct, frozen=True):
    """A limit to check: `place` is the number of its counter (or concurrency set) among those of the call, from 0."""

    metric: Metric
    place: int
    limit: int
    enforce: bool

    @property
    def arguments(self) -> tuple[str, int, int, bool]:
        return METRIC_CODES[self.metric], self.place + 1, self.limit, self.enforce


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluate, as the reserve script takes it."""

    environment_id: int
    revision: int
    request_id: str
    request_digest: str
    user_id: str
    user_record: str
    amounts: Amounts
    counters: tuple[Counter, ...]
    concurrency_keys: tuple[str, ...]
    checks: tuple[tuple[str, int, int, bool], ...]
    right_from_ms: int
    right_until_ms: int
    assessment: bytes
    hold: bool
    record_block: bool
    hold_ms: int
    charge_on_expiry: bool
    api_key_id: int
    requests_per_minute: int | None


class Stale(msgspec.Struct, frozen=True):
    """The caller's revision is not in force: load again."""


class UserUnknown(msgspec.Struct, frozen=True):
    """The end user's record is not what the caller thinks: read it again and call `remember_user`."""

    epoch: int


class ClockDiffers(msgspec.Struct, frozen=True):
    """The caller's windows are not those of the store's clock."""

    now_ms: int


class Cold(msgspec.Struct, frozen=True):
    """These counters must be rebuilt from the ledger first. `epoch` goes back to `seed`."""

    epoch: int
    counters: tuple[Counter, ...]


class RateLimited(msgspec.Struct, frozen=True):
    wait_ms: int


class Conflict(msgspec.Struct, frozen=True):
    """The request_id is in use with other content."""


class AlreadySettled(msgspec.Struct, frozen=True):
    """The request_id was used and its usage is reported."""


class Replay(msgspec.Struct, frozen=True):
    """The same request while its hold is open: what was decided then."""

    assessment: bytes
    readings: tuple[Reading, ...]
    at_ms: int
    deadline_ms: int


class Done(msgspec.Struct, frozen=True):
    held: bool
    at_ms: int
    deadline_ms: int
    readings: tuple[Reading, ...]


Answer = Stale | UserUnknown | ClockDiffers | Cold | RateLimited | Conflict | AlreadySettled | Replay | Done


class _Call(msgspec.Struct, frozen=True):
    """What the reserve script unpacks; `lua/reserve.lua` says what the fields mean."""

    revision: str
    user: str
    hold: bool
    record: bool
    digest: str
    hold_ms: int
    charge: bool
    per_minute: int
    since_ms: int
    until_ms: int
    amounts: tuple[int, int, int, int]
    amounts_text: str
    counters_text: str
    sets_text: str
    counters: list[tuple[int, int, str]]
    checks: tuple[tuple[str, int, int, bool], ...]


_pack_call = msgspec.msgpack.Encoder().encode


def reserve(request: Request) -> Answer:
    """Check and hold, all or nothing."""
    prefix = environment_prefix(request.environment_id)
    counter_keys = [counter.key for counter in request.counters]
    keys = [
        f"{prefix}env",
        f"{prefix}u:{digest(request.user_id)}",
        f"{prefix}r:{digest(request.request_id)}",
        f"{prefix}open",
        f"{prefix}charge",
        f"{prefix}decisions",
        f"{prefix}rate:{request.api_key_id}",
        *counter_keys,
        *request.concurrency_keys,
    ]
    amounts, asked_at_ms = request.amounts, store.now_ms()
    call = _Call(
        revision=str(request.revision),
        user=request.user_record,
        hold=request.hold,
        record=request.record_block,
        digest=request.request_digest,
        hold_ms=request.hold_ms,
        charge=request.charge_on_expiry,
        per_minute=request.requests_per_minute or 0,
        since_ms=request.right_from_ms,
        # A call that the store gets to after its caller gave up must not hold what nobody will report.
        until_ms=min(request.right_until_ms, asked_at_ms + ANSWER_AWAITED_MS),
        amounts=(amounts.requests, amounts.input_tokens, amounts.output_tokens, amounts.cost_nano),
        amounts_text=f"{amounts.requests} {amounts.input_tokens} {amounts.output_tokens} {amounts.cost_nano}",
        counters_text=" ".join(counter_keys),
        sets_text=" ".join(request.concurrency_keys),
        counters=[counter.slot.arguments for counter in request.counters],
        checks=request.checks,
    )
    answer = _read_answer(request, store.run("reserve", keys, [_pack_call(call), request.assessment]))
    if isinstance(answer, ClockDiffers):
        store.learn_clock(answer.now_ms, asked_at_ms)
    return answer


def _read_answer(request: Request, answer: list[Any]) -> Answer:
    match answer[0]:
        case b"DONE":
            readings = tuple(map(Reading, answer[4::2], answer[5::2]))
            return Done(answer[1] == 1, int(answer[2]), int(answer[3]), readings)
        case b"STALE":
            return Stale()
        case b"USER":
            return UserUnknown(int(answer[1]))
        case b"CLOCK":
            return ClockDiffers(int(answer[1]))
        case b"COLD":
            return Cold(int(answer[1]), tuple(request.counters[int(place) - 1] for place in answer[2:]))
        case b"LIMITED":
            return RateLimited(int(answer[1]))
        case b"CONFLICT":
            return Conflict()
        case b"SETTLED":
            return AlreadySettled()
        case b"REPLAY":
            _, assessment, readings_packed, at_ms, deadline_ms = answer
            return Replay(assessment, unpack_readings(readings_packed), int(at_ms), int(deadline_ms))
    raise AssertionError(f"the reserve script answered {answer!r}")


def unpack_readings(packed: bytes) -> tuple[Reading, ...]:
    # Lua packs an empty table as a map, and a whole number beyond 32 bits as a double.
    numbers = [int(number) for number in msgspec.msgpack.decode(packed) or []]
    return tuple(map(Reading, numbers[::2], numbers[1::2]))
