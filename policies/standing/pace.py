"""When a limit runs out, if its subject goes on as in this window so far. Pure.

The pace is what was used and held since the window began, divided by the time since then. That time counts as at least
a 24th of the window, so that the first call after midnight does not look like the pace of a day. So the end moves later
with the clock while nobody calls, and whatever shows it says over which time the pace is the average.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

LEAST_PART = 24


class Ending(StrEnum):
    """`used_up`: nothing is left now. `too_little`: of a budget, too few days are known to tell."""

    USED_UP = "used_up"
    RUNS_OUT = "runs_out"
    NOT_BEFORE_RESET = "not_before_reset"
    TOO_LITTLE = "too_little"


@dataclass(frozen=True, slots=True)
class Pace:
    """Over which time it is the average. `is_young`: the window is younger than that."""

    over: timedelta
    is_young: bool


@dataclass(frozen=True, slots=True)
class Outlook:
    """`at` is known if it runs out before its window ends: at a `pace`, or by the forecast of a budget."""

    ending: Ending
    at: datetime | None = None
    pace: Pace | None = None
    by_forecast: bool = False

    @property
    def order(self) -> tuple[int, float]:
        """What runs out first comes first; what is used up already before it."""
        return list(Ending).index(self.ending), 0.0 if self.at is None else self.at.timestamp()


@dataclass(frozen=True, slots=True)
class Course:
    """A window under way, if it ever ends."""

    begun_at: datetime
    ends_at: datetime
    now: datetime

    def outlook(self, taken: int, limit: int) -> Outlook:
        """`taken`: used and held."""
        if taken >= limit:
            return Outlook(Ending.USED_UP)
        if taken <= 0:
            return Outlook(Ending.NOT_BEFORE_RESET)
        so_far, least = self.now - self.begun_at, (self.ends_at - self.begun_at) / LEAST_PART
        passed = max(so_far, least)
        left = self.ends_at - self.now
        # In floats: limits may be so large that the time does not fit a timedelta.
        lasts_s = passed.total_seconds() * (limit - taken) / taken
        if lasts_s >= left.total_seconds():
            return Outlook(Ending.NOT_BEFORE_RESET)
        pace = Pace(passed, is_young=so_far < least)
        return Outlook(Ending.RUNS_OUT, self.now + timedelta(seconds=lasts_s), pace)
