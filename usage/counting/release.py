"""Give a hold back: its call never went out."""

from __future__ import annotations

from usage.counting.keys import open_keys, reservation_key
from usage.counting.store import store


class NotOpen(Exception):
    """The reservation does not exist or its hold has ended."""


class AlreadyCharged(Exception):
    """The call was reported; or its hold expired and is charged, at the latest by the next `settle_expired`."""


def release(environment_id: int, request_id: str) -> None:
    """Gives a hold back; again does nothing. Raises NotOpen, AlreadyCharged."""
    _release(environment_id, request_id, also_due=False)


def end(environment_id: int, request_id: str) -> None:
    """Ends a hold that is not to be charged any more, expired or not. Raises NotOpen, AlreadyCharged."""
    _release(environment_id, request_id, also_due=True)


def end_unread(environment_id: int, key: str) -> None:
    """Ends the hold under this key of the store, whatever it is of."""
    store.run("release", [key, *open_keys(environment_id)], [1, ""])


def end_own(environment_id: int, request_id: str, evaluation_id: str) -> None:
    """Ends the hold that this evaluate made, unless another was answered with it. Raises NotOpen, AlreadyCharged."""
    _release(environment_id, request_id, also_due=True, evaluation_id=evaluation_id)


def _release(environment_id: int, request_id: str, *, also_due: bool, evaluation_id: str = "") -> None:
    keys = [reservation_key(environment_id, request_id), *open_keys(environment_id)]
    answer = store.run("release", keys, [int(also_due), evaluation_id])
    if answer == b"GONE":
        raise NotOpen
    if answer == b"SETTLED":
        raise AlreadyCharged
