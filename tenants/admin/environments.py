"""Environments: what happens to calls that no policy matches, and freezing."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from audit import log as audit_log
from tenants import freezing, revisions
from tenants.console.access import actor_of, may, may_somewhere
from tenants.console.forms import LinesField, RowForm
from tenants.console.rows import TenantRowsAdmin
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import FROZEN_FEATURES_MAX, Environment
from tenants.roles import May


class EnvironmentForm(RowForm):
    frozen_features = LinesField(
        forms.CharField(max_length=NAME_LENGTH_MAX, strip=False),
        max_length=FROZEN_FEATURES_MAX,
        required=False,
        help_text=Environment._meta.get_field("frozen_features").help_text,
    )


@admin.register(Environment)
class EnvironmentAdmin(TenantRowsAdmin):
    to_change = May.EDIT_ENVIRONMENTS
    form = EnvironmentForm
    tenant_lookup = "tenant_id"
    list_display = ["__str__", "default_action", "frozen", "frozen_features", "revision"]
    list_filter = ["frozen"]
    list_select_related = ["tenant"]
    search_fields = ["tenant__slug", "slug"]
    actions = ["freeze", "unfreeze"]

    def tenant_id_of(self, obj: Environment) -> int:
        return obj.tenant_id

    def get_queryset(self, request: HttpRequest) -> QuerySet[Environment]:
        # Its name takes the tenant's.
        return super().get_queryset(request).select_related("tenant")

    def has_change_permission(self, request: HttpRequest, obj: Environment | None = None) -> bool:
        """Whoever may freeze it opens its form; the rest of it they only see there."""
        if obj is None:
            return may_somewhere(request, May.FREEZE)
        return may(request, May.FREEZE, obj.tenant_id)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: Environment | None = None) -> Any:
        if obj is None:
            return ["tenant", "slug", "default_action"]
        return ["tenant", "slug", "default_action", "frozen", "frozen_features", "standing"]

    def get_readonly_fields(self, request: HttpRequest, obj: Environment | None = None) -> list[str]:
        if obj is None:
            return []
        shown = ["tenant", "slug", "standing"]
        return shown if self.may_change(request, obj) else [*shown, "default_action"]

    @admin.display(description="In force")
    def standing(self, obj: Environment) -> str:
        said = str(revisions.standing(obj))
        return said[0].upper() + said[1:]

    def save_model(self, request: HttpRequest, obj: Environment, form: Any, change: bool) -> None:
        """Writes what was changed in the form and nothing else: a colleague may have pulled the emergency brake."""
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
        freezing.set_frozen(
            obj,
            frozen=obj.frozen if "frozen" in form.changed_data else None,
            features=obj.frozen_features if "frozen_features" in form.changed_data else None,
            actor=actor_of(request),
        )

    @admin.action(description="Freeze: block every call, at once", permissions=["change"])
    def freeze(self, request: HttpRequest, queryset: QuerySet[Environment]) -> None:
        for environment in self.where(request, May.FREEZE, queryset).order_by("pk"):
            freezing.freeze(environment, actor=actor_of(request))
            self.message_user(
                request, f"{environment} is frozen: {revisions.standing(environment)}.", messages.WARNING
            )

    @admin.action(description="Unfreeze: allow calls again", permissions=["change"])
    def unfreeze(self, request: HttpRequest, queryset: QuerySet[Environment]) -> None:
        for environment in self.where(request, May.FREEZE, queryset).order_by("pk"):
            freezing.unfreeze(environment, actor=actor_of(request))
            self.message_user(
                request, f"{environment} is not frozen any more: {revisions.standing(environment)}."
            )
