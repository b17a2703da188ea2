"""Blocked calls that are alike and came shortly after each other: one row for people, instead of many. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.models import BlockedDecision

# Between one call and the next of a burst.
GAP_MAX = timedelta(minutes=1)


@dataclass(slots=True)
class Burst:
    """At least one call, the newest first."""

    decisions: list[BlockedDecision] = field(default_factory=list)

    @property
    def newest(self) -> BlockedDecision:
        return self.decisions[0]

    @property
    def oldest(self) -> BlockedDecision:
        return self.decisions[-1]


def grouped(newest_first: Iterable[BlockedDecision], most: int) -> list[Burst]:
    """By their newest calls; the calls are taken from the first until there would be more than `most` bursts."""
    bursts: list[Burst] = []
    latest: dict[tuple[object, ...], Burst] = {}
    for decision in newest_first:
        key = _alike(decision)
        burst = latest.get(key)
        if burst is None or burst.oldest.decided_at - decision.decided_at > GAP_MAX:
            if len(bursts) == most:
                break
            burst = latest[key] = Burst()
            bursts.append(burst)
        burst.decisions.append(decision)
    return bursts


def _alike(decision: BlockedDecision) -> tuple[object, ...]:
    return (
        decision.user_id,
        decision.feature,
        decision.model,
        decision.reason_code,
        decision.reason_class,
        decision.policy_id,
    )
