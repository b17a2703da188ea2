"""Many processes on one environment: what all of them hold to, whoever of them is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policies.end_users import set_end_user
from tenants import freezing
from tenants.models import ApiKey, Environment
from tenants.scopes import PRESETS
from tokvigil_site.testing import (
    Answer,
    Api,
    allowed,
    apply_policies,
    assert_settled,
    at_once,
    ledger,
    limits,
    new_request_id,
    set_price,
)
from tokvigil_site.tests.servers import WebApi, WebProcess, manage, session_variables, web_processes
from usage.ledger import expected_output

PROCESSES = 8
CALLERS = 32
Decision = dict[str, Any]


@pytest.fixture(scope="module")
def variables(django_db_setup: None) -> dict[str, str]:
    return session_variables()


@pytest.fixture(scope="module")
def processes(
    variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[WebProcess]]:
    with web_processes(PROCESSES, tmp_path_factory.mktemp("web"), variables) as started:
        yield started


@pytest.fixture
def apis(api: Api, processes: list[WebProcess]) -> list[WebApi]:
    """One API key, used through each process."""
    return [WebApi(api, process.port) for process in processes]


def evaluate_at_once(apis: list[WebApi], count: int, **fields: Any) -> list[Decision]:
    return at_once(count, lambda number: apis[number % len(apis)].evaluate(**fields), CALLERS)


def report_allowed(apis: list[WebApi], decisions: list[Decision], **fields: Any) -> None:
    passed = [decision for decision in decisions if decision["allowed"]]
    answers = at_once(
        len(passed),
        lambda number: apis[number % len(apis)].report(passed[number]["request_id"], **fields),
        CALLERS,
    )
    assert {answer.status for answer in answers} == {201}


def test_a_budget_lets_exactly_its_amount_pass_in_8_processes(
    apis: list[WebApi], environment: Environment
) -> None:
    set_price("test-model", input_usd="1000")
    apply_policies(environment, limits('{metric: cost_usd, window: month, amount: "5.00", per: environment}'))

    decisions = evaluate_at_once(apis, 1000, input_tokens=100)

    assert {decision["estimated_cost_usd"] for decision in decisions} == {"0.10"}
    assert allowed(decisions) == 50
    report_allowed(apis, decisions, input_tokens=100)
    assert len(ledger(environment)) == 50
    # A call in between: had a report gone unanswered, the counter would be rebuilt by it.
    assert not apis[0].evaluate(input_tokens=100)["allowed"]
    assert assert_settled(environment).complete == 1


def test_a_token_limit_lets_only_whole_calls_pass(apis: list[WebApi], environment: Environment) -> None:
    apply_policies(environment, limits("{metric: tokens, window: day, amount: 500, per: environment}"))

    decisions = evaluate_at_once(apis, 20, input_tokens=50, max_output_tokens=25)

    assert allowed(decisions) == 6
    report_allowed(apis, decisions, input_tokens=50, output_tokens=25)
    assert_settled(environment)


def test_a_published_policy_binds_the_very_next_call_in_each_process(
    apis: list[WebApi], environment: Environment, variables: dict[str, str], tmp_path: Path
) -> None:
    for amount in range(3):
        apply_policies(
            environment, limits(f"{{metric: requests, window: day, amount: {amount}}}", name=f"No {amount}")
        )
        decisions = [each.evaluate(dry_run=True) for each in apis[:3]]
        assert [decision["allowed"] for decision in decisions] == [amount > 0] * 3
        assert {decision["policy"]["name"] for decision in decisions} == {f"No {amount}"}

    file = tmp_path / "policies.yaml"
    file.write_text(
        "version: 1\n" + limits("{metric: requests, window: day, amount: 0}", name="From a command")
    )
    manage("apply_policies", str(environment), str(file), variables=variables)

    blocked = [each.evaluate() for each in apis[:3]]
    assert [(decision["allowed"], decision["policy"]["name"]) for decision in blocked] == [
        (False, "From a command")
    ] * 3


def test_a_revoked_key_is_refused_on_its_next_call_in_each_process(
    apis: list[WebApi], environment: Environment
) -> None:
    api = Api(environment)
    others = [WebApi(api, each.port) for each in apis[:3]]
    assert allowed(each.evaluate() for each in others) == 3

    api.key.revoke()

    body = {"user_id": "user_1", "model": "test-model"}
    assert [each.post("/v1/evaluate", body).status for each in others] == [401] * 3
    assert [each.report(new_request_id()).status for each in others] == [401] * 3
    assert allowed(each.evaluate() for each in apis[:3]) == 3


def test_a_new_key_is_known_on_its_first_call(apis: list[WebApi], environment: Environment) -> None:
    assert allowed(each.evaluate() for each in apis[:3]) == 3
    key, text = ApiKey.issue(environment, "new", PRESETS["server"])

    for each in apis[:3]:
        each.key, each.text = key, text
        assert each.evaluate()["allowed"]


def test_a_freeze_binds_the_very_next_call_in_each_process(
    apis: list[WebApi], environment: Environment
) -> None:
    assert allowed(each.evaluate() for each in apis[:3]) == 3

    freezing.freeze(environment, actor="test")
    assert [each.evaluate()["reason_code"] for each in apis[:3]] == ["ENVIRONMENT_FROZEN"] * 3

    freezing.unfreeze(environment, actor="test")
    assert allowed(each.evaluate() for each in apis[:3]) == 3


PLANS = """
plans: [free, pro]
policies:
  - {name: Free, scope: {plan: free}, unknown_price: allow, limits: [{metric: requests, window: day, amount: 0}]}
  - {name: Pro, scope: {plan: pro}, unknown_price: allow}
"""


def test_a_change_of_plan_binds_the_very_next_call_in_each_process(
    apis: list[WebApi], environment: Environment
) -> None:
    apply_policies(environment, PLANS)
    assert [each.evaluate(plan="pro")["policy"]["name"] for each in apis[:3]] == ["Pro"] * 3

    for plan in ("Free", "Pro", "Free"):
        set_end_user(environment, "user_1", plan_name=plan.lower(), blocked=False, actor="test")
        assert [each.evaluate(plan="pro")["policy"]["name"] for each in apis[:3]] == [plan] * 3


def test_users_with_limits_of_their_own_never_deny_each_other(
    apis: list[WebApi], environment: Environment
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))

    first = at_once(500, lambda number: apis[number % PROCESSES].evaluate(f"user_{number}"), CALLERS)
    second = at_once(50, lambda number: apis[number % PROCESSES].evaluate(f"user_{number}"), CALLERS)

    assert (allowed(first), allowed(second)) == (500, 0)


def test_a_burst_of_small_calls_passes_under_a_large_budget_on_a_cold_start(
    apis: list[WebApi], environment: Environment
) -> None:
    apply_policies(
        environment, limits(f"{{metric: tokens, window: day, amount: {20_000 * 40}, per: environment}}")
    )

    decisions = evaluate_at_once(apis, 200, input_tokens=20, max_output_tokens=None, feature="chat")

    assert allowed(decisions) == 200
    report_allowed(apis, decisions, input_tokens=20, output_tokens=20, feature="chat")
    assert_settled(environment)


def test_a_burst_of_small_calls_holds_what_such_calls_used(
    apis: list[WebApi], environment: Environment
) -> None:
    apply_policies(
        environment, limits(f"{{metric: tokens, window: day, amount: {1_000 * 40}, per: environment}}")
    )
    # Each process learns that there is no history, which it believes for a moment.
    assert {
        each.evaluate(feature="chat", max_output_tokens=None, dry_run=True)["allowed"] for each in apis
    } == {True}
    for turn in range(expected_output.SAMPLE_MIN):
        apis[turn % PROCESSES].use(input_tokens=20, max_output_tokens=20, feature="chat")
    time.sleep(expected_output.ABSENCE_KEPT_S)

    decisions = evaluate_at_once(apis, 200, input_tokens=20, max_output_tokens=None, feature="chat")

    assert allowed(decisions) == 200
    assert {decision["reserved"]["output_tokens"] for decision in decisions} == {expected_output.EXPECTED_MIN}


def test_a_report_sent_ten_times_at_once_is_one_row_and_one_charge(
    apis: list[WebApi], other_api: Api, environment: Environment
) -> None:
    apply_policies(environment, limits("{metric: tokens, window: day, amount: 100, per: user}"))
    request_id = apis[0].evaluate(request_id="same", input_tokens=30)["request_id"]
    assert other_api.report(request_id, input_tokens=7).status == 201

    answers = at_once(10, lambda number: apis[number % PROCESSES].report(request_id, input_tokens=30))

    assert sorted(answer.status for answer in answers) == [200] * 9 + [201]
    assert sorted(answer.json["duplicate"] for answer in answers) == [False] + [True] * 9
    assert len({(answer.json["cost_usd"], answer.json["priced"]) for answer in answers}) == 1
    other_body = apis[3].report(request_id, input_tokens=31)
    assert (other_body.status, other_body.json["code"]) == (409, "IDEMPOTENCY_CONFLICT")
    assert [row.amounts.input_tokens for row in ledger(environment)] == [30]
    assert [row.amounts.input_tokens for row in ledger(other_api.environment)] == [7]
    assert_settled(environment)
    assert apis[1].evaluate(dry_run=True)["limit_state"][0]["used"] == 30


def event(**fields: Any) -> dict[str, Any]:
    body = {
        "request_id": new_request_id(),
        "user_id": "user_1",
        "model": "test-model",
        "input_tokens": 2,
        "output_tokens": 1,
    }
    return body | fields


def send_batch(api: Api, events: list[dict[str, Any]]) -> Answer:
    answer = api.post("/v1/usage/batch", {"events": events})
    assert answer.status == 200, answer
    return answer


def test_a_batch_with_one_bad_event_records_all_others_once(
    apis: list[WebApi], environment: Environment
) -> None:
    apply_policies(environment, limits("{metric: tokens, window: day, amount: 100000, per: environment}"))
    events = [event() for _ in range(500)]
    events[250]["input_tokens"] = -1

    # Four processes get the same batch at once: what one records is a duplicate to the others.
    answers = at_once(4, lambda number: send_batch(apis[number], events))

    results = [answer.json["results"] for answer in answers]
    for result in results:
        bad = [entry for entry in result if entry["status"] == "invalid"]
        assert [(entry["request_id"], entry["error"]["errors"][0]["field"]) for entry in bad] == [
            (events[250]["request_id"], "input_tokens")
        ]
        assert [entry["request_id"] for entry in result] == [sent["request_id"] for sent in events]
    counts = count_statuses(results)
    assert counts == {"recorded": 499, "duplicate": 3 * 499, "invalid": 4}
    assert len(ledger(environment)) == 499
    assert_settled(environment)


def count_statuses(results: list[list[dict[str, Any]]]) -> dict[str, int]:
    statuses = [entry["status"] for result in results for entry in result]
    return {status: statuses.count(status) for status in set(statuses)}
