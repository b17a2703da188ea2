"""The list of plans: what the policies of each allow, how many users are stored on it, and its last change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString

from audit.models import Entry
from policies import end_users
from policies.admin import policy_list
from policies.changing import history
from policies.models import Plan, Policy
from policies.rules import Mode
from tenants.console import environments
from tenants.console.access import may
from tenants.console.audit_entries import about
from tenants.console.display import amount
from tenants.console.rows import ListOfShownEnvironment
from tenants.models import Environment
from tenants.roles import May

# Of each plan; its page has all.
POLICIES_SHOWN = 5


class PlanList(ListOfShownEnvironment):
    """Reads what its columns show of all its rows at once."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        environment = environments.shown(request)
        rows: list[Plan] = list(self.result_list)
        if environment is None or not rows:
            return
        named = _policies(environment, rows)
        users = end_users.stored_on([row.pk for row in rows])
        changes = history.latest_of_plans(environment.pk, [row.name for row in rows])
        sees_audit = may(request, May.SEE_AUDIT, environment.tenant_id)
        added = _added(rows) if sees_audit else {}
        for row in rows:
            row.named = named[row.name]  # type: ignore[attr-defined]
            row.users = users.get(row.pk, 0)  # type: ignore[attr-defined]
            row.change = changes.get(row.name)  # type: ignore[attr-defined]
            row.added = added.get(str(row.pk))  # type: ignore[attr-defined]
            row.sees_audit = sees_audit  # type: ignore[attr-defined]
        self.result_list = rows


def _policies(environment: Environment, rows: Sequence[Plan]) -> defaultdict[str, list[Policy]]:
    """Those in force that name each plan, the oldest first; two queries."""
    named = Policy.objects.in_force(environment.pk).filter(scope_plan__in=[row.name for row in rows])
    found: defaultdict[str, list[Policy]] = defaultdict(list)
    for policy in named.prefetch_related("limits"):
        policy.zone = environment.tenant.timezone  # type: ignore[attr-defined]
        found[policy.scope_plan].append(policy)
    return found


def _added(rows: Sequence[Model]) -> dict[str, Entry]:
    """The newest entry of the audit log about each, by its id; one query."""
    newest = Entry.objects.filter(about(rows)).order_by("target_id", "-id").distinct("target_id")
    return {entry.target_id: entry for entry in newest}


def policies(plan: Any) -> SafeString:
    shown = [
        (policy_list.described(each), "" if each.mode == Mode.ENFORCE else policy_list.state(each))
        for each in plan.named[:POLICIES_SHOWN]
    ]
    return _cell("plan_policies", plan=plan, shown=shown, more=len(plan.named) - len(shown))


def users(plan: Any) -> SafeString:
    return amount(end_users.says(plan.users))


def changed(plan: Any) -> SafeString:
    return _cell(
        "plan_changed", plan=plan, history_url=reverse("admin:policies_plan_history", args=[plan.pk])
    )


def _cell(part: str, **context: Any) -> SafeString:
    return render_to_string(f"console/policies/{part}.html", context)
