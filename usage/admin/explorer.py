"""The Explorer: one question about usage in the address, its answer as a chart and a table, and both as a file."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone

from tenants import exporting
from tenants.console import environments
from tenants.console.access import actor_of, may
from tenants.console.pages import page, rendered
from tenants.exporting import Format
from tenants.models import Environment
from tenants.roles import May
from usage import wording
from usage.admin.explorer_form import ExplorerAsked
from usage.admin.explorer_rows import Shown
from usage.analytics import measures, period_words, saved_views
from usage.analytics.answers import TooManySteps, answer
from usage.analytics.export import export
from usage.analytics.questions import Measure

TITLE = "Explorer"
# The first by name; the page of saved views has all.
VIEWS_SHOWN = 12
FORMATS = (Format.CSV, Format.JSON)


@page("explorer", "explorer/")
def explorer(request: HttpRequest) -> HttpResponse:
    environment = environments.shown(request)
    if environment is None:
        return rendered(request, "console/explorer.html", TITLE, asked=None)
    asked = ExplorerAsked(request, environment, timezone.now())
    return rendered(
        request,
        "console/explorer.html",
        TITLE,
        environment=environment,
        asked=asked,
        views=saved_views.seen_by(actor_of(request), environment.tenant)[:VIEWS_SHOWN],
        **_answered(asked),
    )


def _answered(asked: ExplorerAsked) -> dict[str, Any]:
    """Nothing, if something that was asked cannot be read."""
    period = asked.shown
    if period is None:
        return {}
    question = asked.question()
    try:
        found = answer(asked.environment.pk, question, asked.zone)
    except TooManySteps as error:
        asked.add_error("step", str(error))
        return {}
    shown = Shown(asked, question, found, period)
    sums = found.total
    return {
        "period": period_words.shown(period),
        "compared": period_words.compared(period, asked.zone),
        "nothing_to_compare": period_words.nothing_to_compare(asked.known_since),
        "measure": measures.TITLES[question.measure],
        "is_cost": question.measure is Measure.COST,
        "is_calls": question.measure is Measure.CALLS,
        "is_mean": shown.is_mean,
        "calls_min": wording.count(question.calls_min) if question.calls_min > 1 else "",
        "total": shown.total(),
        "total_says": measures.amount(question.measure, question.measure.of(sums.now)),
        "rows": list(shown.rows()),
        "keys": shown.keys(),
        "chart": shown.chart(),
        "levels": shown.levels(),
        "has_parts": shown.has_parts,
        "step_rows": list(shown.step_rows()),
        "unpriced": wording.count(sums.now["unpriced"]) if sums.now["unpriced"] > 0 else "",
        "no_calls": wording.rows_that_are_no_calls(sums.now["events"], sums.now["requests"]),
        "unpriced_url": asked.address(show=Measure.UNPRICED.value, by="model"),
        "mark": found.mark,
        "save_url": asked.address("saved_views") if _may_save(asked) else "",
        "export_urls": [
            (kind.value, asked.address("explorer_export", format=kind.value)) for kind in FORMATS
        ],
    }


def _may_save(asked: ExplorerAsked) -> bool:
    return may(asked.request, May.SAVE_VIEWS, asked.environment.tenant_id)


@page("explorer_export", "explorer/export/")
def explorer_export(request: HttpRequest) -> HttpResponseBase:
    """The figures as a file. Raises BadRequest for a question that cannot be read."""
    environment = environments.shown(request)
    if environment is None:
        raise PermissionDenied
    kind = request.GET.get("format", Format.CSV.value)
    if kind not in FORMATS:
        raise BadRequest(f"Export as {' or '.join(FORMATS)}, not {kind[:20]!r}.")
    asked = ExplorerAsked(request, environment, timezone.now())
    if not asked.is_valid():
        field, errors = next(iter(asked.errors.items()))
        raise BadRequest(f"{field}: {errors[0]}")
    try:
        file = export(environment.pk, asked.question(), asked.zone)
    except TooManySteps as error:
        raise BadRequest(f"step: {error}") from error
    about = _about(request, environment, asked) | {"ledger_mark": file.mark}
    lines = exporting.written(Format(kind), about, file.columns, file.rows)
    return exporting.download(Format(kind), _file_name(asked), lines)


def _file_name(asked: ExplorerAsked) -> str:
    """Whose usage, told apart by what, and of which days, so that two questions are two files."""
    environment, question, days = asked.environment, asked.question(), asked.cleaned_data["shown"].days
    names = [name for name in (question.group, question.part) if name]
    parts = [
        f"usage-{environment.tenant.slug}-{environment.slug}",
        *(["by", *names] if names else []),
        *([] if question.step is None else [f"each-{question.step.value}"]),
        *(["filtered"] if question.filters else []),
        f"{days.first}-{days.last}",
    ]
    return "-".join(parts)


def _about(request: HttpRequest, environment: Environment, asked: ExplorerAsked) -> dict[str, object]:
    """What the file says of itself."""
    question, period = asked.question(), asked.cleaned_data["shown"]
    return {
        "usage_of": str(environment),
        "from": period.start.astimezone(asked.zone).isoformat(),
        "to": period.end.astimezone(asked.zone).isoformat(),
        "time_zone": asked.zone.key,
        "filters": question.filters,
        "by": [name for name in (question.group, question.part) if name],
        "step": None if question.step is None else question.step.value,
        "calls": "ledger_rows without those that failed or were cancelled before any token, or were estimates only",
        "exported_by": actor_of(request),
        "exported_at": asked.now.astimezone(asked.zone).isoformat(timespec="seconds"),
    }
