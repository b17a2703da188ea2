"""What is watched besides limits, read from the ledger, the blocked decisions and the counters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from policies.alerting import observing, spending, watching
from policies.blocked import decision_log
from policies.models import Alert, HourlySpend
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, later, limits, set_clock, set_price
from tokvigil_site.tests.alerting.conftest import new_rule
from usage.counting import inspection
from usage.counting.store import StoreUnavailable, store
from usage.money import NANO

MORNING = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_limit_that_will_run_out_is_told_once(environment: Environment, api: Api) -> None:
    # Berlin's day is 10 h old.
    set_clock(datetime(2026, 11, 26, 9, 0, tzinfo=UTC))
    apply_policies(environment, limits("{metric: requests, window: day, amount: 10, per: environment}"))
    new_rule(environment, "limit.runs_out")
    for _ in range(3):
        api.use()
    assert watching.watch(environment) == [], "at this pace 7.2 of 10 by midnight"
    for _ in range(3):
        api.use()
    (told,) = watching.watch(environment)
    assert told.data["runs_out_at"].startswith("2026-11-26T15:40")
    later(minutes=1)
    assert watching.watch(environment) == []


def test_a_spike_of_blocked_calls_is_told_until_it_is_over(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 10, per: user}"))
    new_rule(environment, "calls.blocked_spike", thresholds=[20])
    for _ in range(10):
        api.use("ana")
    assert watching.watch(environment) == []
    for _ in range(25):
        assert not api.evaluate("ana")["allowed"]
    decision_log.drain(environment)
    later(seconds=5)
    (told,) = watching.watch(environment)
    assert (told.data["blocked"], told.data["made"], told.data["percent"]) == (25, 10, 71)
    later(seconds=5)
    assert watching.watch(environment) == []
    later(minutes=20)
    assert watching.watch(environment) == []
    assert Alert.objects.get().ended_at is not None


def call(api: Api, model: str, *, thousands: int = 0) -> None:
    """One of the feature chat, with so many thousands of output tokens: of the model dear, of so many dollars."""
    tokens = thousands * 1000
    decision = api.evaluate(model=model, feature="chat", max_output_tokens=tokens)
    assert decision["allowed"], decision
    assert api.report(decision["request_id"], model=model, feature="chat", output_tokens=tokens).status == 201


def spent(environment: Environment, of: str, name: str, hour: datetime, usd: int) -> None:
    for each in (name, ""):
        HourlySpend.objects.update_or_create(
            environment=environment,
            of=of,
            name=each,
            hour=hour,
            defaults={"cost_nano": usd * NANO, "calls": 1},
        )


def test_an_hour_that_cost_far_more_than_usual_is_told_of_the_feature_and_the_key(
    environment: Environment, api: Api
) -> None:
    set_price("dear", output_usd="1000")
    apply_policies(environment, limits("{metric: cost_usd, window: total, amount: 100000, per: environment}"))
    new_rule(environment, "spend.anomaly", minimum_usd=5)
    set_clock(MORNING)
    for day in range(1, 15):
        for of, name in (("feature", "chat"), ("key", str(api.key.pk))):
            spent(environment, of, name, MORNING.replace(minute=0) - timedelta(days=day), 2)
    for _ in range(40):
        call(api, "dear", thousands=1)
    assert watching.watch(environment) == [], "the hour is not over"
    set_clock(MORNING.replace(hour=10, minute=4))
    assert watching.watch(environment) == [], "nor mostly reported"
    set_clock(MORNING.replace(hour=10, minute=6))
    told = watching.watch(environment)
    assert {each.data["of"]: each.data["spent_usd"] for each in told} == {"feature": "40.00", "key": "40.00"}
    assert {each.data["usual_usd"] for each in told} == {"2.00"}
    assert {each.data["name"] for each in told} == {"chat", str(api.key.pk)}
    later(minutes=1)
    assert watching.watch(environment) == []
    set_clock(MORNING.replace(hour=11, minute=6))
    assert watching.watch(environment) == []
    assert not Alert.objects.filter(ended_at=None).exists(), "the next hour cost nothing"


def test_hours_are_summed_as_the_ledger_has_them_and_a_late_report_is_in_the_second_sum(
    environment: Environment, api: Api
) -> None:
    set_price("dear", output_usd="1000")
    apply_policies(environment, limits("{metric: cost_usd, window: total, amount: 100000, per: environment}"))
    set_clock(MORNING)
    late = api.evaluate(model="dear", feature="chat", max_output_tokens=3000)["request_id"]
    call(api, "dear", thousands=1)
    set_clock(MORNING.replace(hour=10, minute=6))
    hour = MORNING.replace(minute=0)
    now = MORNING.replace(hour=10, minute=6)

    def chat() -> tuple[int, int]:
        row = HourlySpend.objects.get(environment=environment, of="feature", name="chat", hour=hour)
        return row.cost_nano // NANO, row.calls

    spending.keep_up(environment, now)
    assert chat() == (1, 1)
    assert api.report(late, model="dear", feature="chat", output_tokens=3000).status == 201
    spending.keep_up(environment, now + HOUR)
    assert chat() == (4, 2)
    key = HourlySpend.objects.get(environment=environment, of="key", name=str(api.key.pk), hour=hour)
    assert (key.cost_nano // NANO, key.calls) == chat()


def test_what_is_no_longer_compared_is_deleted(environment: Environment) -> None:
    spent(environment, "feature", "chat", MORNING - timedelta(days=20), 1)
    spent(environment, "feature", "chat", MORNING - timedelta(days=2), 1)
    spending.keep_up(environment, MORNING)
    assert HourlySpend.objects.filter(name="chat").count() == 1


def test_a_model_without_a_price_is_told_once_whether_its_calls_were_made_or_blocked(
    environment: Environment, api: Api
) -> None:
    apply_policies(environment, limits("{metric: cost_usd, window: day, amount: 5, per: user}"))
    new_rule(environment, "model.unpriced")
    call(api, "nobody-knows")
    (told,) = watching.watch(environment)
    assert (told.data["model"], told.data["calls"], told.data["features"]) == ("nobody-knows", 1, ["chat"])
    later(minutes=1)
    assert watching.watch(environment) == []
    apply_policies(
        environment,
        limits("{metric: cost_usd, window: day, amount: 5, per: user}").replace(
            "price: allow", "price: block"
        ),
    )
    assert not api.evaluate(model="another")["allowed"]
    later(minutes=1)
    (told,) = watching.watch(environment)
    assert (told.data["model"], told.data["calls"], told.data["blocked"]) == ("another", 0, 1)


def test_drift_is_told_if_it_lasts_and_again_after_it_was_mended(
    environment: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observing, "DRIFT_CHECKED_AGAIN_S", 0)
    apply_policies(environment, limits("{metric: requests, window: day, amount: 9, per: environment}"))
    new_rule(environment, "counters.drift")
    api.use()

    def watch() -> int:
        later(seconds=1)
        return len(watching.watch_counters(environment))

    ((key, fields),) = inspection.scan(environment.pk)
    assert watch() == 0
    store.client.hset(key, "ur", 5)
    assert watch() == 1
    assert watch() == 0
    store.client.hset(key, "ur", fields[b"ur"])
    assert watch() == 0
    store.client.hset(key, "ur", 5)
    assert watch() == 1


def test_a_difference_of_a_moment_is_no_drift(
    environment: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A charge on its way from the ledger to the counter."""
    apply_policies(environment, limits("{metric: requests, window: day, amount: 9, per: environment}"))
    new_rule(environment, "counters.drift")
    api.use()
    ((key, fields),) = inspection.scan(environment.pk)
    store.client.hset(key, "ur", 0)

    def arrive(seconds: float) -> None:
        store.client.hset(key, "ur", fields[b"ur"])

    monkeypatch.setattr("policies.alerting.observing.time.sleep", arrive)
    assert watching.watch_counters(environment) == []


def test_an_environment_without_rules_costs_one_query(environment: Environment) -> None:
    with CaptureQueriesContext(connection) as queries:
        watching.watch(environment)
    assert len(queries) == 1


def test_what_cannot_be_read_ends_nothing(
    environment: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits("{metric: requests, window: total, amount: 2, per: environment}"))
    new_rule(environment, thresholds=[100])
    api.use()
    api.use()
    assert len(watching.watch(environment)) == 1

    def away(*args: Any) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr("policies.standing.standings.readings.read", away)
        later(minutes=1)
        assert watching.watch(environment) == []
    assert Alert.objects.get().ended_at is None
    later(minutes=1)
    assert watching.watch(environment) == []
