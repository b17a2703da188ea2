"""What the rest of the month will take of a budget, and when that uses it up. Pure.

The forecast is simple on purpose. Each part of the month that is left costs the average of the last WHOLE_DAYS whole
days; days before the subject's first one are left out. The band takes their first and third quartile instead, so that
half of the days lie inside it. With fewer than DAYS_MIN whole days there is no forecast.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from policies.standing.pace import Ending, Outlook
from usage.instants import from_ms, to_ms
from usage.ledger.periods import Period
from usage.windows import Window, span

WHOLE_DAYS = 14
DAYS_MIN = 3
_MOMENT = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Nano-USD, at the end of the month. `days`: how many whole days it rests on."""

    low: int
    middle: int
    high: int
    days: int


@dataclass(frozen=True, slots=True)
class Month:
    """This month, and the days before it that a forecast needs, as instants in order."""

    start: datetime
    end: datetime
    now: datetime
    # Of the month; and of all days that are read.
    days: tuple[datetime, ...]
    read: tuple[datetime, ...]

    @property
    def passed(self) -> int:
        """Days of the month that have begun."""
        return sum(day <= self.now for day in self.days)

    @property
    def left(self) -> float:
        """Days of the month that are left, today with the part of it that is."""
        begun = self.days[self.passed - 1]
        ends = [*self.days[1:], self.end][self.passed - 1]
        return (ends - self.now) / (ends - begun) + len(self.days) - self.passed


@dataclass(frozen=True, slots=True)
class Spent:
    """What one subject of a budget spent on each day that is read, nano-USD; the last one may be under way."""

    month: Month
    by_day: tuple[int, ...]

    @property
    def of_month(self) -> tuple[int, ...]:
        before = sum(day < self.month.start for day in self.month.read)
        return self.by_day[before : before + self.month.passed]

    @property
    def whole_days(self) -> tuple[int, ...]:
        """The latest that are over, from the first one that cost something."""
        latest = self.by_day[:-1][-WHOLE_DAYS:]
        first = next((place for place, cost in enumerate(latest) if cost), len(latest))
        return latest[first:]

    def forecast(self) -> Forecast | None:
        """None: there are too few days."""
        days, spent, left = self.whole_days, sum(self.of_month), self.month.left
        if len(days) < DAYS_MIN:
            return None
        low, _, high = statistics.quantiles(days, n=4, method="inclusive")
        middle = sum(days) / len(days)
        return Forecast(
            low=spent + int(min(low, middle) * left),
            middle=spent + int(middle * left),
            high=spent + int(max(high, middle) * left),
            days=len(days),
        )

    def outlook(self, taken: int, limit: int) -> Outlook:
        """`taken`: used and held now."""
        if taken >= limit:
            return Outlook(Ending.USED_UP)
        forecast = self.forecast()
        if forecast is None:
            return Outlook(Ending.TOO_LITTLE)
        coming = forecast.middle - sum(self.of_month)
        if coming <= limit - taken:
            return Outlook(Ending.NOT_BEFORE_RESET)
        at = self.month.now + (self.month.end - self.month.now) * ((limit - taken) / coming)
        return Outlook(Ending.RUNS_OUT, at, by_forecast=True)


def month(now: datetime, zone: ZoneInfo) -> Month:
    found = span(Window.MONTH, to_ms(now), zone)
    assert found.end is not None
    start, end = from_ms(found.start), from_ms(found.end)
    days = _starts(start, end, zone)
    # A day longer, for a day may have 25 hours.
    first = min(start, now - timedelta(days=WHOLE_DAYS + 1))
    return Month(start, end, now, days, _starts(first, now + _MOMENT, zone))


def _starts(start: datetime, end: datetime, zone: ZoneInfo) -> tuple[datetime, ...]:
    return tuple(from_ms(each.start) for each in Period(start, end).spans(Window.DAY, zone))
