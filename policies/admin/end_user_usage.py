"""What an end user used over a period, for their page: figures, the course, and which names were dearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.forms import BoundField
from django.http import HttpRequest
from django.urls import reverse

from policies.admin import period_figures
from tenants.console import environments
from tenants.console.pages import refuse_unknown
from tenants.models import Environment
from usage.admin.asked import PERIOD
from usage.admin.explorer_form import TOPS, ExplorerAsked
from usage.admin.explorer_rows import Row, Shown
from usage.analytics import measures, period_words
from usage.analytics.questions import Measure
from usage.analytics.shown_period import Named

# How calls are told apart, and how those of one name are told apart in the Explorer.
_GROUPS = (("By feature", "feature", "model"), ("By model", "model", "feature"))
# Its rows say what the blocks of the chart are.
_CHARTED = "model"


class UsageAsked(ExplorerAsked):
    """The Explorer's questions are asked for the person, who chooses the period."""

    tab = ""
    default = Named.LAST_30_DAYS
    aside = ("user_id",)
    anchor = "usage"

    def __init__(self, request: HttpRequest, environment: Environment, user_id: str, now: datetime) -> None:
        """Raises BadRequest for parameters that the page does not have."""
        refuse_unknown(request.GET, {*PERIOD, *self.aside, environments.PARAMETER})
        super().__init__(request, environment, now)
        self.user_id = user_id
        self.given["user"] = user_id

    @property
    def filters(self) -> dict[str, str]:
        return {"user_id": self.user_id}

    def offer(self, period: object) -> None:
        """There are no names to choose from."""

    def parameters(self, **changed: str | list[str]) -> dict[str, Any]:
        return {environments.PARAMETER: str(self.environment), **super().parameters(**changed)}

    @property
    def kept(self) -> list[tuple[str, str]]:
        return [(environments.PARAMETER, str(self.environment)), ("user_id", self.user_id)]

    @property
    def own_fields(self) -> list[BoundField]:
        return []

    @property
    def shared_fields(self) -> list[BoundField]:
        return [self[name] for name in PERIOD]

    def hidden_fields(self) -> list[BoundField]:
        return []


@dataclass(frozen=True, slots=True)
class UsedRow:
    """`row.url` leads to the calls, `url` to the Explorer."""

    row: Row
    url: str


@dataclass(frozen=True, slots=True)
class Group:
    """The dearest names first. `url`: of all of them, in the Explorer."""

    title: str
    name: str
    rows: tuple[UsedRow, ...]
    url: str


def context(asked: UsageAsked) -> dict[str, Any]:
    """For the template. Without `figures` what was asked cannot be read; without `chart` no call was recorded."""
    period = asked.shown
    if period is None:
        return {"asked": asked}
    course, (by_feature,) = period_figures.course_and_groups(asked, period, _CHARTED, ["feature"])
    total = course.answer.total
    blocked = period_figures.blocked(asked, period)
    words = {
        "asked": asked,
        "period": period_words.shown(period),
        "compared": period_words.compared(period, asked.zone),
        "nothing_to_compare": period_words.nothing_to_compare(asked.known_since),
        "is_used": any((total.now["events"], total.before["events"], blocked.now, blocked.before)),
        "figures": period_figures.figures(total, blocked, compares=asked.known_since is None),
        "calls_url": course.total().url,
        "blocked_url": f"{reverse('admin:blocked')}?{asked.query}",
        "explorer_url": asked.address(by="feature", then="model"),
    }
    if not total.now["events"]:
        return words
    shown = {_CHARTED: course, "feature": by_feature}
    return {
        **words,
        "measure": measures.TITLES[Measure.COST],
        "chart": course.chart(),
        "levels": course.levels(),
        "has_parts": course.has_parts,
        "keys": course.keys(),
        "unpriced": total.now["unpriced"],
        "unpriced_url": asked.address(show=Measure.UNPRICED.value, by="model"),
        "groups": [
            Group(title, name, tuple(_rows(asked, shown[name], name, then)), asked.address(by=name))
            for title, name, then in _GROUPS
        ],
    }


def _rows(asked: UsageAsked, shown: Shown, name: str, then: str) -> Iterator[UsedRow]:
    for line, row in zip(shown.answer.lines, shown.rows(), strict=True):
        named = shown.named(line)
        if row.is_idle:
            continue
        if named is None:
            yield UsedRow(row, asked.address(by=name, top=str(TOPS[-1])))
        else:
            yield UsedRow(row, asked.address("explorer", by=then, **named))
