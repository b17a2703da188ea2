"""Until when and from when a replay goes, as people type it. Pure."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from usage.instants import from_ms, to_ms
from usage.ledger.periods import Period
from usage.windows import END_MS, Window, span

DEFAULT_DAYS = 30


class PeriodError(Exception):
    """What is wrong, with the name of the field."""


def period(start: str | None, end: str | None, now: datetime, zone: ZoneInfo) -> Period:
    """Until `now` if nothing else is said, and from DEFAULT_DAYS before its end. Raises PeriodError."""
    until = now if end is None else moment("--to", end, zone)
    since = until - timedelta(days=DEFAULT_DAYS) if start is None else moment("--from", start, zone)
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
    """As the windows of the day have it. Noon is never skipped."""
    noon = datetime.combine(day, time(12), zone)
    if not 0 <= to_ms(noon) < END_MS:
        return noon
    return from_ms(span(Window.DAY, to_ms(noon), zone).start)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
