"""Blocked decisions in the console, read only: a list with its filters, and a page that explains one of them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from policies import blocked
from policies.admin.boosts import give_url
from policies.admin.decision_filters import DecisionFilters
from policies.blocked import Explanation, Remedy, StoodLimit, Way, decision_listing
from policies.models import BlockedDecision, Policy
from tenants.console import environments, pages
from tenants.console.display import user_url
from tenants.console.parts import Bar
from tenants.console.rows import ReadOnlyEnvironmentAdmin
from tenants.models import Environment
from usage.amounts import Subjects
from usage.boosts import BOOSTED_PERS, raised
from usage.ledger.reading import recorded
from usage.metrics import Metric
from usage.money import NANO, format_usd_if_known

SHOWN = 50


@dataclass(frozen=True, slots=True)
class Row:
    decision: BlockedDecision
    headline: str
    passed_later: bool
    url: str


@dataclass(frozen=True, slots=True)
class Option:
    """A way that would have let the call pass, and the page where it is done."""

    way: Way
    url: str | None
    does: str


@admin.register(BlockedDecision)
class BlockedDecisionAdmin(ReadOnlyEnvironmentAdmin):
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if request.method == "POST" or not self.has_view_permission(request):
            raise PermissionDenied
        environment = environments.shown(request)
        if environment is None:
            return pages.rendered(request, "console/decisions.html", "Decisions", filters=None)
        decision_listing.store_newest(environment.pk)
        filters = _filters(request, environment)
        found = list(filters.decisions()[: SHOWN + 1])
        return pages.rendered(
            request,
            "console/decisions.html",
            "Decisions",
            filters=filters,
            rows=_rows(environment, found[:SHOWN]),
            older=_older(request, found),
        )

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if request.method == "POST":
            raise PermissionDenied
        decision = self.get_object(request, object_id)
        if decision is None or not self.has_view_permission(request, decision):
            # As Django's own pages answer.
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined,no-any-return]
        environment = decision.environment
        explained = blocked.explain(decision, ZoneInfo(environment.tenant.timezone), timezone.now())
        return pages.rendered(
            request,
            "console/decision.html",
            explained.headline,
            original=explained.headline,
            opts=self.opts,
            decision=decision,
            explained=explained,
            options=[_option(decision, way, explained) for way in explained.ways],
            limits=[(limit, _bar(limit)) for limit in explained.limits],
            speaking=_speaking(explained),
            passed_later=bool(recorded(environment.pk, [decision.request_id])),
            estimated_cost=format_usd_if_known(decision.estimated_cost_nano),
            policy_url=_policy_url(decision),
        )


def _filters(request: HttpRequest, environment: Environment) -> DecisionFilters:
    """Raises BadRequest for parameters of an address that this page does not have."""
    given = _filled_in(request)
    unknown = set(given) - set(DecisionFilters.base_fields)
    if unknown:
        raise BadRequest(f"Decisions have no filter {sorted(unknown)[0][:100]!r}.")
    return DecisionFilters(environment, given)


def _filled_in(request: HttpRequest) -> dict[str, str]:
    given = {**request.GET.dict()}
    given.pop(environments.PARAMETER, None)
    return given


def _rows(environment: Environment, decisions: list[BlockedDecision]) -> list[Row]:
    zone, now = ZoneInfo(environment.tenant.timezone), timezone.now()
    passed = recorded(environment.pk, [decision.request_id for decision in decisions]) if decisions else {}
    return [
        Row(
            decision=decision,
            headline=blocked.explain(decision, zone, now).headline,
            passed_later=decision.request_id in passed,
            url=reverse("admin:policies_blockeddecision_change", args=[decision.pk]),
        )
        for decision in decisions
    ]


def _older(request: HttpRequest, found: list[BlockedDecision]) -> str | None:
    if len(found) <= SHOWN:
        return None
    return f"?{urlencode({**_filled_in(request), 'before': found[SHOWN - 1].pk})}"


def _speaking(explained: Explanation) -> tuple[StoodLimit, Bar] | None:
    """The limit that stood against the call, if one did."""
    first = explained.limits[0] if explained.limits else None
    return (first, _bar(first)) if first is not None and first.exceeded else None


def _bar(limit: StoodLimit) -> Bar:
    return Bar(used=limit.used, held=limit.held, limit=limit.limit)


def _policy_url(decision: BlockedDecision) -> str | None:
    """None: no policy blocked it, or it is not there any more."""
    if decision.policy_id is None:
        return None
    found = Policy.objects.filter(pk=decision.policy_id, environment_id=decision.environment_id).exists()
    return reverse("admin:policies_policy_change", args=[decision.policy_id]) if found else None


def _option(decision: BlockedDecision, way: Way, explained: Explanation) -> Option:
    user = user_url(decision.environment, decision.user_id)
    frozen = f"{reverse('admin:freeze')}?{urlencode({environments.PARAMETER: decision.environment})}"
    policy = _policy_url(decision) or reverse("admin:policies_policy_add")
    url, does = {
        Remedy.BOOST: (_boost_url(decision, explained.limits), "Give a boost…"),
        Remedy.PLAN: (user, "Change the plan…"),
        Remedy.UNBLOCK: (user, "Unblock…"),
        Remedy.POLICY: (policy, "Edit the policy…"),
        Remedy.UNFREEZE: (frozen, "Unfreeze…"),
        Remedy.PRICE: (reverse("admin:usage_modelprice_add"), "Give a price…"),
    }.get(way.remedy, (None, ""))
    return Option(way, url, does)


def _boost_url(decision: BlockedDecision, limits: tuple[StoodLimit, ...]) -> str | None:
    """Of the form, filled in with what would have let the call pass."""
    if not limits or limits[0].per not in BOOSTED_PERS:
        return None
    limit, environment = limits[0], decision.environment
    subjects = Subjects(user_id=decision.user_id, feature=decision.feature, plan=decision.plan)
    extra: int | Decimal | None = limit.missing
    if extra is not None and limit.metric is Metric.COST_USD:
        extra = Decimal(extra) / NANO
    return give_url(
        environment,
        limit.per,
        subjects.name(limit.per) or "",
        raises=raised(limit.per, limit.metric, limit.window),
        extra=extra,
        decision=decision.pk,
    )
