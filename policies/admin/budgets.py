"""Closed monthly budgets in the admin, to look at."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone

from policies import budgets
from policies.models import MonthlyBudget
from tenants.console import display, environments
from tenants.console.rows import ListOfShownEnvironment, ReadOnlyEnvironmentAdmin
from tenants.models import Environment


class BudgetList(ListOfShownEnvironment):
    """`closing`: of an empty list, the month that is closed next, and when."""

    closing: tuple[date, datetime] | None = None

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        environment = environments.shown(request)
        if environment is not None and not self.result_list:
            self.closing = budgets.next_closing(environment, timezone.now())


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
        "counts",
        "budget",
        "spent",
        "over",
    ]
    list_filter = ["closed_month__month", "per"]
    list_select_related = ["closed_month__environment__tenant"]
    search_fields = ["user_id__exact", "policy_name__exact"]
    search_help_text = "The exact user_id or policy"
    empty_template = "console/no_budgets.html"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[BudgetList]:
        return BudgetList

    def tenant_id_of(self, obj: MonthlyBudget) -> int | None:
        return obj.closed_month.environment.tenant_id

    def environment_of(self, obj: MonthlyBudget) -> Environment:
        return obj.closed_month.environment

    @admin.display(description="month", ordering="closed_month__month")
    def month(self, budget: MonthlyBudget) -> str:
        return str(budget.closed_month)

    @admin.display(description="models")
    def counts(self, budget: MonthlyBudget) -> str:
        return ", ".join(budget.models) or "all"

    @admin.display(description="budget, USD", ordering="budget_usd")
    def budget(self, budget: MonthlyBudget) -> str:
        return str(display.plain(budget.budget_usd))

    @admin.display(description="spent, USD", ordering="spent_usd")
    def spent(self, budget: MonthlyBudget) -> str:
        return str(display.plain(budget.spent_usd))

    @admin.display(description="exceeded", boolean=True)
    def over(self, budget: MonthlyBudget) -> bool:
        return budget.exceeded
