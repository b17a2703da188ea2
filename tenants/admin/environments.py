"""Environments: what happens to calls that no policy matches. Freezing is policies/admin/freeze_page.py."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from audit import log as audit_log
from tenants import freezing, revisions
from tenants.console.parts import State
from tenants.console.rows import TenantRowsAdmin
from tenants.models import Environment
from tenants.roles import May
from tenants.templatetags.console import state

FREEZES_SHOWN_MAX = 5


@admin.register(Environment)
class EnvironmentAdmin(TenantRowsAdmin):
    to_change = May.EDIT_ENVIRONMENTS
    tenant_lookup = "tenant_id"
    list_display = ["__str__", "default_action", "freezes", "revision"]
    list_filter = ["frozen"]
    list_select_related = ["tenant"]
    search_fields = ["tenant__slug", "slug"]

    def tenant_id_of(self, obj: Environment) -> int:
        return obj.tenant_id

    def get_queryset(self, request: HttpRequest) -> QuerySet[Environment]:
        # Its name takes the tenant's.
        return super().get_queryset(request).select_related("tenant")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: Environment | None = None) -> Any:
        if obj is None:
            return ["tenant", "slug", "default_action"]
        return ["tenant", "slug", "default_action", "freezes", "standing"]

    def get_readonly_fields(self, request: HttpRequest, obj: Environment | None = None) -> list[str]:
        return [] if obj is None else ["tenant", "slug", "freezes", "standing"]

    @admin.display(description="Frozen")
    def freezes(self, obj: Environment) -> SafeString:
        """With the way to the switch, which is a page of its own."""
        frozen = freezing.in_force(obj)
        states = format_html_join(
            " ",
            "{}",
            ((state(State.FROZEN, each.feature or "everything"),) for each in frozen[:FREEZES_SHOWN_MAX]),
        )
        more = len(frozen) - FREEZES_SHOWN_MAX
        return format_html(
            '{} {} <a href="{}?environment={}">{}</a>',
            states,
            f"and {more} more" if more > 0 else "",
            reverse("admin:freeze"),
            obj,
            "Change…" if frozen else "Nothing. Freeze…",
        )

    @admin.display(description="In force")
    def standing(self, obj: Environment) -> str:
        said = str(revisions.standing(obj))
        return said[0].upper() + said[1:]

    def save_model(self, request: HttpRequest, obj: Environment, form: Any, change: bool) -> None:
        """Writes what was changed in the form and nothing else: a colleague may have frozen it meanwhile."""
        if not change:
            obj.save()
            audit_log.log(
                "environment.created", obj, tenant_id=obj.tenant_id, default_action=obj.default_action
            )
            return
        if "default_action" in form.changed_data:
            obj.save(update_fields=["default_action"])
            revisions.bump(obj.pk, policies=False)
            after = {"default_action": obj.default_action}
            audit_log.log(
                "environment.changed",
                obj,
                tenant_id=obj.tenant_id,
                changes=audit_log.changes(form.initial, after),
            )
