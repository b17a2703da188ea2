"""When a limit runs out, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from policies.standing.pace import Ending, Outlook, Pace
from usage import wording

_SOON = timedelta(hours=1)
_LATER = timedelta(days=1)
_QUARTER, _HOUR = timedelta(minutes=15), timedelta(hours=1)
_UNITS = (86_400, 3600, 60)


@dataclass(frozen=True, slots=True)
class RunsOut:
    """`runs out Friday 4 December about 14:00 at the pace of the last 6 h`, and the instant, if it has one."""

    says: str
    at: datetime | None = None


def of(outlook: Outlook, now: datetime, zone: ZoneInfo) -> RunsOut:
    if outlook.ending is Ending.USED_UP:
        return RunsOut("used up")
    if outlook.ending is Ending.TOO_LITTLE:
        return RunsOut("too little to tell when it runs out")
    if outlook.at is None:
        return RunsOut("not before it resets")
    said = f"runs out {when(outlook.at, now, zone)}"
    if outlook.by_forecast:
        said = f"{said} by the forecast"
    if outlook.pace is not None:
        said = f"{said} {_at(outlook.pace)}"
    return RunsOut(said, outlook.at.replace(microsecond=0))


def _at(pace: Pace) -> str:
    """In whole days or hours if that is two or more, else in minutes."""
    seconds = int(pace.over.total_seconds())
    unit = next((unit for unit in _UNITS if seconds >= 2 * unit), 1)
    over = wording.duration(seconds - seconds % unit)
    return f"at the pace so far, taken as of {over}" if pace.is_young else f"at the pace of the last {over}"


def when(at: datetime, now: datetime, zone: ZoneInfo) -> str:
    """`in 47 min`, `today about 18:00`, `Saturday 5 December about 13:00`: no more exact than a pace can tell."""
    if at - now < _SOON:
        return f"in {wording.duration(max(0, int((at - now).total_seconds())))}"
    here = _rounded(at.astimezone(zone), _HOUR if at - now >= _LATER else _QUARTER)
    today = now.astimezone(zone).date()
    day = "today" if here.date() == today else f"{here:%A} {here.day} {here:%B}"
    return f"{day} about {here:%H:%M}"


def _rounded(here: datetime, step: timedelta) -> datetime:
    """To the nearest step on the clock."""
    midnight = here.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    steps = round((here.replace(tzinfo=None) - midnight) / step)
    return midnight + steps * step
