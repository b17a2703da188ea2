"""Blocked calls in the console, read only: a list with its filters, and a page that explains one of them."""

from __future__ import annotations

from collections.abc import Collection
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
from policies.admin.boost_forms import give_url
from policies.admin.decision_filters import DecisionFilters
from policies.blocked import Explanation, Remedy, StoodLimit, Way, bursts, decision_listing
from policies.blocked.bursts import Burst
from policies.describing.trace import Question, decided_by
from policies.models import BlockedDecision, Policy
from policies.reasons import Reason
from tenants.console import environments, pages
from tenants.console.access import may
from tenants.console.display import user_url
from tenants.console.parts import Bar
from tenants.console.rows import ReadOnlyEnvironmentAdmin
from tenants.models import ApiKey, Environment
from tenants.roles import May
from usage.amounts import Subjects
from usage.boosts import BOOSTED_PERS, raised
from usage.ledger.reading import recorded
from usage.metrics import Metric
from usage.money import NANO, format_usd_if_known

TITLE = "Blocked calls"
# Rows of a page, and calls that are read for them at most.
SHOWN = 50
READ = 200


@dataclass(frozen=True, slots=True)
class Row:
    """A burst of equal calls; most have one. `members` are its calls, if there are more, with their pages."""

    burst: Burst
    headline: str
    how: str
    passed_later: int
    members: tuple[tuple[BlockedDecision, str], ...]

    @property
    def decision(self) -> BlockedDecision:
        """The newest."""
        return self.burst.newest

    @property
    def url(self) -> str:
        return _url(self.decision)

    @property
    def count(self) -> int:
        return len(self.burst.decisions)

    @property
    def afterwards(self) -> str:
        if not self.passed_later:
            return "Request not allowed later" if self.count == 1 else "No request allowed later"
        of = f"{self.passed_later} of {self.count} passed" if self.count > 1 else "Passed"
        return f"{of} when asked again"


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
            return pages.rendered(request, "console/decisions.html", TITLE, filters=None)
        decision_listing.store_newest(environment.pk)
        filters = _filters(request, environment)
        read = list(filters.decisions()[: READ + 1])
        shown = bursts.grouped(read[:READ], SHOWN)
        return pages.rendered(
            request,
            "console/decisions.html",
            TITLE,
            filters=filters,
            trends_url=_trends_url(environment, filters),
            rows=_rows(environment, shown),
            older=_older(request, read, shown),
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
        zone, models = ZoneInfo(environment.tenant.timezone), blocked.allowed_models(decision)
        explained = blocked.explain(decision, zone, timezone.now(), models)
        return pages.rendered(
            request,
            "console/decision.html",
            explained.headline,
            original=explained.headline,
            opts=self.opts,
            decision=decision,
            explained=explained,
            options=[_option(request, decision, way, explained) for way in explained.ways],
            trace=blocked.trace(decision, explained.limits),
            speaking=_speaking(decision, explained),
            passed_later=bool(recorded(environment.pk, [decision.request_id])),
            estimated_cost=format_usd_if_known(decision.estimated_cost_nano),
            policy_url=_policy_url(decision),
            api_key=_api_key(decision),
        )


def _filters(request: HttpRequest, environment: Environment) -> DecisionFilters:
    """Raises BadRequest for parameters of an address that this page does not have."""
    given = _filled_in(request)
    unknown = set(given) - set(DecisionFilters.base_fields)
    if unknown:
        raise BadRequest(f"Blocked calls have no filter {sorted(unknown)[0][:100]!r}.")
    return DecisionFilters(environment, given)


def _trends_url(environment: Environment, filters: DecisionFilters) -> str:
    """Of the page that counts blocked calls, by the filters that it has too."""
    query = urlencode({environments.PARAMETER: str(environment), **filters.of_trends()})
    return f"{reverse('admin:blocked')}?{query}"


def _filled_in(request: HttpRequest) -> dict[str, str]:
    given = {**request.GET.dict()}
    given.pop(environments.PARAMETER, None)
    return given


def _rows(environment: Environment, found: list[Burst]) -> list[Row]:
    zone, now = ZoneInfo(environment.tenant.timezone), timezone.now()
    asked = [decision.request_id for burst in found for decision in burst.decisions]
    passed = recorded(environment.pk, asked) if asked else {}
    return [_row(burst, blocked.explain(burst.newest, zone, now), passed) for burst in found]


def _row(burst: Burst, explained: Explanation, passed: Collection[str]) -> Row:
    return Row(
        burst=burst,
        headline=explained.headline,
        how=explained.how,
        passed_later=sum(decision.request_id in passed for decision in burst.decisions),
        members=tuple((decision, _url(decision)) for decision in burst.decisions[1:]),
    )


def _url(decision: BlockedDecision) -> str:
    return reverse("admin:policies_blockeddecision_change", args=[decision.pk])


def _older(request: HttpRequest, read: list[BlockedDecision], shown: list[Burst]) -> str | None:
    taken = sum(len(burst.decisions) for burst in shown)
    if taken == len(read) <= READ:
        return None
    return f"?{urlencode({**_filled_in(request), 'before': read[taken - 1].pk})}"


def _speaking(decision: BlockedDecision, explained: Explanation) -> tuple[StoodLimit, Bar] | None:
    """The limit that stood against the call, if a limit decided."""
    if decided_by(decision.reason_code) is not Question.LIMITS:
        return None
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


def _api_key(decision: BlockedDecision) -> ApiKey | None:
    """That asked; None: an older version stored the decision."""
    if decision.api_key_id is None:
        return None
    return ApiKey.objects.filter(environment_id=decision.environment_id, pk=decision.api_key_id).first()


def _option(request: HttpRequest, decision: BlockedDecision, way: Way, explained: Explanation) -> Option:
    """A way is named to everybody, and leads to where it is gone for those who may."""
    user = user_url(decision.environment, decision.user_id)
    frozen = {environments.PARAMETER: str(decision.environment)}
    if decision.reason_code == Reason.FEATURE_FROZEN.value:
        frozen["feature"] = decision.feature
    policy = _policy_url(decision) or reverse("admin:policies_policy_add")
    ways = {
        Remedy.BOOST: (May.EDIT_POLICIES, _boost_url(decision, explained.limits), "Give a boost…"),
        Remedy.PLAN: (May.EDIT_END_USERS, user, "Change the plan…"),
        Remedy.UNBLOCK: (May.EDIT_END_USERS, user, "Unblock…"),
        Remedy.POLICY: (May.EDIT_POLICIES, policy, "Edit the policy…"),
        Remedy.UNFREEZE: (May.FREEZE, reverse("admin:unfreeze", query=frozen), "Unfreeze…"),
        Remedy.PRICE: (May.EDIT_PRICES, reverse("admin:usage_modelprice_add"), "Give a price…"),
    }
    if way.remedy not in ways:
        return Option(way, None, "")
    needs, url, does = ways[way.remedy]
    return Option(way, url if may(request, needs, decision.environment.tenant_id) else None, does)


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
