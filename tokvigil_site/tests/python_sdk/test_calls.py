"""AI calls through the SDK against the application: what they leave in the ledger and in the limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import tokvigil
from django.core.wsgi import get_wsgi_application
from tokvigil import AsyncTokVigil, TokVigil, Usage
from tokvigil.links import Answer, Request

from sdk.python.tests.wire_provider import WireProvider
from tenants.models import Environment
from tokvigil_site.testing import (
    Api,
    apply_policies,
    assert_settled,
    at_once,
    ledger,
    limits,
)
from tokvigil_site.tests.python_sdk import DAILY_3, MESSAGES, MODEL, PATIENT_S, Call
from tokvigil_site.tests.servers import WebProcess, launch, session_variables, web_processes


def test_a_chat_is_in_the_ledger_with_the_providers_figures(
    client: TokVigil, chat: Call, provider: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits(DAILY_3))

    answer = chat("anna", plan="free", run_id="run-1", metadata={"trace": "t"})
    assert client.flush() == 0

    assert (answer.text, answer.usage) == (provider.openai.TEXT, provider.openai.USAGE)
    (row,) = ledger(environment)
    assert (row.request_id, row.user_id, row.feature, row.plan) == (answer.request_id, "anna", "chat", "free")
    assert (row.amounts.input_tokens, row.cached_input_tokens) == (1_200, 1_024)
    assert (row.amounts.output_tokens, row.reasoning_tokens) == (90, 64)
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
    with client.guard(user_id="anna", feature="chat", model=MODEL, max_output_tokens=10) as call:
        call.not_sent()
    assert client.flush() == 0

    rows = [(row.status, row.amounts.requests, row.amounts.output_tokens) for row in ledger(environment)]
    assert sorted(rows) == [("cancelled", 0, 0), ("failed", 0, 0)]
    assert assert_settled(environment).drifts == ()
    assert client.limits(user_id="anna").limit_state[0].remaining == 3


def test_what_was_used_while_the_application_was_away_arrives_in_one_batch(
    connect: Callable[..., TokVigil], api: Api, environment: Environment, tmp_path: Path
) -> None:
    apply_policies(environment, limits("{metric: tokens, window: month, amount: 1000000, per: environment}"))
    with web_processes(1, tmp_path, session_variables()) as processes:
        (process,) = processes
        client = connect(api, process.url, max_retries=0)
        with ExitStack() as calls:
            guards = [
                calls.enter_context(
                    client.guard(user_id=f"user_{n}", feature="chat", model=MODEL, max_output_tokens=90)
                )
                for n in range(50)
            ]
            process.kill()
            for guard in guards:
                guard.record(Usage(input_tokens=1_200, output_tokens=90))
        assert client.pending() == 50
        assert ledger(environment) == []

        processes.append(launch(tmp_path, session_variables(), process.port))
        processes[-1].await_ready()
        assert client.flush() == 0

    assert client.pending() == 0
    assert Counter(row.user_id for row in ledger(environment)) == {f"user_{n}": 1 for n in range(50)}
    assert_settled(environment)


def bare_openai(provider: WireProvider) -> openai.OpenAI:
    return openai.OpenAI(api_key="sk-caller", base_url=provider.url + "/v1")


def test_a_wrapped_client_leaves_one_row_for_each_call_in_whatever_style(
    client: TokVigil, provider: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 100, per: user}"))
    wrapped = client.wrap(bare_openai(provider))
    ask: Any = {"model": MODEL, "messages": MESSAGES}

    with client.context(user_id="anna", feature="chat", plan="free", run_id="run-1"):
        wrapped.chat.completions.create(**ask)
        wrapped.chat.completions.with_raw_response.create(**ask)
        list(wrapped.chat.completions.create(**ask, stream=True))
        with wrapped.chat.completions.stream(**ask) as stream:
            stream.until_done()
        wrapped.responses.create(model=MODEL, input="Say hello to Ada")
        wrapped.with_options(max_retries=0).chat.completions.create(**ask)
    assert client.flush() == 0

    rows = ledger(environment)
    assert len(rows) == len(provider.seen) == 6
    assert {(row.user_id, row.feature, row.plan, row.run_id) for row in rows} == {
        ("anna", "chat", "free", "run-1")
    }
    assert {(row.status, row.amounts.input_tokens, row.amounts.output_tokens) for row in rows} == {
        ("succeeded", 1_200, 90)
    }
    assert assert_settled(environment).drifts == ()


def test_a_wrapped_client_is_stopped_by_the_limit_and_says_until_when(
    client: TokVigil, provider: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits(DAILY_3))
    wrapped = client.wrap(bare_openai(provider), feature="chat")

    def call() -> None:
        wrapped.chat.completions.create(model=MODEL, messages=MESSAGES)

    with client.context(user_id="anna"):
        for _ in range(3):
            call()
        with pytest.raises(openai.PermissionDeniedError) as caught:
            call()
    blocked: Any = caught.value
    assert isinstance(blocked, tokvigil.AIUsageBlockedError)
    assert (blocked.reason_code, blocked.reason_class) == ("DAILY_REQUEST_LIMIT_EXCEEDED", "exhausted")
    assert blocked.retry_after is not None
    assert blocked.limit_state[0].exceeded
    assert len(provider.seen) == 3


def test_many_callers_of_a_wrapped_client_do_not_overshoot(
    client: TokVigil, provider: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 20, per: feature}"))
    wrapped = client.wrap(bare_openai(provider), feature="chat")

    def call(number: int) -> bool:
        with client.context(user_id=f"user_{number % 7}"):
            try:
                wrapped.chat.completions.create(model=MODEL, messages=MESSAGES)
            except tokvigil.AIUsageBlockedError:
                return False
            return True

    assert sum(at_once(60, call)) == 20
    assert client.flush() == 0
    assert len(ledger(environment)) == len(provider.seen) == 20
    assert assert_settled(environment).drifts == ()


def test_calls_one_after_the_other_pass_a_limit_of_one_at_once(
    client: TokVigil, chat: Call, environment: Environment
) -> None:
    apply_policies(environment, limits("{metric: concurrency, window: total, amount: 1, per: user}"))
    for _ in range(10):
        assert chat("anna").text
    with (
        client.guard(user_id="anna", feature="chat", model=MODEL),
        pytest.raises(tokvigil.AIUsageBlockedError) as caught,
    ):
        chat("anna")
    assert caught.value.reason_code == "CONCURRENCY_LIMIT_EXCEEDED"


def test_a_call_left_in_the_middle_of_its_stream_is_partial_in_the_ledger(
    client: TokVigil, provider: WireProvider, environment: Environment
) -> None:
    apply_policies(environment, limits(DAILY_3))
    wrapped = client.wrap(bare_openai(provider), user_id="anna", feature="chat")
    provider.pause_after(5)
    with wrapped.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream:
        next(iter(stream))
    provider.resume()
    assert client.flush() == 0
    (row,) = ledger(environment)
    assert (row.status, row.amounts.requests) == ("partial", 1)
    assert row.amounts.input_tokens > 0
    assert_settled(environment)


def test_awaited_it_is_the_same(
    web: WebProcess, api: Api, provider: WireProvider, environment: Environment, tmp_path: Path
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 20, per: feature}"))

    async def one_user(tv: AsyncTokVigil, wrapped: openai.AsyncOpenAI, user: str) -> bool:
        with tv.context(user_id=user, feature="chat"):
            try:
                await wrapped.chat.completions.create(model=MODEL, messages=MESSAGES)
            except tokvigil.AIUsageBlockedError:
                return False
            return True

    async def all_users() -> list[bool]:
        async with AsyncTokVigil(
            api_key=api.text, base_url=web.url, journal=tmp_path / "journal", timeout=PATIENT_S
        ) as tv:
            assert (await tv.limits(user_id="anna", feature="chat")).limit_state[0].remaining == 20
            wrapped = tv.wrap(openai.AsyncOpenAI(api_key="sk-caller", base_url=provider.url + "/v1"))
            return await asyncio.gather(*(one_user(tv, wrapped, f"user_{n}") for n in range(60)))

    assert sum(asyncio.run(all_users())) == 20
    rows = ledger(environment)
    assert len({row.user_id for row in rows}) == len(rows) == len(provider.seen) == 20
    assert assert_settled(environment).drifts == ()


class Inside:
    """Has this process's own Django answer."""

    def __init__(self) -> None:
        transport = httpx2.WSGITransport(app=get_wsgi_application())
        self.http = httpx2.Client(transport=transport, base_url="http://testserver")

    def send(self, request: Request) -> Answer:
        response = self.http.request(
            request.method, request.path, headers=list(request.headers), content=request.body
        )
        return Answer(status=response.status_code, headers=response.headers.raw, body=response.content)

    async def send_async(self, request: Request) -> Answer:
        raise NotImplementedError

    def close(self) -> None:
        self.http.close()

    async def close_async(self) -> None:
        raise NotImplementedError


class TokVigilInside(TokVigil):
    def _linked(self, *_: object) -> Inside:
        return Inside()


@pytest.mark.parametrize("answer", ["evaluate", "report", "block"])
def test_inside_the_application_itself_it_is_the_same(
    api: Api, provider: WireProvider, environment: Environment, answer: str
) -> None:
    """The SDK calls Django's WSGI application in this process, without a socket between them."""
    apply_policies(environment, limits(DAILY_3))
    with TokVigilInside(
        api_key=api.text, base_url="http://testserver", journal=False, timeout=PATIENT_S
    ) as tv:
        wrapped = tv.wrap(bare_openai(provider), user_id="anna", feature="chat")

        def call() -> None:
            wrapped.chat.completions.create(model=MODEL, messages=MESSAGES)

        if answer == "evaluate":
            assert tv.evaluate(user_id="anna", model=MODEL, input_tokens=10).policy is not None
        elif answer == "report":
            call()
            assert tv.flush() == 0
            (row,) = ledger(environment)
            assert (row.amounts.input_tokens, row.amounts.output_tokens) == (1_200, 90)
        else:
            for _ in range(3):
                call()
            with pytest.raises(tokvigil.AIUsageBlockedError):
                call()
