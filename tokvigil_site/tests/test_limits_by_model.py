"""Limits that count calls to some models only: a budget for those that are dear, and the others are free of it."""

from __future__ import annotations

import time
from datetime import datetime
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command

from policies import budgets, policy_rows
from policies.changing import over_now, publishing
from policies.files import policy_file
from policies.files.file_errors import PolicyFileError
from policies.models import Limit
from policies.policy_rows import policy_set
from policies.standing.standings import standings
from tenants.models import Environment
from tokvigil_site.testing import (
    Api,
    allowed,
    apply_policies,
    assert_settled,
    at_once,
    later,
    limits,
    set_price,
)
from tokvigil_site.tests.test_policy_replay import simulated
from usage.counting import inspection
from usage.counting.distrust import distrust
from usage.counting.store import store
from usage.models import TrackedPair
from usage.money import NANO
from usage.prices.models import ModelPrice
from usage.settling import expiry, recount
from usage.tests.rolling import roll_all

pytestmark = pytest.mark.django_db(transaction=True)

PREMIUM = (
    '{metric: cost_usd, window: month, amount: "100", per: environment, models: [gpt-5*, "claude-opus-*"]}'
)
ALL_MODELS = '{metric: cost_usd, window: month, amount: "1000", per: environment}'
# Of PREMIUM a call with so much input costs a dollar.
A_DOLLAR = 100_000


@pytest.fixture(autouse=True)
def prices(environment: Environment) -> None:
    for model in ("gpt-5", "gpt-5-mini", "claude-opus-4-8", "gpt-4o-mini"):
        set_price(model, input_usd="10", output_usd="20")


def spend(
    api: Api, model: str, dollars: int, user: str = "ann", answered: str | None = None
) -> dict[str, Any]:
    """Evaluates and, if it is allowed, reports a call; again where the counters are not heard in time."""
    for _ in range(50):
        decision = api.evaluate(user, model, input_tokens=dollars * A_DOLLAR, max_output_tokens=0)
        if not decision["degraded"]:
            break
        time.sleep(0.1)
    if decision["allowed"]:
        answer = api.report(decision["request_id"], user, answered or model, input_tokens=dollars * A_DOLLAR)
        assert answer.status == 201, answer
    return decision


def state(api: Api, model: str | None = None) -> list[tuple[Any, Any]]:
    asked = "/v1/limits?user_id=ann" + (f"&model={model}" if model else "")
    return [(each.get("models"), each["used"]) for each in api.get(asked).json["limit_state"]]


def test_dear_models_have_a_budget_together_and_others_are_free_of_it(
    api: Api, environment: Environment
) -> None:
    apply_policies(environment, limits(PREMIUM))

    assert spend(api, "gpt-5-mini", 60)["allowed"]
    assert spend(api, "claude-opus-4-8", 39)["allowed"]
    assert spend(api, "gpt-4o-mini", 900)["allowed"]
    refused = spend(api, "gpt-5", 2)
    assert (refused["allowed"], refused["reason_code"]) == (False, "MONTHLY_BUDGET_EXCEEDED")
    assert "with claude-opus-* and gpt-5*" in refused["message"]
    (limit,) = refused["limit_state"]
    assert (limit["models"], limit["exceeded"]) == (["claude-opus-*", "gpt-5*"], True)
    assert Decimal(limit["used"]) == 99
    assert spend(api, "gpt-4o-mini", 900)["limit_state"] == []
    assert spend(api, "gpt-5", 1)["allowed"]
    assert_settled(environment)


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-5", "openai:gpt-5", "GPT-5", "gpt-5-2025-08-07", "azure/eu/gpt-5", "openrouter/openai/gpt-5:online",
        "ft:gpt-5:acme::x", "my-proxy/gpt-5", "us.anthropic.claude-opus-4-8-v1:0",
        "anthropic/claude-opus-4.8", "team-chat",
    ],
)  # fmt: skip
def test_another_spelling_does_not_get_round_it(api: Api, environment: Environment, model: str) -> None:
    ModelPrice.objects.filter(model="claude-opus-4-8").update(aliases=["claude-opus-4.8"])
    apply_policies(
        environment,
        limits("{metric: requests, window: day, amount: 1, per: user, models: [gpt-5, claude-opus-4-8]}")
        + "deployments: {team-chat: gpt-5}\n",
    )
    api.report("r-1", "ann", model)

    assert state(api) == [(["claude-opus-4-8", "gpt-5"], 1)]
    assert not api.evaluate("ann", "gpt-5")["allowed"]
    assert not api.evaluate("ann", model)["allowed"]
    assert api.evaluate("ann", "gpt-5-codex", dry_run=True)["allowed"], "another model"
    assert_settled(environment)


def test_the_model_that_answered_is_charged_and_the_hold_of_the_one_asked_for_ends(
    api: Api, environment: Environment
) -> None:
    apply_policies(environment, limits(PREMIUM, ALL_MODELS))

    spend(api, "gpt-5", 10, answered="gpt-4o-mini")
    assert {str(models): Decimal(used) for models, used in state(api)} == {
        "None": 10, "['claude-opus-*', 'gpt-5*']": 0,
    }  # fmt: skip
    spend(api, "gpt-4o-mini", 7, answered="gpt-5")
    assert {str(models): Decimal(used) for models, used in state(api)} == {
        "None": 17, "['claude-opus-*', 'gpt-5*']": 7,
    }  # fmt: skip
    assert_settled(environment)


def test_the_meter_names_all_limits_unless_a_model_is_named(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(PREMIUM))
    spend(api, "gpt-5", 10)

    assert [Decimal(used) for _, used in state(api)] == [10]
    assert [Decimal(used) for _, used in state(api, "claude-opus-9")] == [10]
    assert state(api, "gpt-4o-mini") == []


def test_a_thousand_parallel_callers_do_not_overshoot_it(api: Api, environment: Environment) -> None:
    apply_policies(
        environment, limits("{metric: requests, window: day, amount: 40, per: environment, models: [gpt-5*]}")
    )

    dear = at_once(150, lambda number: spend(api, "gpt-5", 0, user=f"u-{number}"))
    others = at_once(40, lambda number: spend(api, "gpt-4o-mini", 0, user=f"u-{number}"))

    assert (allowed(dear), allowed(others)) == (40, 40)
    assert_settled(environment)


def test_calls_at_once_are_counted_by_model_too(api: Api, environment: Environment) -> None:
    apply_policies(
        environment,
        limits(
            "{metric: concurrency, window: total, amount: 1, per: user, models: [gpt-5*]}",
            "{metric: concurrency, window: total, amount: 3, per: user}",
        ),
    )

    first = api.evaluate("ann", "gpt-5")
    assert api.evaluate("ann", "gpt-5")["reason_code"] == "CONCURRENCY_LIMIT_EXCEEDED"
    assert api.evaluate("ann", "gpt-4o-mini")["allowed"]
    assert api.evaluate("ann", "gpt-4o-mini")["allowed"]
    assert not api.evaluate("ann", "gpt-4o-mini")["allowed"]
    api.report(first["request_id"], "ann", "gpt-5")
    assert api.evaluate("ann", "gpt-5")["allowed"]


class TestCounters:
    def test_a_new_limit_begins_with_what_its_models_used(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits('{metric: cost_usd, window: month, amount: "9000", per: user}'))
        spend(api, "gpt-5", 99)
        spend(api, "gpt-4o-mini", 500)
        apply_policies(environment, limits(PREMIUM))

        assert [Decimal(used) for _, used in state(api)] == [99]
        assert not spend(api, "gpt-5", 2)["allowed"]

    @pytest.mark.parametrize("rolled", [False, True])
    @pytest.mark.parametrize("per", ["user", "user_feature", "feature", "plan", "environment", "run"])
    def test_an_emptied_store_is_filled_from_the_ledger(
        self, api: Api, environment: Environment, per: str, rolled: bool
    ) -> None:
        apply_policies(
            environment,
            limits(f"{{metric: requests, window: day, amount: 3, per: {per}, models: [gpt-5*]}}"),
        )
        of = {"feature": "chat", "plan": "free", "run_id": "run-1"}
        for model in ("gpt-5", "gpt-5-mini", "gpt-4o-mini"):
            decision = api.evaluate("ann", model, **of)
            api.report(decision["request_id"], "ann", model, **of)
        if rolled:
            roll_all(environment.pk)
        distrust(environment.pk)

        assert api.evaluate("ann", "gpt-5", dry_run=True, **of)["limit_state"][0]["used"] == 2
        assert_settled(environment)
        assert recount.rebuild(environment) == 1
        assert_settled(environment)

    def test_a_late_report_takes_back_the_estimate_of_another_model(
        self, api: Api, environment: Environment
    ) -> None:
        """The transaction of the report charges the limits unlike."""
        apply_policies(
            environment,
            limits(
                PREMIUM,
                '{metric: cost_usd, window: month, amount: "1000", per: environment}',
                on_unsettled="charge",
            ),
        )
        decision = api.evaluate("ann", "gpt-5", input_tokens=10 * A_DOLLAR, max_output_tokens=0)
        later(hours=1)
        expiry.settle_expired(environment)
        before = {str(models): Decimal(used) for models, used in state(api)}
        answer = api.report(decision["request_id"], "ann", "gpt-4o-mini", input_tokens=4 * A_DOLLAR)
        again = api.report(decision["request_id"], "ann", "gpt-4o-mini", input_tokens=4 * A_DOLLAR)

        assert (answer.status, again.status) == (201, 200)
        assert Decimal(again.json["cost_usd"]) == 4
        assert before == {"None": 10, "['claude-opus-*', 'gpt-5*']": 10}
        assert {str(models): Decimal(used) for models, used in state(api)} == {
            "None": 4, "['claude-opus-*', 'gpt-5*']": 0,
        }  # fmt: skip
        assert_settled(environment)

    def test_a_deployment_that_comes_to_mean_another_model_counts_with_that_from_the_ledger_on(
        self, api: Api, environment: Environment
    ) -> None:
        file = limits("{metric: requests, window: day, amount: 5, per: user, models: [gpt-5*]}")
        apply_policies(environment, file + "deployments: {team-chat: gpt-4o-mini}\n")
        api.report("r-1", "ann", "team-chat")
        api.report("r-2", "ann", "gpt-5")
        assert state(api) == [(["gpt-5*"], 1)]

        apply_policies(environment, file + "deployments: {team-chat: gpt-5}\n")
        assert state(api) == [(["gpt-5*"], 2)]
        assert_settled(environment)

    def test_what_calls_in_flight_hold_stays_whatever_names_come_to_mean(
        self, api: Api, environment: Environment
    ) -> None:
        file = limits(
            "{metric: concurrency, window: total, amount: 2, per: user, models: [gpt-5]}",
            "{metric: requests, window: day, amount: 5, per: user, models: [gpt-5]}",
        )
        apply_policies(environment, file)
        spend(api, "gpt-5", 0)
        held = [api.evaluate("ann", "gpt-5") for _ in range(2)]
        for number, deployments in enumerate(("{never-used: gpt-5}", "{never-used: gpt-4o-mini}", "{}")):
            apply_policies(environment, f"{file}deployments: {deployments}\n")
            refused = api.evaluate("ann", "gpt-5", request_id=f"r-{number}")
            assert refused["reason_code"] == "CONCURRENCY_LIMIT_EXCEEDED"
            assert [(each["used"], each["held"]) for each in refused["limit_state"]] == [(0, 2), (1, 2)]
        for decision in held:
            api.report(decision["request_id"], "ann", "gpt-5")
        assert state(api) == [(["gpt-5"], 0), (["gpt-5"], 3)]
        assert_settled(environment)

    def test_a_price_that_comes_later_is_charged_to_the_limits_of_its_model(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(environment, limits(PREMIUM, ALL_MODELS))
        for model in ("gpt-5-pro", "gpt-4.1"):
            spend(api, model, 3)
            set_price(model, input_usd="10", output_usd="20")
        call_command("reprice", str(environment), stdout=StringIO())

        assert {str(models): Decimal(used) for models, used in state(api)} == {
            "None": 6, "['claude-opus-*', 'gpt-5*']": 3,
        }  # fmt: skip
        assert_settled(environment)

    def test_counters_that_are_wrong_are_named_with_their_models(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(environment, limits(PREMIUM))
        spend(api, "gpt-5", 1)
        ((key, _),) = inspection.scan(environment.pk)
        store.client.hincrby(key, "ur", 3)

        (drift,) = recount.check(environment).drifts
        assert (drift.pair.models, drift.counted.requests, drift.recorded.requests) == (
            ("claude-opus-*", "gpt-5*"),
            4,
            1,
        )

    def test_a_pair_is_tracked_for_each_group_of_models(self, environment: Environment) -> None:
        apply_policies(
            environment, limits(PREMIUM, '{metric: cost_usd, window: month, amount: "1", per: environment}')
        )
        assert sorted(TrackedPair.objects.values_list("per", "window", "models")) == [
            ("environment", "month", []), ("environment", "month", ["claude-opus-*", "gpt-5*"]),
        ]  # fmt: skip
        apply_policies(
            environment, limits('{metric: cost_usd, window: month, amount: "1", per: environment}')
        )
        assert list(TrackedPair.objects.values_list("models", flat=True)) == [[]]


class TestFiles:
    def test_it_is_written_as_it_was_read(self, environment: Environment) -> None:
        text = limits(PREMIUM)
        apply_policies(environment, text)

        assert policy_file.parse("version: 1\n" + text) == policy_set(environment)
        assert policy_file.parse(policy_file.dump(policy_set(environment))) == policy_set(environment)
        assert Limit.objects.get().models == ["claude-opus-*", "gpt-5*"]

    def test_one_policy_has_limits_of_the_same_kind_for_several_models(
        self, environment: Environment
    ) -> None:
        row = "{{metric: requests, window: day, amount: {0}, per: user, models: [{1}]}}"
        apply_policies(environment, limits(row.format(1, "gpt-5"), row.format(2, "gpt-4o")))
        assert Limit.objects.count() == 2

    @pytest.mark.parametrize(
        ("models", "path", "says"),
        [
            ("[]", "policies[0].limits[0].models", "names none"),
            ("gpt-5", "policies[0].limits[0].models", "must be a list"),
            ("[gpt-5, gpt-5]", "policies[0].limits[0].models[1]", "listed twice"),
            ('["a,b"]', "policies[0].limits[0].models[0]", "holds a comma"),
            ("[1]", "policies[0].limits[0].models[0]", "must be a text"),
        ],
    )
    def test_what_is_wrong_is_named(self, models: str, path: str, says: str) -> None:
        with pytest.raises(PolicyFileError) as caught:
            policy_file.parse(
                "version: 1\n"
                + limits(f"{{metric: requests, window: day, amount: 1, per: user, models: {models}}}")
            )
        (error,) = caught.value.errors
        assert error.path == path
        assert says in error.message

    def test_the_same_models_in_another_order_are_the_same_limit(self) -> None:
        row = "{{metric: requests, window: day, amount: 1, per: user, models: [{0}]}}"
        with pytest.raises(PolicyFileError, match=r"is in policies\[0\].limits\[0\] too"):
            policy_file.parse("version: 1\n" + limits(row.format("a, b"), row.format("b, a")))


def test_a_model_that_is_not_counted_is_suggested(api: Api, environment: Environment) -> None:
    apply_policies(
        environment,
        limits(
            "{metric: requests, window: day, amount: 0, per: user, models: [gpt-5*]}",
            models="{allow: [gpt-5, gpt-5-mini, gpt-4o-mini]}",
        ),
    )
    refused = api.evaluate("ann", "gpt-5")
    assert (refused["allowed"], refused["suggested_model"]) == (False, "gpt-4o-mini")


def test_how_full_it_is_counts_its_models_alone(api: Api, environment: Environment) -> None:
    row = "{{metric: requests, window: day, amount: 10, per: {0}, models: [gpt-5*]}}"
    apply_policies(environment, limits(row.format("user"), row.format("environment")))
    for user, model, calls in (("ann", "gpt-5", 2), ("ben", "gpt-5-mini", 1), ("cat", "gpt-4o-mini", 4)):
        for _ in range(calls):
            spend(api, model, 0, user=user)
    api.evaluate("ben", "gpt-5")
    api.evaluate("cat", "gpt-4o-mini")
    roll_all(environment.pk)

    for _ in range(2):
        of_users, of_all = standings(environment)
        assert [(each.subject.user_id, each.used) for each in of_users.subjects] == [("ann", 2), ("ben", 1)]
        assert [each.used for each in of_all.subjects] == [3]
        distrust(environment.pk)


def test_a_month_is_closed_with_what_its_models_cost(api: Api, environment: Environment) -> None:
    apply_policies(
        environment, limits(PREMIUM, '{metric: cost_usd, window: month, amount: "500", per: user}')
    )
    spend(api, "gpt-5", 90)
    spend(api, "gpt-4o-mini", 300)

    month = datetime.now(ZoneInfo(environment.tenant.timezone)).date().replace(day=1)
    found = budgets.as_it_stands(environment, month)
    stood = [
        (each.per.value, each.models, each.spent_nano // NANO, each.amount_nano // NANO) for each in found
    ]
    assert sorted(stood) == [
        ("environment", ("claude-opus-*", "gpt-5*"), 90, 100), ("user", (), 390, 500),
    ]  # fmt: skip


def test_a_replay_counts_by_model_as_live_traffic_does(
    api: Api, environment: Environment, tmp_path: Path
) -> None:
    apply_policies(environment, limits('{metric: cost_usd, window: month, amount: "9000", per: user}'))
    for model in ("gpt-5", "gpt-4o-mini", "claude-opus-4-8", "gpt-4o-mini", "gpt-5"):
        spend(api, model, 40)

    calls = simulated(environment, tmp_path, limits(PREMIUM))["calls"]
    assert (calls["replayed"], calls["newly_blocked"], calls["unchanged"]) == (5, 1, 4)


def test_a_change_names_who_is_over_it_by_these_models(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits('{metric: cost_usd, window: month, amount: "9000", per: user}'))
    spend(api, "gpt-5", 99, user="ann")
    spend(api, "gpt-4o-mini", 200, user="ben")
    text = limits('{metric: cost_usd, window: month, amount: "50", per: user, models: [gpt-5*]}')
    target = policy_file.parse("version: 1\n" + text)
    changes = publishing.plan_changes(environment, target)
    (over,) = over_now.of(environment, changes, policy_rows.supposed(environment.pk, target.policies))
    assert (over.says, over.who) == ("$50.00 a month with gpt-5*, each user", ("ann",))
