"""What an address of the console names, if the person may see it; else 404, which says nothing about others."""

from __future__ import annotations

from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from policies.models import Policy
from tenants.console import environments
from tenants.console.access import may
from tenants.roles import May


def policy(request: HttpRequest, policy_id: UUID) -> Policy:
    """Archived ones too. The console goes on in its environment."""
    policies = Policy.objects.select_related("environment__tenant")
    found = get_object_or_404(policies, pk=policy_id, environment__in=environments.visible(request))
    environments.follow(request, found.environment)
    return found


def may_change(request: HttpRequest, tenant_id: int) -> bool:
    return may(request, May.EDIT_POLICIES, tenant_id)


def require_change(request: HttpRequest, tenant_id: int) -> None:
    """Raises PermissionDenied for who may only look."""
    if not may_change(request, tenant_id):
        raise PermissionDenied
