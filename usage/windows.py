"""Calendar windows in a tenant's time zone: pure functions of an instant, integer milliseconds in and out.

Each window kind cuts time into spans without gap or overlap, whatever a zone does with its clocks. Two rules
make it so:

day, week, month   A window starts at the first instant at which the zone's clocks read its first midnight or
                   later. If they skip midnight it starts where they land; if they read midnight twice it
                   starts at the first one, and what they then repeat of the day before stays in it. A day
                   that a zone never had (Apia, 30 December 2011) has no window.
hour, minute       Aligned on the UTC offset in force and cut where that offset changes. A repeated hour is
                   therefore a window of its own. An hour is shorter than 60 minutes only beside a change that
                   is not made on a whole hour or not by a whole hour (Lord Howe shifts by 30 minutes).

Minutes thus lie inside hours, hours inside days, days inside weeks and months.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from usage.instants import EPOCH

END_MS = 253_370_764_800_000  # 9999-01-01 UTC: leaves datetime room for the end of any window

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


class Window(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Span:
    """Unix milliseconds UTC, from `start` up to but not including `end`. No `end`: it never ends."""

    start: int
    end: int | None


def span(window: Window, at_ms: int, zone: ZoneInfo) -> Span:
    """The one span of this window kind that holds the instant.

    ISO weeks, so they start on Monday. `total` is everything since 1970. Raises ValueError for an instant
    before 1970 or from year 9999 on.
    """
    if not 0 <= at_ms < END_MS:
        raise ValueError(f"instant out of range: {at_ms}")
    if window is Window.TOTAL:
        return Span(0, None)
    at = at_ms // 1000  # offsets and their changes are whole seconds
    if window is Window.MINUTE:
        start, end = _aligned(at, 60, zone)
    elif window is Window.HOUR:
        start, end = _aligned(at, 3600, zone)
    else:
        start, end = _dated(at, *_DATES[window], zone)
    return Span(start * 1000, end * 1000)


def number_met(window: Window, begun_ms: int, ended_ms: int, zone: ZoneInfo, most: int) -> int | None:
    """How many spans the time from `begun_ms` up to but not including `ended_ms` touches; None: above `most`."""
    number, at = 0, begun_ms
    while at < ended_ms:
        if number == most:
            return None
        number += 1
        end = span(window, at, zone).end
        at = ended_ms if end is None else end
    return number


def _aligned(at: int, length: int, zone: ZoneInfo) -> tuple[int, int]:
    offset = _offset(at, zone)
    start = at - (at + offset) % length
    end = start + length
    if _offset(start, zone) != offset:
        start = _offset_change(start, at, zone)
    if _offset(end - 1, zone) != offset:
        end = _offset_change(at, end - 1, zone)
    return start, end


def _dated(
    at: int, first_day: Callable[[date], date], next_first_day: Callable[[date], date], zone: ZoneInfo
) -> tuple[int, int]:
    day = first_day(_local(at, zone).date())
    start, end = _date_start(day, zone), _date_start(next_first_day(day), zone)
    while end <= at:  # clocks set back over midnight: they read the old date, the new window has begun
        day = next_first_day(day)
        start, end = end, _date_start(next_first_day(day), zone)
    return start, end


def date_start(day: date, zone: ZoneInfo) -> int:
    """When this day begins, in Unix milliseconds; of a day that the zone never had, when the next one does."""
    return _date_start(day, zone) * 1000


def _date_start(day: date, zone: ZoneInfo) -> int:
    """The first instant at which the zone's clocks read this date or a later one."""
    midnight = datetime.combine(day, time(), zone)
    at = _seconds(midnight)  # fold=0: of two midnights the first
    if _local(at, zone).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return at
    # No such midnight: fold=0 read it with the offset before the gap and fold=1 with the one after, so that
    # these two instants lie on either side of the change.
    return _offset_change(_seconds(midnight.replace(fold=1)), at, zone)


def _offset_change(before: int, after: int, zone: ZoneInfo) -> int:
    """The first instant with the offset of `after`, given one change between the two."""
    new_offset = _offset(after, zone)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(middle, zone) == new_offset:
            after = middle
        else:
            before = middle
    return after


def _local(at: int, zone: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(seconds=at)).astimezone(zone)


def _offset(at: int, zone: ZoneInfo) -> int:
    offset = _local(at, zone).utcoffset()
    assert offset is not None
    return offset // _SECOND


def _seconds(moment: datetime) -> int:
    return (moment - EPOCH) // _SECOND


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _first_of_month(day: date) -> date:
    return day.replace(day=1)


def _first_of_next_month(day: date) -> date:
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)


# What a window's first day is, and the first day of the window after it.
_DATES: dict[Window, tuple[Callable[[date], date], Callable[[date], date]]] = {
    Window.DAY: (lambda day: day, lambda day: day + _DAY),
    Window.WEEK: (_monday, lambda day: day + 7 * _DAY),
    Window.MONTH: (_first_of_month, _first_of_next_month),
}
