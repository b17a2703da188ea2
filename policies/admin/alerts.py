"""Alerts that fired, and what became of each delivery."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.db.models.aggregates import Count
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from policies import alert_events
from policies.alerting import delivering, endpoints
from policies.models import Alert, AlertDelivery, AlertEndpoint, AlertRule, EndpointKind
from tenants.console import display, environments, pages
from tenants.console.access import actor_of, may
from tenants.console.parts import State
from tenants.console.row_ids import is_row_id
from tenants.console.rows import BoundedPaginator, ReadOnlyEnvironmentAdmin
from tenants.roles import May
from tenants.templatetags.console import state

# Of the state in the address: alerts that are not over.
STANDING = "standing"
_D = AlertDelivery.State


class EventFilter(admin.SimpleListFilter):
    title = "event"
    parameter_name = "event"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [*alert_events.watched(), (alert_events.Event.TEST.value, "A test")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Alert]) -> QuerySet[Alert]:
        return queryset.filter(event=self.value()) if self.value() else queryset


class StandingFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(STANDING, "Not over yet"), ("over", "Over")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Alert]) -> QuerySet[Alert]:
        value = self.value()
        return (
            queryset.filter(ended_at__isnull=value == STANDING) if value in (STANDING, "over") else queryset
        )


class DeliveryFilter(admin.SimpleListFilter):
    title = "delivery"
    parameter_name = "delivery"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("dead", "Given up"),
            ("pending", "Waiting"),
            ("delivered", "Arrived"),
            ("nobody", "Sent to nobody"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Alert]) -> QuerySet[Alert]:
        value = self.value()
        if value == "nobody":
            return queryset.filter(deliveries=None)
        if value not in _D.values:
            return queryset
        return queryset.filter(pk__in=AlertDelivery.objects.filter(state=value).values("alert"))


@admin.register(Alert)
class AlertAdmin(ReadOnlyEnvironmentAdmin):
    list_display = ["fired", "what", "standing", "told"]
    list_filter = [StandingFilter, EventFilter, DeliveryFilter]
    list_select_related = ["environment__tenant", "rule"]
    search_fields = ["title", "rule_name"]
    search_help_text = "A part of what it says, or of the rule's name"
    ordering = ["-fired_at", "-id"]
    paginator = BoundedPaginator
    show_full_result_count = False
    list_before_template = "console/alerts/parts_of.html"
    empty_template = "console/alerts/no_alerts.html"
    fired = display.moment_of("fired_at", "fired")

    def get_urls(self) -> list[Any]:
        own = path(
            "<path:object_id>/redeliver/",
            self.admin_site.admin_view(self.redeliver_view),
            name="policies_alert_redeliver",
        )
        return [own, *super().get_urls()]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alert]:
        counts = {value: Count("deliveries", filter=Q(deliveries__state=value)) for value in _D.values}
        waits = Q(deliveries__state=_D.PENDING, deliveries__endpoint__kind=EndpointKind.EMAIL)
        counts["mail_pending"] = Count("deliveries", filter=waits)
        found: QuerySet[Alert] = super().get_queryset(request).annotate(**counts)
        return found

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        shown = environments.shown(request)
        context = {
            "has_rules": AlertRule.objects.filter(environment=shown, active=True).exists(),
            "has_endpoints": AlertEndpoint.objects.filter(environment=shown, active=True).exists(),
            "may_edit_alerts": shown is not None and may(request, May.EDIT_ALERTS, shown.tenant_id),
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if request.method == "POST":
            raise PermissionDenied
        alert = self.get_object(request, unquote(object_id))
        if alert is None or not self.has_view_permission(request, alert):
            # As Django's own pages answer.
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined,no-any-return]
        return pages.rendered(
            request,
            "console/alerts/alert.html",
            alert.title,
            opts=self.opts,
            alert=alert,
            event=alert_events.title(alert.event),
            standing=_standing(alert),
            deliveries=[
                (delivery, endpoints.place(delivery.endpoint), _delivery(delivery))
                for delivery in alert.deliveries.select_related("endpoint").order_by("endpoint__name")
            ],
            payload=json.dumps(json.loads(delivering.body_of(alert)), ensure_ascii=False, indent=2),
            may_edit_alerts=may(request, May.EDIT_ALERTS, alert.environment.tenant_id),
        )

    def redeliver_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        alert: Alert | None = self.get_object(request, unquote(object_id))
        if alert is None or not self.has_view_permission(request, alert):
            raise Http404
        if not may(request, May.EDIT_ALERTS, alert.environment.tenant_id):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        chosen = request.POST.get("delivery", "")
        is_id = chosen.isascii() and is_row_id(chosen)
        ours = alert.deliveries.select_related("endpoint", "alert__environment")
        found = ours.filter(pk=chosen).first() if is_id else None
        if found is None:
            raise Http404
        if endpoints.redeliver(found, actor=actor_of(request)):
            off = "" if found.endpoint.active else " The endpoint is off: it is sent once that is active."
            self.message_user(
                request, f"It is sent to {found.endpoint} again, within seconds.{off}", messages.SUCCESS
            )
        else:
            self.message_user(request, "It is about to be sent anyway.", messages.INFO)
        return HttpResponseRedirect(reverse("admin:policies_alert_change", args=[alert.pk]))

    @admin.display(description="what")
    def what(self, alert: Alert) -> SafeString:
        return format_html(
            '<a href="{}"><bdi>{}</bdi></a><small class="tv-subtle tv-below">{}{}</small>',
            reverse("admin:policies_alert_change", args=[alert.pk]),
            alert.title,
            alert_events.title(alert.event),
            _of_rule(alert),
        )

    @admin.display(description="state")
    def standing(self, alert: Alert) -> SafeString:
        return state(*_standing(alert))

    @admin.display(description="sent")
    def told(self, alert: Any) -> SafeString | str:
        if alert.is_quiet:
            return "Not sent: a higher threshold was reached too, and its alert is sent"
        if alert.dead:
            waiting = f", {alert.pending} waiting" if alert.pending else ""
            return state(State.BLOCKED, f"{alert.dead} given up{waiting}")
        if alert.mail_pending and (why := endpoints.hindrance(EndpointKind.EMAIL)):
            return state(State.BLOCKED, f"{alert.mail_pending} waiting: {why}")
        if alert.pending:
            return state(State.NEAR, f"{alert.pending} waiting")
        return (
            state(State.ALLOWED, f"To {alert.delivered}")
            if alert.delivered
            else state(State.QUIET, "To nobody")
        )


def _of_rule(alert: Alert) -> str:
    at = f" · at {alert.threshold}\u00a0%" if alert.threshold else ""
    return f"{at} · {alert.rule_name}" if alert.rule_name else at


def _standing(alert: Alert) -> tuple[str, str]:
    """As `state` takes it."""
    if alert.event == alert_events.Event.TEST:
        return State.QUIET, "A test"
    return (State.NEAR, "Not over yet") if alert.ended_at is None else (State.QUIET, "Over")


def _delivery(delivery: AlertDelivery) -> tuple[str, str]:
    match delivery.state:
        case _D.DELIVERED:
            return State.ALLOWED, "Arrived"
        case _D.DEAD:
            return State.BLOCKED, "Given up"
    return State.NEAR, "Tried again" if delivery.attempts else "Waiting"
