"""The month-end report of the shown environment's tenant, to read, to print and to take along as a file."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from urllib.parse import urlencode

from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone

from policies import month_report
from policies.month_report import Budget, MonthReport, State
from tenants import exporting
from tenants.console import display, environments, parts
from tenants.console.pages import page, refuse_unknown, rendered
from tenants.exporting import Format
from tenants.management import months
from tenants.models import Environment
from usage import wording
from usage.analytics import exports, measures
from usage.analytics.focus import Focus
from usage.analytics.month_figures import Key, Kind, Line, Table
from usage.analytics.questions import OF_QUANTITIES

MONTHS_OFFERED = 14
# `_OF`: the environment whose calls it is of; none: all of the tenant.
_MONTH, _OF = "month", "of"
_TITLES = {
    Kind.ENVIRONMENT: "Environments",
    Kind.PLAN: "Plans",
    Kind.FEATURE: "Features",
    Kind.MODEL: "Models",
    Kind.FEATURE_MODEL: "Features by model",
    Kind.USER: "Users who cost most",
}
_ONE = {Kind.FEATURE_MODEL: "Feature"}
_NAMELESS = {Kind.PLAN: "no plan", Kind.FEATURE: "no feature", Kind.FEATURE_MODEL: "no feature"}
# The filters of the Explorer that a line's names are.
_FILTERS = {
    Kind.PLAN: ("plan",),
    Kind.FEATURE: ("feature",),
    Kind.MODEL: ("model",),
    Kind.FEATURE_MODEL: ("feature", "model"),
}
REPORT, FOCUS = "report", "focus"


@dataclass(frozen=True, slots=True)
class ShownLine:
    """A line in words. Costs are rounded; `cost_in_full` is not. `url`: of what is behind it; empty: no page has it."""

    name: str
    url: str
    model: str
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
    has_models: bool


@page("month_report", "months/")
def report_page(request: HttpRequest) -> HttpResponse:
    environment = environments.shown(request)
    if environment is None:
        return rendered(request, "console/month_report.html", "Month report", report=None)
    refuse_unknown(request.GET, {_MONTH, _OF, environments.PARAMETER}, page="The month report")
    now = timezone.now()
    month = _asked(request.GET.get(_MONTH), environment, now)
    every = _of_tenant(environment)
    found = month_report.report(_chosen(every, request.GET.get(_OF)), month, now)
    total = found.figures.total
    return rendered(
        request,
        "console/month_report.html",
        f"{month:%B %Y}",
        report=found,
        is_final=found.state is State.FINAL,
        is_so_far=found.state is State.SO_FAR,
        now=now,
        every=every,
        only=found.environments[0] if request.GET.get(_OF) else None,
        before=_before(found),
        total=_line(total, found, ""),
        tables=[_table(each, found) for each in found.figures.tables if each.lines],
        quantities=[
            (measures.TITLES[OF_QUANTITIES[name]], wording.count(now), wording.count(before))
            for name, (now, before) in found.figures.quantities.items()
        ],
        unpriced=[(name, wording.counted(calls, "call")) for name, calls in found.figures.unpriced],
        budgets=[
            (
                each,
                wording.money_rounded(each.spent_nano),
                wording.money(each.amount_nano),
                _state(each),
                _budgets_url(each, found),
            )
            for each in found.budgets.shown
        ],
        months=list(_offered(found, month_report.first_call(every), now)),
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
    found = _chosen(_of_tenant(environment), request.POST.get(_OF))
    if what == FOCUS:
        focus = Focus(found, month)
        return exporting.download(
            Format(kind), exports.focus_name(focus, now), exports.focus_lines(focus, Format(kind), now)
        )
    return exporting.download(Format(kind), f"{_name(found, month, now)}", _lines(found, month, kind, now))


def _lines(found: list[Environment], month: date, kind: str, now: datetime) -> Iterator[str]:
    made = month_report.report(found, month, now)
    about = exports.logged(made.tenant, f"the report of {month:%Y-%m}", found, Format(kind))
    return exporting.written(
        Format(kind), {**made.about, **about}, month_report.COLUMNS, month_report.rows(made)
    )


def _name(found: list[Environment], month: date, now: datetime) -> str:
    tenant = found[0].tenant
    state, _ = month_report.state_of(tenant, month, now)
    tail = "" if state is State.FINAL else f"-{state.value.replace(' ', '-')}"
    whose = str(found[0]).replace("/", "-") if len(found) == 1 else tenant.slug
    return f"report-{whose}-{month:%Y-%m}{tail}"


def _of_tenant(environment: Environment) -> list[Environment]:
    """Whoever may look into one environment may look into all of its tenant."""
    return list(environment.tenant.environments.select_related("tenant").order_by("pk"))


def _chosen(every: list[Environment], slug: str | None) -> list[Environment]:
    """All, if none is named. Raises Http404."""
    found = [each for each in every if not slug or each.slug == slug]
    if not found:
        raise Http404("There is no such environment.")
    return found


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


def _offered(
    found: MonthReport, first_call: datetime | None, now: datetime
) -> Iterator[tuple[date, str, bool]]:
    """The latest months since the tenant's first call, with how far each is, and whether it is the chosen one."""
    first = (first_call or now).astimezone(found.zone).date().replace(day=1)

    def backwards() -> Iterator[date]:
        month = month_report.this_month(found.tenant, now)
        while month >= first:
            yield month
            month = month_report.month_before(month)

    latest = list(islice(backwards(), MONTHS_OFFERED))
    for month in latest if found.month in latest else [*latest, found.month]:
        state, _ = month_report.state_of(found.tenant, month, now)
        yield month, state.value if month >= first else "no calls", month == found.month


def _before(found: MonthReport) -> str:
    """What a column of the month before holds: `October 2026`, `1 to 28 Oct 2026`."""
    start, end = (each.astimezone(found.zone) for each in (found.compared.start, found.compared.end))
    if (end - timedelta(microseconds=1)).date() == found.month - timedelta(days=1):
        return f"{start:%B %Y}"
    return f"1 to {end.day} {start:%b %Y}" if end.day > 1 else f"1 {start:%b %Y}"


def _budgets_url(budget: Budget, found: MonthReport) -> str:
    given = {environments.PARAMETER: f"{found.tenant.slug}/{budget.environment}"}
    return f"{reverse('admin:budgets')}?{urlencode(given)}"


def _state(budget: Budget) -> tuple[str, str]:
    """As on the page of limits."""
    if budget.exceeded:
        return parts.State.FULL, "Exceeded"
    if budget.is_near:
        return parts.State.NEAR, f"Near {budget.share}"
    return parts.State.FINE, "Within"


def _table(table: Table, found: MonthReport) -> ShownTable:
    lines = [
        _line(line, found, _NAMELESS.get(table.kind, ""), _url(table.kind, line.key, found))
        for line in table.lines
    ]
    if table.others is not None:
        lines.append(_line(table.others, found, ""))
    return ShownTable(
        _TITLES[table.kind],
        _ONE.get(table.kind, table.kind.value.capitalize()),
        tuple(lines),
        has_environments=table.kind is Kind.USER and len(found.environments) > 1,
        has_models=table.kind is Kind.FEATURE_MODEL,
    )


def _url(kind: Kind, key: Key, found: MonthReport) -> str:
    """The Explorer is of one environment, so in a report of several only these and their users lead on."""
    named = {each.slug: each for each in found.environments}
    if kind is Kind.ENVIRONMENT:
        given = {environments.PARAMETER: str(named[key.name]), _MONTH: f"{found.month:%Y-%m}", _OF: key.name}
        return f"{reverse('admin:month_report')}?{urlencode(given)}"
    if kind is Kind.USER:
        return display.user_url(named[key.environment], key.name, _days(found))
    if len(found.environments) > 1:
        return ""
    names = zip(_FILTERS[kind], (key.name, key.model), strict=False)
    filters = {name if text else "without": text or name for name, text in names}
    given = {environments.PARAMETER: str(found.environments[0]), **_days(found), **filters}
    return f"{reverse('admin:explorer')}?{urlencode(given)}"


def _days(found: MonthReport) -> dict[str, str]:
    """The month as pages of a period are asked for it."""
    last = (found.month + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    return {"period": "custom", "from": f"{found.month}", "to": f"{last}"}


def _line(line: Line, found: MonthReport, nameless: str, url: str = "") -> ShownLine:
    now, before = line.now, line.before
    return ShownLine(
        name=line.key.name or nameless,
        url=url,
        model=line.key.model,
        environment=line.key.environment,
        calls=wording.count(now.requests),
        tokens=wording.count(now.input_tokens + now.output_tokens),
        cost=wording.money_rounded(now.cost_nano),
        cost_in_full=wording.money(now.cost_nano),
        share=wording.share(now.cost_nano, found.figures.total.now.cost_nano),
        before=wording.money_rounded(before.cost_nano),
        before_in_full=wording.money(before.cost_nano),
        change=_change(now.cost_nano, before.cost_nano, is_comparable=found.is_comparable),
        unpriced=wording.count(now.unpriced) if now.unpriced else "",
    )


def _change(now: int, before: int, *, is_comparable: bool) -> str:
    """`+12 %`; of what was not there before, `new`; beside a month that is no whole one `from $0.60`."""
    if before <= 0:
        return "new" if now > 0 and is_comparable else ""
    if not is_comparable:
        return f"from {wording.money_rounded(before)}"
    percent = round((now - before) * 100 / before)
    return f"{'+' if percent > 0 else '−' if percent < 0 else ''}{wording.count(abs(percent))} %"
