"""What calls in flight hold now, and how that compares with what calls of the same kind used.

What a call had held is not kept once it is reported: the ledger has what it used. So the comparison is one of averages:
what an open hold of a feature and model holds, and what a call of them used in the last days.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection

from usage.amounts import Amounts
from usage.assessment import Assessment
from usage.counting.reservations import OpenHold, expired_count, first_to_expire, open_count, readable
from usage.counting.store import store
from usage.instants import from_ms
from usage.ledger import sums
from usage.ledger.leading import at_most
from usage.metrics import sql_sums

# Of each way to expire, those that expire first; of more so many are summed.
HOLDS_READ_MAX = 2_000
USED_OVER = timedelta(days=7)
LEDGER_MS_MAX = 2_000

Kind = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOfCall:
    """Of a feature, which may be empty, and a model: `holds` that are open and what they hold, and what calls used."""

    feature: str
    model: str
    holds: int
    held: Amounts
    # None: it is not known.
    used: Amounts | None

    @property
    def ratio(self) -> float | None:
        """How many times as much as a call used a hold holds: by cost, or by tokens where nothing costs.

        None: there is nothing to compare with.
        """
        if self.used is None or self.used.requests <= 0:
            return None
        held, used = _weight(self.held, self.used)
        return held * self.used.requests / (used * self.holds) if used > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """`summed` of the `open` ones are in the amounts: those that expire first, if not all."""

    open: int
    expired: int
    summed: int
    oldest_at: datetime | None
    held: Amounts
    held_by_expired: Amounts
    kinds: tuple[KindOfCall, ...]


def holds(environment_id: int, now: datetime) -> Holds:
    """Raises StoreUnavailable, DatabaseError."""
    now_ms = store.now_ms()
    read = first_to_expire(environment_id, HOLDS_READ_MAX)
    return Holds(
        open=open_count(environment_id),
        expired=expired_count(environment_id, now_ms),
        summed=len(read),
        oldest_at=min((from_ms(hold.at_ms) for hold in read), default=None),
        held=_sum(hold.amounts for hold in read),
        held_by_expired=_sum(hold.amounts for hold in read if hold.deadline_ms <= now_ms),
        kinds=_kinds(environment_id, readable(environment_id, read), now),
    )


def _kinds(
    environment_id: int, read: list[tuple[OpenHold, Assessment]], now: datetime
) -> tuple[KindOfCall, ...]:
    """What holds most first."""
    held: dict[Kind, list[Amounts]] = {}
    for hold, assessment in read:
        held.setdefault((assessment.feature, assessment.model), []).append(hold.amounts)
    used = _used(environment_id, now) if held else {}
    found = [
        KindOfCall(
            feature=feature,
            model=model,
            holds=len(amounts),
            held=_sum(amounts),
            used=used.get((feature, model)),
        )
        for (feature, model), amounts in held.items()
    ]
    return tuple(sorted(found, key=lambda kind: (*_order(kind.held), kind.feature, kind.model)))


def _used(environment_id: int, now: datetime) -> dict[Kind, Amounts]:
    used = sums.used(environment_id, [now - USED_OVER, now + timedelta(seconds=1)], ("feature", "model"))
    with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
        cursor.execute(
            f"SELECT feature, model, {sql_sums()} FROM ({used.sql}) AS used GROUP BY feature, model",  # noqa: S608
            used.values,
        )
        return {(feature, model): Amounts(*map(int, summed)) for feature, model, *summed in cursor.fetchall()}


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    return Amounts(*map(sum, zip(*amounts, strict=True)))


def _tokens(amounts: Amounts) -> int:
    return amounts.input_tokens + amounts.output_tokens


def _weight(held: Amounts, used: Amounts) -> tuple[int, int]:
    if held.cost_nano > 0 and used.cost_nano > 0:
        return held.cost_nano, used.cost_nano
    return _tokens(held), _tokens(used)


def _order(held: Amounts) -> tuple[int, int]:
    return -held.cost_nano, -_tokens(held)
