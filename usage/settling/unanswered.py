"""Reports whose answer PostgreSQL owes: written again until it is known what became of them.

A statement whose connection was lost may take effect, even later, and perhaps nobody repeats the report. To write it
again is what its caller is told to do, and as safe: an id is written once and charged once, whoever says it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tenants import missed
from usage.counting.rules import CountingRules
from usage.ledger.reading import Recorded
from usage.ledger.rows import NewEvent
from usage.ledger.writing import record
from usage.settling import charging

# Statements under way as PostgreSQL goes away, of all threads; few, for after three the others fail at once.
KEPT_MAX = 1_000


@dataclass(frozen=True, slots=True)
class _Unanswered:
    events: Sequence[NewEvent]
    known: CountingRules
    since: float = field(default_factory=time.monotonic)

    def is_old(self) -> bool:
        """The counter store may not remember any more whether it was charged."""
        return time.monotonic() - self.since > charging.REPEATED_CHARGE_MAX_AGE.total_seconds()


_kept: deque[_Unanswered] = deque()


def keep(events: Sequence[NewEvent], known: CountingRules) -> None:
    """Of one environment. For what is too much, or gets too old, its counters are rebuilt."""
    if len(_kept) < KEPT_MAX:
        _kept.append(_Unanswered(events, known))
    else:
        missed.note_or_remember(known.environment_id, missed.CHANGE)


def write_again() -> None:
    """Once each. Raises DatabaseError at the first that gets no answer again; it is the last next time."""
    for _ in range(len(_kept)):
        unanswered = _kept.popleft()
        if unanswered.is_old():
            missed.note_or_remember(unanswered.known.environment_id, missed.CHANGE)
            continue
        try:
            outcomes = record(unanswered.events)
        except BaseException:
            _kept.append(unanswered)
            raise
        charging.charge([row for row in outcomes if isinstance(row, Recorded)], unanswered.known)


def forget_all() -> None:
    """As in a new process."""
    _kept.clear()
