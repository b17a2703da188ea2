"""Counters as they stand in the store: for checks, rebuilds and commands, not for callers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tenants.revisions import environment_key
from usage.counting.keys import environment_prefix
from usage.counting.store import store

SCAN_COUNT = 1000


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
