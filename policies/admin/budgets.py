"""Closed monthly budgets in the admin, to look at."""

from __future__ import annotations

from django.contrib import admin

from policies.models import MonthlyBudget
from tenants.console import display
from tenants.console.rows import ReadOnlyEnvironmentAdmin
from tenants.models import Environment


@admin.register(MonthlyBudget)
class MonthlyBudgetAdmin(ReadOnlyEnvironmentAdmin):
    tenant_lookup = "closed_month__environment__tenant_id"
    environment_lookup = "closed_month__environment"
    list_display = [
        "month",
        "policy_name",
        "per",
        "user_id",
        "feature",
        "plan",
        "budget",
        "spent",
        "over",
    ]
    list_filter = ["closed_month__month", "per"]
    list_select_related = ["closed_month__environment__tenant"]
    search_fields = ["user_id__exact", "policy_name__exact"]
    search_help_text = "The exact user_id or policy"

    def tenant_id_of(self, obj: MonthlyBudget) -> int | None:
        return obj.closed_month.environment.tenant_id

    def environment_of(self, obj: MonthlyBudget) -> Environment:
        return obj.closed_month.environment

    @admin.display(description="month", ordering="closed_month__month")
    def month(self, budget: MonthlyBudget) -> str:
        return str(budget.closed_month)

    @admin.display(description="budget, USD", ordering="budget_usd")
    def budget(self, budget: MonthlyBudget) -> str:
        return str(display.plain(budget.budget_usd))

    @admin.display(description="spent, USD", ordering="spent_usd")
    def spent(self, budget: MonthlyBudget) -> str:
        return str(display.plain(budget.spent_usd))

    @admin.display(description="exceeded", boolean=True)
    def over(self, budget: MonthlyBudget) -> bool:
        return budget.exceeded
