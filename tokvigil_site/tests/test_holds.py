"""A hold from its making to its end: what is held of a call, what its report finds, and when it can be given back."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command

from policies import end_users
from policies.deciding.evaluation import HOLD_MS
from policies.end_users import set_end_user
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
    set_price,
)
from tokvigil_site.tests.applications import DAILY_1
from tokvigil_site.tests.callers import assert_problem
from usage.counting.keys import reservation_key
from usage.counting.store import CounterStore, StoreUnavailable, store
from usage.ledger import expected_output
from usage.money import parse_usd
from usage.settling import expiry, stored_plans


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
    assert [row.api_key_id for row in ledger(environment)] == [api.key.pk]
    assert_settled(environment)


def test_an_expired_hold_that_is_to_be_released_can_be_released(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]
    later(milliseconds=HOLD_MS + 1)

    for _ in range(2):
        assert api.request("DELETE", f"/v1/reservations/{request_id}").status == 204

    assert api.evaluate()["allowed"]


# Without a cap of its own a call is held what is left of its limits


# What a call of 10 input tokens may write under each limit before nothing is left, at 1,000 USD a million.
SMALL_LIMITS = [
    ("{metric: tokens, window: day, amount: 100, per: user}", 90),
    ("{metric: output_tokens, window: day, amount: 100, per: user}", 100),
    ('{metric: cost_usd, window: day, amount: "0.100", per: user}', 90),
    ('{metric: cost_usd, window: month, amount: "0.0999999", per: environment}', 89),
]


def without_cap(api: Api, **fields: Any) -> dict[str, Any]:
    return api.evaluate(input_tokens=10, max_output_tokens=None, **fields)


@pytest.fixture
def dear(environment: Environment) -> None:
    """A tenth of a cent a token, in and out."""
    set_price("test-model", input_usd="1000", output_usd="1000")


@pytest.mark.usefixtures("dear")
class TestWithoutACap:
    @pytest.mark.parametrize(("limit", "output"), SMALL_LIMITS)
    def test_a_small_limit_can_be_used_to_its_end(
        self, api: Api, environment: Environment, limit: str, output: int
    ) -> None:
        apply_policies(environment, limits(limit))

        decision = without_cap(api)

        assert decision["allowed"], decision
        assert decision["max_output_tokens"] == decision["reserved"]["output_tokens"] == output
        assert decision["estimated_cost_usd"] == decision["reserved"]["cost_usd"]
        assert Decimal(decision["estimated_cost_usd"]) == (10 + output) * Decimal("0.001")
        (state,) = decision["limit_state"]
        assert parse_usd(str(state["remaining"])) < parse_usd("0.001") or state["remaining"] == 0
        assert without_cap(api)["reason_class"] == "transient"
        answer = api.report(decision["request_id"], input_tokens=10, output_tokens=output)
        assert answer.status == 201
        assert without_cap(api)["reason_class"] == "exhausted"
        assert_settled(environment)

    def test_it_gets_what_is_expected_while_that_is_left(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits("{metric: tokens, window: day, amount: 2000, per: user}"))

        outputs = [without_cap(api)["max_output_tokens"] for _ in range(3)]

        assert outputs == [
            expected_output.WITHOUT_HISTORY,
            2000 - 10 - expected_output.WITHOUT_HISTORY - 10,
            None,
        ]

    def test_the_tightest_of_its_limits_counts(self, api: Api, environment: Environment) -> None:
        apply_policies(
            environment,
            limits(
                "{metric: tokens, window: day, amount: 500, per: user}",
                "{metric: output_tokens, window: month, amount: 300, per: environment}",
                '{metric: cost_usd, window: month, amount: "0.2", per: user}',
            ),
        )

        assert without_cap(api)["max_output_tokens"] == 190
        assert without_cap(api, user="user_2")["max_output_tokens"] == 110

    def test_the_policys_cap_is_no_cap_of_the_call(self, api: Api, environment: Environment) -> None:
        apply_policies(
            environment,
            limits(
                "{metric: tokens, window: day, amount: 100, per: user}", per_request="{output_tokens: 60}"
            ),
        )

        assert [without_cap(api)["max_output_tokens"] for _ in range(3)] == [60, 20, None]

    def test_a_cap_on_the_cost_of_a_request_leaves_what_can_be_paid(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(environment, "policies: [{name: P, per_request: {cost_usd: '0.05'}}]")

        decision = without_cap(api)
        too_dear = api.evaluate(input_tokens=50, max_output_tokens=None)

        assert (decision["max_output_tokens"], decision["estimated_cost_usd"]) == (40, "0.05")
        assert too_dear["reason_code"] == "REQUEST_COST_EXCEEDED"

    def test_a_call_that_names_its_cap_is_held_as_it_says(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits("{metric: tokens, window: day, amount: 100, per: user}"))

        assert not api.evaluate(input_tokens=10, max_output_tokens=91)["allowed"]
        assert api.evaluate(input_tokens=10, max_output_tokens=90)["reserved"]["output_tokens"] == 90

    def test_sent_again_it_is_answered_the_same(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits("{metric: tokens, window: day, amount: 1100, per: user}"))
        without_cap(api, request_id="r-1")
        cut = without_cap(api, request_id="r-2")

        assert cut["max_output_tokens"] == 1100 - 2 * 10 - expected_output.WITHOUT_HISTORY
        assert without_cap(api, request_id="r-2") == cut
        assert api.request("DELETE", "/v1/reservations/r-1").status == 204
        assert without_cap(api, request_id="r-2") == cut

    def test_a_dry_run_says_what_would_be_held(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits("{metric: tokens, window: day, amount: 100, per: user}"))

        peek = without_cap(api, dry_run=True, explain=True)

        assert (peek["max_output_tokens"], peek["reserved"]) == (90, None)
        assert peek["trace"]["held_output_tokens"] == 90

    def test_what_expires_is_charged_as_it_was_held(self, api: Api, environment: Environment) -> None:
        apply_policies(
            environment,
            limits('{metric: cost_usd, window: day, amount: "0.1", per: user}', on_unsettled="charge"),
        )
        without_cap(api)
        later(milliseconds=HOLD_MS + 1)

        assert expiry.settle_expired(environment) == (0, 1)

        (row,) = ledger(environment)
        assert (row.amounts.input_tokens, row.amounts.output_tokens, row.cost_nano) == (
            10,
            90,
            parse_usd("0.1"),
        )
        assert_settled(environment)

    def test_expired_holds_cut_nothing_however_many(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits("{metric: tokens, window: day, amount: 1500, per: user}"))
        for _ in range(15):
            api.evaluate(input_tokens=100)
        later(milliseconds=HOLD_MS + 1)

        assert without_cap(api)["max_output_tokens"] == expected_output.WITHOUT_HISTORY

    @pytest.mark.parametrize("limit", [each[0] for each in SMALL_LIMITS])
    def test_many_at_once_never_pass_the_limit(self, api: Api, environment: Environment, limit: str) -> None:
        apply_policies(environment, limits(limit.replace("100", "3000").replace("0.09", "3.09")))

        decisions = at_once(40, lambda number: without_cap(api))

        passed = [decision for decision in decisions if decision["allowed"]]
        (state,) = without_cap(api, dry_run=True)["limit_state"]
        assert parse_usd(str(state["held"])) <= parse_usd(str(state["limit"]))
        metric, held = state["metric"], [decision["reserved"] for decision in passed]
        taken = {
            "tokens": sum(each["input_tokens"] + each["output_tokens"] for each in held),
            "output_tokens": sum(each["output_tokens"] for each in held),
            "cost_usd": sum(parse_usd(each["cost_usd"]) for each in held),
        }[metric]
        assert taken == (parse_usd(state["held"]) if metric == "cost_usd" else state["held"])
        for decision in passed:
            tokens = decision["reserved"]
            answer = api.report(
                decision["request_id"],
                input_tokens=tokens["input_tokens"],
                output_tokens=tokens["output_tokens"],
            )
            assert answer.status == 201
        assert_settled(environment)

    def test_a_burst_of_small_calls_under_a_large_limit_all_passes(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(
            environment,
            limits(
                "{metric: tokens, window: day, amount: 300000, per: environment}",
                '{metric: cost_usd, window: month, amount: "300", per: environment}',
            ),
        )

        decisions = at_once(200, lambda number: without_cap(api), threads=4)

        assert allowed(decisions) == 200
        assert {each["max_output_tokens"] for each in decisions} == {expected_output.WITHOUT_HISTORY}


# A hold is the most that a call can cost


CLAUDE, TOKENS = "claude-sonnet-4-5", 100_000


def monthly(amount: object) -> str:
    return limits(f'{{metric: cost_usd, window: month, amount: "{amount}", per: environment}}')


@pytest.fixture
def priced(api: Api) -> Api:
    call_command("load_prices")
    apply_policies(api.environment, monthly(1000))
    return api


@pytest.mark.parametrize(
    ("model", "asked", "reported"),
    [
        (CLAUDE, {}, {}),
        (CLAUDE, {}, {"cache_write_tokens": TOKENS}),
        (CLAUDE, {}, {"cached_input_tokens": TOKENS // 2, "cache_write_tokens": TOKENS // 2}),
        (CLAUDE, {}, {"batch": True}),
        (CLAUDE, {"provider": "anthropic"}, {"cache_write_tokens": TOKENS, "provider": "anthropic"}),
        ("gpt-oss-120b", {"provider": "cerebras"}, {"provider": "cerebras"}),
        # What was evaluated counts for a report that does not say.
        ("gpt-oss-120b", {"provider": "cerebras"}, {}),
    ],
)
def test_calls_that_use_no_more_than_they_hold_stay_within_their_budget(
    priced: Api, model: str, asked: dict[str, Any], reported: dict[str, Any]
) -> None:
    call: dict[str, Any] = {"model": model, "input_tokens": TOKENS, "max_output_tokens": 1000, **asked}
    one = Decimal(priced.evaluate(**call, dry_run=True)["estimated_cost_usd"])
    apply_policies(priced.environment, monthly(one * 10))

    decisions = [priced.evaluate(**call) for _ in range(11)]

    assert allowed(decisions) == 10
    for decision in decisions[:10]:
        answer = priced.report(
            decision["request_id"], model=model, input_tokens=TOKENS, output_tokens=1000, **reported
        )
        assert answer.status == 201
    state = priced.evaluate(model=model, dry_run=True)["limit_state"][0]
    assert Decimal(state["used"]) <= one * 10
    assert_settled(priced.environment)


def test_a_call_is_priced_by_the_provider_that_will_be_called(priced: Api) -> None:
    call: dict[str, Any] = {"model": "gpt-oss-120b", "input_tokens": TOKENS, "dry_run": True, "explain": True}

    cost = {}
    for provider in ("openai", "cerebras"):
        said = priced.evaluate(**call, provider=provider)
        assert said["trace"]["price"]["provider"] == provider
        cost[provider] = Decimal(said["estimated_cost_usd"])
    unnamed, unknown = priced.evaluate(**call), priced.evaluate(**call, provider="nobody")

    assert cost["openai"] < cost["cerebras"] <= Decimal(unnamed["estimated_cost_usd"]), "it may go to either"
    assert unknown["estimated_cost_usd"] is None


def test_another_provider_is_another_call(priced: Api) -> None:
    priced.evaluate(request_id="r-1", provider="openai")
    body = {"request_id": "r-1", "user_id": "user_1", "model": "test-model", "input_tokens": 1}

    answer = priced.post("/v1/evaluate", {**body, "max_output_tokens": 0, "provider": "azure"})

    assert_problem(answer, 409, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize("provider", ["", "p" * 256, 7, "with\0null"])
def test_a_bad_provider_is_refused_by_name(api: Api, provider: object) -> None:
    body = {"user_id": "user_1", "model": "test-model", "provider": provider}

    assert_problem(api.post("/v1/evaluate", body), 422, "VALIDATION_ERROR", field="provider")


# A report finds the plan of its call, hold or no hold


PLANS = """
plans: [free, pro]
policies:
  - name: Pro
    scope: {plan: pro}
    unknown_price: allow
    limits:
      - {metric: requests, window: month, amount: 100, per: plan}
      - {metric: requests, window: month, amount: 100, per: user_feature}
"""


def used_by_plan(api: Api) -> int:
    found: int = api.evaluate(dry_run=True)["limit_state"][0]["used"]
    return found


@pytest.fixture
def on_pro(api: Api, environment: Environment) -> Api:
    """user_1 has the plan pro, which is stored."""
    apply_policies(environment, PLANS)
    set_end_user(environment, "user_1", plan_name="pro", blocked=False, actor="test")
    return api


class TestLateReports:
    def test_one_without_an_evaluate_is_charged_to_the_stored_plan(self, on_pro: Api) -> None:
        assert on_pro.report("r-1").status == 201
        assert on_pro.report("r-2", plan="free").status == 201
        assert on_pro.report("r-3", user="user_2", plan="free").status == 201

        rows = {row.request_id: row.plan for row in ledger(on_pro.environment)}
        assert rows == {"r-1": "pro", "r-2": "pro", "r-3": "free"}
        assert used_by_plan(on_pro) == 2
        assert_settled(on_pro.environment)

    def test_the_plan_is_the_one_stored_now_whatever_the_store_knew_before(
        self, on_pro: Api, environment: Environment
    ) -> None:
        for plan in ("pro", "free", None):
            set_end_user(environment, "user_1", plan_name=plan, blocked=False, actor="test")
            assert on_pro.report(f"first-{plan}", plan="other").status == 201
            # Now the store knows it.
            on_pro.evaluate(dry_run=True)
            assert on_pro.report(f"then-{plan}", plan="other").status == 201

        rows = {row.request_id: row.plan for row in ledger(environment)}
        stored = {"pro": "pro", "free": "free", None: "other"}
        assert rows == {f"{when}-{plan}": name for when in ("first", "then") for plan, name in stored.items()}

    def test_a_batch_asks_once_for_all(self, on_pro: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[list[str]] = []

        def counted(environment_id: int, user_ids: Sequence[str]) -> dict[str, str]:
            asked.append(list(user_ids))
            return end_users.plans_of(environment_id, user_ids)

        monkeypatch.setattr(stored_plans, "_lookups", [counted])
        held = on_pro.evaluate("user_3")["request_id"]
        events = [
            {"request_id": request_id, "user_id": user, "model": "m", "input_tokens": 1, "output_tokens": 0}
            for request_id, user in [
                ("r-1", "user_1"),
                ("r-2", "user_2"),
                (held, "user_3"),
                ("r-4", "user_1"),
            ]
        ]

        answer = on_pro.post("/v1/usage/batch", {"events": events})

        assert {result["status"] for result in answer.json["results"]} == {"recorded"}
        assert asked == [["user_1", "user_2"]]
        assert [row.plan for row in ledger(on_pro.environment, request_id__startswith="r-")].count("pro") == 2

    @pytest.mark.parametrize("swept", [True, False])
    def test_one_of_an_expired_hold_is_charged_as_evaluated(self, on_pro: Api, *, swept: bool) -> None:
        request_id = on_pro.evaluate(feature="chat", run_id="run-7")["request_id"]
        later(milliseconds=HOLD_MS + 1)
        if swept:
            assert expiry.settle_expired(on_pro.environment) == (1, 0)
        set_end_user(on_pro.environment, "user_1", plan_name="free", blocked=False, actor="test")

        answer = on_pro.report(request_id)

        assert answer.status == 201
        (row,) = ledger(on_pro.environment)
        assert (row.plan, row.feature, row.run_id) == ("pro", "chat", "run-7")
        assert_settled(on_pro.environment)
        if swept:
            assert answer.json["limit_state"] == []

    def test_one_long_after_its_hold_takes_the_stored_plan(self, on_pro: Api) -> None:
        request_id = on_pro.evaluate(feature="chat")["request_id"]
        later(milliseconds=HOLD_MS + 1)
        expiry.settle_expired(on_pro.environment)
        store.client.delete(reservation_key(on_pro.environment.pk, request_id))

        assert on_pro.report(request_id).status == 201

        (row,) = ledger(on_pro.environment)
        assert (row.plan, row.feature) == ("pro", "")
        assert_settled(on_pro.environment)

    def test_an_expired_hold_of_another_user_says_nothing(self, on_pro: Api) -> None:
        request_id = on_pro.evaluate(feature="chat")["request_id"]
        later(milliseconds=HOLD_MS + 1)
        expiry.settle_expired(on_pro.environment)

        assert on_pro.report(request_id, user="user_2").status == 201

        (row,) = ledger(on_pro.environment)
        assert (row.user_id, row.plan, row.feature) == ("user_2", "", "")

    def test_one_whose_hold_cannot_be_read_takes_the_stored_plan(self, on_pro: Api) -> None:
        request_id = on_pro.evaluate(feature="chat")["request_id"]
        key = reservation_key(on_pro.environment.pk, request_id)
        store.client.hset(key, "as", b"spoilt")

        assert on_pro.report(request_id).status == 201

        (row,) = ledger(on_pro.environment)
        assert row.plan == "pro"
        assert_settled(on_pro.environment)

    def test_one_while_the_store_is_away_takes_the_stored_plan(
        self, on_pro: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request_id = on_pro.evaluate()["request_id"]
        with monkeypatch.context() as patched:
            patched.setattr(CounterStore, "run", _away)
            assert on_pro.report(request_id).status == 201

        assert [row.plan for row in ledger(on_pro.environment)] == ["pro"]
        assert used_by_plan(on_pro) == 1
        assert_settled(on_pro.environment)


def _away(*_: object) -> None:
    raise StoreUnavailable("the test says so")
