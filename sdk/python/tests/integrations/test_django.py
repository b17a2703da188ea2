"""The Django middleware, sync and async, behind Django's own handlers."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from asgiref.sync import iscoroutinefunction
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.backends import BaseBackend
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.exceptions import ImproperlyConfigured
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.asyncio import async_unsafe
from tokvigil import AIUsageBlockedError, MissingAttributionError, TokVigil, UsageEvent
from tokvigil.attribution import around
from tokvigil.integrations.django import TokVigilMiddleware

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, Books, check_answers_block

USERS = 16
SYNC = ("ask", "stream")
ASYNC = ("ask", "aask", "stream", "astream")
AUTHENTICATION = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
OURS = "tokvigil.integrations.django.TokVigilMiddleware"
# What the views call with; set by the fixture.
clients: dict[str, Any] = {}


class Accounts(BaseBackend):
    """Finds everybody, and as Django's own does it refuses to be asked from async code."""

    @async_unsafe
    def get_user(self, user_id: Any) -> Any:
        return get_user_model()(pk=user_id, username=f"name_{user_id}")


def call() -> None:
    clients["sync"].chat.completions.create(**CHAT)


async def call_async() -> None:
    await clients["async"].chat.completions.create(**CHAT)


def ask(request: HttpRequest) -> HttpResponse:
    call()
    return HttpResponse("answered")


async def aask(request: HttpRequest) -> HttpResponse:
    await call_async()
    return HttpResponse("answered")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[str]:
        yield "begun "
        call()
        yield "ended"

    return StreamingHttpResponse(pieces())


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[str]:
        yield "begun "
        await call_async()
        yield "ended"

    return StreamingHttpResponse(pieces())


def buried(request: HttpRequest) -> HttpResponse:
    try:
        call()
    except AIUsageBlockedError as error:
        raise RuntimeError("the framework failed") from error
    return HttpResponse("answered")


def quiet(request: HttpRequest) -> HttpResponse:
    return HttpResponse("no AI")


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(io.BytesIO(b"a file"))


urlpatterns = [path(view.__name__, view) for view in (ask, aask, stream, astream, buried, quiet, file)]


def site(*, middleware: list[str] | None = None, **tokvigil: Any) -> Any:
    return override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[*AUTHENTICATION, OURS] if middleware is None else middleware,
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        AUTHENTICATION_BACKENDS=[f"{__name__}.Accounts"],
        TOKVIGIL=tokvigil,
    )


def sign_in(client: Any, number: int) -> Any:
    user = get_user_model()(pk=number)
    session = SessionStore()
    session.update(
        {
            SESSION_KEY: str(number),
            BACKEND_SESSION_KEY: f"{__name__}.Accounts",
            HASH_SESSION_KEY: user.get_session_auth_hash(),
        }
    )
    session.save()
    client.cookies["sessionid"] = session.session_key
    return client


def read(response: Any) -> bytes:
    return b"".join(response) if response.streaming else response.content


async def read_async(response: Any) -> bytes:
    return b"".join([piece async for piece in response]) if response.streaming else response.content


@pytest.fixture(autouse=True)
def cookie_name() -> Iterator[None]:
    with override_settings(SESSION_COOKIE_NAME="sessionid"):
        yield


@pytest.fixture
def books(control_plane: Any, wire_provider: WireProvider) -> Iterator[Books]:
    """A busy machine may take its time for many calls."""
    address = {"base_url": wire_provider.url + "/v1", "api_key": "sk", "max_retries": 0}
    with TokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url, timeout=60.0) as tv:
        clients["sync"] = tv.wrap(openai.OpenAI(**address))
        clients["async"] = tv.wrap(openai.AsyncOpenAI(**address))
        yield Books(tv, control_plane)


def whose(event: UsageEvent) -> tuple[Any, ...]:
    return event.user_id, event.plan, event.feature


def test_the_calls_of_a_request_are_for_its_user_also_those_of_its_stream(books: Books) -> None:
    def get(number: int) -> None:
        client = sign_in(Client(), number)
        for view in SYNC:
            assert read(client.get(f"/{view}")) in (b"answered", b"begun ended")
            assert around().user_id is None

    with (
        site(feature="ask", plan=lambda request: f"plan of {request.user.username}"),
        ThreadPoolExecutor(USERS) as pool,
    ):
        list(pool.map(get, range(1, USERS + 1)))
    expected = {(str(n), f"plan of name_{n}", "ask"): len(SYNC) for n in range(1, USERS + 1)}
    assert Counter(map(whose, books.settled())) == expected
    assert Counter((a["user_id"], a["plan"], a["feature"]) for a in books.asked) == expected


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators")
def test_the_calls_of_an_async_request_are_for_its_user_also_those_of_its_stream(books: Books) -> None:
    async def get(number: int, view: str) -> None:
        response = await sign_in(AsyncClient(), number).get(f"/{view}")
        assert await read_async(response) in (b"answered", b"begun ended")
        assert around().user_id is None

    async def all_at_once() -> None:
        await asyncio.gather(*(get(n, view) for n in range(1, USERS + 1) for view in ASYNC))
        await clients["async"].close()

    with site(feature="ask", plan=lambda request: f"plan of {request.user.username}"):
        asyncio.run(all_at_once())
    expected = {(str(n), f"plan of name_{n}", "ask"): len(ASYNC) for n in range(1, USERS + 1)}
    assert Counter(map(whose, books.settled())) == expected


@pytest.mark.parametrize("view", [*SYNC, "aask"])
def test_a_request_that_nobody_signed_in_for_has_no_user(books: Books, view: str) -> None:
    with (
        site(feature="ask"),
        pytest.raises(MissingAttributionError, match=r"^the `user_id` of the middleware"),
    ):
        read(Client().get(f"/{view}"))
    assert books.asked == []


@pytest.mark.parametrize("middleware", [[OURS, *AUTHENTICATION], [OURS]])
def test_the_user_may_be_found_inside_the_middleware_or_by_a_function_of_the_settings(
    books: Books, middleware: list[str]
) -> None:
    by_header = {} if len(middleware) > 1 else {"user_id": lambda request: request.headers["X-User"]}
    with site(middleware=middleware, **by_header):
        sign_in(Client(), 7).get("/ask", headers={"X-User": "7"})
    assert [asked["user_id"] for asked in books.asked] == ["7"]


def test_a_request_without_an_ai_call_asks_nobody_for_its_user() -> None:
    with site(user_id=lambda request: pytest.fail("asked")):
        assert Client().get("/quiet").content == b"no AI"


def test_a_request_without_an_ai_call_does_not_depend_on_its_cookies() -> None:
    """Reading the session makes an answer one that shared caches must not keep for others."""
    with site():
        assert "Vary" not in sign_in(Client(), 7).get("/quiet").headers
    with site(user_id=lambda request: request.headers["X-User"]):
        assert "Vary" not in asyncio.run(sign_in(AsyncClient(), 7).get("/quiet")).headers


def test_an_async_request_without_a_session_looks_for_no_user() -> None:
    with site():
        assert "Vary" not in asyncio.run(AsyncClient().get("/quiet")).headers


def test_a_user_who_cannot_be_looked_up_fails_the_ai_call_and_nothing_else(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(request: HttpRequest) -> None:
        raise OSError("the table of sessions is away")

    def away_too(request: HttpRequest) -> None:
        raise OSError("the table of sessions is away")

    monkeypatch.setattr("django.contrib.auth.middleware.auser", away)
    with site():
        assert asyncio.run(sign_in(AsyncClient(), 7).get("/quiet")).content == b"no AI"
        monkeypatch.setattr("django.contrib.auth.middleware.get_user", away_too)
        with pytest.raises(MissingAttributionError):
            asyncio.run(sign_in(AsyncClient(), 7).get("/aask"))
    assert books.asked == []


def test_it_needs_no_users_and_is_async_where_what_is_inside_is() -> None:
    with site(middleware=[OURS]):
        assert Client().get("/quiet").status_code == 200
        assert asyncio.run(AsyncClient().get("/quiet")).status_code == 200
        assert iscoroutinefunction(TokVigilMiddleware(aask))
        assert not iscoroutinefunction(TokVigilMiddleware(ask))


def test_a_file_stays_one_that_the_web_server_may_send_itself() -> None:
    with site():
        assert read(Client().get("/file")) == b"a file"
        response = TokVigilMiddleware(lambda request: file(request))(HttpRequest())
        assert response.file_to_stream is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("view", ["ask", "aask", "buried"])
@pytest.mark.parametrize(
    ("changes", "status", "retry_after"),
    [({}, 429, "3600"), ({"reason_class": "forbidden", "retry_after": None}, 403, None)],
)
@pytest.mark.parametrize("style", ["sync", "async"])
def test_a_block_becomes_a_problem_with_the_time_to_wait(
    books: Books,
    control_plane: Any,
    wire: Any,
    wire_provider: WireProvider,
    view: str,
    changes: Any,
    status: int,
    retry_after: str | None,
    style: str,
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked() | changes))
    get: Callable[[str], Any] = Client().get
    if style == "async":

        def get(address: str) -> Any:
            return asyncio.run(AsyncClient().get(address))  # type: ignore[arg-type]

    with site(user_id="ada"):
        response = get(f"/{view}")
    check_answers_block(response, status, retry_after)
    assert wire_provider.seen == []


def test_blocks_are_raised_on_where_answers_are_not_wanted(
    books: Books, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    with site(user_id="ada", turn_blocks_into_answers=False), pytest.raises(AIUsageBlockedError):
        Client().get("/ask")


async def later(request: Any) -> str:
    return "ada"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"user": "ada"}, "TOKVIGIL has no user"), ({"plan": later}, "plan is an async function")],
)
def test_wrong_settings_are_refused_when_the_server_starts(wrong: Any, said: str) -> None:
    with site(**wrong), pytest.raises(ImproperlyConfigured, match=said):
        Client().get("/quiet")
