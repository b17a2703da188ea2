"""Monthly budgets: how each fares this month with a forecast, month by month, and closed months. Only shows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.core.exceptions import BadRequest
from django.db import DatabaseError
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone

from policies.standing import budget_course, budget_forecast, budget_months, budgets_elsewhere
from policies.standing.budget_course import BudgetCourse
from policies.standing.budget_forecast import Month
from policies.standing.budget_months import ClosedBudget, SpentMonth
from policies.standing.limit_rows import LimitRow, SubjectRow
from policies.standing.standings import Standing, standings
from tenants import exporting
from tenants.console import charts, environments, export_links
from tenants.console.charts import HEIGHT, WIDTH
from tenants.console.pages import page, rendered
from tenants.console.parts import State
from tenants.exporting import Format
from tenants.models import Environment
from usage import wording
from usage.admin.asked import Asked
from usage.analytics import rollup_lag
from usage.counting.store import store
from usage.instants import from_ms
from usage.ledger.leading import at_most
from usage.money import NANO

logger = logging.getLogger("tokvigil.budgets")

# Each is a card with a chart.
COURSES_MAX = 12
BUDGETS_SHOWN = 50
SUM_MS_MAX = 3_000
TABLES = ("this_month", "months", "closed")


class BudgetsAsked(Asked):
    """Of the shared filters a plan counts: budgets of policies of that plan. The page has months of its own."""

    aside = ("table", "format")
    tab = "budgets"


@dataclass(frozen=True, slots=True)
class BurnDown:
    """What is left of a budget by day, and its forecast: points in a box, and the same in words."""

    course: BudgetCourse
    row: LimitRow
    subject: SubjectRow
    left: str
    # Where nothing is left, if what is drawn goes beyond that; and the axis in words, from above.
    zero: str
    levels: tuple[str, str, str]
    expected: str
    band: str
    first: str
    last: str
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def spent(self) -> str:
        return wording.money_rounded(self.course.in_all)

    @property
    def limit(self) -> str:
        return wording.money_rounded(self.course.limit)

    @property
    def forecast(self) -> str:
        """`$48.10 at the end of the month, between $41.00 and $55.20`"""
        found = self.course.forecast
        if found is None:
            return f"no forecast before {budget_forecast.DAYS_MIN} whole days"
        low, middle, high = map(wording.money_rounded, (found.low, found.middle, found.high))
        return f"{middle} at the end of the month, between {low} and {high}"

    @property
    def state(self) -> tuple[State, str] | None:
        """None: it is expected to last."""
        if self.course.in_all >= self.course.limit:
            return State.FULL, "Used up"
        forecast = self.course.forecast
        if forecast is None or forecast.middle <= self.course.limit:
            return None
        return State.NEAR, "Will not last" if forecast.low > self.course.limit else "May not last"

    @property
    def says(self) -> str:
        return f"{self.subject.name}: {self.spent} of {self.limit} spent; {self.forecast}"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A budget of another environment that ends before its month does. `url`: of the budgets of that one."""

    environment: Environment
    row: LimitRow

    @property
    def url(self) -> str:
        query = urlencode({environments.PARAMETER: str(self.environment)})
        return f"{reverse('admin:budgets')}?{query}"


@dataclass(frozen=True, slots=True)
class MonthRow:
    """`is_due`: it is to be closed, and is not yet."""

    found: SpentMonth
    is_present: bool
    is_due: bool

    @property
    def spent(self) -> str:
        return wording.money_rounded(self.found.spent)

    @property
    def calls(self) -> str:
        return wording.count(self.found.requests)

    @property
    def unpriced(self) -> str:
        return wording.count(self.found.unpriced) if self.found.unpriced else ""


@dataclass(frozen=True, slots=True)
class ClosedRow:
    found: ClosedBudget

    @property
    def whose(self) -> str:
        return f"{wording.subject(self.found.per)}{wording.with_models(self.found.models)}"

    @property
    def budget(self) -> str:
        return _usd(self.found.budget)

    @property
    def spent(self) -> str:
        return _usd(self.found.spent)

    @property
    def fullest(self) -> str:
        return _usd(self.found.fullest)

    @property
    def subjects(self) -> str:
        return wording.count(self.found.subjects)

    @property
    def policy_url(self) -> str:
        return reverse("admin:policies_policy_change", args=[self.found.policy_id])

    @property
    def url(self) -> str:
        """The list of its subjects."""
        # In quotes it is searched for as a whole.
        name = self.found.policy.replace("\\", "\\\\").replace('"', '\\"')
        query = {
            "closed_month__month": self.found.month,
            "per__exact": self.found.per.value,
            "q": f'"{name}"',
        }
        return f"{reverse('admin:policies_monthlybudget_changelist')}?{urlencode(query)}"


@page("budgets", "budgets/")
def budgets(request: HttpRequest) -> HttpResponseBase:
    environment = environments.shown(request)
    if environment is None:
        return rendered(request, "console/budgets.html", "Budgets", environment=None)
    asked = BudgetsAsked(request, environment, timezone.now())
    if "table" in request.GET:
        return _export(request, asked)
    try:
        with at_most(SUM_MS_MAX):
            context = _figures(asked)
    except DatabaseError as error:
        logger.warning("budgets of %s are not shown: %s", environment, error)
        context = {"too_slow": True}
    return rendered(
        request, "console/budgets.html", "Budgets", environment=environment, asked=asked, **context
    )


def _figures(asked: BudgetsAsked) -> dict[str, Any]:
    found = _budgets(asked)
    this = _month(asked)
    closed = _closed(asked)
    courses = _courses(found[:COURSES_MAX])
    elsewhere, all_looked_at = _elsewhere(asked)
    return {
        "elsewhere": elsewhere,
        "elsewhere_is_all": all_looked_at,
        "elsewhere_max": budgets_elsewhere.ENVIRONMENTS_MAX,
        "budgets": [LimitRow(each, asked.zone) for each in found[:BUDGETS_SHOWN]],
        "count": len(found),
        "burn_downs": [_burn_down(each, this, asked.environment, asked.zone) for each in courses],
        "courses_max": COURSES_MAX,
        "whole_days": budget_forecast.WHOLE_DAYS,
        "month": this,
        "months": [
            MonthRow(
                each,
                is_present=each.month == this.start.astimezone(asked.zone).date(),
                is_due=each.closed_at is None and each.closes_at <= this.now,
            )
            for each in budget_months.spent_months(asked.environment, this.now)
        ],
        "closed": [ClosedRow(each) for each in closed],
        "plan": _plan(asked),
        "exports": {table: _exports(asked, table) for table in TABLES},
    }


def _elsewhere(asked: BudgetsAsked) -> tuple[list[Elsewhere], bool]:
    """Of the tenant's other environments that the person may see."""
    here = asked.environment
    others = environments.visible(asked.request).filter(tenant=here.tenant).exclude(pk=here.pk)
    found, all_looked_at = budgets_elsewhere.ending(others)
    return [Elsewhere(each, LimitRow(standing, asked.zone)) for each, standing in found], all_looked_at


def _month(asked: BudgetsAsked) -> Month:
    """Of the clock that limits go by."""
    return budget_forecast.month(from_ms(store.now_ms()), asked.zone)


def _plan(asked: BudgetsAsked) -> str:
    return str(asked.data.get("plan", ""))


def _budgets(asked: BudgetsAsked) -> list[Standing]:
    """The fullest first."""
    plan = _plan(asked)
    found = [
        each
        for each in standings(asked.environment)
        if each.is_budget and plan in ("", each.policy.scope_plan)
    ]
    return sorted(found, key=lambda each: each.urgency, reverse=True)


def _courses(found: Iterable[Standing]) -> list[BudgetCourse]:
    return [each for each in map(budget_course.course, found) if each is not None]


def _closed(asked: BudgetsAsked) -> list[ClosedBudget]:
    found = budget_months.closed_budgets(asked.environment)
    plan = _plan(asked)
    if not plan:
        return found
    of_plan = {
        str(pk) for pk in asked.environment.policies.filter(scope_plan=plan).values_list("pk", flat=True)
    }
    return [each for each in found if str(each.policy_id) in of_plan]


def _burn_down(course: BudgetCourse, this: Month, environment: Environment, zone: ZoneInfo) -> BurnDown:
    """Across: the days of the month. High: what is left of the budget; below zero, what is beyond it."""
    across, limit = float(len(course.days)), course.limit
    passed = _passed(this)
    left, line = limit, [(0.0, float(limit))]
    for place, spent in enumerate(course.spent):
        left -= spent
        line.append((min(place + 1.0, passed), float(left)))
    forecast = course.forecast
    below = max(0, -left, 0 if forecast is None else forecast.high - limit)

    def drawn(*places: tuple[float, float]) -> str:
        return charts.points([(far, high + below) for far, high in places], across, limit + below)

    expected = band = ""
    if forecast is not None:
        here = (passed, float(left))
        expected = drawn(here, (across, limit - forecast.middle))
        band = drawn(here, (across, limit - forecast.low), (across, limit - forecast.high))
    return BurnDown(
        course=course,
        row=LimitRow(course.standing, zone),
        subject=SubjectRow(course.standing, course.subject, environment, zone),
        left=drawn(*line),
        zero=drawn((0.0, 0.0), (across, 0.0)) if below else "",
        levels=(
            wording.money_rounded(limit),
            wording.money_rounded((limit - below) // 2),
            wording.money_rounded(-below),
        ),
        expected=expected,
        band=band,
        first=f"{course.days[0].astimezone(zone):%-d %b}",
        last=f"{course.days[-1].astimezone(zone):%-d %b}",
    )


def _passed(this: Month) -> float:
    """Days of the month until now, today in part."""
    begun = this.days[this.passed - 1]
    ends = [*this.days[1:], this.end][this.passed - 1]
    return this.passed - 1 + (this.now - begun) / (ends - begun)


def _usd(amount: Any) -> str:
    return wording.money_rounded(int(amount * NANO))


def _exports(asked: BudgetsAsked, table: str) -> list[tuple[str, str]]:
    return export_links.of_table("budgets", asked.environment, table, **asked.parameters())


def _export(request: HttpRequest, asked: BudgetsAsked) -> HttpResponseBase:
    table, kind = request.GET["table"], request.GET.get("format", "")
    if table not in TABLES or kind not in export_links.FORMATS:
        raise BadRequest(f"Name a table ({', '.join(TABLES)}) and a format (csv, json).")
    this = _month(asked)
    about = {
        "environment": str(asked.environment),
        "table": table,
        "plan": _plan(asked),
        "time_zone": asked.zone.key,
        "as_of": this.now.astimezone(asked.zone).isoformat(timespec="seconds"),
        "rolled_up_before_transaction": rollup_lag.lag(asked.environment.pk).mark_xid,
    }
    columns, rows = _TABLES[table](asked, this)
    name = f"budgets-{table.replace('_', '-')}-{this.now.astimezone(asked.zone).date()}"
    return exporting.download(Format(kind), name, exporting.written(Format(kind), about, columns, rows))


Table = tuple[tuple[str, ...], Iterable[dict[str, object]]]


def _this_month(asked: BudgetsAsked, this: Month) -> Table:
    """All budgets by day, of the fullest subject of each."""
    columns = ("policy", "per", "models", "subject", "budget_usd", "day", "spent_usd")
    found = _courses(_budgets(asked))
    return columns, (
        {
            "policy": each.standing.policy.name,
            "per": each.standing.limit.per.value,
            "models": ", ".join(each.standing.limit.models),
            "subject": SubjectRow(each.standing, each.subject, asked.environment, asked.zone).name,
            "budget_usd": _exact(each.limit),
            "day": str(day.astimezone(asked.zone).date()),
            "spent_usd": _exact(spent),
        }
        for each in found
        for day, spent in zip(each.days, each.spent, strict=False)
    )


def _months(asked: BudgetsAsked, this: Month) -> Table:
    columns = ("month", "spent_usd", "requests", "unpriced", "closed_at")
    return columns, (
        {
            "month": f"{each.month:%Y-%m}",
            "spent_usd": _exact(each.spent),
            "requests": each.requests,
            "unpriced": each.unpriced,
            "closed_at": _moment(each.closed_at, asked.zone),
        }
        for each in budget_months.spent_months(asked.environment, this.now)
    )


def _closed_table(asked: BudgetsAsked, this: Month) -> Table:
    columns = ("month", "policy", "policy_id", "per", "models", "budget_usd", "subjects", "exceeded", "spent_usd",
               "fullest_usd", "requests", "unpriced")  # fmt: skip
    return columns, (
        {
            "month": f"{each.month:%Y-%m}",
            "policy": each.policy,
            "policy_id": str(each.policy_id),
            "per": each.per.value,
            "models": ", ".join(each.models),
            "budget_usd": each.budget,
            "subjects": each.subjects,
            "exceeded": each.exceeded,
            "spent_usd": each.spent,
            "fullest_usd": each.fullest,
            "requests": each.requests,
            "unpriced": each.unpriced,
        }
        for each in _closed(asked)
    )


_TABLES = {"this_month": _this_month, "months": _months, "closed": _closed_table}


def _exact(nano: int) -> Decimal:
    return Decimal(nano) / NANO


def _moment(at: datetime | None, zone: ZoneInfo) -> str:
    return "" if at is None else at.astimezone(zone).isoformat(timespec="seconds")
