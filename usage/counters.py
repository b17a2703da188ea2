"""The live counters: hold, charge, release. `lua/prelude.lua` says what stands in the store.

What a caller needs to know: every function is one round trip and raises StoreUnavailable; `reserve` and `settle` answer
`Stale` when the caller's revision is not the one in force, and `reserve` names the counters it will not trust before
they were rebuilt from the ledger (usage/recount.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.conf import settings

from tenants.revisions import environment_key
from usage.amounts import Amounts, Metric, Pair, Per, Subjects, digest
from usage.assessment import Reading
from usage.counter_store import Argument, store
from usage.windows import Span, Window, span

DAY_MS = 24 * 3600 * 1000
# A counter outlives its window, for late reports.
COUNTER_GRACE_MS = 2 * DAY_MS
FOREVER_MS = 2**52
USER_RECORD_KEPT_S = 900
ANSWER_AWAITED_MS = int(settings.COUNTER_STORE_TIMEOUT_S * 1000)
SCAN_COUNT = 1000

METRIC_CODES = {
    Metric.REQUESTS: "r",
    Metric.TOKENS: "t",
    Metric.INPUT_TOKENS: "i",
    Metric.OUTPUT_TOKENS: "o",
    Metric.COST_USD: "c",
    Metric.CONCURRENCY: "k",
}


class Slot(msgspec.Struct, frozen=True, eq=False):
    """A pair in its present window: the part of a counter that is the same for all subjects."""

    pair: Pair
    span: Span
    key_prefix: str
    # Start of the window, when a counter of it may be forgotten (0: when unused for long), name of the pair.
    arguments: tuple[int, int, str]


class Counter(msgspec.Struct, frozen=True, eq=False):
    """One subject in one span of a window."""

    key: str
    slot: Slot


class Present(msgspec.Struct, frozen=True, eq=False):
    """The windows of now: right from `since_ms` until before `until_ms`, by the store's clock."""

    since_ms: int
    until_ms: int
    spans: dict[Window, Span]
    slots: tuple[Slot, ...]

    def counters(self, subjects: Subjects) -> tuple[Counter, ...]:
        """The counters that take a call of these subjects."""
        digests: dict[Per, str | None] = {}
        found = []
        for slot in self.slots:
            per = slot.pair.per
            if per not in digests:
                subject = subjects.name(per)
                digests[per] = None if subject is None else digest(subject)
            digested = digests[per]
            if digested is not None:
                found.append(Counter(slot.key_prefix + digested, slot))
        return tuple(found)


class Tracked:
    """The pairs an environment tracks, with their present windows at hand.

    Windows are cut by the caller, for the store knows no time zones; the store checks that its own clock lies inside.
    """

    def __init__(self, environment_id: int, zone: ZoneInfo, pairs: frozenset[Pair]) -> None:
        self.environment_id = environment_id
        self.zone = zone
        self.pairs = pairs
        self.windowed = tuple(sorted(pairs, key=str))
        self._present = Present(0, 0, {}, ())

    def at(self, at_ms: int) -> Present:
        present = self._present
        if present.since_ms <= at_ms < present.until_ms:
            return present
        spans = {window: self.span(window, at_ms) for window in {pair.window for pair in self.windowed}}
        # Another thread may replace it at the same time; each uses what it computed.
        self._present = present = Present(
            since_ms=max((found.start for found in spans.values()), default=0),
            until_ms=min(
                (found.end for found in spans.values() if found.end is not None), default=FOREVER_MS
            ),
            spans=spans,
            slots=tuple(self.slot(pair, spans[pair.window]) for pair in self.windowed),
        )
        return present

    def span(self, window: Window, at_ms: int) -> Span:
        return span(window, at_ms, self.zone)

    def slot(self, pair: Pair, window: Span) -> Slot:
        prefix = f"{environment_prefix(self.environment_id)}c:{pair.per}:{pair.window}:{window.start}:"
        forget_at = 0 if window.end is None else window.end + COUNTER_GRACE_MS
        return Slot(pair, window, prefix, (window.start, forget_at, str(pair)))

    def concurrency_key(self, per: Per, subjects: Subjects) -> str | None:
        subject = subjects.name(per)
        return (
            None if subject is None else f"{environment_prefix(self.environment_id)}k:{per}:{digest(subject)}"
        )


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


@dataclass(frozen=True, slots=True)
class Movement:
    """What one transaction of the ledger charged for a request. A late report adds another to that of its estimate."""

    xid: int
    amounts: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    environment_id: int
    revision: int
    request_id: str
    counters: tuple[Counter, ...]
    movements: tuple[Movement, ...]


@dataclass(frozen=True, slots=True)
class CounterState:
    used: Amounts
    held: Amounts


@dataclass(frozen=True, slots=True)
class Settled:
    charged: bool
    states: tuple[CounterState, ...]


@dataclass(frozen=True, slots=True)
class Reservation:
    """An open hold, as the ledger needs it."""

    assessment: bytes
    at_ms: int


def environment_prefix(environment_id: int) -> str:
    return f"tv:{{{environment_id}}}:"


def reservation_key(environment_id: int, request_id: str) -> str:
    return f"{environment_prefix(environment_id)}r:{digest(request_id)}"


def decisions_key(environment_id: int) -> str:
    return f"{environment_prefix(environment_id)}decisions"


def _user_key(environment_id: int, user_id: str) -> str:
    return f"{environment_prefix(environment_id)}u:{digest(user_id)}"


def _open_keys(environment_id: int) -> tuple[str, str]:
    prefix = environment_prefix(environment_id)
    return f"{prefix}open", f"{prefix}charge"


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


def settle_many(settlements: Sequence[Settlement]) -> list[Settled | Stale]:
    """Charge what the ledger committed and free the holds; one round trip for all, each for itself."""
    answers = store.run_many([_settle_call(settlement) for settlement in settlements])
    return [_read_settled(answer) for answer in answers]


def _settle_call(settlement: Settlement) -> tuple[str, list[str], list[Argument]]:
    environment_id = settlement.environment_id
    keys = [
        environment_key(environment_id),
        reservation_key(environment_id, settlement.request_id),
        *_open_keys(environment_id),
        *(counter.key for counter in settlement.counters),
    ]
    arguments: list[Argument] = [settlement.revision, len(settlement.counters), len(settlement.movements)]
    for counter in settlement.counters:
        arguments += counter.slot.arguments
    for movement in settlement.movements:
        amounts = movement.amounts
        arguments += (
            movement.xid,
            amounts.requests,
            amounts.input_tokens,
            amounts.output_tokens,
            amounts.cost_nano,
        )
    return "settle", keys, arguments


def _read_settled(answer: list[bytes | int]) -> Settled | Stale:
    if answer[0] == b"STALE":
        return Stale()
    numbers = [int(number) for number in answer[2:]]
    states = tuple(
        CounterState(Amounts(*numbers[first : first + 4]), Amounts(*numbers[first + 4 : first + 8]))
        for first in range(0, len(numbers), 8)
    )
    return Settled(answer[1] == 1, states)


def open_reservations(environment_id: int, request_ids: Sequence[str]) -> list[Reservation | None]:
    """What the ledger needs to know of the holds these requests have; None for one without."""
    keys = [reservation_key(environment_id, request_id) for request_id in request_ids]
    rows = store.call(lambda client: _read_fields(client, keys, ("st", "as", "at")))
    return [Reservation(assessment, int(at)) if state == b"open" else None for state, assessment, at in rows]


def open_holds(environment_id: int, until_ms: int, most: int) -> list[Reservation]:
    """Holds that are open and expire before; of each kind at most so many, those that expire first."""

    def read(client: Any) -> list[Any]:
        keys = [
            key
            for index in _open_keys(environment_id)
            for key in client.zrangebyscore(index, "-inf", until_ms, start=0, num=most)
        ]
        return _read_fields(client, keys, ("st", "as", "at")) if keys else []

    return [Reservation(packed, int(at)) for state, packed, at in store.call(read) if state == b"open"]


def due_charges(environment_id: int, most: int) -> list[Reservation]:
    """Expired holds whose policy charges them, oldest first."""
    _, charge = _open_keys(environment_id)
    expired = store.call(
        lambda client: client.zrangebyscore(charge, "-inf", store.now_ms(), start=0, num=most)
    )
    rows = store.call(lambda client: _read_fields(client, expired, ("st", "as", "at"))) if expired else []
    return [Reservation(assessment, int(at)) for state, assessment, at in rows if state == b"open"]


def _read_fields(client: Any, keys: Sequence[str | bytes], fields: tuple[str, ...]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, fields)
    return list(pipeline.execute())


class NotOpen(Exception):
    """The reservation does not exist or its hold has ended."""


class AlreadyCharged(Exception):
    """The reservation was settled: its call was reported."""


def release(environment_id: int, request_id: str) -> None:
    """Gives a hold back; again does nothing. Raises NotOpen, AlreadyCharged."""
    keys = [reservation_key(environment_id, request_id), *_open_keys(environment_id)]
    answer = store.run("release", keys, [])
    if answer == b"GONE":
        raise NotOpen
    if answer == b"SETTLED":
        raise AlreadyCharged


def extend(environment_id: int, request_id: str, hold_ms: int) -> int:
    """Keeps a hold for this long from now on; the new deadline in ms. Raises NotOpen."""
    keys = [reservation_key(environment_id, request_id), *_open_keys(environment_id)]
    deadline = int(store.run("extend", keys, [hold_ms]))
    if deadline == 0:
        raise NotOpen
    return deadline


def sweep(environment_id: int, most: int) -> int:
    return int(store.run("sweep", _open_keys(environment_id), [most]))


def seed(
    environment_id: int, counter: Counter, epoch: int, snapshot: tuple[int, int, str], used: Amounts
) -> bool:
    """Completes a cold counter with what the ledger held at a snapshot (xmin, xmax, xip). False: read it again."""
    keys = [environment_key(environment_id), counter.key]
    amounts = (used.requests, used.input_tokens, used.output_tokens, used.cost_nano)
    return bool(store.run("seed", keys, [epoch, *snapshot, *amounts, counter.slot.arguments[1]]) == b"OK")


def sync(environment_id: int, revision: int, pairs: frozenset[Pair], zone: str = "UTC") -> bool:
    """Tells the store the revision in force, the pairs it tracks and their zone. False: a later revision is known."""
    keys = [environment_key(environment_id)]
    return bool(store.run("sync", keys, [revision, zone, *sorted(map(str, pairs))]) == b"OK")


def distrust(environment_id: int) -> None:
    """Has every counter of the environment rebuilt from the ledger before its next use."""
    store.run("distrust", [environment_key(environment_id)], [])


def remember_user(environment_id: int, user_id: str, record: str, epoch: int | None) -> None:
    """Keeps what PostgreSQL holds of an end user beside the counters.

    `epoch` is the one the store named when it did not know the user; None says that the user was changed just now.
    """
    keys = [environment_key(environment_id), _user_key(environment_id, user_id)]
    store.run("remember_user", keys, [record, USER_RECORD_KEPT_S, "" if epoch is None else epoch])


def blocked(environment_id: int, most: int) -> list[tuple[str, bytes, tuple[Reading, ...], int]]:
    """The oldest blocked decisions of the stream: entry, assessment, readings, time in ms."""
    key = decisions_key(environment_id)
    entries = store.call(lambda client: client.xrange(key, count=most))
    return [
        (stream_id.decode(), fields[b"as"], unpack_readings(fields[b"vs"]), int(fields[b"at"]))
        for stream_id, fields in entries
    ]


def drop_blocked(environment_id: int, stream_ids: Sequence[str]) -> None:
    """Takes entries out of the stream that are stored by now."""
    if stream_ids:
        store.call(lambda client: client.xdel(decisions_key(environment_id), *stream_ids))


def mark_cold(keys: Iterable[str]) -> None:
    """Before the ledger is read to rebuild these counters."""

    def mark(client: Any) -> None:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hset(key, "cold", 1)
        pipeline.execute()

    store.call(mark)


def scan(environment_id: int) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    """Every counter of the environment with its fields. Walks the whole store: for commands, not for callers."""
    pattern = f"{environment_prefix(environment_id)}c:*"
    keys = store.call(lambda client: list(client.scan_iter(match=pattern, count=SCAN_COUNT)))
    for first in range(0, len(keys), SCAN_COUNT):
        batch = keys[first : first + SCAN_COUNT]
        for key, fields in zip(batch, _read_all(batch), strict=True):
            if fields:
                yield key.decode(), fields


def _read_all(keys: Sequence[bytes]) -> list[dict[bytes, bytes]]:
    def read(client: Any) -> list[dict[bytes, bytes]]:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        return list(pipeline.execute())

    return store.call(read)


def environment_fields(environment_id: int) -> dict[str, str]:
    fields = store.call(lambda client: client.hgetall(environment_key(environment_id)))
    return {name.decode(): value.decode() for name, value in fields.items()}


def open_count(environment_id: int) -> int:
    """How many reservations are open."""
    released, charged = _open_keys(environment_id)
    return store.call(lambda client: int(client.zcard(released)) + int(client.zcard(charged)))


def count_call(environment_id: int, api_key_id: int, per_minute: int) -> int:
    """Counts one call of an API key; how long to wait, in ms (0: go ahead)."""
    return int(store.run("rate_limit", [_rate_key(environment_id, api_key_id)], [per_minute]))


def _rate_key(environment_id: int, api_key_id: int) -> str:
    return f"{environment_prefix(environment_id)}rate:{api_key_id}"
