"""Calls in flight are found by their user and by their request, and no more of them are read than is allowed."""

from __future__ import annotations

import pytest

from policies import seen
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, later, limits
from usage.amounts import Per
from usage.counting import in_flight
from usage.counting.in_flight import CallInFlight

pytestmark = pytest.mark.django_db(transaction=True)

AT_ONCE = "{metric: concurrency, window: total, amount: 9, per: user}"
A_DAY = "{metric: requests, window: day, amount: 9, per: user}"


def users(calls: list[CallInFlight]) -> list[str]:
    return [call.evaluated.user_id for call in calls]


def evaluate_in_turn(api: Api, *names: str) -> list[str]:
    """The request ids."""
    made = []
    for user in names:
        later(seconds=1)
        made.append(api.evaluate(user)["request_id"])
    return made


@pytest.mark.parametrize("on_unsettled", ["release", "charge"])
def test_the_latest_are_found_whatever_becomes_of_them(
    api: Api, environment: Environment, on_unsettled: str
) -> None:
    apply_policies(environment, limits(A_DAY, on_unsettled=on_unsettled))
    first, _, _ = evaluate_in_turn(api, "ann", "ben", "ann")

    assert users(in_flight.latest(environment.pk)) == ["ann", "ben", "ann"]
    assert len(in_flight.of_user(environment.pk, "ann")) == 2
    (call,) = in_flight.of_request(environment.pk, first)
    assert (call.evaluated.request_id, call.holds.requests, call.holds.input_tokens) == (first, 1, 1)
    assert (call.until - call.at).total_seconds() == 600

    later(minutes=11)
    assert in_flight.latest(environment.pk) == in_flight.of_request(environment.pk, first) == []


def test_only_the_latest_are_looked_through(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits(A_DAY))
    monkeypatch.setattr(in_flight, "LOOKED_AT_MAX", 2)
    evaluate_in_turn(api, "ann", "ben", "cyd")

    assert users(in_flight.latest(environment.pk)) == ["cyd", "ben"]
    assert in_flight.of_user(environment.pk, "ann") == []


def test_with_a_limit_on_a_users_calls_at_once_the_older_ones_are_found_too(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits(AT_ONCE))
    monkeypatch.setattr(in_flight, "LOOKED_AT_MAX", 2)
    evaluate_in_turn(api, "ann", "ben", "cyd")

    assert users(in_flight.of_user(environment.pk, "ann")) == ["ann"]


def test_who_has_a_call_in_flight_was_seen(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(A_DAY))
    evaluate_in_turn(api, "ann")
    api.evaluate("ann", feature="chat")

    assert [each.name for each in seen.unseen(environment, Per.USER, ["ann", "amn"])] == ["amn"]
    assert [each.name for each in seen.unseen(environment, Per.FEATURE, ["chat", "chart"])] == ["chart"]
