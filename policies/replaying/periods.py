"""Until when and from when a replay goes, as people type it. Pure."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from usage.instants import EPOCH, from_ms, to_ms
from usage.ledger.periods import Period
from usage.windows import END_MS, date_start

DEFAULT_PERIOD = timedelta(days=30)
END_YEAR = from_ms(END_MS).year


class PeriodError(Exception):
    """What is wrong, with the name of the field."""


def period(start: str | None, end: str | None, now: datetime, zone: ZoneInfo) -> Period:
    """Until `now` if nothing else is said, and so long before its end (DEFAULT_PERIOD). Raises PeriodError."""
    until = now if end is None else moment("--to", end, zone)
    since = until - DEFAULT_PERIOD if start is None else moment("--from", start, zone)
    if since >= until:
        raise PeriodError(f"--to must be after --from ({since.isoformat()})")
    return Period(since, until)


def moment(field: str, text: str, zone: ZoneInfo) -> datetime:
    """An RFC 3339 time with an offset, or the beginning of a date in the zone. Raises PeriodError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or (found.tzinfo is None and not _is_date(text)):
        raise PeriodError(
            f"{field}: {text!r} is neither a date such as 2026-11-01 nor a time with its offset such as "
            "2026-11-01T08:00:00Z"
        )
    if found.tzinfo is None:
        found = _begin(found.date(), zone)
    if not 0 <= to_ms(found) < END_MS:
        raise PeriodError(f"{field}: {text!r} must lie between 1970 and 9998")
    return found


def _begin(day: date, zone: ZoneInfo) -> datetime:
    """As the windows of the day have it; a year without windows is refused by its number."""
    if EPOCH.year <= day.year < END_YEAR:
        return from_ms(date_start(day, zone))
    return datetime.combine(day, time(), zone)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
