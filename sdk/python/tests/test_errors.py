"""The names of the SDK's errors, what they tell, and that they travel between processes."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from types import ModuleType
from typing import Any

import anthropic
import openai
import pydantic
import pytest
import tokvigil
from google import genai
from tokvigil import RefusedError, TokVigilError, UnreachableError, Usage, UsageEvent
from tokvigil.transport import is_retryable

EVENT = UsageEvent(
    request_id="r", user_id="ada", model="gpt-4o-mini", usage=Usage(input_tokens=1, output_tokens=1)
)
ERRORS = {
    name: error
    for name, error in vars(tokvigil).items()
    if isinstance(error, type) and issubclass(error, BaseException)
}


@pytest.mark.parametrize("module", [openai, anthropic, genai.errors, pydantic, pydantic.errors])
def test_no_name_of_an_error_is_that_of_an_sdk_it_stands_beside(module: ModuleType) -> None:
    """In a program that uses both, `except` must not catch the other one's."""
    assert len(ERRORS) == 13
    assert [name for name in dir(module) if name.endswith("Error")]
    assert ERRORS.keys() & set(dir(module)) == set()


def test_there_is_one_tree() -> None:
    assert all(issubclass(error, TokVigilError) for error in ERRORS.values())
    assert {name for name, error in ERRORS.items() if issubclass(error, RefusedError)} == {
        "RefusedError",
        "InvalidKeyError",
        "MissingScopeError",
        "HoldNotFoundError",
        "IdempotencyConflictError",
        "InvalidRequestError",
        "TooManyRequestsError",
    }
    assert all(
        issubclass(ERRORS[name], ValueError) for name in ("ConfigurationError", "MissingAttributionError")
    )


@pytest.mark.parametrize("error", ERRORS.values())
@pytest.mark.parametrize("way", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
def test_errors_survive_copies_pickling_and_being_made_of_their_text(error: Any, way: Any) -> None:
    made = error("SOME_CODE: a text")
    made.status_code = 418
    arrived = way(made)
    assert (type(arrived), str(arrived), arrived.status_code) == (error, str(made), 418)
    assert str(error(*json.loads(json.dumps(made.args)))) == str(made)


@pytest.mark.parametrize(
    ("reason", "status_code", "may_have_arrived", "retryable"),
    [
        ("connect", None, False, True),
        ("timeout", None, False, True),
        ("busy", 429, False, True),
        ("status", 503, True, True),
        ("status", 500, True, False),
        ("answer", 200, True, False),
    ],
)
def test_an_unreachable_tokvigil_says_how(
    reason: Any, status_code: int | None, may_have_arrived: bool, retryable: bool
) -> None:
    error = UnreachableError("away", reason=reason, status_code=status_code)
    assert (error.reason, error.status_code) == (reason, status_code)
    assert error.may_have_arrived is may_have_arrived
    assert is_retryable(error) is retryable


@pytest.mark.parametrize(
    ("answer", "reason", "status_code"),
    [
        ({"hang_up": True}, "connect", None),
        ({"delay_s": 0.5}, "timeout", None),
        ({"status": 503}, "status", 503),
        ({"body": b"<html>"}, "answer", 200),
    ],
)
def test_a_report_that_nobody_took_says_how(
    control_plane: Any, wire: Any, answer: dict[str, Any], reason: str, status_code: int | None
) -> None:
    with tokvigil.TokVigil(api_key="key", base_url=control_plane.url, timeout=0.3, max_retries=0) as tv:
        tv.report_now(replace(EVENT, request_id="before"))
        control_plane.script("/v1/usage", wire.Answer(**answer))
        with pytest.raises(UnreachableError) as caught:
            tv.report_now(EVENT)
    assert (caught.value.reason, caught.value.status_code) == (reason, status_code)
    assert caught.value.may_have_arrived


def test_a_key_that_calls_too_often_is_told_so_where_nothing_can_be_blocked(
    control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/usage", wire.Answer(429, headers={"Retry-After": "60"}))
    with (
        tokvigil.TokVigil(api_key="key", base_url=control_plane.url) as tv,
        pytest.raises(tokvigil.TooManyRequestsError) as caught,
    ):
        tv.report_now(EVENT)
    assert caught.value.retry_after == 60
