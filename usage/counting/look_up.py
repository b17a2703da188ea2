"""What must be known before reports are written: one script, one round trip."""

from __future__ import annotations

from collections.abc import Sequence

from tenants.revisions import environment_key
from usage.counting.keys import rate_key, reservation_key
from usage.counting.reservations import Reservation
from usage.counting.reserve import RateLimited, Stale
from usage.counting.store import store


def look_up(
    environment_id: int,
    edition: str,
    request_ids: Sequence[str],
    *,
    api_key_id: int,
    requests_per_minute: int | None,
) -> list[Reservation | None] | Stale | RateLimited:
    """The reservations of these requests, open or expired, None for one without; counts one call of the API key.

    Raises StoreUnavailable.
    """
    reservations = [reservation_key(environment_id, request_id) for request_id in request_ids]
    keys = [environment_key(environment_id), rate_key(environment_id, api_key_id), *reservations]
    kind, *answer = store.run("look_up", keys, [edition, requests_per_minute or 0])
    if kind == b"STALE":
        return Stale()
    if kind == b"LIMITED":
        return RateLimited(int(answer[0]))
    return [
        None if at is None else Reservation(key, packed or b"", int(at), is_open=state == b"open")
        for key, state, packed, at in zip(reservations, answer[::3], answer[1::3], answer[2::3], strict=True)
    ]
