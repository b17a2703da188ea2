"""Blocked decisions in the admin, read only."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString

from policies.models import BlockedDecision
from tenants.console import display
from tenants.console.rows import BoundedPaginator, ReadOnlyEnvironmentAdmin
from usage.ledger.reading import recorded
from usage.money import format_usd_if_known


@admin.register(BlockedDecision)
class BlockedDecisionAdmin(ReadOnlyEnvironmentAdmin):
    list_display = ["when", "user_id", "reason_code", "model", "feature", "message"]
    fieldsets = [
        (None, {"fields": [
            "environment", "decided_at", "reason_code", "reason_class", "message", "policy", "passed_later",
        ]}),
        ("The call", {"fields": [
            "user_id", "feature", "plan", "run_id", "model", "request_id", "estimated_cost_usd",
        ]}),
        ("The limits as they stood", {"fields": ["limits"]}),
    ]  # fmt: skip
    readonly_fields = ["policy", "passed_later", "estimated_cost_usd", "limits"]
    list_filter = ["reason_class"]
    search_fields = ["request_id__exact", "user_id__exact", "reason_code__exact"]
    search_help_text = "The exact request_id, user_id or reason_code"
    ordering = ["-id"]
    paginator = BoundedPaginator
    show_full_result_count = False

    @admin.display(description="when", ordering="id")
    def when(self, decision: BlockedDecision) -> str:
        return display.moment(decision.decided_at)

    @admin.display(description="policy")
    def policy(self, decision: BlockedDecision) -> SafeString | None:
        if decision.policy_id is None:
            return None
        name = f"{decision.policy_name}, version {decision.policy_version}"
        return display.link_to("policies.policy", decision.policy_id, name)

    @admin.display(description="passed later", boolean=True)
    def passed_later(self, decision: BlockedDecision) -> bool:
        """Whether the call was allowed when it was asked for again, and is in the ledger."""
        return bool(recorded(decision.environment_id, [decision.request_id]))

    @admin.display(description="estimated cost (USD)")
    def estimated_cost_usd(self, decision: BlockedDecision) -> str | None:
        return format_usd_if_known(decision.estimated_cost_nano)

    @admin.display(description="limits")
    def limits(self, decision: BlockedDecision) -> SafeString | None:
        if not decision.limit_state:
            return None
        names = ("policy", "metric", "window", "per", "limit", "used", "held", "remaining", "resets_at")
        rows = [[_cell(limit.get(name)) for name in names] for limit in decision.limit_state]
        return display.table([name.replace("_", " ") for name in names], rows)


def _cell(value: object) -> object:
    return "-" if value is None else value
