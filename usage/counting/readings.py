"""Many counters as they stand, for people who look: one round trip, nothing held and nothing marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tenants.revisions import environment_key
from usage.amounts import Amounts
from usage.counting.store import store
from usage.counting.tracked import Counter
from usage.metrics import LETTERS

_USED = [f"u{letter}" for letter in LETTERS]
_HELD = [f"h{letter}" for letter in LETTERS]
_FIELDS = ["born", "cold", *_USED, *_HELD]


class CounterReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a counter has. A missing one has nothing."""

    used: Amounts
    held: Amounts


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """By key. A counter that must first be rebuilt from the ledger is not in it."""

    counters: dict[str, CounterReading]
    # Calls in flight.
    in_flight: dict[str, int]


def read(
    environment_id: int, zone: str, counters: Sequence[Counter], concurrency_keys: Sequence[str]
) -> Readings:
    """`zone` is the one that the windows were cut in. Raises StoreUnavailable."""
    now_ms = store.now_ms()

    def ask(client: Any) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        pipeline.info("server")
        pipeline.hgetall(environment_key(environment_id))
        for counter in counters:
            pipeline.hmget(counter.key, _FIELDS)
        for key in concurrency_keys:
            pipeline.zcount(key, f"({now_ms}", "+inf")
        answers: list[Any] = pipeline.execute()
        return answers

    server, environment, *answers = store.call(ask)
    trust = _Trust(environment, zone, server["run_id"])
    rows, in_flight = answers[: len(counters)], answers[len(counters) :]
    found = {
        counter.key: _reading(fields)
        for counter, fields in zip(counters, rows, strict=True)
        if trust.is_complete(counter, *fields[:2])
    }
    return Readings(counters=found, in_flight=dict(zip(concurrency_keys, in_flight, strict=True)))


class _Trust:
    """Which counters are complete, by the rules of the reserve script."""

    def __init__(self, environment: dict[bytes, bytes], zone: str, run: str) -> None:
        self._fields = environment
        in_step = environment.get(b"run") == run.encode() and environment.get(b"zone") == zone.encode()
        self._epoch = int(environment.get(b"epoch", 0)) if in_step else None

    def is_complete(self, counter: Counter, born: bytes | None, cold: bytes | None) -> bool:
        if self._epoch is None or cold is not None:
            return False
        if born is not None:
            return int(born) >= self._epoch
        since = self._fields.get(f"t:{counter.slot.name}".encode())
        start = counter.slot.span.start
        return since is not None and start > self._epoch and start > int(since)


def _reading(fields: Sequence[bytes | None]) -> CounterReading:
    amounts = [int(field or 0) for field in fields[2:]]
    return CounterReading(used=_amounts(amounts[: len(_USED)]), held=_amounts(amounts[len(_USED) :]))


def _amounts(values: Iterable[int]) -> Amounts:
    return Amounts(*values)
