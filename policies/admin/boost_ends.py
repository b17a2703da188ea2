"""When a boost ends, as people say it: in an hour, at the end of today, of Friday, of the month, of a day."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from unfold.widgets import UnfoldAdminSplitDateTimeWidget

from usage.instants import to_ms
from usage.windows import Window, number_met

# Its last second, so that it reads as that day everywhere.
END_OF_DAY = time(23, 59, 59)
_FRIDAY = 4
# Of a boost by the minute for a year there are too many to count.
WINDOWS_COUNTED_MAX = 1000


class Until(StrEnum):
    HOUR = "hour"
    TODAY = "today"
    FRIDAY = "friday"
    MONTH = "month"


def choices(now: datetime, zone: ZoneInfo) -> list[tuple[str, str]]:
    """`At the end of Friday 27 Nov, 23:59 CET`: which day that is, is said before it is chosen."""
    days = {Until.TODAY: "today", Until.FRIDAY: "", Until.MONTH: "the month"}
    ends = [(until.value, _says(named, ends_at(until, now, zone))) for until, named in days.items()]
    return [("", "On the day below"), (Until.HOUR.value, "1 hour after it starts"), *ends]


def _says(named: str, end: datetime) -> str:
    day = f"{end:%A} {end.day} {end:%b}"
    return (
        f"At the end of {named}, {day}, 23:59 {end:%Z}" if named else f"At the end of {day}, 23:59 {end:%Z}"
    )


def ends_at(until: Until, now: datetime, zone: ZoneInfo, begins_at: datetime | None = None) -> datetime:
    """The days are those that `choices` names; the hour counts from when it begins."""
    today = now.astimezone(zone).date()
    match until:
        case Until.HOUR:
            # To the minute: a form that is sent twice says the same.
            return (begins_at or now).replace(second=0, microsecond=0) + timedelta(hours=1)
        case Until.TODAY:
            day = today
        case Until.FRIDAY:
            day = today + timedelta(days=(_FRIDAY - today.weekday()) % 7)
        case Until.MONTH:
            day = _next_month(today) - timedelta(days=1)
    return datetime.combine(day, END_OF_DAY, zone)


def windows(window: Window, now: datetime, zone: ZoneInfo) -> dict[str, int | None]:
    """How many windows a boost from now on meets, of each end that `choices` offers; None: too many to count."""
    return {until.value: windows_met(window, now, ends_at(until, now, zone), zone) for until in Until}


def windows_met(window: Window, begins_at: datetime, ends_at: datetime, zone: ZoneInfo) -> int | None:
    """How many windows a boost meets; None: too many to count."""
    return number_met(window, to_ms(begins_at), to_ms(ends_at), zone, WINDOWS_COUNTED_MAX)


def _next_month(day: date) -> date:
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)


class DayOrMomentField(forms.SplitDateTimeField):
    """In the zone of the page. A day without a time is meant until its end."""

    widget = UnfoldAdminSplitDateTimeWidget

    def compress(self, data_list: Any) -> datetime | None:
        if data_list and data_list[0] and not data_list[1]:
            data_list = [data_list[0], END_OF_DAY]
        found: datetime | None = super().compress(data_list)
        return found
