"""The period that the analytics pages show, in local days of the tenant's zone, and the one it is compared with. Pure.

Days are those of the counters (usage/windows.py), so that a day here is what a daily limit saw. The period before has
as many local days; a calendar month is compared with the month before it. A period that is not over yet is compared
until as much had passed: until the same time of the clock, as many days (or one month) earlier.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from usage.instants import from_ms
from usage.ledger.buckets import Range
from usage.windows import date_start

DAYS_MAX = 400
FIRST_DAY, LAST_DAY = date(1970, 1, 3), date(9998, 11, 29)

_DAY = timedelta(days=1)


class Named(StrEnum):
    TODAY = "today"
    YESTERDAY = "yesterday"
    LAST_7_DAYS = "7d"
    LAST_WEEK = "last-week"
    LAST_30_DAYS = "30d"
    THIS_MONTH = "month"
    LAST_MONTH = "last-month"
    CUSTOM = "custom"


DEFAULT = Named.LAST_7_DAYS
# What an address calls them: the name of the period, and the days of a custom one.
PARAMETERS = ("period", "from", "to")
_MONTHS = (Named.THIS_MONTH, Named.LAST_MONTH)
# Each with today, but yesterday.
_LENGTHS = {Named.TODAY: 1, Named.YESTERDAY: 1, Named.LAST_7_DAYS: 7, Named.LAST_30_DAYS: 30}


class NotAPeriod(ValueError):
    """`field`: `from` or `to`, which of the two days is to be changed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Days:
    """Local days, both included, and the instants from the start of the first until before the end of the last."""

    first: date
    last: date
    range: Range


@dataclass(frozen=True, slots=True)
class ShownPeriod:
    """`before`: what it is compared with, until as much of it had passed; it lies `shift` earlier.

    `now` is the moment of the question; the period is running if it lies inside.
    """

    named: Named
    days: Days
    before: Days
    shift: timedelta
    now: datetime

    @property
    def start(self) -> datetime:
        return self.days.range.start

    @property
    def end(self) -> datetime:
        return self.days.range.end

    @property
    def is_running(self) -> bool:
        return self.start <= self.now < self.end


def shown_period(
    named: Named, now: datetime, zone: ZoneInfo, first: date | None = None, last: date | None = None
) -> ShownPeriod:
    """`first` and `last` are those of a custom period; without `last` it has one day. Raises NotAPeriod."""
    today = _today(now, zone)
    if named is Named.CUSTOM:
        days = _custom(first, last, zone)
    elif named in _MONTHS:
        month = today.replace(day=1)
        days = _month(month if named is Named.THIS_MONTH else _month_before(month), zone)
    elif named is Named.LAST_WEEK:
        monday = today - today.weekday() * _DAY
        days = _days(monday - 7 * _DAY, monday - _DAY, zone)
    else:
        end = today - _DAY if named is Named.YESTERDAY else today
        days = _days(end - (_LENGTHS[named] - 1) * _DAY, end, zone)
    return _compared(named, days, now, zone)


def _custom(first: date | None, last: date | None, zone: ZoneInfo) -> Days:
    if first is None:
        raise NotAPeriod("from", "Say the first day.")
    last = first if last is None else last
    for field, day in (("from", first), ("to", last)):
        if not FIRST_DAY <= day <= LAST_DAY:
            raise NotAPeriod(field, f"Give a day between {FIRST_DAY} and {LAST_DAY}.")
    if last < first:
        raise NotAPeriod("to", f"This is before the first day, {first}.")
    if (last - first).days >= DAYS_MAX:
        raise NotAPeriod("from", f"At most {DAYS_MAX} days before the last day; ask in parts.")
    found = _days(first, last, zone)
    if found.range.start == found.range.end:
        raise NotAPeriod("from", f"{zone.key} never had this day.")
    return found


def _compared(named: Named, days: Days, now: datetime, zone: ZoneInfo) -> ShownPeriod:
    if named in _MONTHS:
        before = _month(_month_before(days.first), zone)
    else:
        length = days.last - days.first + _DAY
        before = _days(days.first - length, days.first - _DAY, zone)
    shift = days.first - before.first
    if days.range.start <= now < days.range.end:
        before = _until_as_much_had_passed(before, shift, now, zone)
    return ShownPeriod(named, days, before, shift, now)


def _until_as_much_had_passed(before: Days, shift: timedelta, now: datetime, zone: ZoneInfo) -> Days:
    """Until the same time of the clock; of a day that its month did not have, all of the month."""
    day = _today(now, zone) - shift
    if day > before.last:
        return before
    same_time = datetime.combine(day, now.astimezone(zone).time(), zone)
    start, end = _start(day, zone), _start(day + _DAY, zone)
    until = min(max(same_time.astimezone(start.tzinfo), start), end)
    return Days(before.first, day, Range(before.range.start, until))


def _days(first: date, last: date, zone: ZoneInfo) -> Days:
    return Days(first, last, Range(_start(first, zone), _start(last + _DAY, zone)))


def _month(first: date, zone: ZoneInfo) -> Days:
    return _days(first, (first + 31 * _DAY).replace(day=1) - _DAY, zone)


def _month_before(first: date) -> date:
    return (first - _DAY).replace(day=1)


def _today(now: datetime, zone: ZoneInfo) -> date:
    """Clocks that were set back over midnight read the old date; the new day has begun."""
    today = now.astimezone(zone).date()
    return today + _DAY if _start(today + _DAY, zone) <= now else today


def _start(day: date, zone: ZoneInfo) -> datetime:
    return from_ms(date_start(day, zone))
