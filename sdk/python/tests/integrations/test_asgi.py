"""The ASGI middleware, in applications of Starlette and FastAPI."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.testclient import TestClient
from starlette.websockets import WebSocket
from tokvigil import (
    AIUsageBlockedError,
    ConfigurationError,
    Decision,
    MissingAttributionError,
    TokVigil,
    carry_context,
)
from tokvigil.attribution import around
from tokvigil.integrations.asgi import TokVigilMiddleware, header

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, Books, check_answers_block

USERS = 20
ROUTES = ("/awaited", "/threaded", "/task", "/stream", "/thread-stream", "/background", "/executor")


class HeaderAuthentication(AuthenticationBackend):
    async def authenticate(self, conn: Any) -> Any:
        name = conn.headers.get("x-user")
        return name and (AuthCredentials(), SimpleUser(name))


def signed_in(scope: Any) -> str | None:
    return scope["user"].username if scope["user"].is_authenticated else None


def application(client: openai.OpenAI, async_client: Any = None) -> FastAPI:
    """Every way in which a request's handler may make its AI call."""
    app = FastAPI()

    async def call_async() -> None:
        await asyncio.sleep(0)
        await (async_client or openai.AsyncOpenAI()).chat.completions.create(**CHAT)

    def call() -> None:
        client.chat.completions.create(**CHAT)

    @app.get("/awaited")
    async def awaited() -> None:
        await call_async()

    @app.get("/threaded")
    def threaded() -> None:
        call()

    @app.get("/task")
    async def task() -> None:
        await asyncio.create_task(call_async())

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "begun "
            await call_async()
            yield "ended"

        return StreamingResponse(pieces())

    @app.get("/thread-stream")
    def thread_stream() -> StreamingResponse:
        def pieces() -> Iterator[str]:
            yield "begun "
            call()
            yield "ended"

        return StreamingResponse(pieces())

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> None:
        tasks.add_task(call_async)

    @app.get("/executor")
    async def executor() -> None:
        await asyncio.get_running_loop().run_in_executor(None, carry_context(call))

    return app


@pytest.fixture
def client(tv: TokVigil, wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk", max_retries=0) as bare:
        yield tv.wrap(bare)


@pytest.fixture
def slow_tv(control_plane: Any) -> Iterator[TokVigil]:
    """A busy machine may take its time for a hundred calls."""
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, timeout=60.0) as tv:
        yield tv


def test_the_calls_of_a_request_are_for_its_user_wherever_they_are_made(
    slow_tv: TokVigil, control_plane: Any, wire_provider: WireProvider
) -> None:
    async def get(http: httpx.AsyncClient, route: str, number: int) -> None:
        response = await http.get(route, headers={"X-User": f"user_{number}", "X-Plan": f"plan_{number}"})
        response.raise_for_status()
        assert around().user_id is None

    async def all_at_once() -> None:
        address = {"base_url": wire_provider.url + "/v1", "api_key": "sk"}
        async with openai.AsyncOpenAI(**address) as bare, slow_tv.wrap(bare) as client:
            app = application(slow_tv.wrap(openai.OpenAI(**address)), client)
            app.add_middleware(
                TokVigilMiddleware, user_id=header("X-User"), plan=header("x-plan"), feature="ask"
            )
            served = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=served, base_url="http://app") as http:
                await asyncio.gather(*(get(http, route, n) for n in range(USERS) for route in ROUTES))

    asyncio.run(all_at_once())
    expected = Counter({(f"user_{n}", f"plan_{n}", "ask"): len(ROUTES) for n in range(USERS)})
    books = Books(slow_tv, control_plane)
    assert Counter((asked["user_id"], asked["plan"], asked["feature"]) for asked in books.asked) == expected
    assert Counter((event.user_id, event.plan, event.feature) for event in books.settled()) == expected


@pytest.mark.parametrize("authentication", ["inside", "outside"])
def test_the_user_may_be_found_inside_the_middleware_or_outside(
    client: openai.OpenAI, books: Books, authentication: str
) -> None:
    app = application(client)
    layers: list[Callable[[], None]] = [
        lambda: app.add_middleware(TokVigilMiddleware, user_id=signed_in),
        lambda: app.add_middleware(AuthenticationMiddleware, backend=HeaderAuthentication()),
    ]
    # The one that is added last is the outermost.
    for add in layers if authentication == "outside" else reversed(layers):
        add()
    with TestClient(app) as http:
        assert http.get("/threaded", headers={"X-User": "ada"}).status_code == 200
        with pytest.raises(MissingAttributionError, match=r"^the `user_id` of the middleware"):
            http.get("/threaded")
    assert [asked["user_id"] for asked in books.asked] == ["ada"]


def test_a_request_without_an_ai_call_asks_nobody_for_its_user() -> None:
    app = FastAPI()
    app.add_middleware(TokVigilMiddleware, user_id=lambda scope: pytest.fail("asked"))

    @app.get("/")
    async def view() -> str:
        return "hello"

    with TestClient(app) as http:
        assert http.get("/").json() == "hello"


def test_a_function_that_fails_stops_the_call_and_its_text_is_not_shown(
    client: openai.OpenAI, books: Books
) -> None:
    def plan(scope: Any) -> str:
        raise LookupError("no plan for ada@example.com")

    app = application(client)
    app.add_middleware(TokVigilMiddleware, user_id="ada", plan=plan)
    with TestClient(app) as http, pytest.raises(MissingAttributionError, match="LookupError") as raised:
        http.get("/threaded")
    assert "ada@" not in str(raised.value)
    assert books.asked == []


async def later(scope: Any) -> str:
    return "ada"


def test_an_async_function_is_refused_when_the_application_is_made() -> None:
    with pytest.raises(ConfigurationError, match="plan is an async function"):
        TokVigilMiddleware(FastAPI(), user_id="ada", plan=later)  # type: ignore[arg-type]


BLOCKS = [
    ({}, 429, "3600"),
    ({"reason_class": "transient", "retry_after": 2}, 429, "2"),
    ({"reason_class": "exhausted", "retry_after": None}, 403, None),
    ({"reason_class": "forbidden", "retry_after": None}, 403, None),
]


@pytest.mark.parametrize(("changes", "status", "retry_after"), BLOCKS)
@pytest.mark.parametrize("route", ["/threaded", "/thread-stream"])
def test_a_block_becomes_a_problem_with_the_time_to_wait_unless_the_response_has_begun(
    client: openai.OpenAI,
    control_plane: Any,
    wire: Any,
    wire_provider: WireProvider,
    route: str,
    changes: Any,
    status: int,
    retry_after: str | None,
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked() | changes))
    app = application(client)
    app.add_middleware(TokVigilMiddleware, user_id="ada")
    with TestClient(app) as http:
        if route == "/thread-stream":
            with pytest.raises(AIUsageBlockedError):
                http.get(route)
        else:
            response = http.get(route)
            check_answers_block(response, status, retry_after)
    assert wire_provider.seen == []


def raised_from(call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception as error:
        raise RuntimeError("the framework failed") from error


class FrameworkError(Exception):
    pass


def raised_while(call: Callable[[], Any]) -> None:
    """As litellm does."""
    try:
        call()
    except Exception:
        raise FrameworkError("the framework failed")  # noqa: B904


def raised_twice(call: Callable[[], Any]) -> None:
    raised_from(lambda: raised_while(call))


def raised_in_a_group(call: Callable[[], Any]) -> None:
    async def all_at_once() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(raised_from, call))

    asyncio.run(all_at_once())


BURYING = [raised_from, raised_while, raised_twice, raised_in_a_group]


@pytest.mark.parametrize("bury", BURYING)
def test_a_block_inside_another_error_becomes_the_same_answer_and_nothing_of_it_is_logged(
    client: openai.OpenAI,
    control_plane: Any,
    wire: Any,
    bury: Callable[[Callable[[], Any]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="tokvigil")
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    app = FastAPI()

    @app.get("/")
    def view() -> None:
        bury(lambda: client.chat.completions.create(**CHAT))

    async def passes(request: Request, call_next: Callable[..., Any]) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    app.add_middleware(TokVigilMiddleware, user_id="user_123")
    with TestClient(app) as http:
        response = http.get("/")
    assert (response.status_code, response.headers["Retry-After"]) == (429, "3600")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("tokvigil")]
    blocked, answered = said
    assert " is blocked: " in blocked
    assert "Error was answered as the block behind it" in answered or "Group was answered" in answered
    assert "user_123" not in caplog.text


def test_other_errors_are_raised_as_they_are(wire: Any) -> None:
    app = FastAPI()

    @app.get("/")
    def view() -> None:
        raise KeyError("a defect")

    @app.get("/hidden")
    def hidden() -> None:
        try:
            raise AIUsageBlockedError(Decision.from_wire(wire.blocked()))
        except AIUsageBlockedError:
            raise KeyError("a defect") from None

    @app.get("/while-handling")
    def while_handling() -> Any:
        """A defect of the application's own handler of the block."""
        try:
            raise AIUsageBlockedError(Decision.from_wire(wire.blocked()))
        except AIUsageBlockedError:
            return {"text": {}["a defect"]}

    @app.get("/wrapped")
    def wrapped() -> Any:
        try:
            while_handling()
        except KeyError as error:
            raise KeyError("a defect", 2) from error

    app.add_middleware(TokVigilMiddleware, user_id="ada")
    with TestClient(app) as http:
        for path in ("/", "/hidden", "/while-handling", "/wrapped"):
            with pytest.raises(KeyError, match="a defect"):
                http.get(path)


def test_the_applications_own_handler_answers_first(
    client: openai.OpenAI, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    app = application(client)

    @app.exception_handler(AIUsageBlockedError)
    def answer(request: Request, error: AIUsageBlockedError) -> JSONResponse:
        return JSONResponse({"mine": error.reason_code}, 402)

    app.add_middleware(TokVigilMiddleware, user_id="ada")
    with TestClient(app) as http:
        response = http.get("/threaded")
    assert (response.status_code, response.json()) == (402, {"mine": "DAILY_REQUEST_LIMIT_EXCEEDED"})


def test_blocks_are_raised_on_where_answers_are_not_wanted(
    client: openai.OpenAI, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    app = application(client)
    app.add_middleware(TokVigilMiddleware, user_id="ada", turn_blocks_into_answers=False)
    with TestClient(app) as http, pytest.raises(AIUsageBlockedError):
        http.get("/threaded")


def test_a_websocket_has_its_user_and_no_answer_is_written_into_it(
    client: openai.OpenAI, control_plane: Any, wire: Any, books: Books
) -> None:
    app = FastAPI()

    @app.websocket("/")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.receive_text()
            await asyncio.to_thread(client.chat.completions.create, **CHAT)
            await socket.send_text("answered")

    app.add_middleware(TokVigilMiddleware, user_id=header("x-user"))

    def talk_until_blocked(http: TestClient) -> None:
        with http.websocket_connect("/", headers={"X-User": "ada"}) as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "answered"
            control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
            socket.send_text("hello")
            socket.receive_text()

    with TestClient(app) as http, pytest.raises(AIUsageBlockedError):
        talk_until_blocked(http)
    assert [asked["user_id"] for asked in books.asked] == ["ada", "ada"]


def test_nothing_of_the_integrations_is_imported_until_it_is_used() -> None:
    code = """
import sys
import tokvigil
assert not [name for name in sys.modules if name.startswith("tokvigil.integrations")]
import tokvigil.integrations.asgi
frameworks = {"starlette", "fastapi", "django", "celery", "asgiref"}
assert not frameworks & {name.partition(".")[0] for name in sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
