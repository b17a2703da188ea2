"""What the SDK asks and reports, against the application. The ledger is the judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import tokvigil
from tokvigil import TokVigil, Usage, UsageEvent, quantities

from policies.api import reservations
from policies.deciding import evaluate_answer
from sdk.python.tests.wire_provider import WireProvider
from tenants.models import Environment
from tokvigil_site.testing import (
    Api,
    apply_policies,
    assert_settled,
    at_once,
    ledger,
    limits,
    new_request_id,
    set_price,
)
from tokvigil_site.tests.callers import caller_with
from tokvigil_site.tests.python_sdk import DAILY_3, MODEL, Call
from usage import limit_state
from usage.quantities import MAPPED
from usage.settling import recount, usage_report


def test_the_sdk_reads_every_field_and_may_send_every_field() -> None:
    for answer, value in (
        (evaluate_answer.EvaluateAnswer, tokvigil.Decision),
        (evaluate_answer.PolicyAnswer, tokvigil.PolicyRef),
        (limit_state.LimitState, tokvigil.LimitState),
        (usage_report.UsageReceipt, tokvigil.Receipt),
    ):
        assert set(answer.__struct_fields__) == {field.name for field in fields(value)}
    # Batches of the provider's own are not among what the SDK calls, and other models' shares are reports of their own.
    reported = {field.name for field in fields(tokvigil.UsageEvent)} - {"usage"}
    reported |= {field.name for field in fields(Usage)} - {"source", "doubtful", "other_models"}
    assert reported == set(usage_report.UsageReport.__struct_fields__) - {"batch"}
    assert set(MAPPED) == quantities.NAMES


def test_an_allowed_call_is_told_what_is_held_for_it(client: TokVigil, environment: Environment) -> None:
    set_price(MODEL, input_usd="1", output_usd="4")
    budget = '{metric: cost_usd, window: month, amount: "5.00", per: user}'
    apply_policies(environment, limits(DAILY_3, budget, per_request="{output_tokens: 200}"))

    decision = client.evaluate(
        user_id="anna",
        model=MODEL,
        feature="chat",
        plan="free",
        input_tokens=1_000,
        request_id="r-1",
        run_id="run-1",
        metadata={"trace": "t"},
        explain=True,
    )

    assert (decision.request_id, decision.allowed, decision.degraded) == ("r-1", True, False)
    assert (decision.reason_code, decision.reason_class) == ("ALLOWED", "allowed")
    assert decision.policy is not None
    assert (decision.policy.name, decision.policy.version, decision.policy.scope) == (
        "Everyone",
        1,
        "default",
    )
    assert decision.max_output_tokens == 200
    assert decision.estimated_cost_usd == Decimal("0.0018")
    assert decision.reserved == {
        "requests": 1,
        "input_tokens": 1_000,
        "output_tokens": 200,
        "cost_usd": "0.0018",
    }
    assert decision.expires_at is not None
    assert timedelta(minutes=9) < decision.expires_at - datetime.now(UTC) <= timedelta(minutes=10)
    assert (decision.retry_after, decision.shadow, decision.suggested_model) == (None, None, None)
    assert decision.trace["plan"] == "free"
    assert decision.trace["price"]["model"] == MODEL
    requests, cost = decision.limit_state
    assert (requests.limit, requests.used, requests.held, requests.remaining) == (3, 0, 1, 2)
    assert (cost.metric, cost.window, cost.per, cost.policy) == ("cost_usd", "month", "user", "Everyone")
    assert (cost.limit, cost.held, cost.remaining) == (Decimal(5), Decimal("0.0018"), Decimal("4.9982"))


def test_a_block_says_who_what_and_until_when(
    client: TokVigil, chat: Call, provider: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))
    chat("anna")
    client.flush()

    with pytest.raises(tokvigil.AIUsageBlockedError) as block:
        chat("anna")

    decision = client.evaluate(user_id="anna", model=MODEL)
    assert not decision.allowed
    for error in (block.value, decision):
        assert (error.reason_code, error.reason_class) == ("DAILY_REQUEST_LIMIT_EXCEEDED", "exhausted")
        assert error.message.startswith("Daily request limit of 1 reached for user anna")
        assert 0 < (error.retry_after or 0) <= 25 * 3600
        (state,) = error.limit_state
        assert (state.policy, state.metric, state.window, state.per) == (
            "Everyone",
            "requests",
            "day",
            "user",
        )
        assert (state.limit, state.used, state.held, state.remaining) == (1, 1, 0, 0)
        assert state.exceeded
        assert state.resets_at is not None
        assert state.resets_at > datetime.now(UTC)
    assert (decision.reserved, decision.expires_at, decision.max_output_tokens) == (None, None, None)
    assert len(provider.seen) == 1
    assert [row.user_id for row in ledger(environment)] == ["anna"]


def test_a_block_for_the_model_suggests_one_that_is_allowed(
    client: TokVigil, environment: Environment
) -> None:
    set_price(MODEL)
    apply_policies(environment, f"policies: [{{name: Small ones, models: {{allow: [{MODEL}]}}}}]")

    suggested = client.evaluate(user_id="anna", model="gpt-4o").suggested_model

    assert suggested == MODEL
    assert client.evaluate(user_id="anna", model=suggested).allowed


def test_a_policy_on_trial_says_what_it_would_have_done(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 0}", mode="monitor"))

    decision = client.evaluate(user_id="anna", model=MODEL)

    assert decision.allowed
    assert decision.shadow is not None
    assert decision.shadow["allowed"] is False
    assert decision.shadow["policy"]["name"] == "Everyone"


def test_a_dry_run_holds_nothing(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_3))

    assert client.evaluate(user_id="anna", model=MODEL, dry_run=True).expires_at is None

    assert_settled(environment)


def report(client: TokVigil, request_id: str, **changes: Any) -> tokvigil.Receipt:
    """Parts of the usage and everything else that an event says may be changed."""
    counts: dict[str, Any] = {"input_tokens": 1_200, "output_tokens": 90}
    said: dict[str, Any] = {"user_id": "anna", "model": MODEL}
    for name, value in changes.items():
        (counts if name.endswith("_tokens") else said)[name] = value
    return client.report_now(UsageEvent(request_id=request_id, usage=Usage(**counts), **said))


def test_usage_is_recorded_once_with_all_that_was_said(client: TokVigil, environment: Environment) -> None:
    set_price(MODEL, input_usd="1", output_usd="4")
    apply_policies(environment, limits(DAILY_3))
    made_at = datetime.now(UTC) - timedelta(hours=1)
    said: dict[str, Any] = {
        "cached_input_tokens": 1_024,
        "cache_write_tokens": 64,
        "reasoning_tokens": 32,
        "feature": "chat",
        "plan": "free",
        "run_id": "run-1",
        "provider": "openai",
        "status": "partial",
        "latency_ms": 812,
        "occurred_at": made_at,
        "metadata": {"trace": "t"},
    }
    context = {name: said[name] for name in ("feature", "plan", "run_id")}
    request_id = client.evaluate(
        user_id="anna", model=MODEL, input_tokens=1_200, max_output_tokens=90, **context
    ).request_id

    first = report(client, request_id, reported_cost_usd="0.00150", **said)
    again = report(client, request_id, reported_cost_usd=Decimal("0.00150"), **said)

    assert (first.request_id, first.duplicate, first.priced) == (request_id, False, True)
    assert first.cost_usd == again.cost_usd == Decimal("0.00156")
    assert [(state.used, state.held) for state in first.limit_state] == [(1, 0)]
    assert (again.duplicate, again.limit_state) == (True, ())
    (row,) = ledger(environment)
    assert {name: getattr(row, name) for name in said} == said
    assert (row.user_id, row.model, row.amounts.input_tokens, row.amounts.output_tokens) == (
        "anna",
        MODEL,
        1_200,
        90,
    )
    assert (row.cost_nano, row.reported_cost_nano) == (1_560_000, 1_500_000)
    assert_settled(environment)


def test_a_report_sent_ten_times_at_once_is_charged_once(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_3))
    request_id = client.evaluate(user_id="anna", model=MODEL).request_id

    receipts = at_once(10, lambda _: report(client, request_id))

    assert sorted(receipt.duplicate for receipt in receipts) == [False] + [True] * 9
    assert [row.request_id for row in ledger(environment)] == [request_id]
    assert_settled(environment)


def test_another_report_of_the_same_request_is_a_conflict(client: TokVigil, environment: Environment) -> None:
    report(client, "r-1")

    with pytest.raises(tokvigil.IdempotencyConflictError) as conflict:
        report(client, "r-1", output_tokens=91)

    assert (conflict.value.status_code, conflict.value.code) == (409, "IDEMPOTENCY_CONFLICT")
    assert conflict.value.errors[0]["field"] == "request_id"
    assert [row.amounts.output_tokens for row in ledger(environment)] == [90]


def test_a_model_without_a_price_is_recorded_without_a_cost(
    client: TokVigil, environment: Environment
) -> None:
    receipt = report(client, "r-1", model="unheard-of")

    assert (receipt.cost_usd, receipt.priced) == (None, False)
    assert [row.cost_nano for row in ledger(environment)] == [None]


def test_a_hold_can_be_given_back(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_3))
    # An id of the caller's own may hold anything.
    request_id = client.evaluate(user_id="anna", model=MODEL, request_id="order 7/a?b").request_id
    assert recount.check(environment).open_reservations == 1

    assert client.release(request_id)

    assert_settled(environment)
    assert not client.release(new_request_id())


def test_a_call_that_was_reported_has_nothing_to_give_back(
    client: TokVigil, environment: Environment
) -> None:
    request_id = client.evaluate(user_id="anna", model=MODEL).request_id
    report(client, request_id)

    with pytest.raises(tokvigil.IdempotencyConflictError):
        client.release(request_id)


def test_the_hold_of_a_long_call_can_be_kept_open(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_3))
    decision = client.evaluate(user_id="anna", model=MODEL, request_id="order 7/a?b")
    assert decision.expires_at is not None

    extended = client.extend(decision.request_id)

    ahead = extended - datetime.now(UTC)
    default = timedelta(seconds=reservations.EXTEND_DEFAULT_S)
    assert default - timedelta(minutes=1) < ahead <= default
    client.release(decision.request_id)
    with pytest.raises(tokvigil.HoldNotFoundError):
        client.extend(decision.request_id)


def test_the_meter_says_what_is_left(client: TokVigil, environment: Environment) -> None:
    set_price(MODEL, input_usd="1")
    budget = '{metric: cost_usd, window: month, amount: "5.00", per: environment}'
    apply_policies(environment, limits(DAILY_3, budget))
    report(client, client.evaluate(user_id="anna", model=MODEL).request_id)
    client.evaluate(user_id="anna", model=MODEL, input_tokens=1_000, max_output_tokens=0)

    found = client.limits(user_id="anna", plan="free", feature="chat", model=MODEL)

    assert [(policy.name, policy.scope) for policy in found.policies] == [("Everyone", "default")]
    requests, cost = found.limit_state
    assert (requests.used, requests.held, requests.remaining, requests.exceeded) == (1, 1, 1, False)
    assert (cost.used, cost.held) == (Decimal("0.0012"), Decimal("0.001"))
    assert [state.per for state in client.limits().limit_state] == ["environment"]


def calls_of(client: TokVigil) -> dict[str, Callable[[], object]]:
    """A call for each scope."""
    return {
        "evaluate": lambda: client.evaluate(user_id="anna", model=MODEL),
        "usage:write": lambda: report(client, "r-1"),
        "usage:read": lambda: client.limits(user_id="anna"),
    }


def test_an_unknown_key_is_refused_by_name(
    connect: Callable[..., TokVigil], chat: Call, api: Api, provider: WireProvider, environment: Environment
) -> None:
    api.text = api.text[:-1] + ("a" if api.text[-1] != "a" else "b")
    stranger = connect(api)

    calls = calls_of(stranger) | {"chat": lambda: chat(client=stranger)}
    for call in calls.values():
        with pytest.raises(tokvigil.InvalidKeyError) as refusal:
            call()
        assert (refusal.value.status_code, refusal.value.code) == (401, "INVALID_API_KEY")

    assert provider.seen == []
    assert ledger(environment) == []


@pytest.mark.parametrize("missing", ["evaluate", "usage:write", "usage:read"])
def test_a_key_may_do_only_what_its_scopes_allow(
    connect: Callable[..., TokVigil], environment: Environment, missing: str
) -> None:
    scopes = {"evaluate", "usage:write", "usage:read"} - {missing}
    calls = calls_of(connect(caller_with(environment, *scopes)))

    with pytest.raises(tokvigil.MissingScopeError) as refusal:
        calls.pop(missing)()

    assert (refusal.value.status_code, refusal.value.code) == (403, "INSUFFICIENT_SCOPE")
    for call in calls.values():
        call()


def test_a_wrong_field_is_named(client: TokVigil, environment: Environment) -> None:
    with pytest.raises(tokvigil.InvalidRequestError) as refusal:
        client.evaluate(user_id="anna", model=MODEL, input_tokens=100_000_001)
    assert [error["field"] for error in refusal.value.errors] == ["input_tokens"]

    with pytest.raises(tokvigil.ConfigurationError, match="cached_input_tokens"):
        report(client, "r-1", cached_input_tokens=1_201)
    assert ledger(environment) == []


def test_a_key_that_calls_too_often_is_told_when_to_come_again(
    connect: Callable[..., TokVigil], environment: Environment
) -> None:
    hurried = connect(Api(environment, requests_per_minute=1), max_retries=0)
    hurried.evaluate(user_id="anna", model=MODEL)

    decision = hurried.evaluate(user_id="anna", model=MODEL)
    assert (decision.allowed, decision.reason_code) == (False, "DEGRADED_BLOCKED"), "busy is not away"
    assert 0 < (decision.retry_after or 0) <= 60

    with pytest.raises(tokvigil.TooManyRequestsError) as refusal:
        hurried.limits(user_id="anna")
    assert 0 < (refusal.value.retry_after or 0) <= 60
