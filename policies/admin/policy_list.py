"""The list of policies: each with its sentence, its fullest limit and its last change."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString

from policies import policy_rows
from policies.changing import history
from policies.describing import wording
from policies.models import Policy
from policies.rules import Mode
from policies.standing import standing_wording
from policies.standing.standings import Standing, standings
from tenants.console import environments
from tenants.console.parts import State
from tenants.console.rows import ListOfShownEnvironment

MODES = {
    Mode.ENFORCE: (State.ALLOWED, "Enforced"),
    Mode.MONITOR: (State.WATCHED, "Monitored"),
    Mode.OFF: (State.QUIET, "Off"),
}


class PolicyList(ListOfShownEnvironment):
    """Reads what its columns show of all its rows at once. Unless it is sorted, the fullest come first."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        environment = environments.shown(request)
        rows: list[Policy] = list(self.result_list)
        if environment is None or not rows:
            return
        by_policy: dict[Any, list[Standing]] = defaultdict(list)
        for standing in standings(environment, {row.pk for row in rows}):
            by_policy[standing.policy.pk].append(standing)
        by_id = history.latest(rows)
        for row in rows:
            row.fullest = max(by_policy[row.pk], key=lambda each: each.urgency, default=None)  # type: ignore[attr-defined]
            row.change = by_id.get(row.pk)  # type: ignore[attr-defined]
            row.zone = environment.tenant.timezone  # type: ignore[attr-defined]
        if "o" not in request.GET:
            rows.sort(key=_urgency, reverse=True)
        self.result_list = rows


def _urgency(row: Any) -> tuple[float, bool]:
    return (-2.0, False) if row.fullest is None else row.fullest.urgency


class InForce(admin.SimpleListFilter):
    """Archived policies are shown only if they are asked for."""

    title = "archived"
    parameter_name = "archived"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Archived")]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        yield {**first, "display": "In force"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Policy]) -> QuerySet[Policy]:
        return queryset.filter(archived_at__isnull=self.value() != "yes")


def described(policy: Any) -> SafeString:
    rule = policy_rows.rule_of(policy)
    return _cell(
        "described",
        policy=policy,
        url=reverse("admin:policies_policy_change", args=[policy.pk]),
        pieces=wording.describe(rule, policy.zone).pieces,
    )


def state(policy: Policy) -> SafeString:
    kind, word = MODES[Mode(policy.mode)]
    return _cell("state", kind=kind.value, word="Archived" if policy.archived_at else word)


def fullest(policy: Any) -> SafeString:
    standing: Standing | None = policy.fullest
    if standing is None:
        return _cell("fullest", says="not in force" if policy.mode == Mode.OFF else "counts nothing")
    return _cell(
        "fullest",
        bar=standing.bar,
        says=standing_wording.says(standing),
        crowd=standing_wording.crowd(standing),
    )


def changed(policy: Any) -> SafeString:
    return _cell("changed", policy=policy, change=policy.change)


def _cell(part: str, **context: Any) -> SafeString:
    return render_to_string(f"console/policies/{part}.html", context)
