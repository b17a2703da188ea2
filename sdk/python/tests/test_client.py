"""Set-up, reservations, limits and usage reports."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import tokvigil
from tokvigil import AsyncTokVigil, TokVigil, Usage, UsageEvent
from tokvigil.question import new_request_id

EVENT = UsageEvent(
    request_id="r1",
    user_id="user_123",
    model="gpt-4o-mini",
    usage=Usage(input_tokens=10, output_tokens=5),
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"api_key": None}, "pass api_key or set TOKVIGIL_API_KEY"),
        ({"api_key": " "}, "pass api_key or set TOKVIGIL_API_KEY"),
        ({"api_key": 7}, "api_key is a int: pass a string"),
        *(
            ({"api_key": key}, "^api_key: the API key has characters")
            for key in ("kлюч", "two words", "new\nline", '"tv_dev_id_secret"', "'tv_dev_id_secret'")
        ),
        ({"base_url": None}, "pass base_url or set TOKVIGIL_BASE_URL"),
        ({"base_url": b"http://x"}, "base_url is a bytes: pass a string"),
        *(
            ({"base_url": url}, "it must begin with https://")
            for url in ("tokvigil.example", "ftp://x", "http://", "http://a b", '"http://x"')
        ),
        ({"base_url": "http://x:port"}, "base_url is 'http://x:port', which is no address"),
        ({"base_url": "http://x/?y=1"}, "leave out what follows the path"),
        (
            {"on_unreachable": "maybe"},
            "on_unreachable is 'maybe': pass one of 'last_known', 'allow', 'block'",
        ),
        *(
            ({"timeout": value}, "^timeout is .*: pass seconds")
            for value in (0, -1, float("nan"), True, "2", 1e9)
        ),
        *(({"max_retries": value}, "^max_retries is .* from 0 to 10") for value in (-1, 11, 1.5, True, None)),
    ],
)
def test_a_client_that_can_never_work_is_refused_at_once_and_says_what_to_do(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match=said) as caught:
        TokVigil(**{"api_key": "k", "base_url": "http://x"} | changes)
    assert "line" not in str(caught.value)
    assert isinstance(caught.value, ValueError), "as Python has it for arguments that cannot be"


def test_what_is_wrong_in_the_environment_is_said_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKVIGIL_BASE_URL", "tokvigil.example")
    monkeypatch.setenv("TOKVIGIL_API_KEY", "two words")
    with pytest.raises(tokvigil.ConfigurationError, match=r"^TOKVIGIL_API_KEY: "):
        TokVigil()
    with pytest.raises(tokvigil.ConfigurationError, match=r"^TOKVIGIL_BASE_URL is 'tokvigil.example'"):
        TokVigil(api_key="key")


def test_key_and_address_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, control_plane: Any
) -> None:
    monkeypatch.setenv("TOKVIGIL_API_KEY", "from-env\n")
    monkeypatch.setenv("TOKVIGIL_BASE_URL", control_plane.url + "/")

    with TokVigil() as client:
        client.evaluate(user_id="user_123", model="gpt-4o-mini")

    assert control_plane.seen[0].headers["Authorization"] == "Bearer from-env"
    assert control_plane.seen[0].path == "/v1/evaluate"


def test_the_key_does_not_show_in_the_repr(tv: TokVigil) -> None:
    assert "secret" not in repr(tv)


def test_importing_the_package_is_light() -> None:
    code = "import sys, tokvigil; print([m for m in ('httpx2', 'tiktoken', 'django') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_request_ids_are_uuid7_and_sort_by_time() -> None:
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(made[14] == "7" and made[19] in "89ab" for made in ids)
    assert [made[:13] for made in ids] == sorted(made[:13] for made in ids)


def test_a_usage_report_carries_what_was_used(tv: TokVigil, control_plane: Any) -> None:
    receipt = tv.report_now(
        UsageEvent(
            request_id="r1",
            user_id="user_123",
            model="gpt-4o-mini",
            feature="chat",
            latency_ms=812,
            reported_cost_usd="0.0000001",
            occurred_at=datetime(2026, 11, 24, 1, 0, tzinfo=timezone(timedelta(hours=1))),
            usage=Usage(input_tokens=1200, output_tokens=90, cached_input_tokens=1024, reasoning_tokens=64),
        )
    )

    assert receipt == tokvigil.Receipt(
        request_id="r1", duplicate=False, cost_usd=Decimal("0.000198"), priced=True
    )
    assert control_plane.charged["r1"] == {
        "request_id": "r1",
        "user_id": "user_123",
        "model": "gpt-4o-mini",
        "input_tokens": 1_200,
        "output_tokens": 90,
        "cached_input_tokens": 1_024,
        "reasoning_tokens": 64,
        "status": "succeeded",
        "feature": "chat",
        "latency_ms": 812,
        "reported_cost_usd": "0.0000001",
        "occurred_at": "2026-11-24T00:00:00Z",
    }


def test_a_report_whose_answer_was_lost_is_repeated_and_counted_once(
    tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/usage", wire.Answer(503))
    assert tv.report_now(EVENT).duplicate is False
    assert tv.report_now(EVENT).duplicate is True
    assert len({seen.raw for seen in control_plane.calls("/v1/usage")}) == 1
    assert len(control_plane.charged) == 1


def test_an_unpriced_model_has_no_cost(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    answer = {"request_id": "r1", "duplicate": False, "cost_usd": None, "priced": False, "limit_state": []}
    control_plane.script("/v1/usage", wire.Answer(201, answer))
    receipt = tv.report_now(replace(EVENT, model="my-own-model"))
    assert (receipt.cost_usd, receipt.priced) == (None, False)


def test_a_report_that_cannot_be_made_raises_and_stays_with_the_caller(unreachable: str) -> None:
    with TokVigil(api_key="key", base_url=unreachable, max_retries=0) as client:
        with pytest.raises(tokvigil.UnreachableError):
            client.report_now(EVENT)
        assert client.pending() == 0


def test_a_hold_is_released_once(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/reservations/a%2Fb", wire.Answer(204, b""), wire.Answer(404))
    assert tv.release("a/b") is True
    assert tv.release("a/b") is False
    assert [seen.method for seen in control_plane.seen] == ["DELETE", "DELETE"]


def test_a_hold_is_extended(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    answer = wire.Answer(200, {"request_id": "r1", "expires_at": "2026-11-24T00:20:00Z"})
    control_plane.script("/v1/reservations/r1/extend", answer, wire.Answer(404))
    assert tv.extend("r1") == datetime(2026, 11, 24, 0, 20, tzinfo=UTC)
    with pytest.raises(tokvigil.HoldNotFoundError):
        tv.extend("r1")


def test_limits_are_the_policies_and_their_state(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    answer = {
        "user_id": "user_123",
        "policies": [{"id": "p1", "name": "Free plan", "version": 7, "scope": "plan", "kind": "override"}],
        "limit_state": wire.blocked()["limit_state"],
    }
    control_plane.script("/v1/limits", wire.Answer(200, answer))

    limits = tv.limits(user_id="user_123", feature="chat")

    assert limits.policies[0].name == "Free plan"
    assert limits.limit_state[0].limit == 50
    assert limits.raw["user_id"] == "user_123"
    assert control_plane.seen[0].path == "/v1/limits?user_id=user_123&feature=chat"


def test_limits_are_those_of_the_context_where_the_arguments_say_nothing(
    control_plane: Any, wire: Any
) -> None:
    whose = tokvigil.context(user_id="ada", plan="free", feature="chat", run_id="run-7", metadata={"a": 1})
    control_plane.defaults["/v1/limits"] = lambda _: wire.Answer(200, {"limit_state": []})

    async def main() -> None:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url) as tv:
            with whose:
                await tv.limits()
                await tv.limits(user_id="ben", model="gpt-4o")
            await tv.limits()

    asyncio.run(main())
    with TokVigil(api_key="key", base_url=control_plane.url) as tv:
        with whose:
            tv.limits()
            tv.limits(user_id="ben", model="gpt-4o")
        tv.limits()
    asked = [
        dict(parse_qsl(urlsplit(seen.path).query)) for seen in control_plane.seen if "limits" in seen.path
    ]
    # Plan and run belong to the user of the context.
    assert asked == 2 * [
        {"user_id": "ada", "plan": "free", "feature": "chat", "run_id": "run-7"},
        {"user_id": "ben", "feature": "chat", "model": "gpt-4o"},
        {},
    ]


def test_the_async_client_does_the_same(control_plane: Any, wire: Any) -> None:
    expiry = wire.Answer(200, {"request_id": "r1", "expires_at": "2026-11-24T00:20:00Z"})
    control_plane.script("/v1/usage", wire.Answer(503))
    control_plane.script("/v1/reservations/a%2Fb", wire.Answer(204, b""), wire.Answer(404))
    control_plane.script("/v1/reservations/r1/extend", expiry, wire.Answer(200, {}))
    control_plane.script("/v1/limits", wire.Answer(200, {"limit_state": wire.blocked()["limit_state"]}))

    async def main() -> None:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url) as tv:
            receipt = await tv.report_now(replace(EVENT, feature="chat", latency_ms=8))
            assert (receipt.duplicate, receipt.cost_usd) == (False, Decimal("0.000198"))
            assert [await tv.release("a/b"), await tv.release("a/b")] == [True, False]
            assert await tv.extend("r1") == datetime(2026, 11, 24, 0, 20, tzinfo=UTC)
            with pytest.raises(tokvigil.UnreachableError, match="expires_at"):
                await tv.extend("r1")
            assert (await tv.limits(user_id="user_123", feature="chat")).limit_state[0].limit == 50

    asyncio.run(main())
    charged = control_plane.charged["r1"]
    assert (charged["input_tokens"], charged["latency_ms"], charged["feature"]) == (10, 8, "chat")
    assert control_plane.seen[-1].path == "/v1/limits?user_id=user_123&feature=chat"


def test_an_estimate_needs_no_client() -> None:
    estimate = tokvigil.estimate("gpt-4o-mini", [{"role": "user", "content": "Hello"}], max_output_tokens=100)
    assert (estimate.input_tokens, estimate.output_tokens) == (8, 100)
    assert estimate.cost_usd == Decimal("0.0000612")
