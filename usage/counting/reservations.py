"""The reservations that are open, to read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from usage import assessment
from usage.amounts import Amounts
from usage.assessment import Assessment, Unreadable
from usage.counting.keys import open_keys
from usage.counting.store import store
from usage.metrics import COUNTED

logger = logging.getLogger("tokvigil.holds")

# More in one round trip would not fit the store's time box.
READ_AT_ONCE_MAX = 1000

Held = TypeVar("Held", bound="Reservation")


class Reservation(msgspec.Struct, frozen=True):
    """A hold, as the ledger needs it. `key` is its key in the store, `at_ms` when the call was evaluated."""

    key: str
    assessment: bytes
    at_ms: int
    # False: it expired, and nothing is held any more.
    is_open: bool = True


class OpenHold(Reservation, frozen=True, kw_only=True):
    """One that is open: what it holds, and its deadline."""

    amounts: Amounts
    deadline_ms: int


def open_holds(environment_id: int, until_ms: int, most: int) -> list[Reservation]:
    """Holds that are open and expire before; of each kind at most so many, those that expire first."""

    def read(client: Any) -> list[Any]:
        keys = [
            key
            for index in open_keys(environment_id)
            for key in client.zrangebyscore(index, "-inf", until_ms, start=0, num=most)
        ]
        return _read_fields(client, keys, ("st", "as", "at"))

    found = [_reservation(*row) for row in store.call(read)]
    return [hold for hold in found if hold is not None]


def _reservation(
    key: bytes, state: bytes | None, packed: bytes | None, at: bytes | None
) -> Reservation | None:
    if state != b"open" or at is None:
        return None
    return Reservation(key.decode(), packed or b"", int(at))


def all_holds(environment_id: int) -> list[Reservation]:
    """Every hold that is open, expired ones that were not ended yet too."""
    keys: list[bytes] = []
    for index in open_keys(environment_id):
        keys += store.call(partial(_members, index=index))
    found: list[Reservation | None] = []
    for first in range(0, len(keys), READ_AT_ONCE_MAX):
        some = keys[first : first + READ_AT_ONCE_MAX]
        rows = store.call(partial(_read_fields, keys=some, fields=("st", "as", "at")))
        found += [_reservation(*row) for row in rows]
    return [hold for hold in found if hold is not None]


def _members(client: Any, index: str) -> list[bytes]:
    """All that are there from beginning to end; in steps, for there may be many."""
    return [key for key, _ in client.zscan_iter(index, count=READ_AT_ONCE_MAX)]


def due_charges(environment_id: int, most: int) -> list[OpenHold]:
    """Expired holds whose policy charges them, oldest first."""
    _, charge = open_keys(environment_id)
    expired = store.run("due", [charge], [most])
    return store.call(lambda client: read_open(client, expired))


def read_open(client: Any, keys: Sequence[bytes]) -> list[OpenHold]:
    """Those of them that are open."""
    return [
        OpenHold(
            key.decode(), packed or b"", int(at), amounts=amounts_of(held), deadline_ms=int(deadline or at)
        )
        for key, state, packed, at, held, deadline in _read_fields(
            client, keys, ("st", "as", "at", "am", "dl")
        )
        if state == b"open" and at is not None
    ]


def amounts_of(text: bytes | None) -> Amounts:
    """What a reservation says it holds; of the metrics that another version counts, those that this one knows."""
    return Amounts(*map(int, (text or b"").split()[: len(COUNTED)]))


def first_to_expire(environment_id: int, most: int) -> list[OpenHold]:
    """Open holds with what they hold, those that expire first; so many of each kind at most, in bounded steps.

    Expired ones that were not ended yet too.
    """
    found: list[OpenHold] = []
    for index in open_keys(environment_id):
        for first in range(0, most, READ_AT_ONCE_MAX):
            last = min(first + READ_AT_ONCE_MAX, most) - 1
            keys = store.call(partial(_range, index=index, first=first, last=last))
            found += store.call(partial(read_open, keys=keys))
            if len(keys) <= last - first:
                break
    return found


def _range(client: Any, index: str, first: int, last: int) -> list[bytes]:
    return list(client.zrange(index, first, last))


def expired_count(environment_id: int, now_ms: int) -> int:
    """How many reservations are past their deadline and were not ended yet."""
    indexes = open_keys(environment_id)
    return store.call(lambda client: sum(int(client.zcount(index, "-inf", now_ms)) for index in indexes))


def put_off(environment_id: int, holds: Iterable[Reservation], until_ms: int) -> None:
    """Has these expired holds become due again later."""
    _, charge = open_keys(environment_id)
    scores = {hold.key: until_ms for hold in holds}
    if scores:
        store.call(lambda client: client.zadd(charge, scores, xx=True))


def readable(environment_id: int, holds: Iterable[Held]) -> list[tuple[Held, Assessment]]:
    """Those that this version can read, and what they say. The log names what is left out."""
    found: list[tuple[Held, Assessment]] = []
    unread = []
    for hold in holds:
        try:
            found.append((hold, assessment.unpack(hold.assessment)))
        except Unreadable as error:
            unread.append(f"{hold.key} ({error})")
    if unread:
        logger.error(
            "%s holds of environment %s cannot be read by this version, the first is %s",
            len(unread),
            environment_id,
            unread[0],
        )
    return found


def _read_fields(client: Any, keys: Sequence[bytes], fields: tuple[str, ...]) -> list[Any]:
    """Of each its key, then the fields."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, fields)
    return [(key, *values) for key, values in zip(keys, pipeline.execute(), strict=True)]


def open_count(environment_id: int) -> int:
    """How many reservations are open."""
    released, charged = open_keys(environment_id)
    return store.call(lambda client: int(client.zcard(released)) + int(client.zcard(charged)))
