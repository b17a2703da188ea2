"""When a limit runs out: the one answer that all pages and alerts give. Pure.

A budget (a limit on cost by month) runs out by the forecast of its latest days, and of one with too few days nothing is
said. Every other limit runs out at the pace of its window so far.
"""

from __future__ import annotations

from policies.standing.budget_forecast import Spent
from policies.standing.pace import Course, Ending, Outlook


def outlook(course: Course | None, spent: Spent | None, taken: int, limit: int) -> Outlook | None:
    """`taken`: used and held. `course`: of the window, if it ends. `spent`: by day, of a budget. None: not known."""
    if course is None:
        return Outlook(Ending.USED_UP) if taken >= limit else None
    if spent is not None:
        return spent.outlook(taken, limit)
    return course.outlook(taken, limit)
