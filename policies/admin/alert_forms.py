"""The forms of alert rules and endpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.contrib.postgres.forms import SimpleArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from policies.alert_events import IN_WORDS, OF_LIMITS, WITH_THRESHOLDS, Event
from policies.alerting import endpoints, rules
from policies.alerting.targets import PORTS
from policies.models import AlertEndpoint, AlertRule, EndpointKind, Limit
from policies.models.alerts import PERCENT_MAX, THRESHOLDS_MAX
from policies.rules import Mode
from tenants.console.forms import RowForm
from tenants.console.parts import State
from tenants.console.row_ids import is_row_id
from tenants.models import Environment
from tenants.templatetags.console import state
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

LIMITS_OFFERED_MAX = 500
# What the form shows of a rule, by its event: for alert_rule.js.
USES: Mapping[str, tuple[str, ...]] = {
    event.value: tuple(
        name
        for name, used in (
            ("thresholds", event in WITH_THRESHOLDS),
            ("watches", event in OF_LIMITS),
            ("of_users", event in OF_LIMITS),
            ("minimum_usd", event is Event.SPEND_ANOMALY),
        )
        if used
    )
    for event in IN_WORDS
}
_PARTS = ("policy_id", "metric", "window", "per")
# No policy, and every kind of limit; and those on cost.
_ALL, _COST = "|||", f"|{Metric.COST_USD.value}||"


class _NamedForm(RowForm):
    """Says beside the field that a name is taken."""

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        environment = self.data.get(self.add_prefix("environment")) or self.instance.environment_id
        others = type(self.instance)._default_manager.exclude(pk=self.instance.pk)
        if (
            environment
            and is_row_id(str(environment))
            and others.filter(environment=environment, name=name).exists()
        ):
            raise ValidationError("Another one has this name already; choose another.")
        return name


class AlertRuleForm(_NamedForm):
    """`environment`: that of the page, whose limits are offered."""

    environment_shown: Environment | None = None
    event = forms.ChoiceField(
        label="When",
        choices=[(event.value, words) for event, words in IN_WORDS.items()],
        widget=UnfoldAdminSelectWidget,
    )
    thresholds = SimpleArrayField(
        forms.IntegerField(validators=[MinValueValidator(1), MaxValueValidator(PERCENT_MAX)]),
        label="Thresholds, in percent",
        required=False,
        initial=[50, 80, 100],
        max_length=THRESHOLDS_MAX,
        widget=UnfoldAdminTextInputWidget,
        help_text="Whole numbers separated by commas. Each fires once in a window; of several that are reached "
        "together the highest is sent.",
    )
    watches = forms.ChoiceField(label="Of", required=False, widget=UnfoldAdminSelectWidget)

    class Meta:
        model = AlertRule
        fields = [
            "environment",
            "name",
            "event",
            "watches",
            "thresholds",
            "of_users",
            "minimum_usd",
            "active",
        ]
        labels = {
            "of_users": "Also limits of single users",
            "minimum_usd": "At least so much more than usual, in USD",
        }
        help_texts = {
            "of_users": "A limit that each user or run has of their own fires for each of them. Without it only limits "
            "that are shared are watched, and those of policies for one user.",
            "minimum_usd": "In the last full hour. Smaller ones are not told, however unusual.",
        }
        widgets = {"name": UnfoldAdminTextInputWidget}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "watches" in self.fields:
            current = _watched(self.instance)
            self.fields["watches"].initial = current
            self.fields["watches"].choices = _offered(self.environment_shown, current)  # type: ignore[attr-defined]
            self.fields["event"].widget.attrs["data-uses"] = json.dumps(USES)

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        policy_id, metric, window, per, *models = (given.get("watches") or _ALL).split("|", 4)
        rule = self.instance
        rule.policy_id, rule.metric, rule.window, rule.per = policy_id or None, metric, window, per
        rule.models = models[0].split(",") if models else []
        return given

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            rules.clean(self.instance)
        except ValidationError as error:
            self.add_error(None, error)


def _watched(rule: AlertRule) -> str:
    return _value(*(str(getattr(rule, name) or "") for name in _PARTS), models=rule.models)


def _value(*parts: str, models: Sequence[str] = ()) -> str:
    return "|".join([*parts, *([",".join(models)] if models else [])])


def _offered(environment: Environment | None, current: str) -> list[tuple[str, Any]]:
    """All, all budgets, each policy with its limits; and what the rule has now, though its limit is gone."""
    offered: list[tuple[str, Any]] = [(_ALL, "All limits"), (_COST, "All budgets: limits on cost")]
    if environment is not None:
        offered += _of_policies(environment)
    known = {value for value, _ in _flat(offered)}
    return offered if current in known else [*offered, (current, "A limit that is not in force any more")]


def _of_policies(environment: Environment) -> list[tuple[str, Any]]:
    limits = (
        Limit.objects.filter(policy__environment=environment, policy__archived_at=None)
        .exclude(policy__mode=Mode.OFF)
        .select_related("policy")
        .order_by("policy__name", "policy_id", "id")[:LIMITS_OFFERED_MAX]
    )
    groups: dict[Any, tuple[str, list[tuple[str, str]]]] = {}
    for limit in limits:
        _, of_policy = groups.setdefault(
            limit.policy_id,
            (limit.policy.name, [(f"{limit.policy_id}|||", f"All limits of {limit.policy.name}")]),
        )
        metric, window, per = Metric(limit.metric), Window(limit.window), Per(limit.per)
        words = wording.limit((metric, window, per, tuple(limit.models)), limit.amount)
        of_policy.append((_value(str(limit.policy_id), metric, window, per, models=limit.models), words))
    return [*groups.values()]


def _flat(offered: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for value, words in offered:
        flat += [(value, words)] if isinstance(words, str) else words
    return flat


class AlertEndpointForm(_NamedForm):
    events = forms.MultipleChoiceField(
        label="Takes",
        choices=[(event.value, words) for event, words in IN_WORDS.items()],
        widget=forms.CheckboxSelectMultiple,
        initial=[event.value for event in IN_WORDS],
        error_messages={"required": "Tick at least one."},
    )

    class Meta:
        model = AlertEndpoint
        fields = ["environment", "name", "kind", "address", "events", "active"]
        labels = {"address": "Goes to"}
        help_texts = {
            "address": "A URL that begins with https://, of a public host, on port "
            f"{' or '.join(map(str, sorted(PORTS)))}; or e-mail addresses separated by commas.",
            "active": "Alerts that fire while it is not active are not sent to it later.",
        }
        widgets = {
            "name": UnfoldAdminTextInputWidget,
            "address": UnfoldAdminTextInputWidget,
            "kind": UnfoldAdminSelectWidget,
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        no_mail = endpoints.hindrance(EndpointKind.EMAIL)
        if no_mail and "kind" in self.fields:
            self.fields["kind"].help_text = state(State.NEAR, f"E-mail: {no_mail}")

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors or (
            not {"kind", "address"} & {*self.changed_data} and not self.instance._state.adding
        ):
            return
        try:
            endpoints.clean(self.instance)
        except ValidationError as error:
            self.add_error(None, error)
