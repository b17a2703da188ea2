"""Give a hold back: its call never went out."""

from __future__ import annotations

from usage.counting.keys import open_keys, reservation_key
from usage.counting.store import store


class NotOpen(Exception):
    """The reservation does not exist or its hold has ended."""


class AlreadyCharged(Exception):
    """The reservation was settled: its call was reported."""


def release(environment_id: int, request_id: str) -> None:
    """Gives a hold back; again does nothing. Raises NotOpen, AlreadyCharged."""
    keys = [reservation_key(environment_id, request_id), *open_keys(environment_id)]
    answer = store.run("release", keys, [])
    if answer == b"GONE":
        raise NotOpen
    if answer == b"SETTLED":
        raise AlreadyCharged
