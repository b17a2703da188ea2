"""The month-end report of the shown environment's tenant, to read, to print and to take along as a file."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice

from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.utils import timezone

from policies import month_report
from policies.month_report import MonthReport, State
from tenants import exporting
from tenants.console import environments
from tenants.console.pages import page, refuse_unknown, rendered
from tenants.exporting import Format
from tenants.management import months
from tenants.models import Environment
from usage import wording
from usage.analytics import exports
from usage.analytics.focus import Focus
from usage.analytics.month_figures import Figures, Kind, Line, Table

MONTHS_OFFERED = 14
_MONTH = "month"
_TITLES = {
    Kind.ENVIRONMENT: "Environments",
    Kind.PLAN: "Plans",
    Kind.FEATURE: "Features",
    Kind.MODEL: "Models",
    Kind.USER: "Users who cost most",
}
_NAMELESS = {Kind.PLAN: "no plan", Kind.FEATURE: "no feature"}
REPORT, FOCUS = "report", "focus"


@dataclass(frozen=True, slots=True)
class ShownLine:
    """A line in words. Costs are rounded; `cost_in_full` is not."""

    name: str
    environment: str
    calls: str
    tokens: str
    cost: str
    cost_in_full: str
    share: str
    before: str
    before_in_full: str
    change: str
    unpriced: str


@dataclass(frozen=True, slots=True)
class ShownTable:
    title: str
    one: str
    lines: tuple[ShownLine, ...]
    has_environments: bool


@page("month_report", "months/")
def report_page(request: HttpRequest) -> HttpResponse:
    environment = environments.shown(request)
    if environment is None:
        return rendered(request, "console/month_report.html", "Month report", report=None)
    refuse_unknown(request.GET, {_MONTH, environments.PARAMETER}, page="The month report")
    now = timezone.now()
    month = _asked(request.GET.get(_MONTH), environment, now)
    found = month_report.report(_of_tenant(environment), month, now)
    total = found.figures.total
    return rendered(
        request,
        "console/month_report.html",
        f"{month:%B %Y}",
        report=found,
        is_final=found.state is State.FINAL,
        is_so_far=found.state is State.SO_FAR,
        now=now,
        total=_line(total, total.now, ""),
        tables=[_table(each, found) for each in found.figures.tables if each.lines],
        unpriced=[(name, wording.counted(calls, "call")) for name, calls in found.figures.unpriced],
        budgets=[
            (each, wording.money_rounded(each.spent_nano), wording.money(each.amount_nano))
            for each in found.budgets.shown
        ],
        months=list(_offered(environment, now, month)),
    )


@page("month_file", "months/file/")
def file_page(request: HttpRequest) -> HttpResponseBase:
    """A file of it; the log has an entry of who took it."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    environment = environments.meant(request)
    now = timezone.now()
    month = _asked(request.POST.get(_MONTH), environment, now)
    what, _, kind = request.POST.get("file", "").partition("-")
    if what not in (REPORT, FOCUS) or kind not in [each.value for each in exports.FORMATS]:
        raise BadRequest("Choose one of the files that the page offers.")
    found = _of_tenant(environment)
    if what == FOCUS:
        focus = Focus(found, month)
        return exporting.download(
            Format(kind), exports.focus_name(focus, now), exports.focus_lines(focus, Format(kind), now)
        )
    return exporting.download(
        Format(kind), f"{_name(environment, month, now)}", _lines(found, month, kind, now)
    )


def _lines(found: list[Environment], month: date, kind: str, now: datetime) -> Iterator[str]:
    made = month_report.report(found, month, now)
    about = exports.logged(made.tenant, f"the report of {month:%Y-%m}", found, Format(kind))
    return exporting.written(
        Format(kind), {**made.about, **about}, month_report.COLUMNS, month_report.rows(made)
    )


def _name(environment: Environment, month: date, now: datetime) -> str:
    state, _ = month_report.state_of(environment.tenant, month, now)
    tail = "" if state is State.FINAL else f"-{state.value.replace(' ', '-')}"
    return f"report-{environment.tenant.slug}-{month:%Y-%m}{tail}"


def _of_tenant(environment: Environment) -> list[Environment]:
    """Whoever may look into one environment may look into all of its tenant."""
    return list(environment.tenant.environments.select_related("tenant").order_by("pk"))


def _asked(text: str | None, environment: Environment, now: datetime) -> date:
    """This month, if none was asked for. Raises BadRequest, Http404."""
    this_month = month_report.this_month(environment.tenant, now)
    if not text:
        return this_month
    try:
        month = months.parsed(text)
    except ArgumentTypeError as error:
        raise BadRequest(f"{error}.") from error
    if month > this_month:
        raise Http404("This month has not begun.")
    return month


def _offered(environment: Environment, now: datetime, chosen: date) -> Iterator[tuple[date, str, bool]]:
    """The latest months with how far each is, and whether it is the chosen one."""

    def backwards() -> Iterator[date]:
        month = month_report.this_month(environment.tenant, now)
        while True:
            yield month
            month = month_report.month_before(month)

    latest = list(islice(backwards(), MONTHS_OFFERED))
    for month in latest if chosen in latest else [*latest, chosen]:
        state, _ = month_report.state_of(environment.tenant, month, now)
        yield month, state.value, month == chosen


def _table(table: Table, found: MonthReport) -> ShownTable:
    whole = found.figures.total.now
    lines = [_line(line, whole, _NAMELESS.get(table.kind, "")) for line in table.lines]
    if table.others is not None:
        lines.append(_line(table.others, whole, ""))
    return ShownTable(
        _TITLES[table.kind],
        table.kind.value.capitalize(),
        tuple(lines),
        table.kind is Kind.USER and len(found.environments) > 1,
    )


def _line(line: Line, whole: Figures, nameless: str) -> ShownLine:
    now, before = line.now, line.before
    return ShownLine(
        name=line.key.name or nameless,
        environment=line.key.environment,
        calls=wording.count(now.requests),
        tokens=wording.count(now.input_tokens + now.output_tokens),
        cost=wording.money_rounded(now.cost_nano),
        cost_in_full=wording.money(now.cost_nano),
        share=wording.share(now.cost_nano, whole.cost_nano),
        before=wording.money_rounded(before.cost_nano),
        before_in_full=wording.money(before.cost_nano),
        change=_change(now.cost_nano, before.cost_nano),
        unpriced=wording.count(now.unpriced) if now.unpriced else "",
    )


def _change(now: int, before: int) -> str:
    """`+12 %`; of what was not there before, `new`."""
    if before <= 0:
        return "new" if now > 0 else ""
    percent = round((now - before) * 100 / before)
    return f"{'+' if percent > 0 else '−' if percent < 0 else ''}{wording.count(abs(percent))} %"
