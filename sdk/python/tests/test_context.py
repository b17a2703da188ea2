"""Who a call is for: said around the code that makes it, and never mixed up with another user."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, closing
from contextvars import copy_context
from typing import Any

import openai
import pytest
import tokvigil
from fastapi import BackgroundTasks, Depends, FastAPI
from starlette.testclient import TestClient
from tokvigil import ConfigurationError, MissingAttributionError, TokVigil, carry_context
from tokvigil.attribution import NOBODY, AskedLater, Attribution, around, current

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, Books

TASKS = 100
THREADS = 16
ADA = {"user_id": "ada", "feature": "search", "plan": "pro", "run_id": "run-of-ada", "metadata": {"a": 1}}


@pytest.fixture
def client(tv: TokVigil, wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
        yield tv.wrap(bare)


def said() -> Attribution:
    """Here."""
    return current(NOBODY)


def user() -> str | None:
    """Here, or None."""
    return around().user_id


def test_contexts_nest_and_add_and_end(tv: TokVigil) -> None:
    with tv.context(user_id="ada", plan="free", metadata={"a": 1}):
        with tv.context(feature="chat"):
            assert said() == Attribution(user_id="ada", feature="chat", plan="free", metadata={"a": 1})
            with tv.context(user_id="bob", run_id="run_1"):
                assert said() == Attribution(user_id="bob", feature="chat", run_id="run_1")
            assert said().user_id == "ada"
        assert said().feature is None
    with pytest.raises(MissingAttributionError):
        said()


def test_another_user_inside_takes_only_the_feature_along(tv: TokVigil) -> None:
    with tv.context(**ADA):  # type: ignore[arg-type]
        with tv.context(user_id="bob"):
            assert said() == Attribution(user_id="bob", feature="search")
            with tv.context(plan="free"):
                assert said() == Attribution(user_id="bob", feature="search", plan="free")
        with tv.context(user_id="ada", feature="chat"):
            assert said() == Attribution(**{**ADA, "feature": "chat"})  # type: ignore[arg-type]


def test_what_is_said_of_no_user_holds_for_every_user_inside(tv: TokVigil) -> None:
    with tv.context(plan="free", run_id="nightly", metadata={"a": 1}), tv.context(user_id="bob"):
        assert said() == Attribution(user_id="bob", plan="free", run_id="nightly", metadata={"a": 1})


def test_a_call_for_another_user_than_the_one_around_takes_only_the_feature_along(
    tv: TokVigil, chat: Callable[..., Any], control_plane: Any
) -> None:
    with tv.context(**ADA):  # type: ignore[arg-type]
        for user_id in ("bob", "ada"):
            tv.evaluate(user_id=user_id, model="m")
            with tv.guard(user_id=user_id, feature=None, model="m") as call:
                call.record(tokvigil.Usage(input_tokens=1, output_tokens=1))
            chat(user_id=user_id, feature=None)
    asked = [seen.body for seen in control_plane.calls("/v1/evaluate")]
    found = [{name: body.get(name) for name in ADA} for body in asked]
    nothing = dict.fromkeys(ADA)
    of_bob, of_ada = nothing | {"user_id": "bob", "feature": "search"}, ADA
    assert found == [*[of_bob] * 3, *[of_ada] * 3]


def test_the_plan_a_client_was_wrapped_with_is_not_for_the_user_of_a_context(
    tv: TokVigil, client: openai.OpenAI, books: Books
) -> None:
    own = tv.wrap(client, **ADA)  # type: ignore[arg-type]
    with tv.context(user_id="bob"):
        own.chat.completions.create(**CHAT)
    (event,) = books.settled()
    assert (event.user_id, event.feature) == ("bob", "search")
    assert event.plan is event.run_id is event.metadata is None
    assert {"plan", "run_id", "metadata"}.isdisjoint(books.asked[0])


def test_metadata_is_merged_and_the_inner_key_wins(tv: TokVigil) -> None:
    with tv.context(user_id="ada", metadata={"team": "search", "trace": "t1"}):
        with tv.context(metadata={"trace": "t2", "page": 3}):
            assert said().metadata == {"team": "search", "trace": "t2", "page": 3}
        assert said().metadata == {"team": "search", "trace": "t1"}


def test_merged_metadata_with_too_many_keys_is_refused_and_the_call_is_not_sent(
    tv: TokVigil, client: openai.OpenAI, books: Books, wire_provider: WireProvider
) -> None:
    with (
        tv.context(user_id="ada", metadata={f"a{number}": 1 for number in range(10)}),
        tv.context(metadata={f"b{number}": 1 for number in range(7)}),
        pytest.raises(ConfigurationError, match="at most 16 keys, and this has 17 together with"),
    ):
        client.chat.completions.create(**CHAT)
    assert books.asked == wire_provider.seen == []


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("user", "did you mean user_id?"),
        ("run", "did you mean run_id?"),
        ("zzz", "it takes user_id, feature"),
    ],
)
def test_an_unknown_argument_is_a_type_error_that_names_the_right_one(
    tv: TokVigil, argument: str, hint: str
) -> None:
    with pytest.raises(TypeError) as raised:
        tv.context(**{argument: "ada"})  # type: ignore[arg-type]
    assert repr(argument) in str(raised.value)
    assert hint in str(raised.value)


def test_a_context_ends_with_an_exception_too(tv: TokVigil) -> None:
    with pytest.raises(KeyError), tv.context(user_id="ada"):
        raise KeyError
    with pytest.raises(MissingAttributionError):
        said()


def test_a_context_says_more_than_the_client_was_wrapped_with(
    tv: TokVigil, client: openai.OpenAI, books: Books
) -> None:
    own = tv.wrap(client, user_id="ada", feature="search", plan="free", metadata={"a": 1})
    own.chat.completions.create(**CHAT)
    with tv.context(feature="chat", metadata={"b": 2}):
        own.with_options(timeout=9).chat.completions.create(**CHAT)
    assert [(asked["user_id"], asked["feature"], asked["plan"]) for asked in books.asked] == [
        ("ada", "search", "free"),
        ("ada", "chat", "free"),
    ]
    assert [event.metadata for event in books.settled()] == [{"a": 1}, {"a": 1, "b": 2}]


def test_what_the_caller_changes_later_is_not_reported(
    tv: TokVigil, client: openai.OpenAI, books: Books
) -> None:
    metadata = {"a": 1}
    with tv.context(user_id="ada", metadata=metadata):
        stream = client.chat.completions.create(**CHAT, stream=True)
        metadata["a"] = 2
        list(stream)
    assert books.only().metadata == {"a": 1}


def test_tasks_at_once_are_each_their_own_users(control_plane: Any, wire_provider: WireProvider) -> None:
    # A busy machine may take its time for a hundred calls.
    tv = TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, timeout=60.0)
    books = Books(tv, control_plane)

    async def call(client: openai.AsyncOpenAI, number: int) -> None:
        with tv.context(user_id=f"user_{number}", run_id=f"run_{number}"):
            await asyncio.sleep(0)
            stream = await client.chat.completions.create(**CHAT, stream=True)
        async for _ in stream:  # whose it is was settled when it began
            pass

    async def all_at_once() -> None:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            client = tv.wrap(bare)
            await asyncio.gather(*(call(client, number) for number in range(TASKS)))

    asyncio.run(all_at_once())
    expected = {(f"user_{number}", f"run_{number}") for number in range(TASKS)}
    assert {(asked["user_id"], asked["run_id"]) for asked in books.asked} == expected
    settled = books.settled()
    assert {(event.user_id, event.run_id) for event in settled} == expected
    assert len(books.asked) == len(settled) == TASKS
    tv.close()


def test_a_task_takes_the_context_along_and_gives_none_back(tv: TokVigil) -> None:
    async def child() -> str | None:
        with tv.context(feature="child"):
            await asyncio.sleep(0)
            return said().user_id

    async def parent() -> None:
        with tv.context(user_id="ada"):
            task = asyncio.create_task(child())
            assert await task == "ada"
            assert await asyncio.to_thread(lambda: said().user_id) == "ada"
            assert said().feature is None

    asyncio.run(parent())


def test_threads_are_each_their_own_users(tv: TokVigil, client: openai.OpenAI, books: Books) -> None:
    together = threading.Barrier(THREADS)

    def call(number: int) -> None:
        together.wait()
        for _ in range(3):
            with tv.context(user_id=f"user_{number}"):
                client.chat.completions.create(**CHAT)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(call, number) for number in range(THREADS)]:
            done.result()
    settled = sorted(event.user_id for event in books.settled())
    assert settled == sorted(f"user_{number}" for number in range(THREADS) for _ in range(3))
    assert sorted(asked["user_id"] for asked in books.asked) == settled


def test_a_thread_begins_without_a_context_unless_it_is_given_one(tv: TokVigil) -> None:
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(said().user_id)
        except MissingAttributionError:
            found.append(None)

    with tv.context(user_id="ada"):
        carried = carry_context(look)
    for thread in (threading.Thread(target=look), threading.Thread(target=carried)):
        thread.start()
        thread.join()
    assert found == [None, "ada"]


def test_a_context_may_end_elsewhere_than_it_began(tv: TokVigil) -> None:
    """As in a dependency of a web framework that runs before and after the view in two threads."""

    def dependency() -> Iterator[None]:
        with tv.context(user_id="ada"):
            yield

    running = dependency()
    copy_context().run(next, running)
    assert next(running, None) is None

    async def stream() -> AsyncIterator[int]:
        with tv.context(user_id="ada"):
            yield 1
            yield 2

    async def leaves_early() -> None:
        async for _ in stream():
            break

    asyncio.run(leaves_early())
    with pytest.raises(MissingAttributionError):
        said()


def test_contexts_that_end_in_another_order_leave_nothing_behind(tv: TokVigil) -> None:
    first, second = tv.context(user_id="ada", plan="pro"), tv.context(user_id="bob")
    first.__enter__()
    second.__enter__()
    first.__exit__()
    assert said() == Attribution(user_id="bob")
    second.__exit__()
    assert around() == NOBODY


def test_one_context_is_used_many_times_in_itself_and_in_many_threads(tv: TokVigil) -> None:
    together = threading.Barrier(THREADS)
    ada, bob = tv.context(user_id="ada"), tv.context(user_id="bob")

    def use(number: int) -> list[str | None]:
        mine = (ada, bob)[number % 2]
        found = []
        for _ in range(50):
            with mine:
                together.wait()
                with (bob, ada)[number % 2]:
                    with mine:
                        found.append(user())
                    found.append(user())
                found.append(user())
            found.append(user())
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        for number, found in enumerate(pool.map(use, range(THREADS))):
            mine, other = ("ada", "bob") if number % 2 == 0 else ("bob", "ada")
            assert found == [mine, other, mine, None] * 50


def test_async_with_is_the_same(tv: TokVigil) -> None:
    async def main() -> None:
        async with tv.context(user_id="ada"), AsyncExitStack() as stack:
            await stack.enter_async_context(tv.context(feature="chat"))
            assert said() == Attribution(user_id="ada", feature="chat")
        assert around() == NOBODY

    asyncio.run(main())


def test_a_decorated_function_runs_in_its_context_whatever_it_is(tv: TokVigil) -> None:
    class Answers:
        @tv.context(user_id="ada")
        def plain(self) -> str | None:
            return user()

        @tv.context(user_id="ada")
        async def awaited(self) -> str | None:
            await asyncio.sleep(0)
            return user()

        async def __call__(self) -> str | None:
            return await asyncio.sleep(0, user())

    decorated = tv.context(user_id="ada")
    answers = Answers()
    assert answers.plain() == "ada"
    for function in (
        answers.awaited,
        decorated(Answers()),
        decorated(functools.partial(answers.__call__)),
        decorated(lambda: answers()),
    ):
        assert asyncio.run(function()) == "ada"
    assert all(map(inspect.iscoroutinefunction, (answers.awaited, decorated(Answers()))))
    assert (answers.plain.__name__, around()) == ("plain", NOBODY)
    with pytest.raises(TypeError, match="Answers is a class"):
        decorated(Answers)


def test_a_decorated_function_that_raises_leaves_nothing_behind(tv: TokVigil) -> None:
    @tv.context(user_id="ada")
    def plain() -> None:
        raise KeyError(user())

    @tv.context(user_id="ada")
    async def awaited() -> None:
        await asyncio.sleep(0)
        raise KeyError(user())

    with pytest.raises(KeyError, match="ada"):
        plain()

    async def main() -> None:
        with pytest.raises(KeyError, match="ada"):
            await awaited()
        assert around() == NOBODY

    asyncio.run(main())
    assert around() == NOBODY


def test_a_decorated_function_calls_itself_and_others(tv: TokVigil) -> None:
    @tv.context(user_id="ada", plan="pro")
    def outer(depth: int) -> list[Attribution]:
        return [said(), *(outer(depth - 1) if depth else inner())]

    @tv.context(user_id="bob")
    def inner() -> list[Attribution]:
        return [said()]

    assert outer(2) == [*[Attribution(user_id="ada", plan="pro")] * 3, Attribution(user_id="bob")]


def test_many_calls_of_one_decorated_coroutine_at_once_are_each_their_own(tv: TokVigil) -> None:
    @tv.context(feature="chat")
    async def ask() -> Attribution:
        await asyncio.sleep(0)
        return said()

    async def one(number: int) -> Attribution:
        with tv.context(user_id=f"user_{number}"):
            return await ask()

    async def all_at_once() -> list[Attribution]:
        return await asyncio.gather(*(one(number) for number in range(TASKS)))

    found = asyncio.run(all_at_once())
    assert found == [Attribution(user_id=f"user_{number}", feature="chat") for number in range(TASKS)]


def test_a_decorated_generator_keeps_its_own_user_and_its_caller_keeps_theirs(tv: TokVigil) -> None:
    @tv.context(user_id="ada")
    def pieces() -> Generator[str | None, str, str | None]:
        try:
            while (yield user()) != "stop":
                with tv.context(feature="inner"):
                    yield said().feature
                    yield said().feature
        except KeyError:
            yield user()
        return user()

    with tv.context(user_id="bob"):
        running = pieces()
        for _ in range(3):
            assert (next(running), user()) == ("ada", "bob")
            for _ in range(2):
                assert (next(running), said()) == ("inner", Attribution(user_id="bob"))
        next(running)
        assert (running.throw(KeyError()), user()) == ("ada", "bob")
        with pytest.raises(StopIteration) as end:
            running.send("stop")
        assert end.value.value == "ada"
        assert said() == Attribution(user_id="bob")
    assert around() == NOBODY


def test_a_decorated_generator_belongs_to_whoever_called_it(tv: TokVigil) -> None:
    @tv.context(feature="stream")
    def pieces() -> Iterator[Attribution]:
        yield said()
        yield said()

    with tv.context(user_id="ada"):
        running = pieces()
    with tv.context(user_id="bob", plan="free"):
        assert list(running) == [Attribution(user_id="ada", feature="stream")] * 2


def test_a_decorated_generator_that_is_left_early_ends_as_its_own_user(tv: TokVigil) -> None:
    ended: list[str | None] = []

    @tv.context(user_id="ada")
    def pieces() -> Iterator[int]:
        try:
            yield 1
        finally:
            ended.append(user())

    with tv.context(user_id="bob"):
        with closing(pieces()) as running:
            next(iter(running))
        assert (ended, user()) == (["ada"], "bob")
        for _ in pieces():
            break
        gc.collect()
        assert (ended, user()) == (["ada"] * 2, "bob")
    with tv.context(user_id="carl"):
        carried = carry_context(pieces.__wrapped__)  # type: ignore[attr-defined]
    with tv.context(user_id="bob"):
        next(carried())
        gc.collect()
        assert (ended[2:], user()) == (["carl"], "bob")


def test_a_decorated_async_generator_keeps_its_own_user_and_its_caller_keeps_theirs(tv: TokVigil) -> None:
    ended: list[str | None] = []

    @tv.context(user_id="ada")
    async def pieces() -> AsyncGenerator[str | None, None]:
        try:
            while True:
                await asyncio.sleep(0)
                yield user()
                with tv.context(feature="inner"):
                    yield said().feature
                    yield said().feature
        except KeyError:
            yield user()
        finally:
            await asyncio.sleep(0)
            ended.append(user())

    async def read(number: int) -> None:
        with tv.context(user_id=f"user_{number}"):
            async with aclosing(pieces()) as running:
                for _ in range(3):
                    assert (await anext(running), user()) == ("ada", f"user_{number}")
                    for _ in range(2):
                        assert await anext(running) == "inner"
                        assert said() == Attribution(user_id=f"user_{number}")
                assert await running.athrow(KeyError()) == "ada"
            assert user() == f"user_{number}"

    async def all_at_once() -> None:
        await asyncio.gather(*(read(number) for number in range(TASKS)))
        assert around() == NOBODY

    asyncio.run(all_at_once())
    assert ended == ["ada"] * TASKS


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_decorated_async_generator_that_is_left_early_ends_as_its_own_user(
    tv: TokVigil, is_kept: bool
) -> None:
    """Collected, or closed with the loop."""
    ended: list[str | None] = []
    kept: list[Any] = []

    async def pieces() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append(user())
            await asyncio.sleep(0)
            ended.append(user())

    with tv.context(user_id="carl"):
        carried = carry_context(pieces)

    async def main() -> None:
        with tv.context(user_id="bob"):
            for make in (tv.context(user_id="ada")(pieces), carried):
                running = make()
                async for _ in running:
                    break
                if is_kept:
                    kept.append(running)
                del running
                gc.collect()
                await asyncio.sleep(0)
                assert user() == "bob"
            await asyncio.sleep(0)

    asyncio.run(main())
    assert sorted(map(str, ended)) == ["ada", "ada", "carl", "carl"]


def pieces_of_ada(tv: TokVigil, ended: list[str | None]) -> Any:
    """An async generator that is decorated for ada, and notes as whom it ends."""

    @tv.context(user_id="ada")
    async def pieces() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append(user())

    return pieces


def test_a_decorated_async_generator_that_is_left_as_its_loop_ends_is_ended_as_its_own_user(
    tv: TokVigil,
) -> None:
    """The loop cancels the task that is to close it before the task has begun."""
    ended: list[str | None] = []

    pieces = pieces_of_ada(tv, ended)

    async def main() -> None:
        with tv.context(user_id="bob"):
            async for _ in pieces():
                break
            gc.collect()

    asyncio.run(main())
    assert ended == ["ada"]


def test_async_generators_that_are_read_to_their_end_are_not_closed_once_more(tv: TokVigil) -> None:
    @tv.context(user_id="ada")
    async def pieces() -> AsyncIterator[int]:
        yield 1

    async def main() -> set[Any]:
        async for _ in pieces():
            pass
        gc.collect()
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(main()) == set()


def test_an_async_generator_that_outlives_its_loop_is_left_alone_as_python_leaves_it(
    tv: TokVigil, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    ended: list[str | None] = []

    running = pieces_of_ada(tv, ended)()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(anext(running))  # type: ignore[arg-type]
    loop.close()
    del running
    gc.collect()
    assert (ended, caplog.messages, recwarn.list) == ([], [], [])


def test_async_generators_that_nobody_closed_end_in_silence(
    tv: TokVigil, caplog: pytest.LogCaptureFixture
) -> None:
    @tv.context(user_id="ada")
    async def pieces() -> AsyncGenerator[int, None]:
        await asyncio.sleep(0)
        yield 1
        yield 2

    kept = []

    async def main() -> None:
        for _ in range(3):
            running = pieces()
            await anext(running)
            kept.append(running)
        await anext(pieces())
        await pieces().asend(None)

    asyncio.run(main())
    gc.collect()
    assert caplog.messages == []
    assert around() == NOBODY


def test_a_coroutine_that_is_dropped_half_way_takes_nothing_from_others(tv: TokVigil) -> None:
    @tv.context(user_id="ada")
    async def waits() -> None:
        await asyncio.sleep(0)

    def begin() -> Any:
        half_way = waits()
        half_way.send(None)
        return half_way

    half_way = copy_context().run(begin)
    with tv.context(user_id="ada"):
        half_way.close()
        assert user() == "ada"


def test_coroutines_that_take_turns_by_hand_keep_their_own_users(tv: TokVigil) -> None:
    async def whose() -> list[str | None]:
        before = user()
        await asyncio.sleep(0)
        return [before, user()]

    def end_of(running: Any) -> Any:
        with pytest.raises(StopIteration) as end:
            running.send(None)
        return end.value.value

    with tv.context(user_id="ada"):
        carried = carry_context(whose)
    plain = carry_context(lambda: whose())
    with tv.context(user_id="bob"):
        begun = [carried(), tv.context(user_id="carl")(whose)(), plain()]
        for running in begun:
            running.send(None)
            assert user() == "bob"
        assert [end_of(running) for running in begun] == [["ada"] * 2, ["carl"] * 2, [None] * 2]
        assert user() == "bob"


def test_a_coroutine_that_is_dropped_half_way_ends_as_its_own_user(tv: TokVigil) -> None:
    ended: list[str | None] = []

    @tv.context(user_id="ada")
    async def waits() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append(user())

    def begin() -> Any:
        half_way = waits()
        half_way.send(None)
        return half_way

    half_way = copy_context().run(begin)
    with tv.context(user_id="bob"):
        del half_way
        gc.collect()
        assert (ended, user()) == (["ada"], "bob")


def test_a_carried_function_has_the_attribution_of_where_it_was_carried(tv: TokVigil) -> None:
    together = threading.Barrier(THREADS)

    def plain(number: int) -> Attribution:
        together.wait()
        with tv.context(run_id=f"run_{number}"):
            return said()

    async def awaited() -> Attribution:
        await asyncio.sleep(0)
        return said()

    with tv.context(user_id="ada", plan="pro"):
        carried, carried_async = carry_context(plain), carry_context(awaited)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(carried, range(THREADS)))
    expected = [Attribution(user_id="ada", plan="pro", run_id=f"run_{number}") for number in range(THREADS)]
    assert found == expected

    async def all_at_once() -> list[Attribution]:
        loop = asyncio.get_running_loop()
        with tv.context(user_id="bob"), ThreadPoolExecutor(THREADS) as threads:
            waiting = [loop.run_in_executor(threads, carried, number) for number in range(THREADS)]
            assert await asyncio.gather(*waiting) == expected
            found = await asyncio.gather(*(carried_async() for _ in range(TASKS)))
            assert said() == Attribution(user_id="bob")
            return found

    assert inspect.iscoroutinefunction(carried_async)
    assert asyncio.run(all_at_once()) == [Attribution(user_id="ada", plan="pro")] * TASKS
    assert around() == NOBODY


def test_a_function_carried_from_nowhere_has_no_user_anywhere(tv: TokVigil) -> None:
    carried = carry_context(said)
    with tv.context(user_id="ada"), pytest.raises(MissingAttributionError):
        carried()


def test_the_calls_of_carried_functions_in_an_executor_are_each_for_their_own_user(
    tv: TokVigil, client: openai.OpenAI, books: Books
) -> None:
    def call() -> None:
        client.chat.completions.create(**CHAT)

    with ThreadPoolExecutor(THREADS) as pool:
        waiting = []
        for number in range(THREADS):
            with tv.context(user_id=f"user_{number}"):
                waiting += [pool.submit(carry_context(call)) for _ in range(2)]
        for done in waiting:
            done.result()
    expected = sorted(f"user_{number}" for number in range(THREADS) for _ in range(2))
    assert sorted(asked["user_id"] for asked in books.asked) == expected
    assert sorted(event.user_id for event in books.settled()) == expected


def test_background_tasks_and_generators_of_fastapi_carry_their_requests_user(tv: TokVigil) -> None:
    """A dependency that is no coroutine runs in another thread, and a background task when it is over."""
    app, found = FastAPI(), list[Any]()

    @tv.context(user_id="dependency")
    def generator() -> Iterator[str | None]:
        yield user()

    def note() -> None:
        found.append(user())

    @app.get("/{user_id}")
    def view(user_id: str, tasks: BackgroundTasks, given: str = Depends(generator)) -> None:
        with tv.context(user_id=user_id):
            tasks.add_task(carry_context(note))
        tasks.add_task(note)
        found.append(given)

    with TestClient(app) as http:
        for user_id in ("ada", "bob"):
            http.get(f"/{user_id}").raise_for_status()
    assert found == ["dependency", "ada", None, "dependency", "bob", None]


def test_a_function_is_asked_for_the_user_when_a_call_is_made_until_it_names_one(tv: TokVigil) -> None:
    answers: list[Any] = [{}, {"plan": "free"}, {"user_id": "ada", "plan": "pro"}]
    later = AskedLater(lambda: Attribution(**answers.pop(0)))
    with later:
        assert len(answers) == 3
        with tv.context(feature="chat"):
            assert around() == Attribution(feature="chat")
            assert around() == Attribution(feature="chat", plan="free")
            for _ in range(3):
                assert said() == Attribution(user_id="ada", plan="pro", feature="chat")
            with tv.context(user_id="bob"):
                assert said() == Attribution(user_id="bob", feature="chat")


def test_a_function_that_cannot_say_the_user_stops_the_call(
    tv: TokVigil, client: openai.OpenAI, books: Books, wire_provider: WireProvider
) -> None:
    def ask() -> Attribution:
        raise KeyError("ada@example.com")

    with AskedLater(ask), pytest.raises(MissingAttributionError, match="raised KeyError") as raised:
        client.chat.completions.create(**CHAT)
    assert "ada@" not in str(raised.value)
    assert books.asked == wire_provider.seen == []


def test_carrying_asks_at_once_because_the_request_may_be_over_later() -> None:
    request = {"user": "ada"}
    with AskedLater(lambda: Attribution(user_id=request["user"])):
        carried = carry_context(said)
    request.clear()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(carried).result().user_id == "ada"


def test_the_error_of_a_call_without_a_user_says_what_to_do() -> None:
    with pytest.raises(MissingAttributionError) as raised:
        said()
    for advice in ("tv.context(user_id=", "carry_context(function)", "tokvigil.integrations"):
        assert advice in str(raised.value)
