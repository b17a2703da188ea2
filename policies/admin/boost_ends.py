"""When a boost ends, as people say it: in an hour, at the end of today, of Friday, of the month, of a day."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from unfold.widgets import UnfoldAdminSplitDateTimeWidget

# Its last second, so that it reads as that day everywhere.
END_OF_DAY = time(23, 59, 59)
_FRIDAY = 4


class Until(StrEnum):
    HOUR = "hour"
    TODAY = "today"
    FRIDAY = "friday"
    MONTH = "month"


CHOICES = [
    ("", "On the day below"),
    (Until.HOUR.value, "In 1 hour"),
    (Until.TODAY.value, "At the end of today"),
    (Until.FRIDAY.value, "At the end of Friday"),
    (Until.MONTH.value, "At the end of the month"),
]


def ends_at(until: Until, begins_at: datetime, zone: ZoneInfo) -> datetime:
    """Counted from when it begins, in days of the zone."""
    today = begins_at.astimezone(zone).date()
    match until:
        case Until.HOUR:
            # To the minute: a form that is sent twice says the same.
            return begins_at.replace(second=0, microsecond=0) + timedelta(hours=1)
        case Until.TODAY:
            day = today
        case Until.FRIDAY:
            day = today + timedelta(days=(_FRIDAY - today.weekday()) % 7)
        case Until.MONTH:
            day = _next_month(today) - timedelta(days=1)
    return datetime.combine(day, END_OF_DAY, zone)


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
