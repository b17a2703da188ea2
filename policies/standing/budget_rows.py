"""Budgets as rows of limits: when one runs out is said by its forecast, so that all pages have one date for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from policies.standing import budget_course, pace_wording
from policies.standing.budget_course import BudgetCourse, Month
from policies.standing.limit_rows import LimitRow
from policies.standing.pace_wording import RunsOut
from policies.standing.standings import Standing


@dataclass(frozen=True, slots=True)
class BudgetRow(LimitRow):
    """Of a budget that has a forecast. `at`: None if it lasts."""

    at: datetime | None
    now: datetime

    @property
    def runs_out(self) -> RunsOut | None:
        if self.at is None:
            return RunsOut("not before it resets")
        return pace_wording.by_forecast(self.at, self.now, self.zone)


def rows(
    found: Iterable[Standing], courses: Iterable[BudgetCourse], this: Month, zone: ZoneInfo
) -> list[LimitRow]:
    """Of limits, in their order; those with a forecast, and something left, as budgets."""
    forecast = {
        id(each.standing): each for each in courses if each.forecast is not None and each.in_all < each.limit
    }
    return [
        BudgetRow(each, zone, budget_course.runs_out(forecast[id(each)], this), this.now)
        if id(each) in forecast
        else LimitRow(each, zone)
        for each in found
    ]
