"""The console of policies, plans, end users and decisions. Django finds the pages by importing this package."""

from policies.admin import (
    blocked_page,
    budgets_page,
    copying,
    drafts,
    history,
    limits,
    month_report,
    replay_page,
    reprice_page,
    search,
    suggested_limits,
    try_it,
    unpriced,
)
from policies.admin.alert_endpoints import AlertEndpointAdmin
from policies.admin.alert_rules import AlertRuleAdmin
from policies.admin.alerts import AlertAdmin
from policies.admin.boosts import BoostAdmin
from policies.admin.budgets import MonthlyBudgetAdmin
from policies.admin.decisions import BlockedDecisionAdmin
from policies.admin.deployments import DeploymentAdmin
from policies.admin.end_user_page import end_user
from policies.admin.end_users import EndUserAdmin
from policies.admin.freeze_page import freeze
from policies.admin.plans import PlanAdmin
from policies.admin.policies import PolicyAdmin

__all__ = [
    "AlertAdmin",
    "AlertEndpointAdmin",
    "AlertRuleAdmin",
    "BlockedDecisionAdmin",
    "BoostAdmin",
    "DeploymentAdmin",
    "EndUserAdmin",
    "MonthlyBudgetAdmin",
    "PlanAdmin",
    "PolicyAdmin",
    "blocked_page",
    "budgets_page",
    "copying",
    "drafts",
    "end_user",
    "freeze",
    "history",
    "limits",
    "month_report",
    "replay_page",
    "reprice_page",
    "search",
    "suggested_limits",
    "try_it",
    "unpriced",
]
