"""What the shown period used against the one before it: spent, calls, tokens, blocked; its course; who spent most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from django.forms import BoundField

from policies.models import BlockedDecision
from usage import wording
from usage.admin.explorer_form import ExplorerAsked
from usage.admin.explorer_rows import Row, Shown
from usage.analytics import measures, period_words
from usage.analytics.answers import answer
from usage.analytics.questions import Measure, Question
from usage.analytics.shown_period import Named, ShownPeriod
from usage.ledger.buckets import Range
from usage.windows import Window

LEADING_MAX = 5
LEADING = (("Users", "user"), ("Features", "feature"), ("Models", "model"))
_MEASURES = (("Spent", Measure.COST), ("Calls", Measure.CALLS), ("Tokens", Measure.TOKENS))
# Longer periods are drawn by days.
_BY_HOURS = timedelta(days=2)


class OverviewAsked(ExplorerAsked):
    """The Explorer's questions are asked for the person, who chooses period and filters."""

    tab = "index"
    default = Named.TODAY

    @property
    def own_fields(self) -> list[BoundField]:
        return []


@dataclass(frozen=True, slots=True)
class Figure:
    """`change`: against the period before, in words; None: there was nothing before."""

    title: str
    value: str
    change: str | None
    before: str


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
    course = _course(asked, period)
    return {
        "period": period_words.shown(period),
        "compared": period_words.compared(period, asked.zone),
        "figures": _figures(asked, course, period),
        "measure": measures.TITLES[Measure.COST],
        "chart": course.chart(),
        "levels": course.levels(),
        "leaders": [_leading(asked, period, title, dimension) for title, dimension in LEADING],
        "explorer_url": asked.address(by="model", step=_step(period).value),
    }


def _course(asked: OverviewAsked, period: ShownPeriod) -> Shown:
    return _shown(asked, period, step=_step(period))


def _step(period: ShownPeriod) -> Window:
    return Window.HOUR if period.end - period.start < _BY_HOURS else Window.DAY


def _shown(asked: OverviewAsked, period: ShownPeriod, **fields: Any) -> Shown:
    question = Question(
        period=period.days.range, before=period.before.range, filters=asked.filters, top=LEADING_MAX
    )
    question = replace(question, **fields)
    return Shown(asked, question, answer(asked.environment.pk, question, asked.zone), period)


def _figures(asked: OverviewAsked, shown: Shown, period: ShownPeriod) -> list[Figure]:
    total = shown.answer.total
    found = []
    for title, measure in _MEASURES:
        now, before = measure.of(total.now), measure.of(total.before)
        found.append(
            Figure(
                title,
                measures.amount(measure, now),
                wording.change(now, before),
                f"{measures.amount(measure, before)} before",
            )
        )
    blocked, blocked_before = _blocked(asked, period.days.range), _blocked(asked, period.before.range)
    rate = wording.share(blocked, blocked + total.now["requests"])
    rate_before = wording.share(blocked_before, blocked_before + total.before["requests"])
    return [*found, Figure("Blocked", f"{wording.count(blocked)} · {rate}", None, f"{rate_before} before")]


def _blocked(asked: OverviewAsked, period: Range) -> int:
    decided = BlockedDecision.objects.filter(
        environment=asked.environment,
        decided_at__gte=period.start,
        decided_at__lt=period.end,
        **asked.filters,
    )
    return decided.count()


def _leading(asked: OverviewAsked, period: ShownPeriod, title: str, dimension: str) -> Leading:
    rows = _shown(asked, period, group=dimension).rows()
    return Leading(title, list(rows), asked.address(by=dimension))
