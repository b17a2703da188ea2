"""Into the ledger, and once that is committed into the counters. Reports that come at the same time share both."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from usage.counting.rules import CountingRules
from usage.counting.settle import SETTLED_AT_ONCE_MAX, Settled
from usage.ledger.connections import OutcomeUnknown
from usage.ledger.reading import Recorded
from usage.ledger.rows import NewEvent
from usage.ledger.writing import Conflicting, record
from usage.settling import charging, unanswered
from usage.timebox.together import Together


class Written(msgspec.Struct, frozen=True):
    """What became of an event. `settled` is None if nothing was charged, or it could not be told."""

    outcome: Recorded | Conflicting
    settled: Settled | None


def write(events: Sequence[NewEvent], known: CountingRules, *, states: bool = False) -> list[Written]:
    """Of one environment, one for each, in order. Request ids must differ from each other.

    `states`: with how the counters stand afterwards. Raises DatabaseError if the ledger cannot be reached; then nothing
    was recorded, or (OutcomeUnknown) it is written again once the ledger can be reached.
    """
    if not events:
        return []
    try:
        outcomes = record(events)
    except OutcomeUnknown:
        unanswered.keep(events, known)
        raise
    settled = charging.charge([row for row in outcomes if isinstance(row, Recorded)], known, states=states)
    return [Written(outcome, settled.get(outcome.request_id)) for outcome in outcomes]


class _Report(msgspec.Struct, frozen=True):
    event: NewEvent
    known: CountingRules


def _write_reports(reports: Sequence[_Report]) -> list[Written]:
    return write([report.event for report in reports], reports[0].known, states=True)


_together = Together(
    _write_reports,
    group=lambda report: report.event.environment_id,
    name=lambda report: report.event.request_id,
    most=SETTLED_AT_ONCE_MAX,
)


def write_one(event: NewEvent, known: CountingRules) -> Written:
    """As `write`, with how the counters stand. What threads bring while one is being written is written at once."""
    return _together.do(_Report(event, known))
