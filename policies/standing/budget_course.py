"""How a monthly budget fares this month: what its fullest subject spent by day, and what the month will take."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from policies.standing.budget_forecast import Forecast
from policies.standing.standings import Standing, SubjectStanding


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCourse:
    """Of the fullest subject of a budget. `spent` by day of the month until today; the last day may be under way."""

    standing: Standing
    subject: SubjectStanding
    days: tuple[datetime, ...]
    spent: tuple[int, ...]
    forecast: Forecast | None

    @property
    def limit(self) -> int:
        return self.subject.allowed(self.standing.limit)

    @property
    def in_all(self) -> int:
        return sum(self.spent)


def course(standing: Standing) -> BudgetCourse | None:
    """None: nobody spent anything of it, or it could not be read."""
    subject = standing.fullest
    if subject is None or subject.spent is None:
        return None
    return BudgetCourse(
        standing=standing,
        subject=subject,
        days=subject.spent.month.days,
        spent=subject.spent.of_month,
        forecast=subject.spent.forecast(),
    )
