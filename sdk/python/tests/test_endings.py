"""What a call is charged, by how it ended: the same for every style of call."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import redis
import requests
import tenacity
import tokvigil
import urllib3
from google import genai
from google.genai import types
from requests.adapters import HTTPAdapter
from starlette.exceptions import HTTPException
from tokvigil import AsyncTokVigil, ConfigurationError, TokVigil, Usage
from tokvigil.decisions import CALL
from tokvigil.endings import NO_USAGE, Charge, Ending, charge, ending_of_status
from tokvigil.failures import ending_of_attempt, ending_of_error

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, CLAUDE, GEMINI, MESSAGES, RESPONSE

HOLD = Usage(input_tokens=10, output_tokens=100, source="estimated")
COUNTED = Usage(input_tokens=10, output_tokens=7, source="estimated")
FIGURES = Usage(input_tokens=12, output_tokens=30)
IMPOSSIBLE = Usage(input_tokens=10, output_tokens=5, reasoning_tokens=6)


@pytest.mark.parametrize(
    ("ending", "figures", "counted", "charged"),
    [
        (Ending.NOT_SENT, None, None, Charge("cancelled", NO_USAGE)),
        (Ending.NOT_REACHED, None, None, Charge("failed", NO_USAGE)),
        (Ending.REFUSED, None, None, Charge("failed", NO_USAGE)),
        (Ending.UNANSWERED, None, None, Charge("partial", HOLD)),
        (Ending.UNANSWERED, None, COUNTED, Charge("partial", HOLD)),
        (Ending.UNANSWERED, FIGURES, None, Charge("succeeded", FIGURES)),
        (Ending.CUT, None, None, Charge("partial", HOLD)),
        (Ending.CUT, None, COUNTED, Charge("partial", COUNTED)),
        (Ending.CUT, FIGURES, COUNTED, Charge("succeeded", FIGURES)),
        (Ending.COMPLETE, None, None, Charge("partial", HOLD)),
        (Ending.COMPLETE, None, COUNTED, Charge("succeeded", COUNTED)),
        (Ending.COMPLETE, FIGURES, COUNTED, Charge("succeeded", FIGURES)),
        (Ending.COMPLETE, IMPOSSIBLE, None, Charge("partial", HOLD)),
        (Ending.CUT, None, IMPOSSIBLE, Charge("partial", HOLD)),
    ],
)
def test_the_charge_follows_from_the_ending_and_what_is_known(
    ending: Ending, figures: Usage | None, counted: Usage | None, charged: Charge
) -> None:
    assert charge(ending, hold=HOLD, figures=figures, counted=counted) == charged


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (400, Ending.REFUSED),
        (401, Ending.REFUSED),
        (408, Ending.REFUSED),
        (429, Ending.REFUSED),
        (500, Ending.REFUSED),
        (503, Ending.REFUSED),
        (529, Ending.REFUSED),
        (302, Ending.REFUSED),
        (307, Ending.REFUSED),
        (308, Ending.REFUSED),
        (303, Ending.UNANSWERED),
        (502, Ending.UNANSWERED),
        (504, Ending.UNANSWERED),
        (524, Ending.UNANSWERED),
    ],
)
def test_a_status_is_a_refusal_unless_the_request_may_have_been_worked_on(
    status: int, ending: Ending
) -> None:
    assert ending_of_status(status) is ending


def error_of(sdk: Any, kind: str, status: int, **headers: str) -> Exception:
    request = httpx2.Request("POST", "http://provider", headers=headers)
    response = httpx2.Response(status, request=request)
    made: Exception = getattr(sdk, kind)("no", response=response, body=None)
    return made


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def of(module: str, name: str, **said: Any) -> Exception:
    """An error of a library that is not installed here."""
    error: Exception = type(name, (Exception,), {"__module__": module})(name)
    vars(error).update(said)
    return error


def refused_by(url: str, **request: Any) -> httpx2.HTTPStatusError:
    asked = httpx2.Request("POST", url, **request)
    return httpx2.HTTPStatusError("no", request=asked, response=httpx2.Response(429, request=asked))


def unreached(url: str, **request: Any) -> httpx2.ConnectError:
    return httpx2.ConnectError("no", request=httpx2.Request("POST", url, **request))


@pytest.fixture
def attempt() -> Any:
    """The call of a request, as its `extensions` have it."""
    return object()


REQUEST = httpx2.Request("POST", "http://provider")
AWS = "https://bedrock-runtime.eu-west-1.amazonaws.com"
BUSY = {"ResponseMetadata": {"HTTPStatusCode": 429, "RetryAttempts": 0}}
BUSY_AGAIN = {"ResponseMetadata": {"HTTPStatusCode": 429, "RetryAttempts": 1}}
AI_URL, OTHER_URL = "https://host/v1/chat/completions", "https://crm/people"


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (ConfigurationError("no"), Ending.UNANSWERED),
        (tokvigil.AIUsageBlockedError("MODEL_NOT_ALLOWED: no"), Ending.UNANSWERED),
        (httpx2.ConnectError("no"), Ending.NOT_REACHED),
        (httpx2.ConnectTimeout("no"), Ending.NOT_REACHED),
        (urllib.error.URLError(ConnectionRefusedError()), Ending.NOT_REACHED),
        (urllib.error.URLError(socket.gaierror()), Ending.NOT_REACHED),
        (urllib.error.URLError(TimeoutError()), Ending.UNANSWERED),
        (httpx2.ReadTimeout("no"), Ending.UNANSWERED),
        (httpx2.RemoteProtocolError("no"), Ending.UNANSWERED),
        (ConnectionResetError(), Ending.UNANSWERED),
        (TimeoutError(), Ending.UNANSWERED),
        (ValueError("the answer is no JSON"), Ending.UNANSWERED),
        (asyncio.CancelledError(), Ending.UNANSWERED),
        (KeyboardInterrupt(), Ending.UNANSWERED),
        (SystemExit(404), Ending.UNANSWERED),
        (error_of(openai, "RateLimitError", 429), Ending.REFUSED),
        (error_of(openai, "InternalServerError", 504), Ending.UNANSWERED),
        (error_of(anthropic, "BadRequestError", 400), Ending.REFUSED),
        (genai.errors.ClientError(400, {"error": {"message": "no"}}), Ending.REFUSED),
        (caused(openai.APIConnectionError(request=REQUEST), httpx2.ConnectError("no")), Ending.NOT_REACHED),
        (openai.APITimeoutError(request=REQUEST), Ending.UNANSWERED),
        (caused(RuntimeError("all failed"), error_of(openai, "RateLimitError", 429)), Ending.REFUSED),
        # What became of the attempts before it was not seen.
        (error_of(openai, "RateLimitError", 429, **{"x-stainless-retry-count": "1"}), Ending.UNANSWERED),
        (error_of(openai, "RateLimitError", 429, **{"x-stainless-retry-count": "0"}), Ending.REFUSED),
        # In the middle of an answer.
        (openai.APIError("overloaded", REQUEST, body={"code": 429}), Ending.UNANSWERED),
        (error_of(anthropic, "APIStatusError", 200), Ending.UNANSWERED),
        (genai.errors.APIError(503, {"error": {}}, types.HttpResponse()), Ending.UNANSWERED),
        # Of HTTP libraries, about a model or about something else.
        (refused_by(AI_URL), Ending.REFUSED),
        (refused_by("https://gpus/generate", json={"model": "mine", "prompt": "hi"}), Ending.REFUSED),
        (refused_by(OTHER_URL), Ending.UNANSWERED),
        (unreached(AI_URL), Ending.NOT_REACHED),
        (unreached(OTHER_URL), Ending.UNANSWERED),
        (caused(RuntimeError(), unreached(OTHER_URL)), Ending.UNANSWERED),
        (requests.HTTPError(request=requests.Request("POST", OTHER_URL).prepare()), Ending.UNANSWERED),
        (urllib.error.HTTPError(AI_URL, 429, "no", {}, None), Ending.REFUSED),  # type: ignore[arg-type]
        (urllib.error.HTTPError(OTHER_URL, 429, "no", {}, None), Ending.UNANSWERED),  # type: ignore[arg-type]
        (of("aiohttp.client_exceptions", "ClientConnectorError"), Ending.NOT_REACHED),
        (of("botocore.errorfactory", "Throttled", operation_name="Converse", response=BUSY), Ending.REFUSED),
        (
            of("botocore.errorfactory", "Throttled", operation_name="Converse", response=BUSY_AGAIN),
            Ending.UNANSWERED,
        ),
        (
            of("botocore.errorfactory", "Throttled", operation_name="PutItem", response=BUSY),
            Ending.UNANSWERED,
        ),
        (
            of(
                "botocore.exceptions",
                "EndpointConnectionError",
                kwargs={"endpoint_url": f"{AWS}/model/x/converse"},
            ),
            Ending.NOT_REACHED,
        ),
        (
            of(
                "botocore.exceptions", "EndpointConnectionError", kwargs={"endpoint_url": "https://s3/bucket"}
            ),
            Ending.UNANSWERED,
        ),
        (of("cohere.core.api_error", "ApiError", status_code=401), Ending.REFUSED),
        # Which it tries again by itself.
        (of("cohere.core.api_error", "ApiError", status_code=429), Ending.UNANSWERED),
        # The application's own.
        (HTTPException(status_code=422), Ending.UNANSWERED),
        (of("rest_framework.exceptions", "NotFound", status_code=404), Ending.UNANSWERED),
        (of("aiohttp.web_exceptions", "HTTPNotFound", status=404), Ending.UNANSWERED),
        (ConnectionRefusedError(), Ending.UNANSWERED),
        (caused(RuntimeError("redis"), ConnectionRefusedError()), Ending.UNANSWERED),
        (caused(redis.ConnectionError(), ConnectionRefusedError()), Ending.UNANSWERED),
    ],
)
def test_an_error_tells_how_a_call_ended(error: BaseException, ending: Ending) -> None:
    assert ending_of_error(error) is ending


@pytest.mark.parametrize(
    ("module", "counter"),
    [("backoff._sync", "tries"), ("backoff._async", "tries"), ("botocore.endpoint", "attempts")],
)
@pytest.mark.parametrize(("attempts", "ending"), [(1, Ending.NOT_REACHED), (2, Ending.UNANSWERED)])
def test_a_library_that_tries_again_counts_its_attempts(
    module: str, counter: str, attempts: int, ending: Ending
) -> None:
    """One that is not installed here."""
    scope = {"__name__": module, "error": unreached(AI_URL)}
    exec(f"def call():\n    {counter} = {attempts}\n    raise error", scope)  # noqa: S102
    with pytest.raises(httpx2.ConnectError) as caught:
        scope["call"]()  # type: ignore[operator]
    assert ending_of_error(caught.value) is ending


def test_the_retries_of_an_attempt_are_attempts_of_their_own(attempt: Any) -> None:
    error = refused_by(AI_URL, headers={"x-stainless-retry-count": "1"}, extensions={CALL: attempt})
    assert ending_of_attempt(error, attempt) is Ending.REFUSED


@pytest.mark.parametrize("url", [AI_URL, OTHER_URL])
def test_an_attempts_own_broken_connection_says_that_nobody_was_reached(attempt: Any, url: str) -> None:
    assert ending_of_attempt(unreached(url, extensions={CALL: attempt}), attempt) is Ending.NOT_REACHED


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        socket.gaierror(),
        unreached(AI_URL),
        refused_by(AI_URL),
        unreached(AI_URL, extensions={CALL: object()}),
        caused(ValueError(), unreached(AI_URL)),
        ConfigurationError("no"),
        tokvigil.AIUsageBlockedError("MODEL_NOT_ALLOWED: no"),
    ],
)
def test_an_error_about_anything_else_says_nothing_of_an_attempt(attempt: Any, error: Exception) -> None:
    """Code of the application runs behind the guard, also when the answer has come."""
    assert ending_of_attempt(error, attempt) is Ending.UNANSWERED


def by_requests(url: str) -> None:
    requests.post(url, json={}, timeout=PATIENT_S).raise_for_status()


def by_urllib(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, b"{}"))  # noqa: S310


def by_httpx(url: str) -> None:
    httpx2.post(url, json={}).raise_for_status()


@pytest.mark.parametrize("post", [by_requests, by_urllib, by_httpx])
def test_a_guard_around_any_http_library_knows_that_nothing_was_reached(
    tv: TokVigil, unreachable: str, reports: Any, post: Callable[[str], None]
) -> None:
    with (
        pytest.raises(OSError if post is not by_httpx else httpx2.ConnectError),
        tv.guard(user_id="ada", model="gpt-4o-mini"),
    ):
        post(unreachable + "/v1/chat/completions")
    assert reports() == [NOTHING]


@pytest.mark.parametrize("post", [by_requests, by_urllib, by_httpx])
def test_a_refusal_of_another_service_does_not_make_an_answered_call_free(
    tv: TokVigil, control_plane: Any, wire_provider: WireProvider, reports: Any, post: Callable[[str], None]
) -> None:
    client = openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk")

    @tv.guarded(user_id="ada", model="gpt-4o-mini")
    def ask() -> None:
        client.chat.completions.create(**CHAT)
        post(control_plane.url + "/crm")

    with pytest.raises(Exception, match="404"):
        ask()
    assert reports() == [HELD]


def test_a_call_whose_answer_is_elsewhere_was_worked_on(
    tv: TokVigil, provider: Any, wire: Any, reports: Any
) -> None:
    path = "/v1/chat/completions"

    def answer(seen: Any) -> Any:
        is_post = seen.method == "POST"
        return (
            wire.Answer(303, headers={"Location": path}) if is_post else wire.Answer(200, wire.completion())
        )

    provider.defaults[path] = answer
    client = tv.wrap(openai.OpenAI(base_url=provider.url + "/v1", api_key="sk"), user_id="ada")
    assert client.chat.completions.create(**CHAT).usage.total_tokens == 1_290
    assert reports() == [HELD]


def test_errors_that_cause_each_other_in_a_circle_have_an_end() -> None:
    error = RuntimeError()
    error.__cause__ = caused(ValueError(), error)
    assert ending_of_error(error) is Ending.UNANSWERED


# Styles of calls. Each awaits one call to the wire provider, made with a time-out of its own.
IMPATIENT_S, PATIENT_S = 0.4, 20.0


class Caller:
    def __init__(self, tv: TokVigil, awaited: AsyncTokVigil, url: str, timeout_s: float = PATIENT_S) -> None:
        self.tv, self.awaited, self.url, self.timeout_s = tv, awaited, url, timeout_s

    def openai(self) -> Any:
        client = openai.OpenAI(base_url=self.url + "/v1", api_key="sk", max_retries=0, timeout=self.timeout_s)
        return self.tv.wrap(client, user_id="ada")

    def async_openai(self) -> Any:
        client = openai.AsyncOpenAI(
            base_url=self.url + "/v1", api_key="sk", max_retries=0, timeout=self.timeout_s
        )
        return self.tv.wrap(client, user_id="ada")

    def anthropic(self) -> Any:
        client = anthropic.Anthropic(base_url=self.url, api_key="sk", max_retries=0, timeout=self.timeout_s)
        return self.tv.wrap(client, user_id="ada")

    def async_anthropic(self) -> Any:
        client = anthropic.AsyncAnthropic(
            base_url=self.url, api_key="sk", max_retries=0, timeout=self.timeout_s
        )
        return self.tv.wrap(client, user_id="ada")

    def genai(self) -> Any:
        options = types.HttpOptions(base_url=self.url, timeout=round(self.timeout_s * 1000))
        # It closes its connections when it is collected.
        self.kept = self.tv.wrap(genai.Client(api_key="sk", http_options=options), user_id="ada")
        return self.kept

    def post(self) -> Any:
        return httpx2.post(
            self.url + "/v1/chat/completions",
            json=CHAT,
            headers={"Authorization": "Bearer sk"},
            timeout=self.timeout_s,
        ).raise_for_status()

    async def async_post(self) -> Any:
        async with httpx2.AsyncClient(timeout=self.timeout_s) as http:
            headers = {"Authorization": "Bearer sk"}
            answer = await http.post(self.url + "/v1/chat/completions", json=CHAT, headers=headers)
            return answer.raise_for_status()


async def streamed(stream: Awaitable[Any]) -> None:
    async for _ in await stream:
        pass


def guard(caller: Caller) -> None:
    with caller.tv.guard(user_id="ada", feature="chat", model="gpt-4o-mini", messages=MESSAGES) as call:
        call.record(caller.post().json())


async def async_guard(caller: Caller) -> None:
    async with caller.awaited.guard(
        user_id="ada", feature="chat", model="gpt-4o-mini", messages=MESSAGES
    ) as call:
        call.record((await caller.async_post()).json())


def guarded(caller: Caller) -> None:
    guards = caller.tv.guarded(
        user_id="ada", feature="chat", model="gpt-4o-mini", input_text=lambda: "Say hello"
    )

    @guards
    def ask() -> Any:
        return caller.post().json()

    ask()


def chat(caller: Caller, **options: Any) -> None:
    answer = caller.tv.chat(
        user_id="ada",
        feature="chat",
        model="gpt-4o-mini",
        messages=MESSAGES,
        provider_base_url=caller.url + "/v1",
        provider_api_key="sk",
        **options,
    )
    if options.get("stream"):
        list(answer)  # type: ignore[call-overload]


async def async_chat(caller: Caller, **options: Any) -> None:
    await caller.awaited.chat(
        user_id="ada",
        feature="chat",
        model="gpt-4o-mini",
        messages=MESSAGES,
        provider_base_url=caller.url + "/v1",
        provider_api_key="sk",
        **options,
    )


BLOCKING: dict[str, Callable[[Caller], Any]] = {
    "openai": lambda c: c.openai().chat.completions.create(**CHAT),
    "openai stream": lambda c: list(c.openai().chat.completions.create(**CHAT, stream=True)),
    "openai responses": lambda c: c.openai().responses.create(**RESPONSE),
    "openai raw": lambda c: c.openai().chat.completions.with_raw_response.create(**CHAT),
    "anthropic": lambda c: c.anthropic().messages.create(**CLAUDE),
    "anthropic stream": lambda c: list(c.anthropic().messages.create(**CLAUDE, stream=True)),
    "google": lambda c: c.genai().models.generate_content(**GEMINI),
    "google stream": lambda c: list(c.genai().models.generate_content_stream(**GEMINI)),
    "guard": guard,
    "guarded": guarded,
    "chat": chat,
    "chat stream": lambda c: chat(c, stream=True),
}
AWAITED: dict[str, Callable[[Caller], Awaitable[Any]]] = {
    "openai": lambda c: c.async_openai().chat.completions.create(**CHAT),
    "openai stream": lambda c: streamed(c.async_openai().chat.completions.create(**CHAT, stream=True)),
    "openai responses": lambda c: c.async_openai().responses.create(**RESPONSE),
    "anthropic": lambda c: c.async_anthropic().messages.create(**CLAUDE),
    "anthropic stream": lambda c: streamed(c.async_anthropic().messages.create(**CLAUDE, stream=True)),
    "google": lambda c: c.genai().aio.models.generate_content(**GEMINI),
    "google stream": lambda c: streamed(c.genai().aio.models.generate_content_stream(**GEMINI)),
    "guard": async_guard,
    "chat": async_chat,
}
HELD = ("partial", 100)
NOTHING = ("failed", 0)


def is_late(wire: WireProvider) -> None:
    wire.delay_s = 1.0


# What the provider does, and what is charged: status and output tokens.
TROUBLES: dict[str, tuple[Callable[[WireProvider], Any], tuple[str, int]]] = {
    "time-out": (is_late, HELD),
    "hangs up": (lambda wire: wire.hang_up(), HELD),
    "400": (lambda wire: wire.fail(400), NOTHING),
    "429": (lambda wire: wire.fail(429), NOTHING),
    "500": (lambda wire: wire.fail(500), NOTHING),
    "gateway time-out": (lambda wire: wire.fail(504), HELD),
}


@pytest.fixture
def reports(tv: TokVigil, control_plane: Any) -> Callable[[], list[tuple[str, int]]]:
    """Status and output tokens of all that was reported."""

    def read() -> list[tuple[str, int]]:
        assert tv.flush() == 0
        return [(event["status"], event["output_tokens"]) for event in control_plane.charged.values()]

    return read


# `chat` has no time-out that a caller could set.
@pytest.mark.parametrize(
    ("style", "trouble"),
    [
        (style, trouble)
        for style in BLOCKING
        for trouble in TROUBLES
        if (style[:4], trouble) != ("chat", "time-out")
    ],
)
def test_every_style_of_blocking_call_is_charged_alike(
    tv: TokVigil, control_plane: Any, wire_provider: WireProvider, reports: Any, style: str, trouble: str
) -> None:
    make, charged = TROUBLES[trouble]
    make(wire_provider)
    with pytest.raises(Exception):  # noqa: B017 - each SDK has its own
        BLOCKING[style](
            Caller(
                tv,
                AsyncTokVigil(api_key="key", base_url=control_plane.url),
                wire_provider.url,
                timeout_s(trouble),
            )
        )
    assert reports() == [charged]
    assert len(wire_provider.seen) == 1


@pytest.mark.parametrize("style", BLOCKING)
def test_every_style_of_blocking_call_that_reaches_nobody_is_charged_nothing(
    tv: TokVigil, control_plane: Any, unreachable: str, reports: Any, style: str
) -> None:
    with pytest.raises(Exception):  # noqa: B017 - each SDK has its own
        BLOCKING[style](Caller(tv, AsyncTokVigil(api_key="key", base_url=control_plane.url), unreachable))
    assert reports() == [NOTHING]


def timeout_s(trouble: str) -> float:
    return IMPATIENT_S if trouble == "time-out" else PATIENT_S


async def reached(wire: WireProvider) -> None:
    """Waits until the provider works on the request."""
    for _ in range(2_000):
        if wire.seen:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never went out")


async def cancelled(call: Awaitable[Any], wire: WireProvider) -> None:
    task = asyncio.ensure_future(call)
    await reached(wire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def in_time(call: Awaitable[Any], wire: WireProvider) -> None:
    """`asyncio.timeout`, which is over while the provider works."""

    async def waits() -> None:
        async with asyncio.timeout(None) as time:
            over = asyncio.create_task(reached(wire))
            over.add_done_callback(lambda _: time.reschedule(0))
            await call

    with pytest.raises(TimeoutError):
        await waits()


async def beside_a_failure(call: Awaitable[Any], wire: WireProvider) -> None:
    async def fails() -> None:
        await reached(wire)
        raise KeyError

    async def waits() -> None:
        await call

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(fails())

    with pytest.raises(ExceptionGroup):
        await both()


async def raises(call: Awaitable[Any], wire: WireProvider) -> None:
    with pytest.raises(Exception):  # noqa: B017 - each SDK has its own
        await call


ENDS: dict[str, tuple[Callable[[Awaitable[Any], WireProvider], Awaitable[None]], Any, tuple[str, int]]] = {
    "cancelled": (cancelled, is_late, HELD),
    "asyncio.timeout": (in_time, is_late, HELD),
    "failed sibling": (beside_a_failure, is_late, HELD),
} | {name: (raises, make, charged) for name, (make, charged) in TROUBLES.items()}


@pytest.mark.parametrize(
    ("style", "end"),
    [(style, end) for style in AWAITED for end in ENDS if (style, end) != ("chat", "time-out")],
)
def test_every_style_of_awaited_call_is_charged_alike(
    tv: TokVigil, control_plane: Any, wire_provider: WireProvider, reports: Any, style: str, end: str
) -> None:
    how, make, charged = ENDS[end]
    make(wire_provider)

    async def call() -> None:
        async with AsyncTokVigil(api_key="key", base_url=control_plane.url) as awaited:
            caller = Caller(tv, awaited, wire_provider.url, timeout_s(end))
            await how(AWAITED[style](caller), wire_provider)

    asyncio.run(call())
    assert reports() == [charged]
    assert len(wire_provider.seen) == 1


def test_a_stream_in_the_background_that_is_left_goes_on_and_is_charged_what_was_held(
    tv: TokVigil, wire_provider: WireProvider, reports: Any
) -> None:
    caller = Caller(tv, AsyncTokVigil(api_key="key", base_url=tv.base_url), wire_provider.url)
    model = RESPONSE | {"model": "gpt-4o"}
    with caller.openai().responses.create(**model, background=True, stream=True) as stream:
        for _, _ in zip(range(8), stream, strict=False):
            pass
    assert reports() == [HELD]


def test_an_error_after_the_answer_does_not_make_it_free(tv: TokVigil, reports: Any) -> None:
    """As of JSON that cannot be parsed."""
    with (
        pytest.raises(ValueError, match="JSON"),
        tv.guard(user_id="ada", feature="chat", model="gpt-4o-mini"),
    ):
        raise ValueError("the answer is no JSON")
    assert reports() == [HELD]


class Bare:
    """Clients that nobody wraps, in a guard. They try again only if that is said."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.openai = openai.OpenAI(base_url=url + "/v1", api_key="sk", max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=url, api_key="sk", max_retries=0)
        again = types.HttpRetryOptions(
            attempts=2, initial_delay=0.001, max_delay=0.001, http_status_codes=[504]
        )
        self.genai, self.genai_again = (
            genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url, retry_options=each))
            for each in (None, again)
        )
        self.requests = requests.Session()
        patience = urllib3.Retry(
            total=1, allowed_methods=None, status_forcelist=[504], raise_on_status=False, backoff_factor=0
        )
        self.requests.mount("http://", HTTPAdapter(max_retries=patience))

    def ask(self) -> None:
        self.openai.chat.completions.create(**CHAT)

    async def ask_async(self) -> None:
        async with openai.AsyncOpenAI(base_url=self.url + "/v1", api_key="sk", max_retries=0) as client:
            await client.chat.completions.create(**CHAT)

    def post(self) -> None:
        self.requests.post(self.url + "/v1/chat/completions", json=CHAT, headers=KEY).raise_for_status()


KEY = {"Authorization": "Bearer sk"}
TWICE: dict[str, Any] = {"stop": tenacity.stop_after_attempt(2)}


def again_in_except(bare: Bare) -> None:
    try:
        bare.ask()
    except openai.APIError:
        bare.ask()


def again_after_a_cause(bare: Bare) -> None:
    try:
        bare.ask()
    except openai.APIError as lost:
        try:
            bare.ask()
        except openai.APIError as refused:
            raise refused from lost


async def again_in_except_async(bare: Bare) -> None:
    try:
        await bare.ask_async()
    except openai.APIError:
        await bare.ask_async()


async def again_beside(bare: Bare) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(bare.ask_async())
    except* openai.APIError:
        await bare.ask_async()


def again_in_a_loop_of_tenacity(bare: Bare) -> None:
    for attempt in tenacity.Retrying(reraise=True, **TWICE):
        with attempt:
            bare.ask()


# In what ways a call in a guard is tried again.
AGAIN: dict[str, Callable[[Bare], Any]] = {
    "in except": again_in_except,
    "as a cause": again_after_a_cause,
    "in except, awaited": lambda b: asyncio.run(again_in_except_async(b)),
    "in except*": lambda b: asyncio.run(again_beside(b)),
    "tenacity": lambda b: tenacity.retry(**TWICE)(b.ask)(),
    "tenacity, the error itself": lambda b: tenacity.retry(reraise=True, **TWICE)(b.ask)(),
    "tenacity, a loop": again_in_a_loop_of_tenacity,
    "tenacity, awaited": lambda b: asyncio.run(tenacity.retry(reraise=True, **TWICE)(b.ask_async)()),  # type: ignore[arg-type]
    "google": lambda b: b.genai_again.models.generate_content(**GEMINI),
    "google, awaited": lambda b: asyncio.run(b.genai_again.aio.models.generate_content(**GEMINI)),
    "urllib3": Bare.post,
}


@pytest.mark.parametrize("again", AGAIN)
def test_a_refusal_at_the_end_does_not_make_the_attempt_before_it_free(
    tv: TokVigil, wire_provider: WireProvider, reports: Any, again: str
) -> None:
    """A gateway did not get the answer of the first."""
    wire_provider.fail(504)
    wire_provider.fail(429)
    with pytest.raises(Exception), tv.guard(user_id="ada", model="gpt-4o-mini"):  # noqa: B017 - each has its own
        AGAIN[again](Bare(wire_provider.url))
    assert len(wire_provider.seen) == 2
    assert reports() == [HELD]


@pytest.mark.parametrize(
    "again", [again_in_except, lambda bare: asyncio.run(again_in_except_async(bare)), Bare.post]
)
def test_nor_does_an_attempt_at_the_end_that_reaches_nobody(
    tv: TokVigil, reports: Any, again: Callable[[Bare], Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def reads_once() -> None:
            connection, _ = listening.accept()
            listening.close()
            connection.recv(65_536)
            connection.close()

        reading = threading.Thread(target=reads_once)
        reading.start()
        with pytest.raises(Exception), tv.guard(user_id="ada", model="gpt-4o-mini"):  # noqa: B017
            again(Bare(url))
        reading.join()
    assert reports() == [HELD]


async def too_late(bare: Bare, wire: WireProvider) -> None:
    """`asyncio.timeout` ends the first attempt, and the second is refused."""
    wire.delay_s = 1.0
    try:
        async with asyncio.timeout(None) as time:
            over = asyncio.create_task(reached(wire))
            over.add_done_callback(lambda _: time.reschedule(0))
            await bare.ask_async()
    except TimeoutError:
        wire.delay_s = 0
        wire.fail(429)
        await bare.ask_async()


def test_nor_does_a_time_limit_of_the_callers_own(
    tv: TokVigil, wire_provider: WireProvider, reports: Any
) -> None:
    with pytest.raises(openai.RateLimitError), tv.guard(user_id="ada", model="gpt-4o-mini"):
        asyncio.run(too_late(Bare(wire_provider.url), wire_provider))
    assert reports() == [HELD]


ONCE: dict[str, Callable[[Bare], Any]] = {
    "openai": Bare.ask,
    "openai, awaited": lambda b: asyncio.run(b.ask_async()),
    "anthropic": lambda b: b.anthropic.messages.create(**CLAUDE),
    "google": lambda b: b.genai.models.generate_content(**GEMINI),
    "google, awaited": lambda b: asyncio.run(b.genai.aio.models.generate_content(**GEMINI)),
    "urllib3": Bare.post,
    "tenacity": lambda b: tenacity.retry(stop=tenacity.stop_after_attempt(1))(b.ask)(),
}


@pytest.mark.parametrize("once", ONCE)
def test_a_call_that_is_refused_at_its_only_attempt_is_free(
    tv: TokVigil, wire_provider: WireProvider, reports: Any, once: str
) -> None:
    """Also where an error of something else was being handled."""
    wire_provider.fail(429)

    def ask() -> None:
        try:
            {}["a cache"]
        except KeyError:
            ONCE[once](Bare(wire_provider.url))

    with pytest.raises(Exception), tv.guard(user_id="ada", model="gpt-4o-mini"):  # noqa: B017 - each has its own
        ask()
    assert len(wire_provider.seen) == 1
    assert reports() == [NOTHING]


@pytest.mark.parametrize("once", [name for name in ONCE if name != "urllib3"])
def test_a_call_that_reaches_nobody_at_its_only_attempt_is_free(
    tv: TokVigil, unreachable: str, reports: Any, once: str
) -> None:
    with pytest.raises(Exception), tv.guard(user_id="ada", model="gpt-4o-mini"):  # noqa: B017 - each has its own
        ONCE[once](Bare(unreachable))
    assert reports() == [NOTHING]


def test_an_error_of_before_the_guard_says_nothing_of_its_call() -> None:
    before = error_of(openai, "RateLimitError", 429)
    assert ending_of_error(before, before) is Ending.UNANSWERED
    assert ending_of_error(caused(RuntimeError(), before), before) is Ending.UNANSWERED


def test_attempts_with_a_guard_each_are_charged_each_for_itself(
    tv: TokVigil, wire_provider: WireProvider, reports: Any
) -> None:
    bare = Bare(wire_provider.url)
    wire_provider.fail(504)
    wire_provider.fail(429)
    ask = tv.guarded(user_id="ada", model="gpt-4o-mini")(bare.ask)

    def twice() -> None:
        try:
            ask()
        except openai.APIError:
            ask()

    with pytest.raises(openai.RateLimitError):
        twice()
    assert reports() == [HELD, NOTHING]


def too_many() -> openai.OpenAI:
    """A client of a provider that takes no more calls."""
    http = httpx2.Client(transport=httpx2.MockTransport(lambda request: httpx2.Response(429)))
    return openai.OpenAI(api_key="sk", http_client=http, max_retries=0)


# What goes wrong beside a call in a guard: none of it is about the call.
BESIDE: dict[str, Callable[[Caller], Any]] = {
    "another guard is blocked": lambda c: c.tv.guard(user_id="ada", model="gpt-4o"),
    "a wrapped call is blocked": lambda c: c.openai().chat.completions.create(**CHAT | {"model": "gpt-4o"}),
    "a call of a guarded HTTP client is blocked": lambda c: (
        c.tv.http_client(user_id="ada").post(AI_URL, json=CHAT | {"model": "gpt-4o"}).raise_for_status()
    ),
    "a wrapped call is refused": lambda c: c.tv.wrap(too_many(), user_id="ada").responses.create(**RESPONSE),
    "a wrapped call has no user": lambda c: c.tv.wrap(openai.OpenAI(api_key="sk")).responses.create(
        **RESPONSE
    ),
    "a context is wrong": lambda c: c.tv.context(metadata={"number": 1.5}),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("is_guarded_function", [False, True])
@pytest.mark.parametrize("beside", BESIDE)
def test_what_goes_wrong_beside_a_call_does_not_make_it_free(
    tv: TokVigil,
    control_plane: Any,
    wire: Any,
    wire_provider: WireProvider,
    reports: Any,
    beside: str,
    is_guarded_function: bool,
) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, (wire.blocked if seen.body["model"] == "gpt-4o" else wire.decision)(seen.body["request_id"])
    )
    caller = Caller(tv, AsyncTokVigil(api_key="key", base_url=control_plane.url), wire_provider.url)

    def ask() -> None:
        caller.post()
        BESIDE[beside](caller)

    def in_guard() -> None:
        with tv.guard(user_id="ada", model="gpt-4o-mini"):
            ask()

    with pytest.raises(Exception):  # noqa: B017 - each has its own
        tv.guarded(user_id="ada", model="gpt-4o-mini")(ask)() if is_guarded_function else in_guard()
    assert len(wire_provider.seen) == 1
    assert sorted(reports()) == [NOTHING] * (beside == "a wrapped call is refused") + [HELD]
