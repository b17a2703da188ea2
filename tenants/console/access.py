"""Who is signed in, and what they may see and change.

The role in the tenant is all that counts (tenants/roles.py), not Django's permissions. A superuser may do all.
"""

from __future__ import annotations

from django.http import HttpRequest

from tenants.models import Membership, Role
from tenants.roles import May, allows


def actor_of(request: HttpRequest) -> str:
    return f"admin:{request.user.get_username()}"


def roles_of(request: HttpRequest) -> dict[int, str]:
    """The role in each tenant by its id; one query a request."""
    cached: dict[int, str] | None = getattr(request, "_tenant_roles", None)
    if cached is None:
        cached = dict(
            Membership.objects.filter(user__pk=request.user.pk or 0).values_list("tenant_id", "role")
        )
        request._tenant_roles = cached  # type: ignore[attr-defined]
    return cached


def role_in_words(request: HttpRequest, tenant_id: int | None) -> str:
    """In this tenant; None: in all of theirs, for who is shown none."""
    if is_superuser(request):
        return "Superuser"
    roles = roles_of(request)
    here = set(roles.values()) if tenant_id is None else {roles.get(tenant_id, "")}
    return ", ".join(sorted(label_of(role) for role in here if role))


def label_of(role: str) -> str:
    """Also of a role that is no longer one."""
    return str(dict(Role.choices).get(role, role))


def tenants_where(request: HttpRequest, what: May | None) -> list[int]:
    """The ids of the tenants in which the person's role allows it; None is allowed by no role."""
    return [tenant for tenant, role in roles_of(request).items() if what is not None and allows(role, what)]


def may(request: HttpRequest, what: May | None, tenant_id: int | None) -> bool:
    """With rows of this tenant; of none: what is everybody's."""
    return is_superuser(request) or tenant_id in tenants_where(request, what)


def may_somewhere(request: HttpRequest, what: May | None) -> bool:
    """In one tenant at least."""
    return is_superuser(request) or bool(tenants_where(request, what))


def is_superuser(request: HttpRequest) -> bool:
    return request.user.is_active and bool(getattr(request.user, "is_superuser", False))
