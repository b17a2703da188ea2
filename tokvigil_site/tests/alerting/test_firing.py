"""An alert fires once of each threshold and window, whoever writes and watches at the same time."""

from __future__ import annotations

import importlib
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from django.apps import apps
from django.db import connections

from policies.alerting import delivering, rules, watching
from policies.models import Alert, AlertDelivery, AlertRule
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, at_once, later, limits, set_clock
from tokvigil_site.tests.alerting.conftest import new_endpoint, new_rule
from tokvigil_site.tests.alerting.receiver import Receiver

DAILY = limits("{metric: requests, window: day, amount: 100, per: environment}", name="Trial")
# A morning, so that the writers do not cross midnight.
MORNING = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)


def thresholds(environment: Environment) -> list[int]:
    return sorted(Alert.objects.filter(environment=environment).values_list("threshold", flat=True))


def use(api: Api, user: str) -> None:
    """A whole call; asked for again where fifty threads of a busy process do not hear the counters in time."""
    for _ in range(50):
        decision = api.evaluate(user)
        if not decision["degraded"]:
            break
        time.sleep(0.1)
    assert decision["allowed"], decision
    assert api.report(decision["request_id"], user, input_tokens=1).status == 201


def test_once_per_threshold_and_window_under_50_writers_and_two_watchers(
    environment: Environment, api: Api, receiver: Receiver
) -> None:
    set_clock(MORNING)
    apply_policies(environment, DAILY)
    new_rule(environment)
    new_endpoint(environment, receiver.url)
    wrote = threading.Event()

    def watch() -> None:
        try:
            while not wrote.is_set():
                watching.watch(environment)
                delivering.deliver_due()
        finally:
            connections.close_all()

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        at_once(100, lambda number: use(api, f"user_{number % 50}"), threads=50)
    finally:
        wrote.set()
        for watcher in watchers:
            watcher.join(timeout=60)
    # A watch that is not told the counters in time, beside so many, sees less; the next one comes a minute later.
    for _ in range(20):
        at_once(2, lambda number: watching.watch(environment))
        at_once(2, lambda number: delivering.deliver_due())
        if thresholds(environment) == [50, 80, 100]:
            break
        time.sleep(0.5)

    assert thresholds(environment) == [50, 80, 100]
    loud = Alert.objects.filter(environment=environment, is_quiet=False)
    told = Counter(each.headers["webhook-id"] for each in receiver.received)
    assert told == {alert.message_id: 1 for alert in loud}
    assert loud.order_by("-threshold")[0].threshold == 100
    assert set(AlertDelivery.objects.values_list("state", flat=True)) == {"delivered"}


def test_it_fires_again_in_the_next_window(environment: Environment, api: Api) -> None:
    set_clock(MORNING)
    apply_policies(environment, limits("{metric: requests, window: day, amount: 2, per: environment}"))
    new_rule(environment, thresholds=[50])
    api.use()
    assert [each.threshold for each in watching.watch(environment)] == [50]
    later(minutes=1)
    assert watching.watch(environment) == []
    later(days=1)
    assert watching.watch(environment) == [], "the new window has used nothing"
    api.use()
    later(minutes=1)
    assert [each.threshold for each in watching.watch(environment)] == [50]
    first, second = Alert.objects.order_by("window_start")
    assert second.window_start - first.window_start == timedelta(days=1)
    assert first.ended_at is not None
    assert second.ended_at is None


def test_of_thresholds_reached_together_the_highest_is_told(
    environment: Environment, api: Api, receiver: Receiver
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: environment}"))
    new_rule(environment)
    new_endpoint(environment, receiver.url)
    for _ in range(4):
        api.use()
    watching.watch(environment)
    assert thresholds(environment) == [50, 80]
    assert delivering.deliver_due() == 1
    (told,) = receiver.received
    assert told.json["data"]["threshold_percent"] == 80


def test_two_watchers_at_the_same_instant_fire_once(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: environment}"))
    new_rule(environment, thresholds=[100])
    api.use()
    fired = at_once(8, lambda number: watching.watch(environment), threads=8)
    assert sum(map(len, fired)) == 1
    assert thresholds(environment) == [100]


def test_the_payload_says_how_the_limit_stands(
    environment: Environment, api: Api, receiver: Receiver
) -> None:
    set_clock(MORNING)
    apply_policies(
        environment, limits("{metric: requests, window: day, amount: 4, per: environment}", name="Trial")
    )
    new_rule(environment, thresholds=[50], name="Half")
    new_endpoint(environment, receiver.url)
    api.use()
    api.evaluate()
    watching.watch(environment)
    delivering.deliver_due()
    (told,) = receiver.received
    said = told.json
    assert said["type"] == "limit.threshold"
    data = said["data"]
    assert (data["used"], data["held"], data["limit"], data["percent"]) == (1, 1, 4, 50)
    assert (data["metric"], data["window"], data["per"]) == ("requests", "day", "environment")
    # Midnight in Berlin.
    assert data["window_starts_at"] == "2026-11-25T23:00:00Z"
    assert data["resets_at"] == "2026-11-26T23:00:00Z"
    assert data["policy"]["name"] == "Trial"
    assert data["environment"] == "acme/prod"
    assert data["rule"] == "Half"


def test_calls_at_once_fire_again_after_they_fell_well_below(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits("{metric: concurrency, window: total, amount: 10, per: environment}"))
    new_rule(environment, thresholds=[80])
    open_calls = [api.evaluate()["request_id"] for _ in range(8)]

    def give_back() -> None:
        assert api.request("DELETE", f"/v1/reservations/{open_calls.pop()}").status in (200, 204)

    def fired() -> int:
        later(minutes=1)
        return len(watching.watch(environment))

    assert fired() == 1
    give_back()
    assert fired() == 0
    open_calls.append(api.evaluate()["request_id"])
    assert fired() == 0, "70 % is not below the threshold by enough to fire again"
    give_back()
    give_back()
    assert fired() == 0
    open_calls += [api.evaluate()["request_id"] for _ in range(2)]
    assert fired() == 1


def test_a_raised_limit_is_reached_anew(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 2, per: environment}"))
    new_rule(environment, thresholds=[50])
    api.use()
    assert len(watching.watch(environment)) == 1
    apply_policies(environment, limits("{metric: requests, window: day, amount: 4, per: environment}"))
    later(minutes=1)
    assert watching.watch(environment) == []
    api.use()
    later(minutes=1)
    assert len(watching.watch(environment)) == 1


@pytest.mark.parametrize("of_users", [False, True])
def test_limits_of_single_users_are_watched_if_the_rule_says_so(
    environment: Environment, api: Api, of_users: bool
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))
    new_rule(environment, thresholds=[100], of_users=of_users)
    api.use("ana")
    api.use("ben")
    assert {each.data["subject"] for each in watching.watch(environment)} == (
        {"ana", "ben"} if of_users else set()
    )


def test_a_reading_that_is_older_than_the_last_fires_nothing(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: environment}"))
    rule = new_rule(environment, thresholds=[100])
    api.use()
    rule.looked_at = datetime.now(UTC) + timedelta(minutes=1)
    rule.save(update_fields=["looked_at"])
    assert watching.watch(environment) == []
    later(minutes=2)
    assert len(watching.watch(environment)) == 1


def test_an_inactive_rule_and_another_tenants_endpoint_hear_nothing(
    environment: Environment, other_environment: Environment, api: Api, receiver: Receiver
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: environment}"))
    new_rule(environment, thresholds=[100], active=False, name="off")
    new_endpoint(other_environment, receiver.url)
    new_endpoint(environment, receiver.url, events=["model.unpriced"])
    api.use()
    assert watching.watch(environment) == []
    new_rule(environment, thresholds=[100], name="on")
    assert len(watching.watch(environment)) == 1
    assert delivering.deliver_due() == 0
    assert receiver.received == []


@pytest.mark.parametrize("way", ["switched off", "removed"])
def test_what_a_rule_told_is_over_once_nobody_looks_any_more(
    environment: Environment, api: Api, way: str
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: environment}"))
    rule, other = (new_rule(environment, thresholds=[100], name=name) for name in ("one", "other"))
    api.use()
    assert len(watching.watch(environment)) == 2
    if way == "removed":
        rules.remove(rule, actor="test")
    else:
        before = rules.said(rule)
        rule.active = False
        rules.change(rule, before, actor="test")
    standing = Alert.objects.filter(ended_at=None)
    assert [alert.rule for alert in standing] == [other]
    later(minutes=1)
    assert watching.watch(environment) == []
    assert standing.count() == 1


def test_alerts_that_nobody_looked_after_before_are_over(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: environment}"))
    gone, off, on = (new_rule(environment, thresholds=[100], name=name) for name in ("gone", "off", "on"))
    api.use()
    assert len(watching.watch(environment)) == 3
    Alert.objects.filter(rule=gone).update(rule=None)
    AlertRule.objects.filter(pk=off.pk).update(active=False)
    migration = importlib.import_module("policies.migrations.0017_end_alerts_nobody_watches")
    migration.end_alerts(apps, None)
    assert [alert.rule for alert in Alert.objects.filter(ended_at=None)] == [on]
