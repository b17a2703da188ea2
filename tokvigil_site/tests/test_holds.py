"""A hold from its making to its end: what is held of a call, what its report finds, and when it can be given back."""

from __future__ import annotations

import pytest

from policies.evaluation import HOLD_MS
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, assert_settled, later, ledger, limits
from tokvigil_site.tests.callers import assert_problem
from usage.settling import expiry

DAILY_1 = "{metric: requests, window: day, amount: 1, per: user}"


@pytest.mark.parametrize("amount", [1, 2])
def test_a_receipt_and_the_meter_agree_on_whether_anything_is_left(
    api: Api, environment: Environment, amount: int
) -> None:
    apply_policies(environment, limits(f"{{metric: requests, window: day, amount: {amount}, per: user}}"))

    (receipt,) = api.report(api.evaluate()["request_id"]).json["limit_state"]
    (meter,) = api.get("/v1/limits?user_id=user_1").json["limit_state"]

    assert (receipt["used"], receipt["remaining"]) == (1, amount - 1)
    assert receipt == meter
    assert receipt["exceeded"] is (amount == 1)


def test_an_expired_hold_that_is_to_be_charged_cannot_be_released(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_1, on_unsettled="charge"))
    request_id = api.evaluate()["request_id"]
    later(milliseconds=HOLD_MS + 1)

    answer = api.request("DELETE", f"/v1/reservations/{request_id}")

    assert_problem(answer, 409, "ALREADY_SETTLED")
    assert expiry.settle_expired(environment) == (0, 1)
    assert [row.status for row in ledger(environment)] == ["unsettled"]
    assert_settled(environment)


def test_an_expired_hold_that_is_to_be_released_can_be_released(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]
    later(milliseconds=HOLD_MS + 1)

    for _ in range(2):
        assert api.request("DELETE", f"/v1/reservations/{request_id}").status == 204

    assert api.evaluate()["allowed"]
