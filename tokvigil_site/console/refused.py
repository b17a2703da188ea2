"""The page of what a person may not do: which role they have, what it does not allow, and who can change that."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from django.http import HttpRequest, HttpResponse

from tenants import members
from tenants.console import access, environments
from tenants.console.pages import rendered
from tenants.models import Membership, Role
from tenants.roles import IN_WORDS, May, allows

TENANTS_MAX = 20
OWNERS_MAX = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """Of the person in a tenant. `may_not` is empty for an owner."""

    tenant: str
    role: str
    may_not: str
    owners: tuple[str, ...]


def page(request: HttpRequest) -> HttpResponse:
    """Tells of the tenants that the person may look into; an auditor, of those whose audit log they may see."""
    response = rendered(
        request,
        "console/refused.html",
        "You may not do this",
        standings=[_standing(each) for each in _memberships(request)],
        superuser=access.is_superuser(request),
    )
    response.status_code = HTTPStatus.FORBIDDEN
    return response


def _memberships(request: HttpRequest) -> list[Membership]:
    """That of the shown environment's tenant first."""
    tenants = access.tenants_where(request, May.SEE) or list(access.roles_of(request))
    found = Membership.objects.filter(user__pk=request.user.pk or 0, tenant__in=tenants).select_related(
        "tenant"
    )
    shown = environments.shown(request)
    shown_id = shown.tenant_id if shown else None
    memberships = list(found.order_by("tenant__slug")[:TENANTS_MAX])
    return sorted(memberships, key=lambda membership: membership.tenant_id != shown_id)


def _standing(membership: Membership) -> Standing:
    owners = Membership.objects.filter(
        tenant=membership.tenant_id, role=Role.OWNER, user__is_active=True
    ).select_related("user")
    names = [each.user.get_username() for each in owners if not members.is_pending(each.user)]
    return Standing(
        tenant=membership.tenant.name,
        role=access.label_of(membership.role),
        may_not="; ".join(words for what, words in IN_WORDS.items() if not allows(membership.role, what)),
        owners=tuple(sorted(names)[:OWNERS_MAX]),
    )
