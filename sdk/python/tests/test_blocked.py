"""A block arrives: through pickle, copies, JSON and task queues, and behind the errors of frameworks."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from concurrent.futures import Future
from typing import Any, NamedTuple

import httpx2
import openai
import pytest
from celery import Celery
from celery.backends.base import Backend
from tokvigil import AIUsageBlockedError, Decision, TokVigil
from tokvigil.wrapping.blocked import blocked_as

from sdk.python.tests.wrapped import CHAT

SAID = "DAILY_REQUEST_LIMIT_EXCEEDED: Daily request limit of 50 reached for user user_123."


def shown(error: AIUsageBlockedError) -> dict[str, Any]:
    names = ["reason_code", "reason_class", "message", "retry_after", "limit_state", "suggested_model"]
    names += ["request_id", "http_status", "http_headers"]
    return {name: getattr(error, name) for name in names} | {"str": str(error), "repr": repr(error)}


@pytest.fixture
def decision(wire: Any) -> Decision:
    return Decision.from_wire(wire.blocked(estimated_cost_usd_by="x", trace={"deep": ["x" * 10_000]}))


@pytest.fixture
def error(decision: Decision) -> AIUsageBlockedError:
    return AIUsageBlockedError(decision)


@pytest.fixture(params=["chat", "wrapped"])
def raised(request: pytest.FixtureRequest, tv: TokVigil, control_plane: Any, wire: Any, chat: Any) -> Any:
    """As an application gets it."""
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    bare = openai.OpenAI(api_key="sk", base_url="http://provider.invalid/v1")
    wrapped = tv.wrap(bare, user_id="user_123").chat.completions
    call = chat if request.param == "chat" else functools.partial(wrapped.create, **CHAT)
    with pytest.raises(AIUsageBlockedError) as caught:
        call()
    return caught.value


def test_it_says_its_code_its_message_and_nothing_more(error: AIUsageBlockedError) -> None:
    assert str(error) == SAID
    assert repr(error) == f"AIUsageBlockedError({SAID!r}, request_id='r-blocked')"
    assert len(json.dumps(error.args)) < 1000, "without the trace, which may be long"


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
def test_it_survives_copies_and_pickling(raised: AIUsageBlockedError, way: Any) -> None:
    arrived = way(raised)
    assert shown(arrived) == shown(raised)
    assert arrived.decision == raised.decision


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_it_survives_celery_and_its_result_backends(raised: AIUsageBlockedError, serializer: str) -> None:
    app = Celery(set_as_current=False)
    app.conf.update(result_serializer=serializer, accept_content=["json", "pickle"])
    backend = Backend(app)
    assert type(raised).__module__ == "tokvigil.blocked", "which is imported wherever tokvigil is"
    stored = backend.encode(backend.prepare_exception(raised))
    arrived = backend.exception_to_python(backend.decode(stored))
    assert type(arrived) is AIUsageBlockedError
    assert shown(arrived) == shown(raised)
    assert arrived.decision == raised.decision


def test_it_can_be_made_of_its_text_alone() -> None:
    error = AIUsageBlockedError(SAID)
    assert (str(error), error.message) == (SAID, SAID.partition(": ")[2])
    assert (error.reason_code, error.reason_class) == ("DAILY_REQUEST_LIMIT_EXCEEDED", "exhausted")
    assert (error.retry_after, error.limit_state, error.suggested_model, error.request_id) == (
        None,
        (),
        None,
        "",
    )
    assert error.decision.allowed is False
    assert AIUsageBlockedError("CONCURRENCY_LIMIT_EXCEEDED: 3 at once").http_status == 429
    assert str(AIUsageBlockedError("no code at all")) == "no code at all"


class Attempt(NamedTuple):
    """As instructor keeps them."""

    number: int
    exception: Exception
    completion: Any


class Framework(Exception):
    """An error in which frameworks keep another one."""

    def __init__(self, **kept: Any) -> None:
        super().__init__("something failed")
        self.__dict__.update(kept)


def failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def raised_within(error: BaseException, context: BaseException) -> BaseException:
    error.__context__ = context
    return error


def answered_with(block: AIUsageBlockedError) -> BaseException:
    """The error of an HTTP client that raises for the status of the guard's answer."""
    error = Framework()
    error.__dict__["response"] = httpx2.Response(403, extensions={"tokvigil_error": block})
    return error


def raised_from_none(error: BaseException, context: BaseException) -> BaseException:
    """As litellm raises what it made of an HTTP error."""
    error.__suppress_context__ = True
    return raised_within(error, context)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda block: block,
        lambda block: raised_from(ValueError(), block),
        lambda block: raised_within(ValueError(), block),
        lambda block: raised_from_none(ValueError(), answered_with(block)),
        lambda block: raised_from(ValueError(), raised_within(KeyError(), raised_from(OSError(), block))),
        lambda block: ExceptionGroup("some", [ValueError(), ExceptionGroup("inner", [KeyError(), block])]),
        lambda block: Framework(original_exception=block),
        lambda block: Framework(exc=raised_from(ValueError(), block)),
        lambda block: Framework(failed_attempts=[Attempt(1, ValueError(), None), Attempt(2, block, None)]),
        lambda block: Framework(last_attempt=failed(block)),
        lambda block: blocked_as(block, openai.OpenAIError("denied")),
    ],
)
def test_it_is_found_behind_other_errors(error: AIUsageBlockedError, wrapped: Any) -> None:
    found = AIUsageBlockedError.find(wrapped(error))
    assert found is not None
    assert found.decision == error.decision


def test_nothing_is_found_where_there_is_nothing(error: AIUsageBlockedError) -> None:
    unfinished: Future[Any] = Future()
    cancelled: Future[Any] = Future()
    cancelled.cancel()
    for nothing in (
        None,
        ValueError("x"),
        Framework(exc="a text", failed_attempts=[1, (2,)], last_attempt=unfinished, error=7),
        Framework(last_attempt=cancelled),
        ExceptionGroup("some", [ValueError()]),
        raised_from_none(ValueError(), error),
    ):
        assert AIUsageBlockedError.find(nothing) is None


def test_errors_that_refer_to_each_other_or_raise_end_the_search() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert AIUsageBlockedError.find(first) is None
    many = [ValueError() for _ in range(100_000)]
    assert AIUsageBlockedError.find(ExceptionGroup("many", many)) is None

    class Rude(Exception):
        @property
        def exc(self) -> None:
            raise RuntimeError("not now")

    assert AIUsageBlockedError.find(Rude()) is None
