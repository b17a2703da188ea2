"""The Python SDK against the application itself: a web process, PostgreSQL and Valkey. The ledger is the judge."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import tokvigil
from tokvigil import TokVigil, Usage

from policies import answers
from policies.evaluation import HOLD_MS
from policies.views import reservations
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
    set_clock,
    set_price,
)
from tokvigil_site.tests.callers import caller_with
from tokvigil_site.tests.servers import WebProcess, launch, manage, session_variables, web_processes
from usage import counters, expiry, limit_state, recount, reporting
from usage.assessment import unpack

# `TOKVIGIL_KILLS=200` is the long run.
KILLS = int(os.environ.get("TOKVIGIL_KILLS", "12"))
CHATS_PER_PROCESS = 10_000
# After a process's first call: among its first calls, and about when what it used is sent in a batch.
KILL_DELAYS_S = ((0.0, 0.06), (0.0, 0.06), (0.8, 1.4))
PATIENT_S = 10.0
MODEL = "gpt-4o-mini"
MESSAGES = [{"role": "user", "content": "Say hello to Ada"}]
DAILY_3 = "{metric: requests, window: day, amount: 3, per: user}"
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    with web_processes(1, tmp_path_factory.mktemp("web"), session_variables()) as (process,):
        yield process


@pytest.fixture
def provider() -> Iterator[WireProvider]:
    server = WireProvider()
    yield server
    server.close()


@pytest.fixture
def connect(web: WebProcess, environment: Environment, tmp_path: Path) -> Iterator[Callable[..., TokVigil]]:
    """A client for an API key; all of them are closed while the environment is still there."""
    with ExitStack() as clients:

        def connected(api: Api, port: int = web.port, **options: Any) -> TokVigil:
            defaults: dict[str, Any] = {
                "spool": tmp_path / f"{api.key.key_id}.sqlite3",
                "timeout": PATIENT_S,
            }
            return clients.enter_context(TokVigil(api.text, address(port), **(defaults | options)))

        yield connected


@pytest.fixture
def client(connect: Callable[..., TokVigil], api: Api) -> TokVigil:
    return connect(api)


@pytest.fixture
def chat(client: TokVigil, provider: WireProvider) -> Call:
    def call(user_id: str = "user_1", client: TokVigil = client, **changes: Any) -> Any:
        arguments: dict[str, Any] = {
            "provider_base_url": provider.url + "/v1",
            "provider_api_key": "sk-caller",
            "max_output_tokens": 100,
        }
        return client.chat(user_id, "chat", MODEL, MESSAGES, **(arguments | changes))

    return call


def address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def test_the_sdk_reads_every_field_and_may_send_every_field() -> None:
    for answer, value in (
        (answers.EvaluateAnswer, tokvigil.Decision),
        (answers.PolicyAnswer, tokvigil.PolicyRef),
        (limit_state.LimitState, tokvigil.LimitState),
        (reporting.UsageReceipt, tokvigil.UsageReceipt),
    ):
        assert set(answer.__struct_fields__) == {field.name for field in fields(value)}
    # Batches of the provider's own are not among what the SDK calls.
    reported = {field.name for field in fields(tokvigil.UsageEvent)} - {"usage"}
    reported |= {field.name for field in fields(Usage)} - {"source"}
    assert reported == set(reporting.UsageReport.__struct_fields__) - {"batch"}


def test_an_allowed_call_is_told_what_is_held_for_it(client: TokVigil, environment: Environment) -> None:
    set_price(MODEL, input_usd="1", output_usd="4")
    budget = '{metric: cost_usd, window: month, amount: "5.00", per: user}'
    apply_policies(environment, limits(DAILY_3, budget, per_request="{output_tokens: 200}"))

    decision = client.evaluate(
        "anna",
        MODEL,
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

    decision = client.evaluate("anna", MODEL)
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


def test_a_policy_on_trial_says_what_it_would_have_done(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 0}", mode="monitor"))

    decision = client.evaluate("anna", MODEL)

    assert decision.allowed
    assert decision.shadow is not None
    assert decision.shadow["allowed"] is False
    assert decision.shadow["policy"]["name"] == "Everyone"


def test_a_dry_run_holds_nothing(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_3))

    assert client.evaluate("anna", MODEL, dry_run=True).expires_at is None

    assert_settled(environment)


def report(client: TokVigil, request_id: str, **changes: Any) -> tokvigil.UsageReceipt:
    arguments: dict[str, Any] = {
        "user_id": "anna",
        "model": MODEL,
        "input_tokens": 1_200,
        "output_tokens": 90,
    }
    return client.log_usage(request_id, **(arguments | changes))


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
        "anna", MODEL, input_tokens=1_200, max_output_tokens=90, **context
    ).request_id

    first = report(client, request_id, reported_cost_usd="0.00150", **said)
    again = report(client, request_id, reported_cost_usd=Decimal("0.00150"), **said)

    assert (first.request_id, first.duplicate, first.priced) == (request_id, False, True)
    assert first.cost_usd == again.cost_usd == Decimal("0.00156")
    assert [(state.used, state.held) for state in first.limit_state] == [(1, 0)]
    assert (again.duplicate, again.limit_state) == (True, ())
    (row,) = ledger(environment)
    assert {name: getattr(row, name) for name in said} == said
    assert (row.user_id, row.model, row.input_tokens, row.output_tokens) == ("anna", MODEL, 1_200, 90)
    assert (row.cost_nano, row.reported_cost_nano) == (1_560_000, 1_500_000)
    assert_settled(environment)


def test_a_report_sent_ten_times_at_once_is_charged_once(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_3))
    request_id = client.evaluate("anna", MODEL).request_id

    receipts = at_once(10, lambda _: report(client, request_id))

    assert sorted(receipt.duplicate for receipt in receipts) == [False] + [True] * 9
    assert [row.request_id for row in ledger(environment)] == [request_id]
    assert_settled(environment)


def test_another_report_of_the_same_request_is_a_conflict(client: TokVigil, environment: Environment) -> None:
    report(client, "r-1")

    with pytest.raises(tokvigil.ConflictError) as conflict:
        report(client, "r-1", output_tokens=91)

    assert (conflict.value.status_code, conflict.value.code) == (409, "IDEMPOTENCY_CONFLICT")
    assert conflict.value.errors[0]["field"] == "request_id"
    assert [row.output_tokens for row in ledger(environment)] == [90]


def test_a_model_without_a_price_is_recorded_without_a_cost(
    client: TokVigil, environment: Environment
) -> None:
    receipt = report(client, "r-1", model="unheard-of")

    assert (receipt.cost_usd, receipt.priced) == (None, False)
    assert [row.cost_nano for row in ledger(environment)] == [None]


def test_a_hold_can_be_given_back(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_3))
    # An id of the caller's own may hold anything.
    request_id = client.evaluate("anna", MODEL, request_id="order 7/a?b").request_id
    assert recount.check(environment).open_reservations == 1

    assert client.release(request_id)

    assert_settled(environment)
    assert not client.release(new_request_id())


def test_a_call_that_was_reported_has_nothing_to_give_back(
    client: TokVigil, environment: Environment
) -> None:
    request_id = client.evaluate("anna", MODEL).request_id
    report(client, request_id)

    with pytest.raises(tokvigil.ConflictError):
        client.release(request_id)


def test_the_hold_of_a_long_call_can_be_kept_open(client: TokVigil, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_3))
    decision = client.evaluate("anna", MODEL, request_id="order 7/a?b")
    assert decision.expires_at is not None

    extended = client.extend(decision.request_id)

    ahead = extended - datetime.now(UTC)
    default = timedelta(seconds=reservations.EXTEND_DEFAULT_S)
    assert default - timedelta(minutes=1) < ahead <= default
    client.release(decision.request_id)
    with pytest.raises(tokvigil.NotFoundError):
        client.extend(decision.request_id)


def test_the_meter_says_what_is_left(client: TokVigil, environment: Environment) -> None:
    set_price(MODEL, input_usd="1")
    budget = '{metric: cost_usd, window: month, amount: "5.00", per: environment}'
    apply_policies(environment, limits(DAILY_3, budget))
    report(client, client.evaluate("anna", MODEL).request_id)
    client.evaluate("anna", MODEL, input_tokens=1_000, max_output_tokens=0)

    found = client.limits("anna", plan="free", feature="chat", model=MODEL)

    assert [(policy.name, policy.scope) for policy in found.policies] == [("Everyone", "default")]
    requests, cost = found.limit_state
    assert (requests.used, requests.held, requests.remaining, requests.exceeded) == (1, 1, 1, False)
    assert (cost.used, cost.held) == (Decimal("0.0012"), Decimal("0.001"))
    assert [state.per for state in client.limits().limit_state] == ["environment"]


def calls_of(client: TokVigil) -> dict[str, Callable[[], object]]:
    """A call for each scope."""
    return {
        "evaluate": lambda: client.evaluate("anna", MODEL),
        "usage:write": lambda: report(client, "r-1"),
        "usage:read": lambda: client.limits("anna"),
    }


def test_an_unknown_key_is_refused_by_name(
    connect: Callable[..., TokVigil], chat: Call, api: Api, provider: WireProvider, environment: Environment
) -> None:
    api.text = api.text[:-1] + ("a" if api.text[-1] != "a" else "b")
    stranger = connect(api)

    calls = calls_of(stranger) | {"chat": lambda: chat(client=stranger)}
    for call in calls.values():
        with pytest.raises(tokvigil.AuthenticationError) as refusal:
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

    with pytest.raises(tokvigil.PermissionDeniedError) as refusal:
        calls.pop(missing)()

    assert (refusal.value.status_code, refusal.value.code) == (403, "INSUFFICIENT_SCOPE")
    for call in calls.values():
        call()


def test_a_wrong_field_is_named(client: TokVigil, environment: Environment) -> None:
    with pytest.raises(tokvigil.ValidationError) as refusal:
        client.evaluate("anna", MODEL, input_tokens=-1)
    assert [error["field"] for error in refusal.value.errors] == ["input_tokens"]

    with pytest.raises(tokvigil.ValidationError) as refusal:
        report(client, "r-1", cached_input_tokens=1_201)
    assert [error["field"] for error in refusal.value.errors] == ["cached_input_tokens"]
    assert ledger(environment) == []


def test_a_key_that_calls_too_often_is_told_when_to_come_again(
    connect: Callable[..., TokVigil], environment: Environment
) -> None:
    hurried = connect(Api(environment, requests_per_minute=1), max_retries=0)
    hurried.evaluate("anna", MODEL)

    with pytest.raises(tokvigil.RateLimitedError) as refusal:
        hurried.evaluate("anna", MODEL)

    assert 0 < (refusal.value.retry_after or 0) <= 60


def test_a_chat_is_in_the_ledger_with_the_providers_figures(
    client: TokVigil, chat: Call, provider: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits(DAILY_3))

    answer = chat("anna", plan="free", run_id="run-1", metadata={"trace": "t"})
    assert client.flush() == 0

    assert (answer.text, answer.usage) == (provider.openai.TEXT, provider.openai.USAGE)
    (row,) = ledger(environment)
    assert (row.request_id, row.user_id, row.feature, row.plan) == (answer.request_id, "anna", "chat", "free")
    assert (row.input_tokens, row.cached_input_tokens) == (1_200, 1_024)
    assert (row.output_tokens, row.reasoning_tokens) == (90, 64)
    assert (row.status, row.run_id, row.metadata) == ("succeeded", "run-1", {"trace": "t"})
    assert row.latency_ms is not None
    assert row.policy_version == 1
    assert_settled(environment)


def test_a_call_that_failed_takes_nothing_of_the_limits(
    client: TokVigil, chat: Call, provider: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits(DAILY_3))
    provider.fail(400)
    with pytest.raises(tokvigil.ProviderError):
        chat("anna")
    with pytest.raises(RuntimeError), client.guard("anna", "chat", MODEL, max_output_tokens=10):
        raise RuntimeError
    assert client.flush() == 0

    assert [(row.status, row.requests, row.output_tokens) for row in ledger(environment)] == [
        ("failed", 0, 0)
    ] * 2
    assert assert_settled(environment).drifts == ()
    assert client.limits("anna").limit_state[0].remaining == 3


def test_what_was_used_while_the_application_was_away_arrives_in_one_batch(
    connect: Callable[..., TokVigil], api: Api, environment: Environment, tmp_path: Path
) -> None:
    apply_policies(environment, limits("{metric: tokens, window: month, amount: 1000000, per: environment}"))
    with web_processes(1, tmp_path, session_variables()) as processes:
        (process,) = processes
        client = connect(api, process.port, max_retries=0)
        with ExitStack() as calls:
            guards = [
                calls.enter_context(client.guard(f"user_{n}", "chat", MODEL, max_output_tokens=90))
                for n in range(50)
            ]
            process.kill()
            for guard in guards:
                guard.record(Usage(input_tokens=1_200, output_tokens=90))
        assert len(client.pending_usage) == 50
        assert ledger(environment) == []

        processes.append(launch(tmp_path, session_variables(), process.port))
        processes[-1].await_ready()
        assert client.flush() == 0

    assert client.pending_usage == ()
    assert Counter(row.user_id for row in ledger(environment)) == {f"user_{n}": 1 for n in range(50)}
    assert_settled(environment)


CHATS = """
import sys
from tokvigil import TokVigil
control_plane, key, provider, spool, first, count = sys.argv[1:]
client = TokVigil(key, control_plane, spool=spool, timeout=10)
print("ready", flush=True)
for number in range(int(first), int(first) + int(count)):
    client.chat(f"user_{number}", "chat", "gpt-4o-mini", [{"role": "user", "content": f"user_{number}"}],
                provider_base_url=provider + "/v1", provider_api_key="sk", max_output_tokens=100)
"""


def test_each_call_is_in_the_ledger_once_however_its_process_is_killed(
    connect: Callable[..., TokVigil],
    api: Api,
    web: WebProcess,
    provider: WireProvider,
    environment: Environment,
    tmp_path: Path,
) -> None:
    apply_policies(
        environment,
        limits(
            "{metric: tokens, window: total, amount: 1000000000, per: environment}",
            "{metric: requests, window: total, amount: 1000, per: user}",
        ),
    )
    spool = tmp_path / "killed.sqlite3"
    chance = random.Random(20261124)
    for kill in range(KILLS):
        chat_until_killed(
            [address(web.port), api.text, provider.url, str(spool), str(kill * CHATS_PER_PROCESS)],
            provider,
            chance.uniform(*KILL_DELAYS_S[kill % len(KILL_DELAYS_S)]),
        )

    assert connect(api, spool=spool).flush() == 0

    called = {seen.body["messages"][0]["content"] for seen in provider.seen if seen.body}
    recorded = Counter(row.user_id for row in ledger(environment))
    assert len(called) >= KILLS
    assert called <= recorded.keys()
    assert max(recorded.values()) == 1
    # One call of each process may have been written down without having reached the provider.
    assert len(recorded.keys() - called) <= KILLS
    assert recount.check(environment).drifts == ()
    assert "drift 0 of" in manage("check_counters", str(environment), variables=session_variables())
    assert_nothing_is_held_but_for_calls_that_never_went_out(environment, called)


def chat_until_killed(arguments: list[str], provider: WireProvider, delay_s: float) -> None:
    """Killed so long after the first of its calls has reached the provider."""
    command = [sys.executable, "-c", CHATS, *arguments, str(CHATS_PER_PROCESS)]
    before = len(provider.seen)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            deadline = time.monotonic() + 20
            while len(provider.seen) == before and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(delay_s)
            assert child.poll() is None, "it ended by itself"
        finally:
            child.send_signal(signal.SIGKILL)


def assert_nothing_is_held_but_for_calls_that_never_went_out(
    environment: Environment, called: set[str]
) -> None:
    """A process killed between the decision and its own note of it leaves a hold, which ends by itself."""
    now = datetime.now(UTC)
    held = counters.open_holds(environment.pk, int(now.timestamp() * 1000) + 2 * HOLD_MS, KILLS + 1)
    assert len(held) <= KILLS
    assert not {unpack(hold.assessment).user_id for hold in held} & called
    set_clock(now + timedelta(milliseconds=HOLD_MS + 1000))
    assert expiry.settle_expired(environment) == (len(held), 0)
    assert assert_settled(environment).complete > 0
