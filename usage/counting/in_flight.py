"""Calls in flight, for people who look: allowed, not reported yet, and what each holds until when.

The store finds a hold by its request. By user it finds those that count against a limit on calls at once, each user;
of the others the latest LOOKED_AT_MAX of the environment are looked through. Who holds most is asked of the latest
OF_ENVIRONMENT_MAX. While the store is away none is found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from usage.amounts import Amounts, Per
from usage.assessment import Assessment
from usage.counting.keys import concurrency_key, open_keys, reservation_key
from usage.counting.reservations import READ_AT_ONCE_MAX, OpenHold, read_open, readable
from usage.counting.store import StoreUnavailable, store
from usage.instants import from_ms

logger = logging.getLogger("tokvigil.holds")

# Of those that are released at their end, of those that are charged, and of one user's; all in one round trip.
LOOKED_AT_MAX = 300
# Of both kinds together: as many as one round trip may read.
OF_ENVIRONMENT_MAX = READ_AT_ONCE_MAX
_NOT_KNOWN = "the calls in flight of environment %s are not known: %s"


@dataclass(frozen=True, slots=True)
class CallInFlight:
    """What was evaluated, what it holds, since when and until when."""

    evaluated: Assessment
    holds: Amounts
    at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class InFlight:
    """`complete`: there are no others."""

    calls: list[CallInFlight]
    complete: bool


def of_request(environment_id: int, request_id: str) -> list[CallInFlight]:
    """One at most."""
    key = reservation_key(environment_id, request_id).encode()
    return _read(environment_id, lambda _: [key])


def of_user(environment_id: int, user_id: str) -> list[CallInFlight]:
    """The latest first."""
    found = _latest(environment_id, concurrency_key(environment_id, Per.USER, user_id))
    return [call for call in found if call.evaluated.user_id == user_id]


def latest(environment_id: int) -> list[CallInFlight]:
    """Of all users, the latest first."""
    return _latest(environment_id)


def of_environment(environment_id: int) -> InFlight:
    """The latest of all users, OF_ENVIRONMENT_MAX at most, the latest first."""
    now_ms, most = store.now_ms(), OF_ENVIRONMENT_MAX

    def read(client: Any) -> tuple[list[OpenHold], bool]:
        pipeline = client.pipeline(transaction=False)
        for index in open_keys(environment_id):
            pipeline.zrevrangebyscore(
                index, "+inf", f"({now_ms}", start=0, num=most + 1, withscores=True, score_cast_func=float
            )
        until = {key: deadline for members in pipeline.execute() for key, deadline in members}
        keys = sorted(until, key=lambda key: -until[key])
        return read_open(client, keys[:most]), len(keys) <= most

    try:
        holds, complete = store.call(read)
    except StoreUnavailable as error:
        logger.warning(_NOT_KNOWN, environment_id, error)
        return InFlight([], complete=False)
    return InFlight(_calls(environment_id, holds), complete)


def _latest(environment_id: int, *further: str) -> list[CallInFlight]:
    """Of these sets too."""
    indexes = (*open_keys(environment_id), *further)

    def keys(client: Any) -> list[bytes]:
        pipeline = client.pipeline(transaction=False)
        for index in indexes:
            pipeline.zrevrange(index, 0, LOOKED_AT_MAX - 1)
        return [key for members in pipeline.execute() for key in members]

    return _read(environment_id, keys)


def _read(environment_id: int, keys: Callable[[Any], list[bytes]]) -> list[CallInFlight]:
    try:
        holds = store.call(lambda client: read_open(client, list(dict.fromkeys(keys(client)))))
    except StoreUnavailable as error:
        logger.warning(_NOT_KNOWN, environment_id, error)
        return []
    now_ms = store.now_ms()
    return _calls(environment_id, (hold for hold in holds if hold.deadline_ms > now_ms))


def _calls(environment_id: int, holds: Iterable[OpenHold]) -> list[CallInFlight]:
    found = [
        CallInFlight(held, hold.amounts, from_ms(hold.at_ms), from_ms(hold.deadline_ms))
        for hold, held in readable(environment_id, holds)
    ]
    return sorted(found, key=lambda call: call.at, reverse=True)
