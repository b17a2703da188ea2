"""Tenants, with their environments to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from audit import log as audit_log
from tenants import revisions
from tenants.console.access import is_superuser
from tenants.console.display import moment_of
from tenants.console.rows import InlineOfTenantRows, TenantRowsAdmin
from tenants.models import Environment, Tenant
from tenants.roles import May


class EnvironmentInline(InlineOfTenantRows):
    model = Environment
    fields = ["slug", "default_action", "frozen", "frozen_features", "revision"]
    readonly_fields = ["slug", "default_action", "frozen", "frozen_features", "revision"]
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Tenant)
class TenantAdmin(TenantRowsAdmin):
    to_change = May.EDIT_TENANT
    tenant_lookup = "id"
    list_display = ["slug", "name", "timezone", "created"]
    created = moment_of("created_at", "created")
    search_fields = ["slug", "name"]
    fields = ["slug", "name", "timezone"]

    def tenant_id_of(self, obj: Tenant) -> int:
        return obj.pk

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> list[str]:
        return [] if obj is None else ["slug"]

    def get_inlines(self, request: HttpRequest, obj: Tenant | None) -> list[Any]:
        # A new tenant gets dev, staging and prod.
        return [] if obj is None else [EnvironmentInline]

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        if not change:
            obj.pk = Tenant.create_with_environments(obj.slug, name=obj.name, timezone=obj.timezone).pk
        elif form.changed_data:
            obj.save(update_fields=["name", "timezone"])
            revisions.bump_all(obj.pk)
            after = {name: getattr(obj, name) for name in form.changed_data}
            audit_log.log(
                "tenant.changed", obj, tenant_id=obj.pk, changes=audit_log.changes(form.initial, after)
            )
