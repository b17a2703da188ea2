"""A guard around a call that the caller makes."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
import tokvigil
from tokvigil import AsyncTokVigil, TokVigil, Usage
from tokvigil.journal_file import read_reports

from sdk.python.tests.wrapped import pending_of

ASKED: Any = {"user_id": "user_123", "feature": "chat", "model": "claude-haiku-4-5", "input_tokens": 10}


class Whole:
    """A whole number that is no `int`, as numpy has them."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def only_report(tv: TokVigil, control_plane: Any) -> Any:
    assert tv.flush() == 0
    (body,) = control_plane.charged.values()
    return body


def test_what_is_recorded_is_reported_once(tv: TokVigil, control_plane: Any) -> None:
    with tv.guard(**ASKED, plan="free", run_id="run_1", provider="anthropic", metadata={"a": 1}) as call:
        assert call.max_output_tokens == 100
        used = call.record({"usage": {"input_tokens": 10, "output_tokens": 3, "cache_read_input_tokens": 5}})
        assert call.record(Usage(input_tokens=99, output_tokens=99)) == used
    body = only_report(tv, control_plane)
    assert body["request_id"] == call.request_id == call.decision.request_id
    assert (body["input_tokens"], body["output_tokens"], body["cached_input_tokens"]) == (15, 3, 5)
    assert (body["plan"], body["run_id"], body["provider"], body["metadata"]) == (
        "free",
        "run_1",
        "anthropic",
        {"a": 1},
    )
    assert body["status"] == "succeeded"
    assert tv.pending() == 0


def test_messages_are_counted_and_not_sent(tv: TokVigil, control_plane: Any) -> None:
    messages = [{"role": "user", "content": "Ada Lovelace"}]
    with tv.guard(
        user_id="user_123", feature="chat", model="gpt-4o-mini", messages=messages, max_output_tokens=50
    ) as call:
        call.record(Usage(input_tokens=10, output_tokens=3))
    asked = control_plane.calls("/v1/evaluate")[0]
    assert asked.body["input_tokens"] == tokvigil.count_tokens(messages, model="gpt-4o-mini")
    assert asked.body["max_output_tokens"] == 50
    assert b"Ada" not in asked.raw


def test_a_block_never_enters(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    entered = False
    with pytest.raises(tokvigil.AIUsageBlockedError) as caught, tv.guard(**ASKED):
        entered = True
    assert not entered
    assert caught.value.retry_after == 3600
    assert control_plane.charged == {}
    assert tv.pending() == 0


@pytest.mark.parametrize(
    "interruption",
    [RuntimeError, KeyError, TimeoutError, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit],
)
def test_a_call_that_broke_may_have_reached_the_provider(
    tv: TokVigil, control_plane: Any, interruption: type[BaseException]
) -> None:
    with pytest.raises(interruption), tv.guard(**ASKED):
        raise interruption
    body = only_report(tv, control_plane)
    asked = control_plane.calls("/v1/evaluate")[0].body["input_tokens"]
    assert (body["status"], body["input_tokens"], body["output_tokens"]) == ("partial", asked, 100)
    assert asked > 0


def test_a_call_that_was_not_sent_gives_its_hold_back(tv: TokVigil, control_plane: Any) -> None:
    with tv.guard(**ASKED) as call:
        call.not_sent()
    body = only_report(tv, control_plane)
    assert (body["status"], body["input_tokens"], body["output_tokens"]) == ("cancelled", 0, 0)


def test_a_cap_that_no_answer_can_reach_is_no_reason_to_refuse_a_call(unreachable: str) -> None:
    with TokVigil(
        api_key="key", base_url=unreachable, max_retries=0, on_unreachable="allow", journal=False
    ) as client:
        asked = ASKED | {"max_output_tokens": 2**31}
        with client.guard(**asked) as call:
            assert call.max_output_tokens == 2**31
        with pytest.raises(KeyboardInterrupt), client.guard(**asked):
            raise KeyboardInterrupt
        assert [event.status for event in pending_of(client)] == ["partial", "partial"]
        assert {event.usage.output_tokens for event in pending_of(client)} == {100_000_000}


def test_leaving_without_a_record_is_charged_what_was_held_and_said(
    tv: TokVigil, control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with tv.guard(**ASKED):
        pass
    report = only_report(tv, control_plane)
    assert (report["status"], report["output_tokens"]) == ("partial", 100)
    assert "no usage was recorded" in caplog.text


@pytest.mark.parametrize("error", [KeyError, asyncio.CancelledError])
def test_an_error_that_is_charged_what_was_held_is_said(
    tv: TokVigil, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    with pytest.raises(error), tv.guard(**ASKED) as call:
        raise error
    (said,) = [record.getMessage() for record in caplog.records if record.name == "tokvigil"]
    assert call.request_id in said
    assert f"no usage was recorded before {error.__name__} was raised" in said
    assert "not_sent()" in said


def test_an_error_that_is_charged_nothing_is_not_said(
    tv: TokVigil, unreachable: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(httpx2.ConnectError), tv.guard(**ASKED):
        httpx2.post(unreachable + "/v1/messages", json={})
    assert [record for record in caplog.records if record.name == "tokvigil"] == []


def test_an_error_after_the_record_changes_nothing(tv: TokVigil, control_plane: Any) -> None:
    def use() -> None:
        with tv.guard(**ASKED) as call:
            call.record(Usage(input_tokens=10, output_tokens=3), status="partial")
            raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        use()
    assert only_report(tv, control_plane)["status"] == "partial"


def test_an_answer_without_usage_is_an_error_that_says_the_mend(tv: TokVigil, control_plane: Any) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match=r"record\(Usage"), tv.guard(**ASKED) as call:
        call.record({"text": "hello"})
    body = only_report(tv, control_plane)
    assert (body["status"], body["output_tokens"]) == ("partial", 100), "the provider was called, so never 0"


def test_an_answer_without_usage_may_still_be_recorded_by_hand(tv: TokVigil, control_plane: Any) -> None:
    with tv.guard(**ASKED) as call:
        with pytest.raises(tokvigil.ConfigurationError):
            call.record({"text": "hello"})
        call.record(Usage(input_tokens=10, output_tokens=2))
    assert only_report(tv, control_plane)["output_tokens"] == 2


@pytest.mark.parametrize("count", [10.0, -1, "10", True, None])
def test_counts_that_are_none_are_an_error_and_the_call_was_made_all_the_same(
    tv: TokVigil, control_plane: Any, count: Any
) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match="input_tokens"), tv.guard(**ASKED) as call:
        call.record(Usage(input_tokens=count, output_tokens=3))
    body = only_report(tv, control_plane)
    assert (body["status"], body["input_tokens"], body["output_tokens"]) == ("partial", 10, 100)


def test_counts_that_are_none_do_not_keep_a_guarded_functions_answer(
    tv: TokVigil, control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @tv.guarded(**ASKED)
    def answer() -> Usage:
        return Usage(input_tokens=10, output_tokens=3.0)  # type: ignore[arg-type]

    assert answer().output_tokens == 3.0
    assert only_report(tv, control_plane)["status"] == "partial"
    assert "output_tokens is a whole number" in caplog.text


def test_an_answer_that_cannot_be_read_is_the_guarded_functions_answer_all_the_same(
    tv: TokVigil, control_plane: Any
) -> None:
    class Answer:
        def model_dump(self) -> Any:
            raise RuntimeError("no fields")

    @tv.guarded(**ASKED)
    def answer() -> Answer:
        return Answer()

    assert isinstance(answer(), Answer)
    assert only_report(tv, control_plane)["status"] == "partial"


async def a_coroutine() -> Any: ...


async def an_async_generator() -> Any:
    yield 1


def a_generator() -> Any:
    yield 1


class AwaitedWhenCalled:
    async def __call__(self) -> Any:
        return Usage(input_tokens=10, output_tokens=3)


@pytest.mark.parametrize(
    ("function", "instead"),
    [
        (a_coroutine, "AsyncTokVigil"),
        (functools.partial(a_coroutine), "AsyncTokVigil"),
        (AwaitedWhenCalled(), "AsyncTokVigil"),
        (a_generator, "guard"),
        (an_async_generator, "guard"),
    ],
)
def test_a_function_whose_call_ends_before_it_has_begun_cannot_be_guarded(
    tv: TokVigil, function: Any, instead: str
) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match=instead):
        tv.guarded(**ASKED)(function)


@pytest.mark.parametrize("function", [a_generator, an_async_generator])
def test_the_async_client_guards_no_generators_either(control_plane: Any, function: Any) -> None:
    tv = AsyncTokVigil(api_key="key", base_url=control_plane.url, journal=False)
    with pytest.raises(tokvigil.ConfigurationError, match="guard"):
        tv.guarded(**ASKED)(function)
    asyncio.run(tv.close())


def test_the_async_client_guards_whatever_returns_something_to_await(control_plane: Any) -> None:
    """As a coroutine function does under somebody's decorator."""

    async def answer() -> Usage:
        return Usage(input_tokens=10, output_tokens=3)

    async def guarded_once(function: Any) -> Any:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url, journal=False) as tv:
            return await tv.guarded(**ASKED)(function)()

    assert asyncio.run(guarded_once(lambda: answer())) == Usage(input_tokens=10, output_tokens=3)
    (body,) = control_plane.charged.values()
    assert (body["status"], body["output_tokens"]) == ("succeeded", 3)
    control_plane.charged.clear()
    with pytest.raises(tokvigil.ConfigurationError, match=r"TokVigil\.guarded"):
        asyncio.run(guarded_once(lambda: None))
    (body,) = control_plane.charged.values()
    assert body["status"] == "partial", "whatever it did, it did"


@pytest.mark.parametrize("kind", ["function", "partial", "callable object"])
def test_a_guarded_coroutine_function_is_reported_when_it_is_over(control_plane: Any, kind: str) -> None:
    async def answer(output_tokens: int = 3) -> Usage:
        assert control_plane.charged == {}
        await asyncio.sleep(0)
        return Usage(input_tokens=10, output_tokens=output_tokens)

    async def main() -> None:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url) as tv:
            functions = {"partial": functools.partial(answer), "callable object": AwaitedWhenCalled()}
            assert (await tv.guarded(**ASKED)(functions.get(kind, answer))()).output_tokens == 3

    asyncio.run(main())
    (body,) = control_plane.charged.values()
    assert (body["status"], body["output_tokens"]) == ("succeeded", 3)


def test_whole_numbers_of_other_kinds_are_counts(tv: TokVigil, control_plane: Any) -> None:
    with tv.guard(**ASKED) as call:
        used = call.record(Usage(input_tokens=Whole(10), output_tokens=Whole(3)))  # type: ignore[arg-type]
    assert used == Usage(input_tokens=10, output_tokens=3)
    body = only_report(tv, control_plane)
    assert (body["status"], body["input_tokens"], body["output_tokens"]) == ("succeeded", 10, 3)


def test_a_guard_may_end_elsewhere_than_it_began(tv: TokVigil, control_plane: Any) -> None:
    """As in a dependency of a web framework that runs before and after the view in two threads."""

    def dependency() -> Iterator[Any]:
        with tv.guard(**ASKED) as call:
            yield call

    running = dependency()
    contextvars.copy_context().run(next, running)
    assert next(running, None) is None
    assert only_report(tv, control_plane)["status"] == "partial"


def test_a_guard_of_an_async_generator_that_is_left_early_is_reported(control_plane: Any) -> None:
    async def stream(tv: AsyncTokVigil) -> AsyncIterator[int]:
        async with tv.guard(**ASKED) as call:
            yield 1
            call.record(Usage(input_tokens=10, output_tokens=3))

    async def leaves_early() -> None:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url) as tv:
            left = stream(tv)
            await asyncio.create_task(anext(left))  # type: ignore[arg-type]
            await left.aclose()  # type: ignore[attr-defined]
            assert await tv.flush() == 0

    asyncio.run(leaves_early())
    (body,) = control_plane.charged.values()
    assert (body["status"], body["input_tokens"]) == ("partial", 10)


def test_inside_the_call_is_on_disk_with_what_it_may_use(tv: TokVigil) -> None:
    with tv.guard(**ASKED) as call:
        file = tv._reporter.journal._file
        assert file is not None
        (body,) = read_reports(file.path).pending.values()
        call.record(Usage(input_tokens=10, output_tokens=3))
    written = json.loads(body)
    assert (written["status"], written["input_tokens"], written["output_tokens"]) == ("partial", 10, 100)


def test_the_cap_asked_for_holds_while_nobody_can_lower_it(unreachable: str) -> None:
    with (
        TokVigil(
            api_key="tv_dev_id_secret", base_url=unreachable, timeout=0.2, max_retries=0, journal=False
        ) as client,
        client.guard(**ASKED, max_output_tokens=500) as call,
    ):
        call.record(Usage(input_tokens=10, output_tokens=3))
    assert call.decision.degraded
    assert call.max_output_tokens == 500


def test_a_call_inside_a_guard_that_asks_by_itself_is_pointed_out(
    tv: TokVigil, chat: Any, control_plane: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with tv.guard(**ASKED) as call:
        chat()
        call.record(Usage(input_tokens=10, output_tokens=3))
    assert f"inside the guard of request {call.request_id} asks by itself" in caplog.text
    caplog.clear()
    chat()
    assert "inside the guard" not in caplog.text


@pytest.mark.parametrize(("provider", "asked"), [("cerebras", "cerebras"), (None, None), ("", None)])
def test_it_asks_for_the_provider_that_it_reports(
    tv: TokVigil, control_plane: Any, provider: str | None, asked: str | None
) -> None:
    with tv.guard(**ASKED, provider=provider) as call:
        call.record(Usage(input_tokens=10, output_tokens=3))

    assert control_plane.calls("/v1/evaluate")[0].body.get("provider") == asked
    assert only_report(tv, control_plane).get("provider") == asked
