"""All limits in force of the shown environment; and of one of them all who are near it or at it."""

from __future__ import annotations

from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from django.core.exceptions import BadRequest
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse

from policies.admin import finding
from policies.admin.limit_filters import LimitFilters
from policies.standing.limit_rows import LimitRow, SubjectRow
from policies.standing.limit_subjects import SUBJECTS_MAX
from policies.standing.standings import standings
from tenants.console import environments
from tenants.console.pages import page, rendered
from tenants.console.parts import State
from usage import wording
from usage.counting.in_flight import OF_ENVIRONMENT_MAX

SHOWN = 50
_PAGE = "page"


@page("limits", "limits/")
def limits(request: HttpRequest) -> HttpResponse:
    environment = environments.shown(request)
    if environment is None:
        return rendered(request, "console/limits.html", "Limits", filters=None)
    given = {name: text for name, text in request.GET.items() if name not in (environments.PARAMETER, _PAGE)}
    found = standings(environment)
    filters = LimitFilters(found, given)
    unknown = set(given) - set(filters.fields)
    if unknown:
        raise BadRequest(f"Limits have no filter {sorted(unknown)[0][:100]!r}.")
    zone = ZoneInfo(environment.tenant.timezone)
    shown = Paginator(filters.limits(), SHOWN).get_page(request.GET.get(_PAGE))
    return rendered(
        request,
        "console/limits.html",
        "Limits",
        environment=environment,
        filters=filters,
        count=len(found),
        grouped=filters.is_by_end,
        limits=[LimitRow(each, zone) for each in shown],
        shown=shown,
        query=urlencode({name: text for name, text in given.items() if text}),
    )


@page("limit_subjects", "limits/<uuid:policy_id>/<slug:metric>/<slug:window>/<slug:per>/")
def limit_subjects(request: HttpRequest, policy_id: UUID, metric: str, window: str, per: str) -> HttpResponse:
    """Of an archived policy, one that is off, or a limit that it does not have: 404. `models`: as in the address."""
    models = tuple(request.GET.getlist("models"))
    policy = finding.policy(request, policy_id)
    environment = policy.environment
    for standing in standings(environment, {policy.pk}, days_of=SUBJECTS_MAX):
        limit = standing.limit
        if limit.kind == (metric, window, per, models):
            break
    else:
        raise Http404("The policy in force has no such limit.")
    zone = ZoneInfo(environment.tenant.timezone)
    row = LimitRow(standing, zone)
    rows = [SubjectRow(standing, each, environment, zone) for each in standing.subjects]
    tight = [each for each in rows if each.bar is not None and each.bar.state is not State.FINE]
    return rendered(
        request,
        "console/limit_subjects.html",
        row.words,
        limit=row,
        standing=standing,
        tight=tight,
        others=[each for each in rows if each not in tight],
        most=SUBJECTS_MAX,
        calls_most=wording.count(OF_ENVIRONMENT_MAX),
    )
