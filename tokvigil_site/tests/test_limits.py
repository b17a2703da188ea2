"""`GET /v1/limits`: the usage meter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from policies.end_users import set_end_user
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, ledger, limits, set_clock, set_price
from tokvigil_site.tests.callers import assert_problem, caller_with
from usage.counting import blocked_stream
from usage.counting.reservations import open_count
from usage.counting.store import CounterStore, StoreUnavailable

DAILY_3 = "{metric: requests, window: day, amount: 3, per: user}"
FILE = """
plans: [free, pro]
policies:
  - name: Free plan
    scope: {plan: free}
    models: {allow: ["small-*"]}
    unknown_price: allow
    limits:
      - {metric: requests, window: day, amount: 3, per: user}
  - name: Everyone together
    kind: guardrail
    unknown_price: allow
    limits:
      - {metric: tokens, window: month, amount: 1000, per: environment}
      - {metric: requests, window: day, amount: 10, per: feature}
"""


def meter(api: Api, **query: str) -> Any:
    answer = api.get(f"/v1/limits?{urlencode(query)}")
    assert answer.status == 200, answer
    return answer.json


def test_it_says_what_is_used_held_and_left_and_until_when(api: Api, environment: Environment) -> None:
    set_clock(datetime(2026, 11, 23, 12, tzinfo=UTC))
    apply_policies(environment, limits(DAILY_3))
    api.use("anna")
    api.evaluate("anna")

    found = meter(api, user_id="anna")

    assert found["limit_state"] == [
        {
            "policy": "Everyone",
            "metric": "requests",
            "window": "day",
            "per": "user",
            "limit": 3,
            "used": 1,
            "held": 1,
            "remaining": 1,
            "resets_at": "2026-11-23T23:00:00Z",
            "exceeded": False,
        }
    ]
    assert found["blocked"] is None


def test_reading_it_holds_and_records_nothing(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 0, per: user}"))
    for _ in range(3):
        meter(api, user_id="anna")

    assert open_count(environment.pk) == 0
    assert blocked_stream.blocked(environment.pk, 10) == []
    assert ledger(environment) == []
    assert meter(api, user_id="anna")["limit_state"][0]["held"] == 0


def test_exceeded_means_that_no_further_call_fits(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: tokens, window: day, amount: 100, per: user}"))
    api.evaluate("anna", input_tokens=99)

    (nearly,) = meter(api, user_id="anna")["limit_state"]
    assert (nearly["remaining"], nearly["exceeded"]) == (1, False)
    assert api.evaluate("anna", input_tokens=1, dry_run=True)["allowed"]

    api.evaluate("anna", input_tokens=1)

    (full,) = meter(api, user_id="anna")["limit_state"]
    assert (full["remaining"], full["exceeded"]) == (0, True)
    assert not api.evaluate("anna", input_tokens=1, dry_run=True)["allowed"]


@pytest.mark.parametrize(
    "metric", ["requests", "tokens", "input_tokens", "output_tokens", "cost_usd", "concurrency"]
)
def test_a_limit_of_0_is_exceeded_from_the_start(api: Api, environment: Environment, metric: str) -> None:
    window = "total" if metric == "concurrency" else "day"
    apply_policies(environment, limits(f"{{metric: {metric}, window: {window}, amount: 0, per: user}}"))

    (state,) = meter(api, user_id="anna")["limit_state"]

    assert state["exceeded"] is True


def test_money_is_a_decimal_string(api: Api, environment: Environment) -> None:
    set_price("test-model", input_usd="1000")
    apply_policies(environment, limits('{metric: cost_usd, window: month, amount: "2.50", per: user}'))
    api.evaluate("anna", input_tokens=1000)

    (state,) = meter(api, user_id="anna")["limit_state"]

    assert (state["limit"], state["used"], state["held"], state["remaining"]) == (
        "2.50",
        "0.00",
        "1.00",
        "1.50",
    )


def test_the_override_comes_first_and_the_guardrails_after_it(api: Api, environment: Environment) -> None:
    apply_policies(environment, FILE)

    found = meter(api, user_id="anna", plan="free", feature="chat")

    assert [(policy["name"], policy["kind"], policy["mode"]) for policy in found["policies"]] == [
        ("Free plan", "override", "enforce"),
        ("Everyone together", "guardrail", "enforce"),
    ]
    assert [(state["per"], state["metric"]) for state in found["limit_state"]] == [
        ("user", "requests"),
        ("environment", "tokens"),
        ("feature", "requests"),
    ]
    assert found["plan"] == "free"


def test_limits_of_subjects_that_are_not_named_are_left_out(api: Api, environment: Environment) -> None:
    apply_policies(environment, FILE)

    found = meter(api, plan="free")

    assert found["user_id"] is None
    assert [state["per"] for state in found["limit_state"]] == ["environment"]
    assert [policy["name"] for policy in found["policies"]] == ["Free plan", "Everyone together"]


def test_a_stored_plan_wins_over_the_one_that_is_asked_for(api: Api, environment: Environment) -> None:
    apply_policies(environment, FILE)
    set_end_user(environment, "anna", plan_name="free", blocked=False, actor="test")

    found = meter(api, user_id="anna", plan="pro")

    assert found["plan"] == "free"
    assert found["policies"][0]["name"] == "Free plan"


def test_what_blocks_every_call_is_said(api: Api, environment: Environment) -> None:
    apply_policies(environment, FILE)
    set_end_user(environment, "anna", plan_name=None, blocked=True, actor="test")

    assert meter(api, user_id="anna")["blocked"]["reason_code"] == "USER_BLOCKED"
    assert meter(api, user_id="ben")["blocked"] is None


def test_a_model_is_judged_only_if_it_is_named(api: Api, environment: Environment) -> None:
    apply_policies(environment, FILE)

    assert meter(api, user_id="ben", plan="free")["blocked"] is None
    assert meter(api, user_id="ben", plan="free", model="small-1")["blocked"] is None
    refused = meter(api, user_id="ben", plan="free", model="large-1")["blocked"]
    assert (refused["reason_code"], refused["reason_class"]) == ("MODEL_NOT_ALLOWED", "forbidden")


def test_without_policies_nothing_is_limited(api: Api) -> None:
    found = meter(api, user_id="anna")

    assert (found["policies"], found["limit_state"], found["blocked"]) == ([], [], None)


def test_another_tenants_use_does_not_show(api: Api, environment: Environment, other_api: Api) -> None:
    for each in (environment, other_api.environment):
        apply_policies(each, limits(DAILY_3))
    api.use("anna")

    assert meter(other_api, user_id="anna")["limit_state"][0]["used"] == 0


def test_its_calls_count_against_the_keys_rate_once(environment: Environment) -> None:
    api = caller_with(environment, "usage:read")
    type(api.key).objects.filter(pk=api.key.pk).update(requests_per_minute=2)
    from tenants import revisions

    revisions.bump(environment.pk)

    statuses = [api.get("/v1/limits").status for _ in range(4)]

    assert statuses.count(200) >= 2
    assert statuses[-1] == 429


def test_without_counters_it_says_so_rather_than_guess(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits(DAILY_3, on_unavailable="allow"))

    def away(*args: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(CounterStore, "run", away)

    answer = api.get("/v1/limits?user_id=anna")

    assert_problem(answer, 503, "UNAVAILABLE")
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("field", ["user_id", "plan", "feature", "model", "run_id"])
@pytest.mark.parametrize("value", ["", "a%00b", "a" * 256])
def test_a_bad_parameter_is_refused_by_name(api: Api, field: str, value: str) -> None:
    assert_problem(api.get(f"/v1/limits?{field}={value}"), 422, "VALIDATION_ERROR", field=field)


def test_limits_reads_no_query_of_strangers(api: Api, environment: Environment) -> None:
    stranger = Api(environment)
    stranger.text = stranger.text[:-4] + "AAAA"

    assert_problem(stranger.get("/v1/limits?surprise=1"), 401, "INVALID_API_KEY")
