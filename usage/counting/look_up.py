"""What must be known before reports are written: one script, one round trip."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tenants.revisions import environment_key
from usage.counting.keys import rate_key, reservation_key, user_key
from usage.counting.reservations import Reservation
from usage.counting.reserve import RateLimited, Stale
from usage.counting.store import store
from usage.counting.stored_user import StoredUser, parse_record

ANSWERED_OF_EACH = 4


class Found(msgspec.Struct, frozen=True):
    """Of one request its reservation, open or expired; without one its end user, if the store knows them."""

    reservation: Reservation | None = None
    user: StoredUser | None = None


def look_up(
    environment_id: int,
    edition: str,
    requests: Sequence[tuple[str, str]],
    *,
    api_key_id: int,
    requests_per_minute: int | None,
) -> list[Found] | Stale | RateLimited:
    """Of these requests, each its id and its end user's; counts one call of the API key. Raises StoreUnavailable."""
    reservations = [reservation_key(environment_id, request_id) for request_id, _ in requests]
    users = [user_key(environment_id, user_id) for _, user_id in requests]
    keys = [environment_key(environment_id), rate_key(environment_id, api_key_id), *reservations, *users]
    kind, *answer = store.run("look_up", keys, [edition, requests_per_minute or 0])
    if kind == b"STALE":
        return Stale()
    if kind == b"LIMITED":
        return RateLimited(int(answer[0]))
    columns = (answer[place::ANSWERED_OF_EACH] for place in range(ANSWERED_OF_EACH))
    return [_found(*row) for row in zip(reservations, *columns, strict=True)]


def _found(
    key: str, state: bytes | None, packed: bytes | None, at: bytes | None, record: bytes | None
) -> Found:
    if at is not None:
        return Found(reservation=Reservation(key, packed or b"", int(at), is_open=state == b"open"))
    return Found(user=None if record is None else parse_record(record.decode()))
