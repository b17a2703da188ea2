"""Which environment the console shows: one at a time, and every page says which.

`?environment=acme/prod` in any address of the console changes it, and it is kept in the session. So a link to a page
of another environment can be handed on. A page of an object shows the object's own, and a form is for the environment
for which it was opened, whatever another tab shows meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.db.models import F, Max, QuerySet
from django.http import Http404, HttpRequest
from django.utils import timezone

from tenants.console.access import is_superuser, roles_of, tenants_where
from tenants.console.row_ids import is_row_id
from tenants.models import Environment, Tenant
from tenants.roles import May

PARAMETER = "environment"
OFFERED_MAX = 500
_KEPT_AS = "console_environment"


def visible(request: HttpRequest) -> QuerySet[Environment]:
    """Those of the tenants that the person may look into, with their tenants."""
    environments = Environment.objects.select_related("tenant")
    if is_superuser(request):
        return environments
    return environments.filter(tenant__in=tenants_where(request, May.SEE))


def offered(request: HttpRequest) -> Sequence[Environment]:
    """For the switch."""
    cached: list[Environment] | None = getattr(request, "_offered_environments", None)
    if cached is None:
        cached = list(visible(request)[:OFFERED_MAX])
        request._offered_environments = cached  # type: ignore[attr-defined]
    return cached


def shown(request: HttpRequest) -> Environment | None:
    """The one that the page shows. None: the person may see none."""
    if not hasattr(request, "_shown_environment"):
        asked = _asked_for(request) or _posted(request)
        follow(request, asked or _kept(request) or _most_used(request))
    found: Environment | None = request._shown_environment  # type: ignore[attr-defined]
    return found


def meant(request: HttpRequest) -> Environment:
    """The one that the page shows, for a page that changes something in it.

    Raises Http404 if the person may see none, or not the one that the address or the form names: no other takes its
    place, be it the one that another tab has switched to.
    """
    found, named, posted = shown(request), request.GET.get(PARAMETER), request.POST.get(PARAMETER)
    if found is None or (named and named != str(found)) or (posted and posted != str(found.pk)):
        raise Http404("There is no such environment, or you are not a member of its tenant.")
    return found


def follow(request: HttpRequest, environment: Environment | None) -> None:
    """Show this one from now on, in its tenant's time zone: the person has opened something that lives there."""
    request._shown_environment = environment  # type: ignore[attr-defined]
    if environment is None:
        _follow_tenant(request)
        return
    timezone.activate(ZoneInfo(environment.tenant.timezone))
    if request.session.get(_KEPT_AS) != environment.pk:
        request.session[_KEPT_AS] = environment.pk


def _follow_tenant(request: HttpRequest) -> None:
    """An auditor is shown no environment, but times in the zone of the tenant."""
    tenant = Tenant.objects.filter(pk__in=list(roles_of(request))).first()
    if tenant is not None:
        timezone.activate(ZoneInfo(tenant.timezone))


def _asked_for(request: HttpRequest) -> Environment | None:
    path = request.GET.get(PARAMETER)
    if not path:
        return None
    tenant, _, slug = path.partition("/")
    found = visible(request).filter(tenant__slug=tenant, slug=slug).first()
    if found is None:
        messages.error(request, f"There is no environment {path!r}, or you are not a member of its tenant.")
    return found


def _posted(request: HttpRequest) -> Environment | None:
    """By a form that makes something new."""
    posted = request.POST.get(PARAMETER, "")
    return visible(request).filter(pk=posted).first() if is_row_id(posted) else None


def _kept(request: HttpRequest) -> Environment | None:
    kept: Any = request.session.get(_KEPT_AS)
    return None if kept is None else visible(request).filter(pk=kept).first()


def _most_used(request: HttpRequest) -> Environment | None:
    """Of a person who comes for the first time: where a key was used last, else a prod."""
    used = visible(request).annotate(used_at=Max("api_keys__last_used_at"))
    last = used.exclude(used_at=None).order_by(F("used_at").desc()).first()
    return last or visible(request).filter(slug="prod").first() or visible(request).first()
