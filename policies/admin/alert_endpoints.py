"""Endpoints of alerts in the console: where they go, their secrets shown once, and tests."""

from __future__ import annotations

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
from policies.admin.alert_forms import AlertEndpointForm
from policies.alert_events import IN_WORDS
from policies.alerting import endpoints
from policies.models import AlertDelivery, AlertEndpoint, EndpointKind
from tenants.console import display, pages
from tenants.console.access import actor_of
from tenants.console.parts import State
from tenants.console.rows import ONLY_SAVE, EnvironmentRowsAdmin
from tenants.roles import May
from tenants.templatetags.console import state
from usage import wording


@admin.register(AlertEndpoint)
class AlertEndpointAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_ALERTS
    form = AlertEndpointForm
    list_display = ["name", "sends", "takes", "standing", "lately"]
    list_select_related = ["environment__tenant"]
    search_fields = ["name"]
    actions = None
    list_before_template = "console/alerts/parts_of.html"
    change_form_outer_before_template = "console/alerts/endpoint.html"
    empty_template = "console/alerts/no_endpoints.html"
    shown_fields = ("name", "sends", "takes", "standing", "made")
    made = display.moment_of("created_at", "made")

    def get_urls(self) -> list[Any]:
        own = [
            path(
                f"<path:object_id>/{what}/",
                self.admin_site.admin_view(view),
                name=f"policies_alertendpoint_{what}",
            )
            for what, view in (("test", self.test_view), ("rotate", self.rotate_view))
        ]
        return [*own, *super().get_urls()]

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertEndpoint]:
        dead = Count(
            "deliveries",
            filter=Q(deliveries__state=AlertDelivery.State.DEAD, deliveries__alert__rule__isnull=False),
        )
        waiting = Count(
            "deliveries", filter=Q(deliveries__state=AlertDelivery.State.PENDING, deliveries__attempts__gt=0)
        )
        found: QuerySet[AlertEndpoint] = super().get_queryset(request).annotate(dead=dead, waiting=waiting)
        return found

    def get_fields(self, request: HttpRequest, obj: AlertEndpoint | None = None) -> Any:
        if obj is None or self.has_change_permission(request, obj):
            return AlertEndpointForm.Meta.fields
        return self.shown_fields

    def get_readonly_fields(self, request: HttpRequest, obj: AlertEndpoint | None = None) -> Any:
        return () if obj is None or self.has_change_permission(request, obj) else self.shown_fields

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        form.before = None if obj is None else endpoints.said(obj)  # type: ignore[attr-defined]
        return form

    def save_model(self, request: HttpRequest, obj: AlertEndpoint, form: Any, change: bool) -> None:
        if not change:
            form.secret = endpoints.add(obj, actor=actor_of(request))
        elif form.has_changed():
            endpoints.change(obj, form.before, actor=actor_of(request))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if not change:
            request._secret = form.secret  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: AlertEndpoint, post_url_continue: Any = None
    ) -> HttpResponse:
        secret = request._secret  # type: ignore[attr-defined]
        if secret:
            return self._shown_once(request, obj, secret, f"Endpoint “{obj.name}” is made")
        self.message_user(
            request, "The endpoint is made. Send a test to see that it arrives.", messages.SUCCESS
        )
        return HttpResponseRedirect(reverse("admin:policies_alertendpoint_change", args=[obj.pk]))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        refused = {"alert endpoint" for endpoint in objs if not self.may_change(request, endpoint)}
        named = [f"{endpoint}, with what was sent to it" for endpoint in objs]
        return named, {"alert endpoints": len(objs)}, refused, []

    def delete_model(self, request: HttpRequest, obj: AlertEndpoint) -> None:
        endpoints.remove(obj, actor=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[AlertEndpoint]) -> None:
        for endpoint in queryset.select_related("environment").order_by("environment_id", "pk"):
            self.delete_model(request, endpoint)

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        endpoint = context.get("original")
        if endpoint is None:
            context |= ONLY_SAVE
        else:
            newest = endpoint.deliveries.select_related("alert").order_by("-id")[:10]
            context |= {
                "show_save_and_add_another": False,
                "endpoint": endpoint,
                "may_change_endpoint": self.may_change(request, endpoint),
                "is_signed": endpoint.kind == EndpointKind.WEBHOOK,
                "place": endpoints.place(endpoint),
                "hindrance": endpoints.hindrance(endpoint.kind),
                "newest": newest,
            }
        return super().render_change_form(request, context, *args, **kwargs)

    # What is done with an endpoint

    def test_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        endpoint = self._endpoint_to_change(request, object_id)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        outcome = endpoints.test(endpoint, actor=actor_of(request))
        if outcome.error:
            self.message_user(request, f"The test did not arrive. {outcome.error}", messages.ERROR)
        else:
            answered = f" It answered {outcome.status}." if outcome.status else ""
            self.message_user(request, f"The test arrived.{answered}", messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:policies_alertendpoint_change", args=[endpoint.pk]))

    def rotate_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        endpoint = self._endpoint_to_change(request, object_id)
        if endpoint.kind != EndpointKind.WEBHOOK:
            raise Http404("Only signed webhooks have a secret.")
        if request.method == "POST":
            secret = endpoints.rotate(endpoint, actor=actor_of(request))
            return self._shown_once(request, endpoint, secret, f"Endpoint “{endpoint.name}” has a new secret")
        return pages.rendered(
            request,
            "console/alerts/rotate.html",
            f"Rotate {endpoint.name}",
            opts=self.opts,
            endpoint=endpoint,
        )

    def _endpoint_to_change(self, request: HttpRequest, object_id: str) -> AlertEndpoint:
        endpoint: AlertEndpoint | None = self.get_object(request, unquote(object_id))
        if endpoint is None or not self.has_view_permission(request, endpoint):
            raise Http404
        if not self.has_change_permission(request, endpoint):
            raise PermissionDenied
        return endpoint

    def _shown_once(
        self, request: HttpRequest, endpoint: AlertEndpoint, secret: str, title: str
    ) -> HttpResponse:
        """The only answer that has the secret."""
        return pages.rendered(
            request,
            "console/alerts/secret.html",
            title,
            opts=self.opts,
            endpoint=endpoint,
            place=endpoints.place(endpoint),
            secret=secret,
        )

    # The list

    @admin.display(description="goes to", ordering="kind")
    def sends(self, endpoint: AlertEndpoint) -> SafeString:
        words = EndpointKind(endpoint.kind).label
        return format_html(
            '<bdi>{}</bdi><small class="tv-subtle tv-below">{}</small>', endpoints.place(endpoint), words
        )

    @admin.display(description="takes")
    def takes(self, endpoint: AlertEndpoint) -> str:
        if {*endpoint.events} >= {*IN_WORDS}:
            return "All events"
        return "; ".join(map(alert_events.title, endpoint.events))

    @admin.display(description="state", ordering="active")
    def standing(self, endpoint: AlertEndpoint) -> SafeString:
        return state(State.ALLOWED, "Active") if endpoint.active else state(State.QUIET, "Off")

    @admin.display(description="deliveries")
    def lately(self, endpoint: Any) -> SafeString | str:
        if endpoint.active and (why := endpoints.hindrance(endpoint.kind)):
            return state(State.BLOCKED, why)
        if endpoint.dead:
            return state(State.BLOCKED, f"{wording.count(endpoint.dead)} given up")
        if endpoint.waiting:
            return state(State.NEAR, f"{wording.count(endpoint.waiting)} tried again")
        return "Nothing failed"
