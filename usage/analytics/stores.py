"""Whether the counter store and the ledger are in order, and since when they know what they know."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from django.db import connection

from usage.counting.inspection import environment_fields
from usage.counting.store import store
from usage.instants import from_ms
from usage.ledger.leading import at_most
from usage.ledger.rollups import LEDGER

LEDGER_MS_MAX = 2_000
_NEVER_EVICTS = "noeviction"
_TRACKED = "t:"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """`complete_since`: counters made before are rebuilt from the ledger; None: nothing was counted yet."""

    answered_ms: float
    memory_bytes: int
    eviction: str
    complete_since: datetime | None
    # How many pairs of subject and window each call is counted in.
    tracked: int

    @property
    def may_evict(self) -> bool:
        return self.eviction != _NEVER_EVICTS


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerState:
    """`months` are attached, from the first to the last; others were detached. `newest_at`: of this environment."""

    months: int
    first_month: date | None
    last_month: date | None
    newest_at: datetime | None


def store_state(environment_id: int) -> StoreState:
    """Raises StoreUnavailable."""
    begun = time.perf_counter()
    fields = environment_fields(environment_id)
    answered_ms = 1000 * (time.perf_counter() - begun)
    memory: dict[str, Any] = store.call(lambda client: client.info("memory"))
    return StoreState(
        answered_ms=answered_ms,
        memory_bytes=int(memory["used_memory"]),
        eviction=str(memory["maxmemory_policy"]),
        complete_since=from_ms(int(fields["epoch"])) if "epoch" in fields else None,
        tracked=sum(name.startswith(_TRACKED) for name in fields),
    )


def ledger_state(environment_id: int) -> LedgerState:
    """Raises DatabaseError."""
    months = [each.month for each in LEDGER.partitions() if not each.leaving]
    with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
        cursor.execute(
            "SELECT recorded_at FROM usage_event WHERE environment_id = %s ORDER BY xid DESC LIMIT 1",
            [environment_id],
        )
        newest = cursor.fetchone()
    return LedgerState(
        months=len(months),
        first_month=min(months, default=None),
        last_month=max(months, default=None),
        newest_at=None if newest is None else newest[0],
    )
