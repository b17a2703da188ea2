"""How a monthly budget fares this month: what was spent by day, and what the rest of the month will take.

The forecast is simple on purpose. Each part of the month that is left costs the average of the last WHOLE_DAYS whole
days; days before the subject's first one are left out. The band takes their first and third quartile instead, so that
half of the days lie inside it. With fewer than DAYS_MIN whole days there is no forecast.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.db import connection

from policies.standing.standings import Standing, SubjectStanding
from usage.instants import from_ms, to_ms
from usage.ledger import sums
from usage.ledger.periods import Period
from usage.metrics import Metric
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCourse:
    """Of the fullest subject of a budget. `spent` by day of the month until today; the last day may be under way."""

    standing: Standing
    subject: SubjectStanding
    days: tuple[datetime, ...]
    spent: tuple[int, ...]
    forecast: Forecast | None

    @property
    def limit(self) -> int:
        return self.subject.allowed(self.standing.limit)

    @property
    def in_all(self) -> int:
        return sum(self.spent)


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


def is_budget(standing: Standing) -> bool:
    return standing.limit.metric is Metric.COST_USD and standing.limit.window is Window.MONTH


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


def course(standing: Standing, of: Month, environment_id: int) -> BudgetCourse | None:
    """None: nobody spent anything of it. Raises DatabaseError."""
    subject = standing.fullest
    if subject is None:
        return None
    by_day = _by_day(environment_id, standing, subject, of)
    before = sum(day < of.start for day in of.read)
    spent = tuple(by_day[before : before + of.passed])
    whole = by_day[:-1][-WHOLE_DAYS:]
    return BudgetCourse(
        standing=standing,
        subject=subject,
        days=of.days,
        spent=spent,
        forecast=_forecast(whole, sum(spent), of),
    )


def runs_out(found: BudgetCourse, of: Month) -> datetime | None:
    """When the forecast has the budget used up; None: it lasts, there is no forecast, or it is used up now."""
    if found.forecast is None or not found.in_all < found.limit < found.forecast.middle:
        return None
    part = (found.limit - found.in_all) / (found.forecast.middle - found.in_all)
    return of.now + (of.end - of.now) * part


def _by_day(environment_id: int, standing: Standing, subject: SubjectStanding, of: Month) -> list[int]:
    """Of each day that is read."""
    columns = sums.COLUMNS[standing.limit.per]
    named = {column: getattr(subject.subject, column) for column in columns}
    used = sums.used(environment_id, [*of.read, of.now + _MOMENT], columns, named)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT width_bucket(at, %s::timestamptz[]), sum(cost_nano)::bigint FROM ({used.sql}) AS used GROUP BY 1
            """,  # noqa: S608 (our own names)
            [list(of.read), *used.values],
        )
        found = dict(cursor.fetchall())
    return [found.get(place + 1, 0) for place in range(len(of.read))]


def _forecast(whole: Sequence[int], spent: int, of: Month) -> Forecast | None:
    first = next((place for place, cost in enumerate(whole) if cost), len(whole))
    days = list(whole[first:])
    if len(days) < DAYS_MIN:
        return None
    left = _left(of)
    low, _, high = statistics.quantiles(days, n=4, method="inclusive")
    middle = sum(days) / len(days)
    return Forecast(
        low=spent + int(min(low, middle) * left),
        middle=spent + int(middle * left),
        high=spent + int(max(high, middle) * left),
        days=len(days),
    )


def _left(of: Month) -> float:
    """Days of the month that are left, today with the part of it that is."""
    begun = of.days[of.passed - 1]
    ends = [*of.days[1:], of.end][of.passed - 1]
    return (ends - of.now) / (ends - begun) + len(of.days) - of.passed
