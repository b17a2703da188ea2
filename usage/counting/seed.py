"""Complete a cold counter with what the ledger holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tenants.revisions import environment_key
from usage.amounts import Amounts
from usage.counting.store import store
from usage.counting.tracked import Counter


def seed(
    environment_id: int, counter: Counter, epoch: int, snapshot: tuple[int, int, str], used: Amounts
) -> bool:
    """Completes a cold counter with what the ledger held at a snapshot (xmin, xmax, xip). False: read it again."""
    keys = [environment_key(environment_id), counter.key]
    _, forget_at_ms, _ = counter.slot.arguments
    return bool(store.run("seed", keys, [epoch, *snapshot, forget_at_ms, *used]) == b"OK")


def mark_cold(keys: Iterable[str]) -> None:
    """Marks these counters before the ledger is read to rebuild them."""

    def mark(client: Any) -> None:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hset(key, "cold", 1)
        pipeline.execute()

    store.call(mark)
