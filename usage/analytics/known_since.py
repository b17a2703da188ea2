"""From which day on calls of an environment are known: a period that begins earlier is nothing to compare with."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

from usage.analytics.shown_period import ShownPeriod
from usage.ledger.first_call import first_call


def known_since(environment_id: int, period: ShownPeriod, zone: ZoneInfo) -> date | None:
    """The day of the first call, if the period before begins earlier. None: compare. Raises DatabaseError."""
    first = first_call(environment_id)
    if first is None:
        return None
    day = first.astimezone(zone).date()
    return day if period.before.first < day else None
