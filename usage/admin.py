from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from audit import log as audit_log
from tenants import revisions
from tenants.admin_access import (
    BoundedPaginator,
    EnvironmentFilter,
    OneEnvironmentFilter,
    ReadOnlyAdmin,
    TenantRowsAdmin,
    is_superuser,
)
from usage.models import Decision, ModelPrice, TrackedPair, UsageEvent
from usage.money import format_usd


@admin.register(ModelPrice)
class ModelPriceAdmin(TenantRowsAdmin):
    """Shared prices are seen by all and changed by superusers; a tenant's own are its admins' affair."""

    tenant_lookup = "tenant_id"
    shows_shared_rows = True
    list_display = [
        "model", "provider", "tenant", "input_per_million", "output_per_million", "effective_from", "source", "active",
    ]  # fmt: skip
    list_filter = ["active", "source", "provider"]
    list_select_related = ["tenant"]
    search_fields = ["model", "provider"]
    readonly_fields = ["source_version", "created_at", "updated_at"]

    def tenant_id_of(self, obj: ModelPrice) -> int | None:
        return obj.tenant_id

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Rows are history that late reports are charged by; one that is wrong is switched off.
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: ModelPrice | None = None) -> list[str]:
        return [*self.readonly_fields] if obj is None else [*self.readonly_fields, "tenant"]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "tenant" and not is_superuser(request):
            # Without a tenant it would be everyone's.
            kwargs["required"] = True
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: ModelPrice, form: Any, change: bool) -> None:
        obj.save()
        revisions.bump_all(obj.tenant_id)
        audit_log.log(
            "price.changed" if change else "price.added",
            obj,
            tenant_id=obj.tenant_id,
            **{name: form.cleaned_data[name] for name in form.changed_data if name != "tenant"},
        )


@admin.register(UsageEvent)
class UsageEventAdmin(ReadOnlyAdmin):
    list_display = [
        "charged_at", "request_id", "user_id", "feature", "plan", "model", "status", "input_tokens", "output_tokens",
        "cost_usd",
    ]  # fmt: skip
    list_filter = [OneEnvironmentFilter]
    search_fields = ["request_id__exact", "user_id__exact"]
    search_help_text = "The exact request_id or user_id"
    # As its index has it.
    ordering = ["-charged_at", "-id"]
    paginator = BoundedPaginator
    show_full_result_count = False

    @admin.display(description="cost (USD)")
    def cost_usd(self, event: UsageEvent) -> str | None:
        return None if event.cost_nano is None else format_usd(event.cost_nano)


@admin.register(Decision)
class DecisionAdmin(ReadOnlyAdmin):
    list_display = [
        "decided_at",
        "request_id",
        "user_id",
        "feature",
        "model",
        "reason_code",
        "policy_name",
        "message",
    ]
    list_filter = [OneEnvironmentFilter, "reason_class"]
    search_fields = ["request_id__exact", "user_id__exact", "reason_code__exact"]
    search_help_text = "The exact request_id, user_id or reason_code"
    ordering = ["-id"]
    paginator = BoundedPaginator
    show_full_result_count = False


@admin.register(TrackedPair)
class TrackedPairAdmin(ReadOnlyAdmin):
    list_display = ["environment", "per", "window"]
    list_filter = [EnvironmentFilter]
    list_select_related = ["environment__tenant"]
