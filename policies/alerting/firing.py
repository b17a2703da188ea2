"""Writing what fired: once of each rule, subject, threshold and window, whoever watches at the same time.

Whoever writes holds the rule's row. A reading that is older than the last one that was written is passed over, so that
what is over does not come back. Of several thresholds that are reached together only the highest is told.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse

from policies.alerting import messages
from policies.alerting.conditions import Finding
from policies.models import Alert, AlertDelivery, AlertEndpoint, AlertRule

logger = logging.getLogger("tokvigil.alerts")

# Of one rule at once; the next run goes on.
FIRED_AT_ONCE_MAX = 100
# A clock that was set back by more than this does not silence the rule until it has caught up.
CLOCK_BACK_MAX = timedelta(minutes=5)

_Key = tuple[str, int]


def fire(
    rule_id: int, findings: Iterable[Finding], read_at: datetime, *, complete: bool = True
) -> list[Alert]:
    """The new alerts. Not `complete`: what was not found may still stand. Raises DatabaseError."""
    with transaction.atomic():
        rule = (
            AlertRule.objects.select_for_update(no_key=True, of=("self",))
            .select_related("environment__tenant")
            .filter(pk=rule_id, active=True)
            .first()
        )
        if rule is None or _is_older(read_at, rule.looked_at):
            return []
        rule.looked_at = read_at
        rule.save(update_fields=["looked_at"])
        found = {(digest(each.about), each.threshold): each for each in findings}
        standing = _end_what_is_over(rule, found, read_at, complete=complete)
        new = _new(rule, found, standing)
        if len(new) > FIRED_AT_ONCE_MAX:
            logger.warning("alert rule %s: %d at once, %d of them now", rule.pk, len(new), FIRED_AT_ONCE_MAX)
        alerts = _written(rule, new[:FIRED_AT_ONCE_MAX], read_at)
        tell(rule.environment_id, [alert for alert in alerts if not alert.is_quiet])
    return alerts


def tell(environment_id: int, alerts: Sequence[Alert]) -> None:
    """Puts them into the queue of each endpoint that takes the event."""
    if not alerts:
        return
    endpoints = list(_active(environment_id))
    AlertDelivery.objects.bulk_create(
        AlertDelivery(alert=alert, endpoint=endpoint)
        for alert in alerts
        for endpoint in endpoints
        if alert.event in endpoint.events
    )


def takers(environment_id: int, event: str) -> list[AlertEndpoint]:
    """Who is told, by name."""
    return [endpoint for endpoint in _active(environment_id).order_by("name") if event in endpoint.events]


def _active(environment_id: int) -> QuerySet[AlertEndpoint]:
    return AlertEndpoint.objects.filter(environment_id=environment_id, active=True)


def digest(about: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def page_url(alert: Alert) -> str:
    """Of its page in the console; empty if CONSOLE_URL does not say where that is."""
    if not settings.CONSOLE_URL:
        return ""
    return settings.CONSOLE_URL.rstrip("/") + reverse("admin:policies_alert_change", args=[alert.pk])


def _is_older(read_at: datetime, looked_at: datetime | None) -> bool:
    return looked_at is not None and timedelta(0) <= looked_at - read_at < CLOCK_BACK_MAX


def _end_what_is_over(
    rule: AlertRule, found: dict[_Key, Finding], read_at: datetime, *, complete: bool
) -> set[_Key]:
    """Those that go on standing."""
    standing, over = set[_Key](), []
    for alert in Alert.objects.filter(rule=rule, ended_at=None).only("about", "threshold", "window_end"):
        key = (alert.about, alert.threshold)
        ends_at = alert.window_end
        if (complete and key not in found) if ends_at is None else ends_at <= read_at:
            over.append(alert.pk)
        else:
            standing.add(key)
    Alert.objects.filter(pk__in=over).update(ended_at=read_at)
    return standing


def _new(rule: AlertRule, found: dict[_Key, Finding], standing: set[_Key]) -> list[tuple[str, Finding]]:
    """With the digest of what each is about."""
    new = [(key[0], each) for key, each in found.items() if each.fires and key not in standing]
    fired = set(
        Alert.objects.filter(
            rule=rule,
            about__in={about for about, _ in new},
            window_start__in={each.begins_at for _, each in new if each.begins_at is not None},
        ).values_list("about", "threshold", "window_start")
    )
    return [(about, each) for about, each in new if (about, each.threshold, each.begins_at) not in fired]


def _written(rule: AlertRule, new: list[tuple[str, Finding]], read_at: datetime) -> list[Alert]:
    highest = _highest(rule, new)
    zone = ZoneInfo(rule.environment.tenant.timezone)
    alerts = []
    for about, each in new:
        said = messages.of(each, now=read_at, zone=zone)
        alert = Alert(
            environment=rule.environment,
            rule=rule,
            rule_name=rule.name,
            event=rule.event,
            about=about,
            threshold=each.threshold,
            window_start=each.begins_at or read_at,
            window_end=each.ends_at,
            fired_at=read_at,
            is_quiet=each.threshold < highest[about],
            title=said.title[:500],
            text=said.text,
            data=said.data,
        )
        alert.save(force_insert=True)
        alerts.append(alert)
    return alerts


def _highest(rule: AlertRule, new: list[tuple[str, Finding]]) -> dict[str, int]:
    """Of each subject the highest threshold that stands, with those that fire now."""
    highest: dict[str, int] = defaultdict(int)
    standing = Alert.objects.filter(rule=rule, ended_at=None, about__in={about for about, _ in new})
    for about, threshold in [
        *standing.values_list("about", "threshold"),
        *((about, each.threshold) for about, each in new),
    ]:
        highest[about] = max(highest[about], threshold)
    return highest
