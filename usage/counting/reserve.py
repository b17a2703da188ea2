"""Check every limit of a call and hold what it may use, all or nothing: one script, one round trip.

The script names what the caller does not know: a later revision, another record of the end user, windows that are over,
counters that must first be rebuilt from the ledger. None of these answers took effect. Raises StoreUnavailable.
"""

from __future__ import annotations

from typing import Any

import msgspec
from django.conf import settings

from tenants.revisions import environment_key
from usage.amounts import Amounts
from usage.assessment import Reading, Unreadable
from usage.counting.keys import decisions_key, open_keys, rate_key, reservation_key, user_key
from usage.counting.store import store
from usage.counting.tracked import Counter
from usage.metrics import METRICS, Metric
from usage.money import TOKENS_PER_RATE

# A script that comes to its turn later than this does nothing: the answer would hardly reach the caller in its time
# box, who would then not know of the hold.
ANSWER_AWAITED_MS = int(settings.COUNTER_STORE_TIMEOUT_S * 1000 * 0.8)

# A limit to check: the letter of its metric, the number of its counter (or concurrency set) among those of the call,
# from 1, the limit, whether it is enforced.
Check = tuple[str, int, int, bool]
_pack = msgspec.msgpack.Encoder().encode


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluate, as the reserve script takes it; `reserve.lua` says what the fields mean."""

    environment_id: int
    # That of what the caller compiled, or JUST_READ; likewise the end user's record.
    edition: str
    # Of this evaluate alone: by it a hold is told from one that another evaluate with the same request_id made or got.
    evaluation_id: str
    request_id: str
    request_digest: str
    user_id: str
    user_record: str
    amounts: Amounts
    # Of a call that takes what its limits leave: what it needs in any case, and the rates its cost is reckoned with
    # (nano-USD per million tokens). None: all of `amounts` or nothing.
    least: Amounts | None = None
    input_rate: int = 0
    output_rate: int = 0
    # In nano-USD, beside the tokens'.
    fees_nano: int = 0
    counters: tuple[Counter, ...]
    concurrency_keys: tuple[str, ...]
    checks: tuple[Check, ...]
    # That the windows of the counters are cut in; None: they are right in any zone.
    zone: str | None = None
    right_from_ms: int
    right_until_ms: int
    assessment: bytes
    hold: bool
    record_block: bool
    hold_ms: int
    charge_on_expiry: bool
    api_key_id: int
    requests_per_minute: int | None

    @property
    def keys(self) -> list[str]:
        environment_id = self.environment_id
        return [
            environment_key(environment_id),
            user_key(environment_id, self.user_id),
            reservation_key(environment_id, self.request_id),
            *open_keys(environment_id),
            decisions_key(environment_id),
            rate_key(environment_id, self.api_key_id),
            *(counter.key for counter in self.counters),
            *self.concurrency_keys,
        ]

    def packed(self, until_ms: int) -> bytes:
        amounts, least = tuple(self.amounts), None if self.least is None else tuple(self.least)
        beside_output, rest = divmod(self.amounts.input_tokens * self.input_rate, TOKENS_PER_RATE)
        return _pack(
            {
                "revision": self.edition,
                "user": self.user_record,
                "hold": self.hold,
                "record": self.record_block,
                "by": self.evaluation_id,
                "digest": self.request_digest,
                "hold_ms": self.hold_ms,
                "charge": self.charge_on_expiry,
                "per_minute": self.requests_per_minute or 0,
                "zone": self.zone,
                "since_ms": self.right_from_ms,
                "until_ms": until_ms,
                "amounts": amounts,
                "amounts_text": " ".join(map(str, amounts)),
                "least": least,
                "cost": (
                    beside_output + self.fees_nano,
                    rest,
                    *divmod(self.output_rate, TOKENS_PER_RATE),
                ),
                "counters": [counter.slot.arguments for counter in self.counters],
                "checks": self.checks,
            }
        )


class Stale(msgspec.Struct, frozen=True):
    """The caller's edition is not in force: load again."""


class UserUnknown(msgspec.Struct, frozen=True):
    """The end user's record is not what the caller thinks: read it again and call `remember_user`."""

    epoch: int
    turn: str
    # Transactions that may have changed the end user.
    changing: tuple[str, ...]


class ClockDiffers(msgspec.Struct, frozen=True):
    """The caller's windows are not those of the store's clock."""

    now_ms: int


class Cold(msgspec.Struct, frozen=True):
    """These counters must be rebuilt from the ledger first. `epoch` goes back to `seed`."""

    epoch: int
    counters: tuple[Counter, ...]


class HoldsElsewhere(msgspec.Struct, frozen=True):
    """The calls in flight hold in the windows of another time zone: carry them first. `token` goes to `carry`."""

    token: str


class RateLimited(msgspec.Struct, frozen=True):
    wait_ms: int


class Conflict(msgspec.Struct, frozen=True):
    """The request_id is in use with other content."""


class AlreadySettled(msgspec.Struct, frozen=True):
    """The request_id was used and its usage is reported, or charged as its hold expired."""


class Replay(msgspec.Struct, frozen=True):
    """The same request while its hold is open: what was decided then. No readings if they cannot be read."""

    assessment: bytes
    readings: tuple[Reading, ...]
    at_ms: int
    deadline_ms: int


class Done(msgspec.Struct, frozen=True):
    held: bool
    at_ms: int
    deadline_ms: int
    readings: tuple[Reading, ...]


Answer = (
    Stale
    | UserUnknown
    | ClockDiffers
    | Cold
    | HoldsElsewhere
    | RateLimited
    | Conflict
    | AlreadySettled
    | Replay
    | Done
)


def check(metric: Metric, place: int, limit: int, *, enforce: bool) -> Check:
    """`place` is from 0."""
    return METRICS[metric].letter, place + 1, limit, enforce


def reserve(request: Request) -> Answer:
    """Check and hold, all or nothing."""
    asked_at_ms, asked_own_ms = store.now_ms(), store.own_ms()
    # A call that the store gets to after its caller gave up must not hold what nobody will report.
    until_ms = min(request.right_until_ms, asked_at_ms + ANSWER_AWAITED_MS)
    answer = _read_answer(
        request, store.run("reserve", request.keys, [request.packed(until_ms), request.assessment])
    )
    if isinstance(answer, ClockDiffers):
        store.learn_clock(answer.now_ms, asked_own_ms)
    return answer


def _read_answer(request: Request, answer: list[Any]) -> Answer:
    match answer[0]:
        case b"DONE":
            readings = tuple(map(Reading, answer[4::2], answer[5::2]))
            return Done(answer[1] == 1, int(answer[2]), int(answer[3]), readings)
        case b"STALE":
            return Stale()
        case b"USER":
            return UserUnknown(int(answer[1]), answer[2].decode(), tuple(answer[3].decode().split()))
        case b"CLOCK":
            return ClockDiffers(int(answer[1]))
        case b"COLD":
            return Cold(int(answer[1]), tuple(request.counters[int(place) - 1] for place in answer[2:]))
        case b"CARRY":
            return HoldsElsewhere(answer[1].decode())
        case b"LIMITED":
            return RateLimited(int(answer[1]))
        case b"CONFLICT":
            return Conflict()
        case b"SETTLED":
            return AlreadySettled()
        case b"REPLAY":
            _, assessment, readings, at_ms, deadline_ms = answer
            return Replay(assessment, _replayed(readings), int(at_ms), int(deadline_ms))
    raise AssertionError(f"the reserve script answered {answer!r}")


def _replayed(packed: bytes) -> tuple[Reading, ...]:
    try:
        return unpack_readings(packed)
    except Unreadable:
        return ()


def unpack_readings(packed: bytes) -> tuple[Reading, ...]:
    """Raises Unreadable."""
    try:
        # Lua packs an empty table as a map, and a whole number beyond 32 bits as a double.
        numbers = [int(number) for number in msgspec.msgpack.decode(packed) or []]
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise Unreadable(str(error)) from error
    return tuple(map(Reading, numbers[::2], numbers[1::2]))
