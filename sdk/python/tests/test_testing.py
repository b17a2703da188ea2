"""`tokvigil.testing`: the real client over a control plane that is in the process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import tokvigil
import yaml
from jsonschema import Draft202012Validator
from tokvigil import AIUsageBlockedError, Usage, UsageEvent
from tokvigil.checked import TOKENS_MAX
from tokvigil.links import Request
from tokvigil.testing import AsyncFakeTokVigil, FakeTokVigil, Question, script

from policies.reasons import ALL_CODES, CLASSES
from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT

REPOSITORY = Path(__file__).resolve().parents[3]
ASKED: Any = {"user_id": "ada", "feature": "chat", "model": "gpt-4o-mini", "input_tokens": 100}
USAGE = Usage(input_tokens=100, output_tokens=40)
EVENT = UsageEvent(request_id="r", user_id="ada", model="gpt-4o-mini", usage=USAGE)
BLOCKING_CODES = [code for code in ALL_CODES if code not in ("ALLOWED", "DEGRADED_ALLOWED")]


@pytest.fixture
def tv() -> Iterator[FakeTokVigil]:
    with FakeTokVigil() as fake:
        yield fake


@pytest.fixture(scope="session")
def components() -> Any:
    return yaml.safe_load((REPOSITORY / "openapi.yaml").read_text())["components"]


@pytest.fixture
def answer(tv: FakeTokVigil, components: Any) -> Any:
    """The fake's answer to a request, held to its schema: valid, and with the fields that the schema has."""

    def send(schema: str, method: str, path: str, body: Any = None) -> Any:
        said = json.loads(
            tv._plane.send(
                Request(method=method, path=path, body=json.dumps(body).encode(), deadline=0.0)
            ).body
        )
        Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": components}).validate(
            said
        )
        assert set(said) == set(components["schemas"][schema]["properties"])
        return said

    return send


def call(tv: FakeTokVigil, **changes: Any) -> None:
    with tv.guard(**ASKED | changes) as guard:
        guard.record(USAGE)


def test_everything_is_allowed_until_a_test_says_otherwise(tv: FakeTokVigil) -> None:
    call(tv)
    (asked,) = tv.evaluated
    assert asked == Question(**ASKED, request_id=asked.request_id)
    (event,) = tv.reported
    assert (event.request_id, event.user_id, event.feature) == (asked.request_id, "ada", "chat")
    assert (event.usage, event.status) == (USAGE, "succeeded")
    assert tv.charged_usd == Decimal("0.000039")


def test_a_block_stops_the_call_with_what_the_test_said(tv: FakeTokVigil) -> None:
    tv.block(
        "MONTHLY_BUDGET_EXCEEDED",
        retry_after=3600,
        limit=Decimal("2.5"),
        message="No.",
        suggested_model="gpt-4.1-nano",
    )
    with pytest.raises(AIUsageBlockedError) as caught:
        call(tv)
    blocked = caught.value
    assert (blocked.reason_code, blocked.reason_class) == ("MONTHLY_BUDGET_EXCEEDED", "exhausted")
    assert (blocked.retry_after, blocked.message, blocked.suggested_model) == (3600, "No.", "gpt-4.1-nano")
    (state,) = blocked.limit_state
    assert (state.limit, state.remaining, state.window) == (Decimal("2.50"), Decimal(0), "month")
    assert len(tv.evaluated) == 1
    assert (tv.reported, tv.held) == ([], [])


def test_a_block_is_about_those_whom_the_test_names(tv: FakeTokVigil) -> None:
    def allowed(**changes: Any) -> bool:
        return tv.evaluate(**ASKED | changes).allowed

    tv.block(user_id="ada", feature="chat")
    assert [allowed(), allowed(user_id="bob"), allowed(feature="search")] == [False, True, True]
    tv.block("MODEL_DENIED", model="gpt-4o")
    assert [allowed(user_id="bob", model="gpt-4o"), allowed(user_id="bob")] == [False, True]
    tv.block()
    tv.allow(user_id="bob")
    assert [allowed(), allowed(user_id="bob")] == [False, True]
    tv.allow()
    assert [allowed(), allowed(user_id="bob", model="gpt-4o")] == [True, True]


def test_a_reason_that_tokvigil_does_not_have_is_a_mistake_in_the_test(tv: FakeTokVigil) -> None:
    for code in ("DAILY_LIMIT_EXCEEDED", "ALLOWED"):
        with pytest.raises(tokvigil.ConfigurationError, match="DAILY_REQUEST_LIMIT_EXCEEDED"):
            tv.block(code)


def test_the_reasons_are_those_of_the_server_and_of_the_same_class(tv: FakeTokVigil) -> None:
    assert {*script.BLOCKING} == {*BLOCKING_CODES} >= script.LIMITS.keys()
    for code in BLOCKING_CODES:
        expected = "exhausted" if code not in CLASSES else CLASSES[code].value
        said = script.Block(reason_code=code).answer("ada", datetime.now(UTC))
        assert said["reason_class"] == expected


def test_a_cap_is_the_most_that_a_call_may_produce(tv: FakeTokVigil) -> None:
    tv.cap(64)
    tv.cap(8, user_id="ada")
    with tv.guard(**ASKED) as ada, tv.guard(**ASKED | {"user_id": "bob"}, max_output_tokens=20) as bob:
        assert (ada.max_output_tokens, bob.max_output_tokens) == (8, 20)
    assert tv.evaluate(user_id="eve", model="gpt-4o-mini", max_output_tokens=99).max_output_tokens == 64


def test_while_it_is_down_on_unreachable_decides_and_nothing_is_lost(tv: FakeTokVigil) -> None:
    tv.block(user_id="eve")
    assert not tv.evaluate(user_id="eve", model="gpt-4o-mini").allowed
    tv.down()
    with tv.guard(**ASKED) as guard:
        assert (guard.decision.degraded, guard.decision.reason_code) == (True, "DEGRADED_ALLOWED")
        guard.record(USAGE)
    assert tv.evaluate(user_id="eve", model="gpt-4o-mini").reason_code == "DEGRADED_BLOCKED", (
        "as it was last known"
    )
    assert (tv.reported, tv.pending()) == ([], 1)
    tv.up()
    assert [event.user_id for event in tv.reported] == ["ada"]
    assert not tv.evaluate(user_id="eve", model="gpt-4o-mini").degraded, "what was said before holds again"


def test_it_is_up_again_at_once_however_many_calls_failed(tv: FakeTokVigil) -> None:
    tv.down()
    assert all(tv.evaluate(**ASKED).degraded for _ in range(5))
    tv.allow()
    assert not tv.evaluate(**ASKED).degraded


def test_on_unreachable_is_the_application_s_choice() -> None:
    with FakeTokVigil(on_unreachable="block") as tv:
        tv.down()
        with pytest.raises(AIUsageBlockedError):
            call(tv)


def test_closing_does_not_wait_for_what_is_down(tv: FakeTokVigil) -> None:
    started = datetime.now(UTC)
    tv.report(tokvigil.UsageEvent(request_id="r", user_id="ada", model="m", usage=USAGE))
    tv.down()
    tv.close()
    assert datetime.now(UTC) - started < timedelta(seconds=1)


def test_what_is_held_shows_calls_that_were_never_reported(tv: FakeTokVigil) -> None:
    lost = tv.evaluate(**ASKED)
    with tv.guard(**ASKED) as guard:
        assert [question.request_id for question in tv.held] == [lost.request_id, guard.request_id]
        guard.record(USAGE)
    tv.evaluate(**ASKED, dry_run=True)
    assert [question.request_id for question in tv.held] == [lost.request_id]
    assert tv.extend(lost.request_id) > datetime.now(UTC)
    assert tv.release(lost.request_id)
    assert not tv.release(lost.request_id)
    assert tv.held == []


def test_reset_forgets_all(tv: FakeTokVigil) -> None:
    tv.block()
    tv.cap(5)
    tv.report(tokvigil.UsageEvent(request_id="r", user_id="ada", model="gpt-4o-mini", usage=USAGE))
    assert not tv.evaluate(**ASKED).allowed
    tv.down()
    tv.reset()
    assert (tv.evaluated, tv.reported, tv.held, tv.charged_usd) == ([], [], [], 0)
    tv.down()
    assert tv.evaluate(**ASKED).allowed, "the block is not remembered either"
    tv.up()
    assert tv.evaluate(**ASKED).max_output_tokens is None


def test_usage_is_counted_once_and_only_if_it_can_be_true(tv: FakeTokVigil) -> None:
    assert not tv.report_now(EVENT).duplicate
    assert tv.report_now(EVENT).duplicate
    with pytest.raises(tokvigil.IdempotencyConflictError):
        tv.report_now(replace(EVENT, usage=Usage(input_tokens=100, output_tokens=41)))
    with pytest.raises(tokvigil.ConfigurationError, match="cached_input_tokens"):
        tv.report_now(
            UsageEvent(
                request_id="s",
                user_id="ada",
                model="gpt-4o-mini",
                usage=Usage(input_tokens=1, output_tokens=1, cached_input_tokens=2),
            )
        )
    assert tv.charged_usd == Decimal("0.000039")
    assert not tv.report_now(replace(EVENT, request_id="t", model="a-model-of-ours")).priced


def test_the_context_and_the_checks_are_the_real_ones(tv: FakeTokVigil) -> None:
    context = tv.context(feature="search", plan="free")
    with context, tv.guard(user_id="ada", model="gpt-4o-mini") as guard:
        guard.record(USAGE)
    assert [(event.feature, event.plan) for event in tv.reported] == [("search", "free")]
    with pytest.raises(tokvigil.ConfigurationError, match="reported_cost_usd"):
        tv.report_now(
            UsageEvent(
                request_id="s",
                user_id="ada",
                model="gpt-4o-mini",
                reported_cost_usd="-1",
                usage=Usage(input_tokens=100, output_tokens=40),
            )
        )
    with pytest.raises(tokvigil.ConfigurationError, match="input_tokens and messages"):
        tv.evaluate(user_id="ada", model="gpt-4o-mini", input_tokens=1, messages=[])
    assert len(tv.evaluated) == 1


def test_wrapped_clients_and_guarded_functions_are_the_real_ones(
    tv: FakeTokVigil, wire_provider: WireProvider
) -> None:
    @tv.guarded(user_id="ada", feature="chat", model="gpt-4o-mini")
    def answer() -> Any:
        return {"usage": {"prompt_tokens": 7, "completion_tokens": 2}}

    answer()
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
        client = tv.wrap(bare)
        with tv.context(user_id="bob", feature="chat"):
            client.chat.completions.create(**CHAT)
            tv.block(user_id="bob")
            with pytest.raises(openai.PermissionDeniedError):
                client.chat.completions.create(**CHAT)
    assert [(event.user_id, event.usage.input_tokens > 0) for event in tv.reported] == [
        ("ada", True),
        ("bob", True),
    ]


def test_chat_is_answered_by_the_test(tv: FakeTokVigil, wire: Any) -> None:
    seen: list[Any] = []

    def provider(request: httpx2.Request) -> httpx2.Response:
        seen.append(json.loads(request.content))
        return httpx2.Response(200, json=wire.completion())

    tv.cap(77)
    tv.provider = provider
    answer = tv.chat(
        user_id="ada",
        feature="chat",
        model="gpt-4o-mini",
        messages=CHAT["messages"],
        provider_api_key="sk",
        max_output_tokens=100,
    )
    assert answer.text == "Hello!"
    assert 77 in seen[0].values(), "the cap is in the request"
    assert tv.reported[0].usage.input_tokens == answer.usage.input_tokens == 1_200


def test_chat_calls_no_provider_by_itself(tv: FakeTokVigil) -> None:
    with pytest.raises(tokvigil.ProviderError, match="provider"):
        tv.chat(
            user_id="ada",
            feature="chat",
            model="gpt-4o-mini",
            messages=CHAT["messages"],
            provider_api_key="sk",
        )
    assert [event.status for event in tv.reported] == ["failed"]


def test_the_async_one_is_the_same(wire: Any) -> None:
    async def main() -> AsyncFakeTokVigil:
        async with AsyncFakeTokVigil(provider=lambda _: httpx2.Response(200, json=wire.completion())) as tv:
            async with tv.guard(**ASKED) as guard:
                guard.record(USAGE)
            answer = await tv.chat(
                user_id="ada",
                feature="chat",
                model="gpt-4o-mini",
                messages=CHAT["messages"],
                provider_api_key="sk",
            )
            assert answer.text == "Hello!"
            tv.block(user_id="ada")
            with pytest.raises(AIUsageBlockedError):
                await tv.guard(**ASKED)
            assert (len(tv.evaluated), len(tv.reported), tv.held) == (3, 2, [])
            tv.down()
            assert (await tv.evaluate(user_id="bob", model="gpt-4o-mini")).degraded
        return tv

    asyncio.run(main())


def test_no_socket_is_opened_and_no_file_is_written(
    tv: FakeTokVigil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    call(tv)
    assert len(tv.reported) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", BLOCKING_CODES)
def test_a_block_is_answered_as_the_server_answers(tv: FakeTokVigil, answer: Any, code: str) -> None:
    tv.block(code)
    said = answer("EvaluateAnswer", "POST", "/v1/evaluate", ASKED)
    assert (said["allowed"], said["reserved"], said["max_output_tokens"]) == (False, None, None)
    answer("MeterAnswer", "GET", "/v1/limits?user_id=ada")


@pytest.mark.parametrize("model", ["gpt-4o-mini", "a-model-of-ours"])
def test_other_answers_are_as_the_server_s_too(answer: Any, model: str) -> None:
    asked = {**ASKED, "model": model, "request_id": "chat/1", "explain": True}
    answer("EvaluateAnswer", "POST", "/v1/evaluate", asked)
    answer("EvaluateAnswer", "POST", "/v1/evaluate", asked | {"dry_run": True})
    answer("ReservationAnswer", "POST", "/v1/reservations/chat%2F1/extend")
    event = {"request_id": "chat/1", "user_id": "ada", "model": model, "input_tokens": 1, "output_tokens": 1}
    report = event | {"status": "succeeded"}
    answer("UsageReceipt", "POST", "/v1/usage", report)
    bad = [report | {"output_tokens": 2}, report | {"request_id": "s", "cached_input_tokens": 2}]
    bad += [report | {"request_id": "t", "user_id": ""}, report | {"request_id": "u", "status": "finished"}]
    bad += [report | {"request_id": "v", "reported_cost_usd": "-1"}]
    settled = answer("BatchAnswer", "POST", "/v1/usage/batch", {"events": [report, *bad]})
    assert [result["status"] for result in settled["results"]] == [
        "duplicate",
        "conflict",
        "invalid",
        "invalid",
        "invalid",
        "invalid",
    ]
    answer("MeterAnswer", "GET", "/v1/limits")
    answer("ProblemAnswer", "POST", "/v1/evaluate", ASKED | {"user_id": ""})
    answer("ProblemAnswer", "DELETE", "/v1/reservations/chat%2F1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request_id", "x" * 129),
        ("request_id", "a\0b"),
        ("model", "x" * 256),
        ("input_tokens", 10**8 + 1),
        ("max_output_tokens", 10**8 + 1),
    ],
)
def test_what_the_clients_do_not_check_is_refused_as_the_server_refuses_it(
    tv: FakeTokVigil, components: Any, answer: Any, name: str, value: Any
) -> None:
    validator = Draft202012Validator(
        {"$ref": "#/components/schemas/EvaluateRequest", "components": components}
    )
    body = ASKED | {"request_id": "r", name: value}
    assert not validator.is_valid(body)
    said = answer("ProblemAnswer", "POST", "/v1/evaluate", body)
    assert (said["status"], said["errors"][0]["field"]) == (422, name)


def test_a_refused_question_is_the_error_that_the_server_makes_of_it(tv: FakeTokVigil) -> None:
    with pytest.raises(tokvigil.InvalidRequestError) as caught:
        tv.evaluate(user_id="ada", model="gpt-4o-mini", input_tokens=TOKENS_MAX + 1)
    assert caught.value.errors[0]["field"] == "input_tokens"
    assert tv.evaluated == []


def test_the_fixtures_come_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tokvigil.testing.pytest_plugin"]\n')
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import asyncio

            def test_one(tokvigil):
                tokvigil.block()
                assert not tokvigil.evaluate(user_id="ada", model="gpt-4o-mini").allowed

            def test_another(tokvigil):
                assert tokvigil.evaluate(user_id="ada", model="gpt-4o-mini").allowed

            def test_async(async_tokvigil):
                assert asyncio.run(async_tokvigil.evaluate(user_id="ada", model="gpt-4o-mini")).allowed
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_readme_of_the_module_is_true(tv: FakeTokVigil) -> None:
    tv.block("DAILY_REQUEST_LIMIT_EXCEEDED", retry_after=3600, user_id="ada")
    with pytest.raises(AIUsageBlockedError) as caught:
        call(tv)
    assert caught.value.retry_after == 3600
    assert caught.value.message == "Daily request limit of 50 reached for user ada."
    (state,) = tv.limits(user_id="ada").limit_state
    assert (state.remaining, state.exceeded) == (0, True)
