"""Who belongs to which tenant, with which role."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from tenants.console.access import is_superuser
from tenants.console.rows import TenantRowsAdmin
from tenants.models import Membership
from tenants.roles import May


@admin.register(Membership)
class MembershipAdmin(TenantRowsAdmin):
    """Members see the other members; only superusers change memberships."""

    to_change = May.EDIT_MEMBERS
    tenant_lookup = "tenant_id"
    list_display = ["user", "tenant", "role"]
    list_filter = ["role"]
    list_select_related = ["user", "tenant"]
    search_fields = ["user__username", "tenant__slug"]

    def tenant_id_of(self, obj: Membership) -> int:
        return obj.tenant_id

    def may_change(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def get_readonly_fields(self, request: HttpRequest, obj: Membership | None = None) -> list[str]:
        return [] if obj is None else ["user", "tenant"]

    def save_model(self, request: HttpRequest, obj: Membership, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change and form.changed_data:
            obj.log_changed_from(form.initial["role"])
        elif not change:
            obj.log("membership.added")

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        obj.remove()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Membership]) -> None:
        with transaction.atomic():
            for membership in queryset.select_related("user", "tenant").order_by("tenant_id", "pk"):
                membership.remove()
