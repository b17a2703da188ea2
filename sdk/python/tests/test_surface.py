"""The public surface: small, explicit, and the same in both clients. A change of it is a change of this file."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import tokvigil
from tokvigil import AsyncTokVigil, TokVigil
from tokvigil.testing import AsyncFakeTokVigil, FakeTokVigil

NAMES = """
AIUsageBlockedError AsyncChatStream AsyncGuard AsyncTokVigil ChatResult ChatStream ConfigurationError Decision Estimate
Guard HoldNotFoundError IdempotencyConflictError InvalidKeyError InvalidRequestError LimitState Limits
MissingAttributionError MissingScopeError OnUnreachable PolicyRef ProviderError ReasonClass ReasonCode Receipt
RefusedError TokVigil TokVigilError TooManyRequestsError UnreachableError Usage UsageEvent UsageStatus __version__
carry_context context count_tokens decision_of estimate read_usage
"""
WHOSE = "user_id feature plan"
ASKED = (
    f"model {WHOSE} provider input_tokens input_text messages max_output_tokens service_tier region quantities run_id"
    " metadata"
)
METHODS = {
    "async_http_client": f"{WHOSE} run_id metadata library raise_blocks **options",
    "chat": "model messages stream **options",
    "close": "",
    "context": f"{WHOSE} run_id metadata",
    "evaluate": f"{ASKED} request_id dry_run explain",
    "extend": "request_id!",
    "flush": "timeout!",
    "guard": ASKED,
    "guarded": "**options",
    "http_client": f"{WHOSE} run_id metadata library raise_blocks **options",
    "limits": "user_id plan feature model",
    "pending": "",
    "release": "request_id!",
    "report": "event!",
    "report_now": "event!",
    "wrap": f"client! {WHOSE} run_id metadata",
}
# What never waits is the same in both; all else is awaited.
NEVER_WAIT = {"async_http_client", "context", "guard", "guarded", "http_client", "pending", "report", "wrap"}
CLIENT = "api_key base_url timeout max_retries on_unreachable journal proxy verify on_decision"


def parameters(function: Any) -> str:
    """Keyword-only names; with `!`, one that may be passed by its position."""
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "unknown"):
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            found.append(f"**{parameter.name}")
        else:
            found.append(parameter.name + ("" if parameter.kind is parameter.KEYWORD_ONLY else "!"))
    return " ".join(found)


def test_the_package_has_these_names_and_no_others() -> None:
    assert sorted(tokvigil.__all__) == sorted(NAMES.split())
    assert all(hasattr(tokvigil, name) for name in tokvigil.__all__)


@pytest.mark.parametrize("client", [TokVigil, AsyncTokVigil])
def test_a_client_has_these_methods_and_no_others(client: Any) -> None:
    public = {name for name in dir(client) if not name.startswith("_")}
    assert public == set(METHODS)
    assert parameters(client.__init__) == CLIENT
    for name, expected in METHODS.items():
        assert parameters(getattr(client, name)) == expected, name


@pytest.mark.parametrize("name", METHODS)
def test_what_may_wait_is_awaited(name: str) -> None:
    waits = inspect.iscoroutinefunction(getattr(AsyncTokVigil, name))
    assert waits is (name not in NEVER_WAIT)
    assert not inspect.iscoroutinefunction(getattr(TokVigil, name))


@pytest.mark.parametrize("fake", [FakeTokVigil, AsyncFakeTokVigil])
def test_a_fake_is_a_client(fake: Any) -> None:
    assert set(METHODS) <= {name for name in dir(fake) if not name.startswith("_")}


def test_a_misspelt_keyword_is_named() -> None:
    with FakeTokVigil() as tv, pytest.raises(TypeError, match=r"evaluate\(\).*'modell'"):
        tv.evaluate(modell="gpt-4o", user_id="ada")  # type: ignore[call-arg]
