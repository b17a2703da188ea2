"""The ledger's rows: what each call used, read only. A list, and a page of one."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime

from tenants.console import display, environments, pages
from tenants.console.parts import State
from tenants.console.rows import BoundedPaginator, ListOfShownEnvironment, ReadOnlyEnvironmentAdmin
from tenants.models import ApiKey, Environment
from tenants.templatetags.console import state
from usage import wording
from usage.admin.asked import PERIODS, SHARED, Asked
from usage.analytics import answers
from usage.analytics.shown_period import Named, shown_period
from usage.ledger import retention
from usage.ledger.adjustments import why_of
from usage.ledger.models import Status
from usage.ledger.periods import EARLIEST, Period
from usage.models import ModelPrice, UsageEvent
from usage.quantities import INPUT, MAPPED, OUTPUT, OWN_COLUMNS, QUANTITIES, ServiceTier, noun, root

logger = logging.getLogger("tokvigil.ledger")

ROWS_OF_A_REQUEST_MAX = 10
# Of a column of costs, which may be far below a cent.
COST_PLACES = 6
# A row of these was not reckoned from what the call used.
_ESTIMATES = (Status.UNSETTLED, Status.REVERSAL)
_NOT_WORKED_OUT = (*_ESTIMATES, Status.ADJUSTMENT)


class EventsAsked(Asked):
    """Period and filters of the pages of usage, of which this is the list of calls. Without a period: of any time."""

    needs_period = False

    def __init__(self, request: HttpRequest, environment: Environment, now: datetime) -> None:
        super().__init__(request, environment, now)
        self.fields["period"].choices = [("", "Any time"), *PERIODS]  # type: ignore[attr-defined]

    def events(self, rows: QuerySet[UsageEvent]) -> QuerySet[UsageEvent]:
        """Those that are asked for. None, if a filter cannot be read."""
        if not self.is_valid():
            return rows.none()
        period = self.cleaned_data["shown"]
        if period is not None:
            rows = rows.filter(charged_at__gte=period.start, charged_at__lt=period.end)
        return rows.filter(**self.filters)


class EventList(ListOfShownEnvironment):
    """`asked`: None, if there is no environment to see."""

    asked: EventsAsked | None = None

    def get_filters_params(self, params: Any = None) -> dict[str, Any]:
        """Without period and filters, which are no lookups."""
        found = super().get_filters_params(params)
        return {name: value for name, value in found.items() if name not in SHARED}

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        rows = super().get_queryset(request, exclude_parameters)
        environment = environments.shown(request)
        if environment is None:
            return rows
        now = timezone.now()
        self.asked = EventsAsked(request, environment, now)
        if self.asked.shown is None:
            self.asked.offer(shown_period(Named.LAST_30_DAYS, now, self.asked.zone))
        return self.asked.events(rows)

    @property
    def sums(self) -> str:
        """Of a period, as the Explorer has it: `1,159 calls, …, $12.40. 29 rows more …`; empty for a search."""
        if self.asked is None or self.asked.shown is None or self.query:
            return ""
        try:
            found = answers.total(self.asked.environment.pk, self.asked.shown.days.range, self.asked.filters)
        except DatabaseError as error:
            logger.warning("the sums of the list of calls are not shown: %s", error)
            return ""
        calls, rows = found["requests"], found["events"]
        cached = found["cached_input_tokens"]
        said = [
            wording.counted(calls, "call"),
            f"{wording.counted(found['input_tokens'], 'token')} in"
            + (f" ({wording.count(cached)} of them cached)" if cached else ""),
            f"{wording.count(found['output_tokens'])} out",
            wording.money_rounded(found["cost_nano"]),
        ]
        more = wording.rows_that_are_no_calls(rows, calls)
        return f"In this period: {', '.join(said)}.{f' {more}.' if more else ''}"


@admin.register(UsageEvent)
class UsageEventAdmin(ReadOnlyEnvironmentAdmin):
    list_before_template = "console/events_asked.html"
    list_display = ["when", "user", "called", "standing", "tokens_in", "tokens_out", "cost", "shown_id"]
    list_select_related = ["environment__tenant"]
    list_per_page = 50
    search_fields = ["request_id__exact", "user_id__exact"]
    search_help_text = "The exact request_id or user_id"
    # As its index has it.
    ordering = ["-charged_at", "-id"]
    paginator = BoundedPaginator
    show_full_result_count = False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """With what is said of the rows that have left."""
        now = timezone.now()
        kept = {"kept_months": retention.kept_months(), "kept_since": retention.kept_since(now)}
        shown = environments.shown(request)
        gone = [] if shown is None else retention.gone([shown.pk], Period(EARLIEST, now))
        said = {**kept, "rows_gone": gone}
        return super().changelist_view(request, {**said, **(extra_context or {})})

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[EventList]:
        return EventList

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if request.method == "POST":
            raise PermissionDenied
        event = self.get_object(request, object_id)
        if event is None or not self.has_view_permission(request, event):
            # As Django's own pages answer.
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined,no-any-return]
        headline = f"{event.user_id} called {event.model}"
        others = _others(event)
        return pages.rendered(
            request,
            "console/event.html",
            headline,
            original=headline,
            opts=self.opts,
            event=event,
            standing=_standing(event),
            is_estimate=event.status in _ESTIMATES,
            tokens=_tokens(event),
            cost=None if event.cost_nano is None else wording.money(event.cost_nano),
            reported_cost=None
            if event.reported_cost_nano is None
            else wording.money(event.reported_cost_nano),
            price=_price(event),
            arithmetic_url=_arithmetic_url(event),
            policy_url=_policy_url(event),
            version_url=_version_url(event),
            api_key=_api_key(event),
            find_url=f"{reverse('admin:search')}?{urlencode({'q': event.request_id})}",
            others=[(row, _standing(row)) for row in others],
            adjusted=_adjusted(event, others),
            served=_served(event),
            unpriced=", ".join(map(noun, event.unpriced_quantities or ())),
            metadata=json.dumps(event.metadata, indent=2, ensure_ascii=False)
            if event.metadata and event.status != Status.ADJUSTMENT
            else "",
        )

    @admin.display(description="when", ordering="charged_at")
    def when(self, event: UsageEvent) -> str:
        return display.moment(event.charged_at)

    @admin.display(description="user", ordering="user_id")
    def user(self, event: UsageEvent) -> SafeString:
        return _above(display.user_link(event.environment, event.user_id), event.plan)

    @admin.display(description="model and feature", ordering="feature")
    def called(self, event: UsageEvent) -> SafeString:
        return _above(format_html("<bdi>{}</bdi>", event.model), event.feature)

    @admin.display(description="outcome")
    def standing(self, event: UsageEvent) -> SafeString:
        return _standing(event)

    @admin.display(description="tokens in")
    def tokens_in(self, event: UsageEvent) -> SafeString:
        shown = display.amount(wording.count(event.amounts.input_tokens))
        cached = event.cached_input_tokens
        return _below_number(shown, f"{wording.count(cached)} cached") if cached else shown

    @admin.display(description="tokens out")
    def tokens_out(self, event: UsageEvent) -> SafeString:
        return display.amount(wording.count(event.amounts.output_tokens))

    @admin.display(description="cost")
    def cost(self, event: UsageEvent) -> SafeString:
        if event.cost_nano is None:
            return display.amount("no price")
        shown = display.amount(
            wording.money_rounded(event.cost_nano, places=COST_PLACES), wording.money(event.cost_nano)
        )
        if event.status == Status.ADJUSTMENT:
            return _below_number(shown, "difference")
        return _below_number(shown, "partly priced") if event.unpriced_quantities else shown

    @admin.display(description="request id")
    def shown_id(self, event: UsageEvent) -> SafeString:
        return format_html('<code class="tv-code tv-id" title="{0}">{0}</code>', event.request_id)


def _above(shown: SafeString, below: str) -> SafeString:
    return format_html('{}<small class="tv-subtle tv-below"><bdi>{}</bdi></small>', shown, below)


def _below_number(shown: SafeString, below: str) -> SafeString:
    return format_html('{}<small class="tv-subtle tv-below tv-number">{}</small>', shown, below)


def _standing(event: UsageEvent) -> SafeString:
    kind = {
        Status.SUCCEEDED: State.ALLOWED,
        Status.UNSETTLED: State.NEAR,
    }.get(Status(event.status), State.QUIET)
    return state(kind, wording.status(event.status))


def _tokens(event: UsageEvent) -> list[tuple[str, str]]:
    """What the call used, its parts below what they are a part of; parts of nothing are left out."""
    quantities = event.quantities or {}
    own = {name: _own(event, name) for name in OWN_COLUMNS}
    parts = [("Input tokens", own[INPUT]), *_parts_of(INPUT, own | quantities)]
    parts += [("Output tokens", own[OUTPUT]), *_parts_of(OUTPUT, own | quantities)]
    beside = [name for name in MAPPED if name in quantities and root(name) == name]
    parts += [(noun(name).capitalize(), quantities[name]) for name in beside]
    return [(name, wording.count(number)) for name, number in parts]


def _own(event: UsageEvent, name: str) -> int:
    counted: int | None = getattr(event.amounts, name, None)
    return getattr(event, name) if counted is None else counted


def _parts_of(total: str, used: dict[str, int]) -> list[tuple[str, int]]:
    return [
        (f"of them {QUANTITIES[name].what}", used[name])
        for name in QUANTITIES
        if used.get(name) and name != total and root(name) == total
    ]


def _served(event: UsageEvent) -> str:
    """Where it was not served as usual."""
    said = [
        f"as {event.service_tier}" if event.service_tier else "",
        f"in region {event.region}" if event.region else "",
        f"asked for as {event.requested_model}" if event.requested_model else "",
    ]
    return ", ".join(filter(None, said))


def _price(event: UsageEvent) -> ModelPrice | None:
    return None if event.price_id is None else ModelPrice.objects.filter(pk=event.price_id).first()


def _arithmetic_url(event: UsageEvent) -> str | None:
    """Of the price's page, which works out what such a call costs part by part. None: there is nothing to work out."""
    if event.price_id is None or event.status in _NOT_WORKED_OUT:
        return None
    given: dict[str, object] = {name: _own(event, name) for name in OWN_COLUMNS}
    given |= event.quantities or {}
    given["at"] = localtime(event.charged_at).replace(tzinfo=None).isoformat()
    given |= {"service_tier": event.service_tier or ServiceTier.DEFAULT.value, "region": event.region}
    return f"{reverse('admin:usage_modelprice_change', args=[event.price_id])}?{urlencode(given)}"


def _policy_url(event: UsageEvent) -> str | None:
    """The policy's name belongs to an app that this one may not import."""
    return (
        None if event.policy_id is None else reverse("admin:policies_policy_change", args=[event.policy_id])
    )


def _version_url(event: UsageEvent) -> str | None:
    """What the policy said when it allowed the call, its limits included."""
    if event.policy_id is None:
        return None
    return f"{reverse('admin:policy_versions', args=[event.policy_id])}?to={event.policy_version}#compared"


def _api_key(event: UsageEvent) -> ApiKey | None:
    return None if event.api_key_id is None else ApiKey.objects.filter(pk=event.api_key_id).first()


@dataclass(frozen=True, slots=True)
class Adjusted:
    """How a call was re-priced: of an adjustment, or of the last one of its call."""

    row: UsageEvent
    before: str
    after: str
    by: str
    price: ModelPrice | None


def _adjusted(event: UsageEvent, others: Sequence[UsageEvent]) -> Adjusted | None:
    """None: it never was."""
    row: UsageEvent | None = event
    if event.status != Status.ADJUSTMENT:
        is_call = event.status not in _ESTIMATES
        of_call = [each for each in others if is_call and each.status == Status.ADJUSTMENT]
        row = of_call[-1] if of_call else None
    why = None if row is None else why_of(row)
    if row is None or why is None:
        return None
    return Adjusted(
        row,
        before="no price" if why.cost_nano_before is None else wording.money(why.cost_nano_before),
        after=wording.money(why.cost_nano),
        by=why.by,
        price=_price(row),
    )


def _others(event: UsageEvent) -> list[UsageEvent]:
    """The other rows of the request: an estimate, what takes it back, the late report, and adjustments.

    The latest, in their order. Adjustments are of the call: what was estimated never is adjusted.
    """
    rows = UsageEvent.objects.filter(environment_id=event.environment_id, request_id=event.request_id)
    return [*rows.exclude(pk=event.pk).order_by("-id")[:ROWS_OF_A_REQUEST_MAX]][::-1]
