"""The connections to the control plane after their end."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from tokvigil import AsyncTokVigil, ConfigurationError, TokVigil


@pytest.fixture(autouse=True)
def limits(control_plane: Any, wire: Any) -> None:
    control_plane.defaults["/v1/limits"] = lambda _: wire.Answer(200, {"limit_state": []})


def test_a_closed_client_asks_nothing(control_plane: Any) -> None:
    never_used = TokVigil("key", control_plane.url)
    used = TokVigil("key", control_plane.url)
    used.limits("ada")
    for client in (never_used, used):
        client.close()
        with pytest.raises(ConfigurationError, match="this TokVigil client is closed"):
            client.limits("ada")


def test_a_closed_async_client_asks_nothing(control_plane: Any) -> None:
    async def close_and_ask() -> None:
        client = AsyncTokVigil("key", control_plane.url)
        await client.limits("ada")
        await client.close()
        await client.limits("ada")

    with pytest.raises(ConfigurationError, match="this TokVigil client is closed"):
        asyncio.run(close_and_ask())


def test_a_given_client_that_was_closed_is_said(control_plane: Any) -> None:
    with httpx2.Client() as given:
        client = TokVigil("key", control_plane.url, http_client=given)
    with pytest.raises(ConfigurationError, match="closed"):
        client.limits("ada")


def test_a_question_that_never_left_is_no_sign_that_tokvigil_is_back(control_plane: Any, wire: Any) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda _: wire.Answer(503)
    with TokVigil("key", control_plane.url, max_retries=0) as client:
        client.evaluate("ada", "gpt-4o-mini")
        with pytest.raises(ConfigurationError):
            client.evaluate("ada", object())  # type: ignore[arg-type]
        assert client._availability._failures == 1


def test_what_the_first_attempt_may_hold_is_given_back_though_the_second_found_nobody() -> None:
    outcomes = [httpx2.ReadError("hung up"), httpx2.ConnectError("refused")]

    def fail(request: httpx2.Request) -> httpx2.Response:
        raise outcomes.pop(0) if outcomes else httpx2.ConnectError("refused")

    given = httpx2.Client(transport=httpx2.MockTransport(fail))
    with TokVigil(
        "key", "http://tokvigil.test", max_retries=1, on_unavailable="block", spool=False, http_client=given
    ) as client:
        client.evaluate("ada", "gpt-4o-mini")
        assert [event.status for event in client.pending_usage] == ["cancelled"]
        client.evaluate("ada", "gpt-4o-mini")
        assert len(client.pending_usage) == 1, "nothing arrived of the second"
