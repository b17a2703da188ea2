"""A tenant's time zone changes while calls are in flight; and the counter store loses everything meanwhile."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from policies.deciding.evaluation import HOLD_MS
from tenants import revisions
from tenants.models import Environment
from tokvigil_site.testing import (
    Api,
    allowed,
    apply_policies,
    assert_settled,
    at_once,
    later,
    ledger,
    limits,
    set_clock,
)
from usage.counting import carry
from usage.counting.inspection import environment_fields
from usage.counting.reservations import open_count
from usage.counting.store import store
from usage.settling import expiry

# 09:00 in Berlin, 17:00 in Tokyo, 22:00 the day before in Honolulu.
MORNING = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
DAILY_5 = "{metric: requests, window: day, amount: 5, per: user}"
ALL_KINDS = [
    DAILY_5,
    "{metric: tokens, window: month, amount: 1000, per: environment}",
    "{metric: requests, window: total, amount: 1000, per: feature}",
    "{metric: requests, window: minute, amount: 1000, per: user_feature}",
]


def move(environment: Environment, zone: str) -> None:
    environment.tenant.timezone = zone
    environment.tenant.save()
    revisions.bump_all(environment.tenant_id)


def states(api: Api) -> list[tuple[int, int]]:
    """Used and held of each limit."""
    found = api.evaluate(feature="chat", dry_run=True)["limit_state"]
    return [(state["used"], state["held"]) for state in found]


def hold(api: Api, count: int) -> list[str]:
    return [api.evaluate(feature="chat", input_tokens=10)["request_id"] for _ in range(count)]


@pytest.fixture
def morning(environment: Environment) -> None:
    set_clock(MORNING)


@pytest.mark.usefixtures("morning")
class TestCallsInFlight:
    @pytest.mark.parametrize("zone", ["Asia/Tokyo", "Pacific/Honolulu"])
    def test_take_their_holds_along(self, api: Api, environment: Environment, zone: str) -> None:
        apply_policies(environment, limits(*ALL_KINDS))
        request_ids = hold(api, 5)
        assert not api.evaluate(feature="chat")["allowed"]

        move(environment, zone)

        assert [api.evaluate(feature="chat")["allowed"] for _ in range(5)] == [False] * 5
        assert states(api) == [(0, 5), (0, 50), (0, 5), (0, 5)]
        for request_id in request_ids:
            assert api.report(request_id, input_tokens=10).status == 201
        assert states(api) == [(5, 0), (50, 0), (5, 0), (5, 0)]
        assert_settled(environment)
        assert len(ledger(environment)) == 5

    def test_take_them_along_again_and_back(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits(*ALL_KINDS))
        hold(api, 3)
        for zone in ("Asia/Tokyo", "Pacific/Honolulu", "Europe/Berlin", "Asia/Tokyo"):
            move(environment, zone)
            assert [held for _, held in states(api)] == [3, 30, 3, 3]
            assert "carry" not in environment_fields(environment.pk)

    def test_give_them_back_in_the_new_windows(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits(*ALL_KINDS))
        released, extended, expired = hold(api, 3)
        move(environment, "Asia/Tokyo")
        assert states(api)[0] == (0, 3)

        assert api.request("DELETE", f"/v1/reservations/{released}").status == 204
        assert states(api)[0] == (0, 2)
        assert api.post(f"/v1/reservations/{extended}/extend", {"seconds": 3600}).status == 200
        later(milliseconds=HOLD_MS + 1)
        assert expiry.settle_expired(environment) == (1, 0)
        assert states(api)[0] == (0, 1)
        assert api.report(extended).status == 201
        assert_settled(environment)
        assert expired not in {row.request_id for row in ledger(environment)}

    def test_are_charged_when_they_expire(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits(DAILY_5, on_unsettled="charge"))
        hold(api, 2)
        move(environment, "Pacific/Honolulu")
        later(milliseconds=HOLD_MS + 1)

        assert expiry.settle_expired(environment) == (0, 2)

        assert states(api) == [(2, 0)]
        assert_settled(environment)

    def test_that_end_before_anybody_asks_again(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits(DAILY_5))
        first, second = hold(api, 2)
        move(environment, "Asia/Tokyo")

        assert api.report(first).status == 201
        assert api.request("DELETE", f"/v1/reservations/{second}").status == 204

        assert states(api) == [(1, 0)]
        assert_settled(environment)

    def test_of_which_one_cannot_be_read_do_not_block_the_others(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(environment, limits(DAILY_5))
        hold(api, 2)
        store.client.hset(store.client.zrange(f"tv:{{{environment.pk}}}:open", 0, 0)[0], "as", b"spoilt")

        move(environment, "Asia/Tokyo")

        assert states(api) == [(0, 1)]

    def test_are_many(self, api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(carry, "CARRIED_AT_ONCE_MAX", 7)
        apply_policies(environment, limits("{metric: requests, window: day, amount: 120, per: user}"))
        request_ids = hold(api, 120)

        move(environment, "Asia/Tokyo")
        more = at_once(16, lambda _: api.evaluate(feature="chat"), threads=4)

        assert allowed(more) == 0
        at_once(120, lambda number: api.report(request_ids[number]), threads=4)
        assert len(ledger(environment)) == 120
        assert_settled(environment)

    def test_never_pass_the_limit_while_the_zone_changes_again_and_again(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(
            environment,
            limits(
                "{metric: requests, window: day, amount: 60, per: user}",
                "{metric: concurrency, window: total, amount: 3, per: user}",
            ),
        )
        ended = threading.Event()
        zones = ["Asia/Tokyo", "Europe/Berlin", "Pacific/Auckland", "Asia/Kolkata"]

        def call(number: int) -> None:
            if number == 0:
                for turn in range(8):
                    move(environment, zones[turn % len(zones)])
                    ended.wait(0.2)
                ended.set()
                return
            while not ended.is_set():
                decision = api.evaluate(feature="chat")
                if decision["allowed"]:
                    ended.wait(0.05)
                    assert api.report(decision["request_id"]).status == 201

        at_once(5, call, threads=5)
        for _ in range(80):
            decision = api.evaluate(feature="chat")
            if decision["allowed"]:
                api.report(decision["request_id"])

        # All zones have this one day in common with Berlin's morning but Auckland, whose day began before.
        assert len(ledger(environment)) == 60
        assert_settled(environment)


class TestAStoreThatLostEverything:
    """Who holds what stood there alone: nothing can be known of it. The docs say so."""

    def test_lets_through_as_much_again_as_was_in_flight_and_counts_all(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(
            environment,
            limits(DAILY_5, "{metric: concurrency, window: total, amount: 4, per: user}"),
        )
        api.use(feature="chat")
        before = hold(api, 4)
        assert not api.evaluate(feature="chat")["allowed"]

        store.client.flushdb()

        decisions: list[dict[str, Any]] = [api.evaluate(feature="chat") for _ in range(6)]
        assert allowed(decisions) == 4
        assert open_count(environment.pk) == 4
        for request_id in [*before, *(each["request_id"] for each in decisions if each["allowed"])]:
            assert api.report(request_id, feature="chat").status == 201
        assert states(api) == [(9, 0), (0, 0)]
        assert not api.evaluate(feature="chat")["allowed"]
        assert_settled(environment)
