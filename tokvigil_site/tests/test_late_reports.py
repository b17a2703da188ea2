"""Time passes, or a process ends, between the hold and the charge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from policies.deciding.evaluation import HOLD_MS
from tenants.models import Environment
from tokvigil_site.testing import (
    Api,
    apply_policies,
    assert_settled,
    later,
    ledger,
    limits,
    set_clock,
)
from tokvigil_site.tests.applications import DAILY_1, used
from usage.counting import settle
from usage.settling import expiry, recount


def test_a_report_after_midnight_charges_the_day_of_the_evaluate(api: Api, environment: Environment) -> None:
    # Midnight in Berlin is 23:00 UTC.
    before, after = (
        datetime(2026, 11, 23, 22, 59, 50, tzinfo=UTC),
        datetime(2026, 11, 23, 23, 0, 10, tzinfo=UTC),
    )
    set_clock(before)
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]

    set_clock(after)
    assert api.report(request_id).status == 201

    assert api.evaluate()["allowed"]
    assert abs(ledger(environment)[0].charged_at - before) < timedelta(seconds=9)
    set_clock(before + timedelta(seconds=5))
    assert used(api) == 1
    assert recount.check(environment).drifts == ()


def test_an_expired_hold_frees_itself_without_a_worker(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_1))
    assert api.evaluate()["allowed"]
    assert not api.evaluate()["allowed"]

    later(milliseconds=HOLD_MS + 1)

    request_id = api.evaluate()["request_id"]
    assert api.report(request_id).status == 201
    assert_settled(environment)


@pytest.mark.parametrize("on_unsettled", ["release", "charge"])
def test_a_report_after_the_hold_expired_is_recorded_and_charged(
    api: Api, environment: Environment, on_unsettled: str
) -> None:
    apply_policies(environment, limits(DAILY_1, on_unsettled=on_unsettled))
    request_id = api.evaluate()["request_id"]
    later(milliseconds=HOLD_MS + 1)
    if on_unsettled == "release":
        assert expiry.settle_expired(environment) == (1, 0)

    assert api.report(request_id).status == 201

    assert not api.evaluate()["allowed"]
    assert_settled(environment)


def test_an_expired_hold_is_charged_and_a_late_report_corrects_it(api: Api, environment: Environment) -> None:
    apply_policies(
        environment,
        limits("{metric: tokens, window: day, amount: 100, per: user}", on_unsettled="charge"),
    )
    request_id = api.evaluate(input_tokens=40, max_output_tokens=20)["request_id"]
    later(milliseconds=HOLD_MS + 1)
    assert not api.evaluate(input_tokens=50)["allowed"]

    assert expiry.settle_expired(environment) == (0, 1)
    assert expiry.settle_expired(environment) == (0, 0)
    assert used(api) == 60
    assert_settled(environment)

    assert api.report(request_id, input_tokens=30, output_tokens=5).status == 201
    assert api.report(request_id, input_tokens=30, output_tokens=5).status == 200
    assert api.report(request_id, input_tokens=31, output_tokens=5).status == 409

    rows = [(row.status, row.amounts.input_tokens, row.amounts.output_tokens) for row in ledger(environment)]
    assert sorted(rows) == [("reversal", -40, -20), ("succeeded", 30, 5), ("unsettled", 40, 20)]
    assert used(api) == 35
    assert_settled(environment)


def test_an_extended_hold_stays(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]
    later(minutes=9)
    assert api.post(f"/v1/reservations/{request_id}/extend", {"seconds": 600}).status == 200

    later(minutes=9)
    assert not api.evaluate()["allowed"]
    later(minutes=2)
    assert api.evaluate()["allowed"]
    assert api.post(f"/v1/reservations/{request_id}/extend", {"seconds": 600}).status == 404


def test_a_hold_is_released_once_and_not_after_its_report(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: user}"))
    dropped, made = api.evaluate()["request_id"], api.use()

    assert [api.request("DELETE", f"/v1/reservations/{dropped}").status for _ in range(2)] == [204, 204]
    assert api.request("DELETE", f"/v1/reservations/{made}").status == 409
    assert api.request("DELETE", "/v1/reservations/unheard-of").status == 404
    assert api.report(dropped).status == 201
    assert used(api) == 2
    assert_settled(environment)


def die_before_charging(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends after the ledger committed and before the counters were charged; once."""
    charge = settle.settle_many

    def die(*_: object, **__: object) -> None:
        monkeypatch.setattr(settle, "settle_many", charge)
        raise SystemExit

    monkeypatch.setattr(settle, "settle_many", die)


def test_a_repeated_report_charges_what_a_dead_process_did_not(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]
    die_before_charging(monkeypatch)
    with pytest.raises(SystemExit):
        api.report(request_id)
    assert (len(ledger(environment)), used(api)) == (1, 0)

    assert [api.report(request_id).status for _ in range(2)] == [200, 200]

    assert used(api) == 1
    assert_settled(environment)


@pytest.mark.parametrize("on_unsettled", ["release", "charge"])
def test_what_a_dead_process_did_not_charge_is_charged_also_if_nobody_repeats_it(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch, on_unsettled: str
) -> None:
    apply_policies(environment, limits(DAILY_1, on_unsettled=on_unsettled))
    request_id = api.evaluate()["request_id"]
    die_before_charging(monkeypatch)
    with pytest.raises(SystemExit):
        api.report(request_id)

    later(minutes=2)
    expiry.settle_expired(environment)

    assert (len(ledger(environment)), used(api)) == (1, 1)
    assert_settled(environment)
