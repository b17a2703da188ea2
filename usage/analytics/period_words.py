"""A shown period in words, and what it is compared with. Pure."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

from usage.analytics.shown_period import Days, ShownPeriod


def shown(period: ShownPeriod) -> str:
    """`20 to 26 Nov 2026, until now`; the zone is said once on a page, by the page."""
    return f"{days(period.days)}{', until now' if period.is_running else ''}"


def compared(period: ShownPeriod, zone: ZoneInfo) -> str:
    """`13 to 19 Nov 2026, until 14:32`"""
    if not period.is_running:
        return days(period.before)
    until = period.before.range.end.astimezone(zone)
    # A day that the month before did not have: it is compared with all of that month.
    ends_with_a_day = until.date() > period.before.last
    return days(period.before) if ends_with_a_day else f"{days(period.before)}, until {until:%H:%M}"


def nothing_to_compare(since: date | None) -> str:
    """`nothing to compare: calls are known since 27 Sep 2026`; empty: the period before may be compared."""
    return "" if since is None else f"nothing to compare: calls are known since {since.day} {since:%b %Y}"


def days(shown: Days) -> str:
    """`26 Nov 2026`, `20 to 26 Nov 2026`, `30 Dec 2025 to 2 Jan 2026`"""
    first, last = shown.first, shown.last
    if first == last:
        return f"{last.day} {last:%b %Y}"
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day} to {last.day} {last:%b %Y}"
    year = "" if first.year == last.year else f" {first.year}"
    return f"{first.day} {first:%b}{year} to {last.day} {last:%b %Y}"
