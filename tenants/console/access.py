"""Who is signed in, and what they may see and change.

The membership is all that counts, not Django's permissions: owners and admins of a tenant change its rows, viewers
look. A superuser sees and changes all.
"""

from __future__ import annotations

from django.http import HttpRequest

from tenants.models import Membership, Role

CHANGING_ROLES = frozenset({Role.OWNER, Role.ADMIN})


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


def may_change(request: HttpRequest, tenant_id: int | None) -> bool:
    """Rows of this tenant; of none: what is everybody's."""
    return is_superuser(request) or (
        tenant_id is not None and roles_of(request).get(tenant_id) in CHANGING_ROLES
    )


def is_superuser(request: HttpRequest) -> bool:
    return request.user.is_active and bool(getattr(request.user, "is_superuser", False))
