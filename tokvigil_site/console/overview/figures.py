"""What the shown period used against the one before it, its course, and who spent most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.forms import BoundField

from policies.admin import period_figures
from usage import wording
from usage.admin.explorer_form import NONE, ExplorerAsked
from usage.admin.explorer_rows import Row, Shown
from usage.analytics import measures, period_words, used_quantities
from usage.analytics.questions import OF_QUANTITIES, Measure
from usage.analytics.shown_period import ShownPeriod

LEADING = (("Users", "user"), ("Features", "feature"), ("Models", "model"), ("Plans", "plan"))
# Whose names are few; users are ranked first.
FEW = ("feature", "model", "plan")


class OverviewAsked(ExplorerAsked):
    """The Explorer's questions are asked for the person, who chooses period and filters."""

    tab = "index"

    @property
    def own_fields(self) -> list[BoundField]:
        return []


@dataclass(frozen=True, slots=True)
class Leading:
    """Who spent most, the dearest first. `url`: of all of them, in the Explorer."""

    title: str
    rows: list[Row]
    url: str


def context(asked: OverviewAsked) -> dict[str, Any]:
    """For the template; nothing, if what was asked cannot be read."""
    period = asked.shown
    if period is None:
        return {}
    course, groups = period_figures.course_and_groups(asked, period, None, FEW)
    shown = dict(zip(FEW, groups, strict=True)) | {"user": period_figures.shown(asked, period, "user")}
    return {
        "period": period_words.shown(period),
        "compared": period_words.compared(period, asked.zone),
        "nothing_to_compare": period_words.nothing_to_compare(asked.known_since),
        "figures": period_figures.figures(
            course.answer.total, period_figures.blocked(asked, period), compares=asked.known_since is None
        ),
        "measure": measures.TITLES[Measure.COST],
        "chart": course.chart(),
        "levels": course.levels(),
        "has_parts": course.has_parts,
        "leaders": [
            Leading(title, _used(shown[dimension]), asked.address(by=dimension))
            for title, dimension in LEADING
        ],
        "also_used": _also_used(asked, period),
        "explorer_url": asked.address(by=NONE, step=period_figures.step(period).value),
    }


def _also_used(asked: OverviewAsked, period: ShownPeriod) -> list[tuple[str, str, str]]:
    """Beside text tokens: what, how much, and the address of its course. Nothing is read where none ever was used."""
    if not asked.quantities:
        return []
    found = used_quantities.in_period(asked.environment.pk, period.days.range, asked.filters)
    return [
        (measures.TITLES[OF_QUANTITIES[name]], wording.count(amount), asked.address(show=name))
        for name, amount in found.items()
        if amount
    ]


def _used(shown: Shown) -> list[Row]:
    return [row for row in shown.rows() if not row.is_idle]
