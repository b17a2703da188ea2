"""Blocked decisions on their way from the reserve script to PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from usage.assessment import Assessment, Reading, Unreadable, unpack_decided
from usage.counting.keys import decisions_key, unread_decisions_key
from usage.counting.reserve import unpack_readings
from usage.counting.store import store

# Of the entries that no version here could read, the latest, for whoever looks into it.
UNREAD_KEPT_MAX = 1000


@dataclass(frozen=True, slots=True)
class BlockedEntry:
    """A blocked decision as it stands in the stream."""

    stream_id: str
    fields: dict[bytes, bytes]

    def read(self) -> tuple[Assessment, tuple[Reading, ...], int]:
        """The assessment, the readings of its limits, the time in ms. Raises Unreadable."""
        try:
            readings, at_ms = unpack_readings(self.fields[b"vs"]), int(self.fields[b"at"])
            return *unpack_decided(self.fields[b"as"], readings), at_ms
        except (LookupError, TypeError, ValueError) as error:
            raise Unreadable(str(error)) from error


def blocked(environment_id: int, most: int) -> list[BlockedEntry]:
    """The oldest blocked decisions of the stream."""
    entries = store.call(lambda client: client.xrange(decisions_key(environment_id), count=most))
    return [BlockedEntry(stream_id.decode(), fields) for stream_id, fields in entries]


def set_aside(environment_id: int, entries: Sequence[BlockedEntry]) -> None:
    """Keeps entries that cannot be read in a stream of their own. They are still to be dropped from this one."""
    key = unread_decisions_key(environment_id)

    def keep(client: Any) -> None:
        for entry in entries:
            client.xadd(key, entry.fields, maxlen=UNREAD_KEPT_MAX, approximate=True)

    if entries:
        store.call(keep)


def drop_blocked(environment_id: int, stream_ids: Sequence[str]) -> None:
    """Takes entries out of the stream that are stored by now."""
    if stream_ids:
        store.call(lambda client: client.xdel(decisions_key(environment_id), *stream_ids))
