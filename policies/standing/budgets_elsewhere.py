"""Budgets of several environments that end before their month does: what needs action first, wherever it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from uuid import UUID

from policies.models import Policy
from policies.rules import LimitRule, Mode
from policies.standing import budget_days
from policies.standing.pace import Ending
from policies.standing.standings import Standing, is_shared, standings
from tenants.models import Environment
from usage.metrics import Metric
from usage.windows import Window

# Each takes some questions to the ledger.
ENVIRONMENTS_MAX = 8
_ENDS = (Ending.USED_UP, Ending.RUNS_OUT)


def ending(environments: Collection[Environment]) -> tuple[list[tuple[Environment, Standing]], bool]:
    """Shared budgets that block calls, those that end first at the top; and whether all environments were looked at.

    Of those that have such budgets the first ENVIRONMENTS_MAX by name are. Raises DatabaseError.
    """
    policies = _with_budgets(environments)
    having = sorted((each for each in environments if each.pk in policies), key=str)
    found = [
        (environment, standing)
        for environment in having[:ENVIRONMENTS_MAX]
        for standing in standings(environment, policies[environment.pk], of=_is_shared_budget)
        if standing.outlook is not None and standing.outlook.ending in _ENDS
    ]
    found.sort(key=lambda each: _order(each[1]))
    return found, len(having) <= ENVIRONMENTS_MAX


def _is_shared_budget(limit: LimitRule) -> bool:
    return is_shared(limit) and budget_days.is_budget(limit.metric, limit.window)


def _with_budgets(environments: Collection[Environment]) -> dict[int, set[UUID]]:
    """By environment the policies that block calls by a budget."""
    rows = Policy.objects.filter(
        environment__in=[each.pk for each in environments],
        archived_at=None,
        mode=Mode.ENFORCE,
        limits__metric=Metric.COST_USD,
        limits__window=Window.MONTH,
    ).values_list("environment_id", "pk")
    found: dict[int, set[UUID]] = defaultdict(set)
    for environment_id, policy_id in rows:
        found[environment_id].add(policy_id)
    return found


def _order(standing: Standing) -> tuple[int, float]:
    assert standing.outlook is not None
    return standing.outlook.order
