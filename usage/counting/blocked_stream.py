"""Blocked decisions on their way from the reserve script to PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from usage.assessment import Reading
from usage.counting.keys import decisions_key
from usage.counting.reserve import unpack_readings
from usage.counting.store import store


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
