"""Saved views: who sees them, and how they are saved, changed and deleted. Each change is audited."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from audit import log as audit_log
from tenants.models import Tenant
from usage.analytics.models import SavedView

# Of a tenant.
VIEWS_MAX = 200


class Refused(ValueError):
    """The view cannot be so; the message says why."""


def seen_by(actor: str, tenant: Tenant) -> QuerySet[SavedView]:
    """Their own, and those that others share."""
    return SavedView.objects.filter(Q(shared=True) | Q(author=actor), tenant=tenant).order_by("name", "pk")


def save(tenant: Tenant, name: str, query: str, *, shared: bool, actor: str) -> SavedView:
    """Raises Refused: the name is taken, or there are VIEWS_MAX."""
    view = SavedView(tenant=tenant, name=name, query=query, shared=shared, author=actor)
    with transaction.atomic():
        # Two at once do not both become the last one.
        Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)
        if SavedView.objects.filter(tenant=tenant).count() >= VIEWS_MAX:
            raise Refused(f"There are {VIEWS_MAX} views already; delete one first.")
        _write(view)
        audit_log.log("view.saved", view, tenant_id=tenant.pk, query=query, shared=shared)
    return view


def change(view: SavedView, name: str, *, shared: bool) -> None:
    """Raises Refused: the name is taken."""
    with transaction.atomic():
        view.name, view.shared = name, shared
        _write(view)
        audit_log.log("view.changed", view, tenant_id=view.tenant_id, name=name, shared=shared)


def delete(view: SavedView) -> None:
    with transaction.atomic():
        audit_log.log("view.deleted", view, tenant_id=view.tenant_id, query=view.query)
        view.delete()


def _write(view: SavedView) -> None:
    try:
        with transaction.atomic():
            view.save()
    except IntegrityError as error:
        raise Refused(f"There is a view {view.name!r} of yours already; choose another name.") from error
