"""The reservations that are open, to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from usage.counting.keys import open_keys, reservation_key
from usage.counting.store import store


@dataclass(frozen=True, slots=True)
class Reservation:
    """An open hold, as the ledger needs it."""

    assessment: bytes
    at_ms: int


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
            for index in open_keys(environment_id)
            for key in client.zrangebyscore(index, "-inf", until_ms, start=0, num=most)
        ]
        return _read_fields(client, keys, ("st", "as", "at")) if keys else []

    return [Reservation(packed, int(at)) for state, packed, at in store.call(read) if state == b"open"]


def due_charges(environment_id: int, most: int) -> list[Reservation]:
    """Expired holds whose policy charges them, oldest first."""
    _, charge = open_keys(environment_id)
    expired = store.run("due", [charge], [most])
    rows = store.call(lambda client: _read_fields(client, expired, ("st", "as", "at"))) if expired else []
    return [Reservation(assessment, int(at)) for state, assessment, at in rows if state == b"open"]


def _read_fields(client: Any, keys: Sequence[str | bytes], fields: tuple[str, ...]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, fields)
    return list(pipeline.execute())


def open_count(environment_id: int) -> int:
    """How many reservations are open."""
    released, charged = open_keys(environment_id)
    return store.call(lambda client: int(client.zcard(released)) + int(client.zcard(charged)))
