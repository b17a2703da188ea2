"""Counters as they stand in the store: for checks, rebuilds, commands and the console, not for callers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tenants.revisions import environment_key
from usage.amounts import Amounts
from usage.counting.keys import environment_prefix
from usage.counting.store import store
from usage.metrics import LETTERS

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


def amounts(fields: Mapping[bytes, bytes], kind: str) -> Amounts:
    """Of a counter's fields; `u` used, `h` held."""
    return Amounts(*(int(fields.get(f"{kind}{letter}".encode(), 0)) for letter in LETTERS))


def counted(key: str) -> tuple[Amounts, Amounts]:
    """Used and held by this counter. Raises StoreUnavailable."""
    fields = store.call(lambda client: client.hgetall(key))
    return amounts(fields, "u"), amounts(fields, "h")


def in_flight(key: str, now_ms: int) -> int:
    """How many calls have their place in a concurrency set. Raises StoreUnavailable."""
    return int(store.call(lambda client: client.zcount(key, f"({now_ms}", "+inf")))


def environment_fields(environment_id: int) -> dict[str, str]:
    fields = store.call(lambda client: client.hgetall(environment_key(environment_id)))
    return {name.decode(): value.decode() for name, value in fields.items()}
