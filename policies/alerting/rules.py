"""Alert rules, added, changed and removed."""

from __future__ import annotations

from collections.abc import Mapping

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from audit import log as audit_log
from policies.alert_events import OF_LIMITS, WITH_THRESHOLDS, Event
from policies.models import AlertRule
from tenants.models import Environment

RULES_MAX = 100
SHARE_MAX = 100


def clean(rule: AlertRule) -> None:
    """What the event does not use is set to its default. Raises ValidationError."""
    if rule.event in WITH_THRESHOLDS:
        rule.thresholds = sorted(set(rule.thresholds))
        if not rule.thresholds:
            raise ValidationError({"thresholds": "Give at least one percentage, such as 80."})
        if rule.event == Event.BLOCKED_SPIKE and rule.thresholds[-1] > SHARE_MAX:
            raise ValidationError({"thresholds": "A share of the calls is at most 100 percent."})
    else:
        rule.thresholds = []
    if rule.event not in OF_LIMITS:
        rule.policy, rule.metric, rule.window, rule.per, rule.models = None, "", "", "", []
        rule.of_users = False
    if rule.policy is not None and rule.policy.environment_id != rule.environment_id:
        raise ValidationError(
            {"policy": "The policy belongs to another environment; choose one of this one."}
        )


@transaction.atomic
def add(rule: AlertRule, *, actor: str) -> None:
    """Raises ValidationError, IntegrityError."""
    with audit_log.acting_as(actor):
        environment = Environment.lock(rule.environment_id)
        if AlertRule.objects.filter(environment=environment).count() >= RULES_MAX:
            raise ValidationError(f"There are {RULES_MAX} alert rules; remove one first.")
        clean(rule)
        rule.save(force_insert=True)
        _log("alert_rule.added", rule, **said(rule))


@transaction.atomic
def change(rule: AlertRule, before: Mapping[str, object], *, actor: str) -> None:
    """`before`: what `said` said of it. Raises ValidationError, IntegrityError."""
    with audit_log.acting_as(actor):
        clean(rule)
        # `looked_at` is the watcher's.
        columns = [
            field.name for field in rule._meta.concrete_fields if field.editable and not field.primary_key
        ]
        rule.save(update_fields=columns)
        if not rule.active:
            _end_alerts(rule)
        _log("alert_rule.changed", rule, changes=audit_log.changes(before, said(rule)))


@transaction.atomic
def remove(rule: AlertRule, *, actor: str) -> None:
    """Its alerts stay readable."""
    with audit_log.acting_as(actor):
        # Whoever writes what fired holds the row.
        AlertRule.objects.select_for_update().filter(pk=rule.pk).first()
        _end_alerts(rule)
        _log("alert_rule.removed", rule)
        rule.delete()


def _end_alerts(rule: AlertRule) -> None:
    """Nobody looks any more whether what they say still stands."""
    rule.alerts.filter(ended_at=None).update(ended_at=timezone.now())


def said(rule: AlertRule) -> dict[str, object]:
    """For the log."""
    return {
        "event": str(rule.event),
        "thresholds": list(rule.thresholds),
        "policy": None if rule.policy is None else rule.policy.name,
        "metric": rule.metric,
        "window": rule.window,
        "per": rule.per,
        "models": list(rule.models),
        "of_users": rule.of_users,
        "minimum_usd": rule.minimum_usd,
        "active": rule.active,
        "name": rule.name,
    }


def _log(action: str, rule: AlertRule, /, **data: object) -> None:
    environment = rule.environment
    audit_log.log(action, rule, tenant_id=environment.tenant_id, environment=environment.slug, **data)
