"""Anthropic's clients for AWS, whose requests are signed with their body, and for Google Cloud."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import anthropic
import pytest
import time_machine
from anthropic.lib.bedrock import AnthropicBedrockMantle
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from tokvigil import TokVigil

from sdk.python.tests.conftest import FakeServer
from sdk.python.tests.frameworks.checks import every
from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wire_provider.exchange import Seen
from sdk.python.tests.wrapped import Books, plain

KEYS: Any = {
    "aws_access_key": "AKIDEXAMPLE",
    "aws_secret_key": "secret",
    "aws_session_token": "t",
    "aws_region": "us-east-1",
}
CLAUDE: Any = {
    "model": "anthropic.claude-haiku-4-5-20251001-v1:0",
    "max_tokens": 500,
    "messages": [{"role": "user", "content": "Say hello to Ada"}],
}
SIGNATURE = re.compile(
    r"Credential=.*/us-east-1/(?P<service>[^/]+)/.*SignedHeaders=(?P<headers>[^,]+), Signature=(?P<signature>\w+)"
)


def entered(manager: Any) -> Any:
    with manager as stream:
        return list(stream), stream.get_final_message()


async def entered_async(manager: Any) -> Any:
    async with manager as stream:
        return [event async for event in stream], await stream.get_final_message()


async def every_awaited(stream: Any) -> Any:
    return await every(await stream)


CALLS: dict[str, Callable[[Any], Any]] = {
    "create": lambda client: client.messages.create(**CLAUDE),
    "streaming": lambda client: list(client.messages.create(**CLAUDE, stream=True)),
    "stream": lambda client: entered(client.messages.stream(**CLAUDE)),
    "with_options": lambda client: client.with_options(timeout=9).messages.create(**CLAUDE),
    "beta": lambda client: client.beta.messages.create(**CLAUDE),
}
ASYNC_CALLS: dict[str, Callable[[Any], Any]] = {
    "create": lambda client: client.messages.create(**CLAUDE),
    "streaming": lambda client: every_awaited(client.messages.create(**CLAUDE, stream=True)),
    "stream": lambda client: entered_async(client.messages.stream(**CLAUDE)),
}


def is_signed_as_sent(seen: Seen, url: str) -> bool:
    """Whether the signature is the one of this very request, as AWS computes it."""
    said = SIGNATURE.search(seen.headers["authorization"])
    assert said is not None
    signed = {name: seen.headers[name] for name in said["headers"].split(";")}
    request = AWSRequest(method=seen.method, url=url, headers=signed, data=seen.raw)
    at = datetime.strptime(seen.headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
    with time_machine.travel(at, tick=False):
        SigV4Auth(Credentials("AKIDEXAMPLE", "secret", "t"), said["service"], "us-east-1").add_auth(request)
    again = SIGNATURE.search(request.headers["Authorization"])
    assert again is not None
    return again["signature"] == said["signature"]


@pytest.fixture
def bare(wire_provider: WireProvider) -> anthropic.AnthropicBedrock:
    return anthropic.AnthropicBedrock(**KEYS, base_url=wire_provider.url)


def sent_to(wire_provider: WireProvider, seen: Seen) -> str:
    """The address that was signed."""
    return wire_provider.url + seen.path


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_signed_with_the_cap_that_was_written_into_it(
    tv: TokVigil, bare: anthropic.AnthropicBedrock, wire_provider: WireProvider, books: Books, name: str
) -> None:
    client = tv.wrap(bare, user_id="user_123")
    assert type(client) is anthropic.AnthropicBedrock
    answer = CALLS[name](client)
    (seen,) = wire_provider.seen
    assert seen.body["max_tokens"] == 100, "of the decision, below the request's 500"
    assert is_signed_as_sent(seen, sent_to(wire_provider, seen))
    assert plain(answer) == plain(CALLS[name](bare))
    settled = books.only()
    assert (settled.status, settled.usage) == ("succeeded", wire_provider.anthropic.USAGE)
    assert settled.model == CLAUDE["model"]
    assert books.asked[0]["max_output_tokens"] == 500


@pytest.mark.parametrize("name", ASYNC_CALLS)
def test_an_awaited_call_is_signed_with_the_cap_that_was_written_into_it(
    tv: TokVigil, wire_provider: WireProvider, books: Books, name: str
) -> None:
    async def call() -> None:
        bare = anthropic.AsyncAnthropicBedrock(**KEYS, base_url=wire_provider.url)
        await ASYNC_CALLS[name](tv.wrap(bare, user_id="user_123"))

    asyncio.run(call())
    (seen,) = wire_provider.seen
    assert seen.body["max_tokens"] == 100
    assert is_signed_as_sent(seen, sent_to(wire_provider, seen))
    assert books.only().usage == wire_provider.anthropic.USAGE


def test_a_request_that_runs_no_model_is_signed_too(tv: TokVigil, wire_provider: WireProvider) -> None:
    client = tv.wrap(anthropic.AnthropicBedrock(**KEYS, base_url=wire_provider.url), user_id="user_123")
    with pytest.raises(anthropic.NotFoundError):
        client.get("/v1/guardrails", cast_to=object)
    (seen,) = wire_provider.seen
    assert is_signed_as_sent(seen, sent_to(wire_provider, seen))


def test_a_stream_that_fails_in_the_middle_is_reported_as_partial(
    tv: TokVigil, bare: anthropic.AnthropicBedrock, wire_provider: WireProvider, books: Books
) -> None:
    wire_provider.error_after(7)
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        list(tv.wrap(bare, user_id="user_123").messages.create(**CLAUDE, stream=True))
    settled = books.only()
    assert settled.status == "partial"
    assert settled.usage.input_tokens == wire_provider.anthropic.USAGE.input_tokens


def test_a_request_that_is_redirected_to_another_host_carries_no_signature(
    tv: TokVigil, wire_provider: WireProvider, provider: FakeServer, wire: Any
) -> None:
    elsewhere = provider.url.replace("127.0.0.1", "localhost") + "/elsewhere"
    path = f"/model/{CLAUDE['model']}/invoke"
    redirecting = FakeServer()
    redirecting.defaults[path] = lambda _: wire.Answer(307, headers={"Location": elsewhere})
    client = anthropic.AnthropicBedrock(**KEYS, base_url=redirecting.url, max_retries=0)
    with pytest.raises(anthropic.APIStatusError):
        tv.wrap(client, user_id="user_123").messages.create(**CLAUDE)
    redirecting.close()
    assert "AWS4-" in redirecting.seen[0].headers["Authorization"]
    (followed,) = provider.seen
    assert "authorization" not in {name.lower() for name in followed.headers}


def test_missing_keys_are_the_error_that_they_are_without_a_guard(
    tv: TokVigil, wire_provider: WireProvider, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anthropic.lib.bedrock._client.get_auth_headers", fails)
    client = anthropic.AnthropicBedrock(**KEYS, base_url=wire_provider.url)
    with pytest.raises(RuntimeError, match="no credentials"):
        tv.wrap(client, user_id="user_123").messages.create(**CLAUDE)
    assert books.asked == wire_provider.seen == []


def fails(**_: Any) -> Any:
    raise RuntimeError("no credentials")


def test_a_bearer_token_of_bedrock_is_sent_as_it_is(tv: TokVigil, wire_provider: WireProvider) -> None:
    client = anthropic.AnthropicBedrock(api_key="bearer", aws_region="us-east-1", base_url=wire_provider.url)
    tv.wrap(client, user_id="user_123").messages.create(**CLAUDE)
    assert wire_provider.seen[0].headers["authorization"] == "Bearer bearer"


def test_clients_of_other_endpoints_of_aws_are_signed_as_sent_too(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    url = wire_provider.url
    for client in (
        AnthropicBedrockMantle(**KEYS, base_url=url),
        anthropic.AnthropicAWS(**KEYS, base_url=url, workspace_id="w"),
    ):
        tv.wrap(client, user_id="user_123").messages.create(**CLAUDE)
        seen = wire_provider.seen[-1]
        assert seen.body["max_tokens"] == 100
        assert is_signed_as_sent(seen, sent_to(wire_provider, seen))
    assert [event.usage for event in books.settled()] == [wire_provider.anthropic.USAGE] * 2


def test_a_client_of_google_cloud_is_guarded_too(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    client = anthropic.AnthropicGoogleCloud(
        project="p",
        location="us-east5",
        workspace_id="w",
        token_provider=lambda: "t",
        base_url=wire_provider.url,
    )
    tv.wrap(client, user_id="user_123").messages.create(**CLAUDE)
    assert wire_provider.seen[0].headers["authorization"] == "Bearer t"
    assert books.only().usage == wire_provider.anthropic.USAGE
