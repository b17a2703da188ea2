"""What is stored of a tenant or of an environment, however deep, to see that nothing of it changed. Holds no test."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db.models import Model, Q

from audit.models import Entry
from tenants.models import Environment, Tenant

APPS = ("tenants", "usage", "policies")


def of(owner: Tenant | Environment) -> dict[str, list[dict[str, Any]]]:
    """Rows by the name of their model, the audit entries included."""
    found = {}
    for model in _models():
        path = _path(model, type(owner))
        if path is not None:
            rows = model._base_manager.filter(**{path: owner.pk}).order_by("pk")
            found[model._meta.label] = list(rows.values())
    entries: Any = Entry.objects.filter(_entries_of(owner)).order_by("pk").values()
    found[Entry._meta.label] = list(entries)
    return found


def _models() -> list[type[Model]]:
    return [model for app in APPS for model in apps.get_app_config(app).get_models() if not model._meta.proxy]


def _path(model: type[Model], goal: type[Model]) -> str | None:
    """The lookup from a row to what it belongs to."""
    if model is goal:
        return "pk"
    for field in model._meta.concrete_fields:
        related = field.related_model if field.many_to_one or field.one_to_one else None
        further = _path(related, goal) if isinstance(related, type) and related is not model else None
        if further is not None:
            return field.name if further == "pk" else f"{field.name}__{further}"
    return None


def _entries_of(owner: Tenant | Environment) -> Q:
    if isinstance(owner, Tenant):
        # Whoever may see the log or the usage may export it, which is logged.
        return Q(tenant_id=owner.pk) & ~Q(action__in=["audit.exported", "usage.exported"])
    return Q(tenant_id=owner.tenant_id, data__environment=owner.slug)
