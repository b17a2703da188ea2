"""What `from` and `to` of a query mean."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec

from tenants.api.problems import invalid_field
from usage.instants import from_ms, to_ms
from usage.windows import Span, Window, span

# Before the first and after the last of them no window is defined (usage/windows.py).
EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)
LATEST = datetime(9998, 12, 1, tzinfo=UTC)
# What one answer may sum up.
PERIOD_MAX = timedelta(days=400)

Instant = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` up to but not including `end`."""

    start: datetime
    end: datetime

    def spans(self, window: Window, zone: ZoneInfo) -> list[Span]:
        """The windows that the period touches, in order."""
        end_ms = to_ms(self.end)
        found = [span(window, to_ms(self.start), zone)]
        while (next_ms := found[-1].end) is not None and next_ms < end_ms:
            found.append(span(window, next_ms, zone))
        return found


def of_month(month: date, zone: ZoneInfo) -> Period:
    """By the windows of the counters, so that it holds what a monthly limit saw."""
    found = span(Window.MONTH, to_ms(datetime(month.year, month.month, 15, tzinfo=zone)), zone)
    assert found.end is not None
    return Period(from_ms(found.start), from_ms(found.end))


def checked(field: str, instant: datetime | None) -> datetime | None:
    """The instant in UTC. Raises Problem 422 for one that no ledger row can have."""
    if instant is None:
        return None
    if not EARLIEST <= instant <= LATEST:
        raise invalid_field(field, f"must lie between {EARLIEST:%Y-%m-%d} and {LATEST:%Y-%m-%d}")
    return instant.astimezone(UTC)


def period(start: datetime | None, end: datetime | None, now: datetime, zone: ZoneInfo) -> Period:
    """As asked; without `from` since the month began that `to` ends in, without `to` until this month ends.

    So by default the current calendar month of the tenant. Raises Problem 422.
    """
    start, end = checked("from", start), checked("to", end)
    if end is None:
        this_month = span(Window.MONTH, to_ms(now), zone)
        assert this_month.end is not None
        end = from_ms(this_month.end)
    if start is None:
        start = from_ms(span(Window.MONTH, to_ms(end) - 1, zone).start)
    if start >= end:
        raise invalid_field("to", f"must be after from ({start:%Y-%m-%dT%H:%M:%SZ})")
    if end - start > PERIOD_MAX:
        raise invalid_field(
            "from", f"at most {PERIOD_MAX.days} days before to ({end:%Y-%m-%dT%H:%M:%SZ}); ask in parts"
        )
    return Period(start, end)
