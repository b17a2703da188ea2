"""The periods that people choose by name: the last 7 days, last month. Pure."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from policies.replaying.periods import moment
from usage.instants import from_ms, to_ms
from usage.windows import Window, date_start, span

_LAST_DAYS = {"7": 7, "30": 30}


class Named(StrEnum):
    LAST_7_DAYS = "7"
    LAST_30_DAYS = "30"
    THIS_MONTH = "this_month"
    LAST_MONTH = "last_month"


WORDS = {
    Named.LAST_7_DAYS: "The last 7 days",
    Named.LAST_30_DAYS: "The last 30 days",
    Named.THIS_MONTH: "This month",
    Named.LAST_MONTH: "Last month",
}


def named(name: Named, now: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """From when until before when. Days and months are the zone's; the last days are whole ones and today so far."""
    if name.value in _LAST_DAYS:
        today = now.astimezone(zone).date()
        return from_ms(date_start(today - timedelta(days=_LAST_DAYS[name.value] - 1), zone)), now
    begun = from_ms(span(Window.MONTH, to_ms(now), zone).start)
    if name is Named.THIS_MONTH:
        return begun, now
    return from_ms(span(Window.MONTH, to_ms(begun) - 1, zone).start), begun


def of_days(first: date, last: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """From the beginning of the one until the other is over. Raises PeriodError."""
    start = moment("from", first.isoformat(), zone)
    return start, moment("to", (last + timedelta(days=1)).isoformat(), zone)
