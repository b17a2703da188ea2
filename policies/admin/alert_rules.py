"""Alert rules in the console."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from policies import alert_events
from policies.admin.alert_forms import AlertRuleForm
from policies.alert_events import OF_LIMITS, WITH_THRESHOLDS, Event
from policies.alerting import endpoints, firing, rules
from policies.models import AlertRule
from tenants.console import display, environments
from tenants.console.access import actor_of
from tenants.console.parts import State
from tenants.console.rows import EnvironmentRowsAdmin
from tenants.roles import May
from tenants.templatetags.console import state
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.money import to_nano
from usage.windows import Window


@admin.register(AlertRule)
class AlertRuleAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_ALERTS
    form = AlertRuleForm
    list_display = ["name", "when", "of", "fires_at", "standing", "looked"]
    list_select_related = ["environment__tenant", "policy"]
    search_fields = ["name"]
    actions = None
    list_before_template = "console/alerts/parts_of.html"
    change_form_outer_before_template = "console/alerts/rule.html"
    empty_template = "console/alerts/no_rules.html"
    looked = display.moment_of("looked_at", "last looked at")

    class Media:
        js = ["tokvigil/alert_rule.js"]

    def get_fields(self, request: HttpRequest, obj: AlertRule | None = None) -> Any:
        if obj is None or self.has_change_permission(request, obj):
            return AlertRuleForm.Meta.fields
        return ["name", "when", "of", "fires_at", "standing", "looked"]

    def get_readonly_fields(self, request: HttpRequest, obj: AlertRule | None = None) -> Any:
        return (
            () if obj is None or self.has_change_permission(request, obj) else self.get_fields(request, obj)
        )

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        form.environment_shown = obj.environment if obj is not None else environments.shown(request)  # type: ignore[attr-defined]
        form.before = None if obj is None else rules.said(obj)  # type: ignore[attr-defined]
        return form

    def save_model(self, request: HttpRequest, obj: AlertRule, form: Any, change: bool) -> None:
        if not change:
            rules.add(obj, actor=actor_of(request))
        elif form.has_changed():
            rules.change(obj, form.before, actor=actor_of(request))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        refused = {"alert rule" for rule in objs if not self.may_change(request, rule)}
        return [str(rule) for rule in objs], {"alert rules": len(objs)}, refused, []

    def delete_model(self, request: HttpRequest, obj: AlertRule) -> None:
        rules.remove(obj, actor=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[AlertRule]) -> None:
        for rule in queryset.select_related("environment").order_by("environment_id", "pk"):
            self.delete_model(request, rule)

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        rule = context.get("original")
        if rule is not None:
            told = firing.takers(rule.environment_id, rule.event)
            context |= {
                "rule": rule,
                "when": alert_events.title(rule.event),
                "told": [(each, endpoints.place(each), endpoints.hindrance(each.kind)) for each in told],
                "may_add_endpoint": self.may_change(request, rule),
            }
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description="when", ordering="event")
    def when(self, rule: AlertRule) -> str:
        return alert_events.title(rule.event)

    @admin.display(description="of")
    def of(self, rule: AlertRule) -> str | SafeString:
        return watched(rule)

    @admin.display(description="fires at")
    def fires_at(self, rule: AlertRule) -> str:
        if rule.event in WITH_THRESHOLDS:
            return ", ".join(f"{each}\u00a0%" for each in rule.thresholds)
        if rule.event == Event.SPEND_ANOMALY:
            return f"{wording.money(to_nano(rule.minimum_usd))} more than usual"
        return ""

    @admin.display(description="state", ordering="active")
    def standing(self, rule: AlertRule) -> SafeString:
        return state(State.ALLOWED, "Watching") if rule.active else state(State.QUIET, "Off")


def watched(rule: AlertRule) -> str | SafeString:
    """`All budgets`, `Free plan: spend a month, each user`."""
    if rule.event not in OF_LIMITS:
        return ""
    if rule.metric and rule.window and rule.per:
        kind = wording.limit_name(
            (Metric(rule.metric), Window(rule.window), Per(rule.per), tuple(rule.models))
        )
    else:
        kind = "all budgets" if rule.metric == Metric.COST_USD else "all limits"
    users = ", of single users too" if rule.of_users else ""
    if rule.policy is None:
        return f"{kind[0].upper()}{kind[1:]}{users}"
    return format_html("<bdi>{}</bdi>: {}{}", rule.policy.name, kind, users)
