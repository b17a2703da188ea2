from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit import log as audit_log
from tenants import admin_display, revisions
from tenants.admin_access import (
    BoundedPaginator,
    EnvironmentFilter,
    OneEnvironmentFilter,
    ReadOnlyAdmin,
    TenantRowsAdmin,
    is_superuser,
)
from tenants.admin_forms import LinesField, RowForm
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import ApiKey
from usage.metrics import COUNTS, TOKEN_PARTS
from usage.models import ModelPrice, TrackedPair, UsageEvent
from usage.money import format_usd_if_known
from usage.prices.cost import ALIASES_MAX, UNDATED
from usage.prices.tiers import RATE_FIELDS


class ModelPriceForm(RowForm):
    aliases = LinesField(
        forms.CharField(max_length=NAME_LENGTH_MAX),
        max_length=ALIASES_MAX,
        required=False,
        help_text=ModelPrice._meta.get_field("aliases").help_text,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in RATE_FIELDS:
            self.initial[name] = admin_display.plain(self.initial.get(name))


@admin.register(ModelPrice)
class ModelPriceAdmin(TenantRowsAdmin):
    """Everybody sees shared prices and superusers change them; a tenant's admins change its own."""

    tenant_lookup = "tenant_id"
    shows_shared_rows = True
    form = ModelPriceForm
    list_display = ["model", "provider", "whose", "input_usd", "output_usd", "since", "active"]
    list_filter = ["active", "source", "provider"]
    list_select_related = ["tenant"]
    search_fields = ["model", "provider"]
    readonly_fields = ["source_version", "created_at", "updated_at"]

    @admin.display(description="tenant", ordering="tenant")
    def whose(self, price: ModelPrice) -> str:
        return "all" if price.tenant is None else str(price.tenant)

    @admin.display(description="input, USD per million", ordering="input_per_million")
    def input_usd(self, price: ModelPrice) -> str:
        return str(admin_display.plain(price.input_per_million))

    @admin.display(description="output, USD per million", ordering="output_per_million")
    def output_usd(self, price: ModelPrice) -> str:
        return str(admin_display.plain(price.output_per_million))

    @admin.display(description="in force from", ordering="effective_from")
    def since(self, price: ModelPrice) -> str:
        at = price.effective_from
        return "always" if at == UNDATED else admin_display.moment(at)

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
        "when", "user_id", "feature", "model", "tokens_in", "tokens_out", "cost_usd", "status", "plan", "request_id",
    ]  # fmt: skip
    fieldsets = [
        (None, {"fields": [
            "environment", "charged_at", "status", "user_id", "feature", "plan", "run_id", "request_id",
        ]}),
        ("What it took", {"fields": [
            "model", "provider", *COUNTS, *TOKEN_PARTS, "cost_usd", "reported_cost_usd", "price", "latency_ms",
        ]}),
        ("Where it comes from", {"fields": ["policy", "api_key", "occurred_at", "recorded_at", "metadata"]}),
    ]  # fmt: skip
    readonly_fields = ["cost_usd", "reported_cost_usd", "price", "policy", "api_key"]
    list_filter = [OneEnvironmentFilter]
    search_fields = ["request_id__exact", "user_id__exact"]
    search_help_text = "The exact request_id or user_id"
    # As its index has it.
    ordering = ["-charged_at", "-id"]
    paginator = BoundedPaginator
    show_full_result_count = False

    @admin.display(description="when", ordering="charged_at")
    def when(self, event: UsageEvent) -> str:
        return admin_display.moment(event.charged_at)

    @admin.display(description="tokens in")
    def tokens_in(self, event: UsageEvent) -> int:
        return event.amounts.input_tokens

    @admin.display(description="tokens out")
    def tokens_out(self, event: UsageEvent) -> int:
        return event.amounts.output_tokens

    @admin.display(description="cost (USD)")
    def cost_usd(self, event: UsageEvent) -> str | None:
        return format_usd_if_known(event.cost_nano)

    @admin.display(description="reported cost (USD)")
    def reported_cost_usd(self, event: UsageEvent) -> str | None:
        return format_usd_if_known(event.reported_cost_nano)

    @admin.display(description="price")
    def price(self, event: UsageEvent) -> SafeString | None:
        if event.price_id is None:
            return None
        price = ModelPrice.objects.filter(pk=event.price_id).first()
        return None if price is None else admin_display.link(price, f"{price.provider}/{price.model}")

    @admin.display(description="policy")
    def policy(self, event: UsageEvent) -> SafeString | None:
        """Shows only the version: the policy's name belongs to an app that this one may not import."""
        if event.policy_id is None:
            return None
        return admin_display.link_to("policies.policy", event.policy_id, f"version {event.policy_version}")

    @admin.display(description="API key")
    def api_key(self, event: UsageEvent) -> SafeString | None:
        if event.api_key_id is None:
            return None
        key = ApiKey.objects.filter(pk=event.api_key_id).first()
        return None if key is None else admin_display.link(key, key.name)


@admin.register(TrackedPair)
class TrackedPairAdmin(ReadOnlyAdmin):
    list_display = ["environment", "per", "window"]
    list_filter = [EnvironmentFilter]
    list_select_related = ["environment__tenant"]
