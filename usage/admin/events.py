"""The ledger's rows: what each call used, read only."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString

from tenants.console import display
from tenants.console.rows import BoundedPaginator, ReadOnlyEnvironmentAdmin
from tenants.models import ApiKey
from usage.metrics import COUNTS, TOKEN_PARTS
from usage.models import ModelPrice, UsageEvent
from usage.money import format_usd_if_known


@admin.register(UsageEvent)
class UsageEventAdmin(ReadOnlyEnvironmentAdmin):
    list_display = [
        "when", "user", "feature", "model", "tokens_in", "tokens_out", "cost_usd", "status", "plan", "request_id",
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
    list_select_related = ["environment__tenant"]
    search_fields = ["request_id__exact", "user_id__exact"]
    search_help_text = "The exact request_id or user_id"
    # As its index has it.
    ordering = ["-charged_at", "-id"]
    paginator = BoundedPaginator
    show_full_result_count = False

    @admin.display(description="when", ordering="charged_at")
    def when(self, event: UsageEvent) -> str:
        return display.moment(event.charged_at)

    @admin.display(description="user", ordering="user_id")
    def user(self, event: UsageEvent) -> SafeString:
        return display.user_link(event.environment, event.user_id)

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
        return None if price is None else display.link(price, f"{price.provider}/{price.model}")

    @admin.display(description="policy")
    def policy(self, event: UsageEvent) -> SafeString | None:
        """Shows only the version: the policy's name belongs to an app that this one may not import."""
        if event.policy_id is None:
            return None
        return display.link_to("policies.policy", event.policy_id, f"version {event.policy_version}")

    @admin.display(description="API key")
    def api_key(self, event: UsageEvent) -> SafeString | None:
        if event.api_key_id is None:
            return None
        key = ApiKey.objects.filter(pk=event.api_key_id).first()
        return None if key is None else display.link(key, key.name)
