"""Watching an environment: reads what its rules are about, and fires. Two at once fire nothing twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from django.db import DatabaseError
from django.db.models import QuerySet

from policies.alert_events import OF_LIMITS, Event
from policies.alerting import conditions, firing, observing, spending
from policies.alerting.conditions import Finding
from policies.models import Alert, AlertRule
from tenants.models import Environment
from usage.counting.store import StoreUnavailable, store
from usage.instants import from_ms
from usage.money import to_nano

logger = logging.getLogger("tokvigil.alerts")

# All that one rule found, and whether that is all there is.
Found = tuple[Iterable[Finding], bool]


def watch(environment: Environment) -> list[Alert]:
    """The new alerts of all rules but those about drift. Without rules it reads nothing."""
    rules = _rules(environment).exclude(event=Event.COUNTERS_DRIFT)
    by_event: dict[str, list[AlertRule]] = {}
    for rule in rules:
        by_event.setdefault("limits" if rule.event in OF_LIMITS else rule.event, []).append(rule)
    fired: list[Alert] = []
    for event, those in by_event.items():
        fired += _fire(environment, those, _READ[event])
    return fired


def watch_counters(environment: Environment) -> list[Alert]:
    """The same of drift. It reads all counters of open windows, and their sums in the ledger."""
    rules = list(_rules(environment).filter(event=Event.COUNTERS_DRIFT))
    return _fire(environment, rules, _drift) if rules else []


def _rules(environment: Environment) -> QuerySet[AlertRule]:
    return AlertRule.objects.filter(environment=environment, active=True).order_by("pk")


_Judge = Callable[[AlertRule], Found]


def _fire(
    environment: Environment, rules: list[AlertRule], read: Callable[[Environment, datetime], _Judge]
) -> list[Alert]:
    """What cannot be read now is read by the next run."""
    now = from_ms(store.now_ms())
    try:
        judge = read(environment, now)
        fired: list[Alert] = []
        for rule in rules:
            findings, complete = judge(rule)
            fired += firing.fire(rule.pk, findings, now, complete=complete)
        return fired
    except (DatabaseError, StoreUnavailable) as error:
        logger.warning("%s of %s is not watched this time: %s", rules[0].event, environment, error)
        return []


def _limits(environment: Environment, now: datetime) -> _Judge:
    standings = observing.of_limits(environment)

    def judge(rule: AlertRule) -> Found:
        readings, complete = observing.limits_of(standings, rule)
        if rule.event == Event.LIMIT_RUNS_OUT:
            return conditions.run_outs(readings), complete
        return conditions.thresholds_reached(readings, rule.thresholds), complete

    return judge


def _calls(environment: Environment, now: datetime) -> _Judge:
    reading = observing.calls(environment, now)
    return lambda rule: (conditions.spikes(reading, rule.thresholds), True)


def _spend(environment: Environment, now: datetime) -> _Judge:
    spending.keep_up(environment, now)

    def judge(rule: AlertRule) -> Found:
        readings = spending.readings(environment, now, to_nano(rule.minimum_usd))
        return conditions.anomalies(readings), True

    return judge


def _unpriced(environment: Environment, now: datetime) -> _Judge:
    readings = observing.unpriced_models(environment, now)
    return lambda rule: (conditions.unpriced(readings), True)


def _drift(environment: Environment, now: datetime) -> _Judge:
    reading = observing.drift(environment)
    return lambda rule: (conditions.drifts(reading), True)


_READ: dict[str, Callable[[Environment, datetime], _Judge]] = {
    "limits": _limits,
    Event.BLOCKED_SPIKE: _calls,
    Event.SPEND_ANOMALY: _spend,
    Event.MODEL_UNPRICED: _unpriced,
}
