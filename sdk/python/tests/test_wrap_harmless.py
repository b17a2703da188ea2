"""What the guard adds to a call, and what it reads of it, must not harm the call."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import tokvigil
from google import genai
from tokvigil import TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, CLAUDE, GEMINI, MESSAGES, RESPONSE, Books, wait_for

MEBIBYTE = 1024 * 1024
KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")


class Strict:
    """A provider that refuses the parameters of some names, as OpenAI, Azure and Google say it; else passes on."""

    def __init__(self, wire: WireProvider, *refused: str) -> None:
        self.refused = refused
        self.bodies: list[dict[str, Any]] = []
        self._url = httpx2.URL(wire.url)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        named = {**body, **body.get("generationConfig", {})}
        for name in self.refused:
            if name in named:
                error = {
                    "message": f"Unsupported parameter: '{name}' is not supported with this model.",
                    "code": 400,
                }
                return httpx2.Response(400, json={"error": error})
        url = request.url.copy_with(scheme="http", host=self._url.host, port=self._url.port)
        keys = {name: request.headers[name] for name in KEY_HEADERS if name in request.headers}
        passed = httpx2.request(request.method, url, headers=keys, json=body)
        kind = {"content-type": passed.headers["content-type"]}
        return httpx2.Response(passed.status_code, content=passed.content, headers=kind)

    async def answer_async(self, request: httpx2.Request) -> httpx2.Response:
        return await asyncio.to_thread(self.answer, request)


@pytest.fixture
def make(wire_provider: WireProvider) -> Callable[..., tuple[Strict, openai.OpenAI]]:
    def made(*refused: str, url: str = "https://api.openai.com/v1") -> tuple[Strict, openai.OpenAI]:
        strict = Strict(wire_provider, *refused)
        http = openai.DefaultHttpxClient(transport=httpx2.MockTransport(strict.answer))
        return strict, openai.OpenAI(base_url=url, api_key="sk", http_client=http, max_retries=0)

    return made


@pytest.mark.parametrize(
    ("refused", "caps"),
    [
        ((), [{"max_completion_tokens": 100}]),
        (("max_completion_tokens",), [{"max_completion_tokens": 100}, {"max_tokens": 100}]),
        (
            ("max_completion_tokens", "max_tokens"),
            [{"max_completion_tokens": 100}, {"max_tokens": 100}, {}],
        ),
    ],
)
def test_a_cap_that_the_provider_refuses_is_taken_back(
    tv: TokVigil, make: Any, books: Books, refused: tuple[str, ...], caps: list[dict[str, int]]
) -> None:
    strict, bare = make(*refused)
    assert tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT).usage.completion_tokens == 90
    sent = [{name: body[name] for name in body if name.startswith("max_")} for body in strict.bodies]
    assert sent == caps
    assert books.only().status == "succeeded"


def test_what_a_provider_refused_once_is_not_added_again(tv: TokVigil, make: Any, books: Books) -> None:
    strict, bare = make("max_completion_tokens", "stream_options")
    client = tv.wrap(bare, user_id="ada")
    for _ in range(3):
        assert list(client.chat.completions.create(**CHAT, stream=True))
    assert len(strict.bodies) == 5
    assert "stream_options" not in strict.bodies[-1]
    assert strict.bodies[-1]["max_tokens"] == 100
    assert [event.status for event in books.settled()] == ["succeeded"] * 3


class Saying:
    """A provider that refuses a parameter in its own words; `says` makes the error of a request, None: an answer."""

    def __init__(self, says: Callable[[dict[str, Any]], Any]) -> None:
        self.caps: list[dict[str, int]] = []
        self._says = says
        http = openai.DefaultHttpxClient(transport=httpx2.MockTransport(self.answer))
        self.client = openai.OpenAI(base_url="http://vllm/v1", api_key="k", http_client=http, max_retries=0)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.caps.append({name: body[name] for name in body if name.startswith("max_")})
        error = self._says(body)
        if error is not None:
            return httpx2.Response(400, json=error)
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        return httpx2.Response(200, json={"id": "1", "choices": [], "usage": usage})


OLD, NEW = {"max_tokens": 100}, {"max_completion_tokens": 100}


@pytest.mark.parametrize(
    "error",
    [
        # OpenAI
        {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model.",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": "unsupported_parameter",
            }
        },
        {"error": {"message": "Unknown parameter: 'max_tokens'.", "code": "unknown_parameter"}},
        {"error": {"message": "No.", "param": "max_tokens", "code": "unsupported_parameter"}},
        # Azure
        {"error": {"message": "Unrecognized request argument supplied: max_tokens", "param": None}},
        {"error": {"message": "1 validation error\nbody -> max_tokens\n  extra fields not permitted"}},
        {"detail": "Extra parameters ['max_tokens'] are not allowed when extra-parameters is not set"},
        # Mistral, and FastAPI
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "max_tokens"],
                    "msg": "Extra inputs are not permitted",
                    "input": 100,
                }
            ]
        },
        # vLLM
        {"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'max_tokens'), 'msg': 'Extra inputs'}]"},
        # Groq
        {"error": {"message": "property 'max_tokens' is unsupported, did you mean 'maxtoken'?"}},
        # Anthropic
        {"error": {"type": "invalid_request_error", "message": "max_tokens: Extra inputs are not permitted"}},
        # Google
        {"error": {"message": "Unknown name \"max_tokens\" at 'generation_config': Cannot find field."}},
        # Fireworks, Cohere, xAI, Bedrock, and what checks JSON schemas
        {"error": {"message": "Extra inputs are not permitted, field: 'max_tokens', value: 100"}},
        {"message": "invalid request: parameter 'max_tokens' is not a valid field"},
        {"error": "Model grok-4 does not support parameter maxTokens."},
        {"message": "Malformed input request: extraneous key [max_tokens] is not permitted"},
        {"error": "Additional properties are not allowed ('max_tokens' was unexpected)"},
        {"error": {"message": "Unrecognized key(s) in object: 'max_tokens'"}},
    ],
    ids=str,
)
def test_a_parameter_that_a_provider_does_not_know_is_known_by_its_words(tv: TokVigil, error: Any) -> None:
    saying = Saying(lambda body: error if "max_tokens" in body else None)
    client = tv.wrap(saying.client, user_id="ada")
    for _ in range(2):
        client.chat.completions.create(model="llama", messages=MESSAGES)
    assert saying.caps == [OLD, NEW, NEW]


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "max_tokens must be at least 1, got -186.", "code": 400}},
        {"error": {"message": "Invalid 'max_tokens': below minimum", "code": "integer_below_min_value"}},
        {"error": {"message": "No.", "param": "max_tokens", "code": "unsupported_value"}},
        {"error": {"message": "Unsupported value: 'max_tokens' must be even."}},
        {"error": {"message": "Unknown parameter: 'temperature'. See max_tokens."}},
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "colour"],
                    "msg": "Extra inputs are not permitted",
                    "input": {"model": "llama", "max_tokens": 100},
                },
                {"type": "missing", "msg": "Field required", "input": {"max_tokens": 100}},
            ]
        },
    ],
    ids=str,
)
def test_an_error_that_only_mentions_it_is_the_callers(tv: TokVigil, error: Any) -> None:
    errors = [None, error, None]
    saying = Saying(lambda body: errors.pop(0))
    client = tv.wrap(saying.client, user_id="ada")
    client.chat.completions.create(model="llama", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="llama", messages=MESSAGES)
    client.chat.completions.create(model="llama", messages=MESSAGES)
    assert saying.caps == [OLD, OLD, OLD]


def test_a_cap_that_is_too_large_for_one_long_prompt_is_taken_back_for_that_call_alone(tv: TokVigil) -> None:
    """Less than the cap is left for its answer then."""

    def says(body: dict[str, Any]) -> Any:
        if len(body["messages"][0]["content"]) < 100 or not {"max_tokens", *NEW} & body.keys():
            return None
        said = "'max_tokens' or 'max_completion_tokens' is too large: 100. This model's maximum context length is"
        return {
            "error": {"message": f"{said} 2048 tokens and your request has 1990 input tokens.", "code": 400}
        }

    saying = Saying(says)
    client = tv.wrap(saying.client, user_id="ada")
    for prompt in ("short", "long " * 100, "short"):
        client.chat.completions.create(model="llama", messages=[MESSAGES[0] | {"content": prompt}])
    assert saying.caps == [OLD, OLD, NEW, {}, OLD]


def test_what_did_not_help_is_not_remembered(tv: TokVigil) -> None:
    def says(body: dict[str, Any]) -> Any:
        if "max_tokens" in body and body["user"] == "wrong":
            return {"error": {"message": "Unknown parameter: 'max_tokens'"}}
        return {"error": {"message": "no such user"}} if body["user"] == "wrong" else None

    saying = Saying(says)
    client = tv.wrap(saying.client, user_id="ada")
    with pytest.raises(openai.BadRequestError, match="no such user"):
        client.chat.completions.create(model="llama", messages=MESSAGES, user="wrong")
    client.chat.completions.create(model="llama", messages=MESSAGES, user="right")
    assert saying.caps == [OLD, NEW, OLD]


def test_that_a_provider_takes_no_cap_is_tried_and_said_with_each_call(
    tv: TokVigil, caplog: pytest.LogCaptureFixture
) -> None:
    def says(body: dict[str, Any]) -> Any:
        named = sorted({"max_tokens", *NEW} & body.keys())
        return {"error": {"message": f"Unknown parameter: '{named[0]}'"}} if named else None

    saying = Saying(says)
    client = tv.wrap(saying.client, user_id="ada")
    for _ in range(2):
        client.chat.completions.create(model="llama", messages=MESSAGES)
    assert saying.caps == [OLD, NEW, {}] * 2
    assert caplog.text.count("has no cap") == 2


def test_an_awaited_call_takes_it_back_too(tv: TokVigil, wire_provider: WireProvider, books: Books) -> None:
    strict = Strict(wire_provider, "stream_options", "max_completion_tokens")

    async def call() -> int:
        http = openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(strict.answer_async))
        async with openai.AsyncOpenAI(api_key="sk", http_client=http, max_retries=0) as bare:
            stream = await tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT, stream=True)
            return len([chunk async for chunk in stream])

    assert asyncio.run(call()) > 1
    assert books.only().status == "succeeded"


def test_responses_and_gemini_take_it_back(
    tv: TokVigil, make: Any, wire_provider: WireProvider, books: Books
) -> None:
    _, bare = make("max_output_tokens")
    asked = {name: value for name, value in RESPONSE.items() if name != "max_output_tokens"}
    assert tv.wrap(bare, user_id="ada").responses.create(**asked).id
    strict = Strict(wire_provider, "maxOutputTokens")
    http = httpx2.Client(transport=httpx2.MockTransport(strict.answer))
    options = genai.types.HttpOptions(base_url=wire_provider.url, httpx_client=http)
    client = tv.wrap(genai.Client(api_key="k", http_options=options), user_id="ada")
    assert client.models.generate_content(**GEMINI).text
    assert len(strict.bodies) == 2
    assert [event.status for event in books.settled()] == ["succeeded"] * 2


def test_what_the_caller_wrote_is_not_taken_back(tv: TokVigil, make: Any, books: Books) -> None:
    strict, bare = make("max_tokens", "stream_options")
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT, max_tokens=50)
    assert len(strict.bodies) == 1
    assert books.only().status == "failed"


def test_any_other_refusal_is_the_callers(
    tv: TokVigil, make: Any, wire_provider: WireProvider, books: Books
) -> None:
    strict, bare = make()
    wire_provider.fail(400)
    with pytest.raises(openai.BadRequestError) as caught:
        tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT)
    assert caught.value.body
    assert len(strict.bodies) == 1


def test_a_thinking_budget_is_lowered_with_the_cap_or_the_call_is_blocked(
    tv: TokVigil, wire_provider: WireProvider, control_plane: Any, wire: Any, books: Books
) -> None:
    def capped(seen: Any) -> Any:
        cap = 1_500 if "roomy" in seen.body["user_id"] else 500
        return wire.Answer(200, wire.decision(seen.body["request_id"], max_output_tokens=cap))

    control_plane.defaults["/v1/evaluate"] = capped
    bare = anthropic.Anthropic(base_url=wire_provider.url, api_key="sk")
    asked = CLAUDE | {"max_tokens": 16_000, "thinking": {"type": "enabled", "budget_tokens": 10_000}}
    tv.wrap(bare, user_id="roomy").messages.create(**asked)
    sent = wire_provider.seen[0].body
    assert sent["thinking"]["budget_tokens"] < sent["max_tokens"] == 1_500
    with pytest.raises(tokvigil.AIUsageBlockedError) as caught:
        tv.wrap(bare, user_id="cramped").messages.create(**asked)
    assert (caught.value.reason_code, caught.value.reason_class) == ("REQUEST_TOKENS_EXCEEDED", "too_large")
    assert [event.status for event in books.settled()] == ["succeeded", "cancelled"]
    assert len(wire_provider.seen) == 1


class Upload(io.BytesIO):
    name = "training.jsonl"


def test_an_upload_is_not_read_into_memory(tv: TokVigil, tmp_path: Any) -> None:
    large = tmp_path / "large.jsonl"
    with large.open("wb") as file:
        file.truncate(100 * MEBIBYTE)
    seen: list[int] = []

    def take(request: httpx2.Request) -> httpx2.Response:
        seen.append(sum(len(chunk) for chunk in request.stream))  # type: ignore[union-attr, misc]
        return httpx2.Response(200, json={"id": "file-1", "object": "file"})

    class Transport(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return take(request)

    bare = openai.OpenAI(api_key="sk", http_client=openai.DefaultHttpxClient(transport=Transport()))
    client = tv.wrap(bare)
    with large.open("rb") as file:
        tracemalloc.start()
        client.files.create(file=file, purpose="batch")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seen[0] > 100 * MEBIBYTE
    assert peak < 20 * MEBIBYTE


def longest_pause_s(call: Callable[[], Any]) -> float:
    """Of an event loop in which the call is made."""

    async def main() -> float:
        pauses = []

        async def beats() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.001)
                pauses.append(time.perf_counter() - before)

        heart = asyncio.create_task(beats())
        await asyncio.sleep(0.01)
        await call()
        heart.cancel()
        return max(pauses)

    return asyncio.run(main())


@pytest.fixture
def picture() -> bytes:
    url = "data:image/png;base64," + "iVBORw0KGgo" * 1_400_000
    part = {"type": "image_url", "image_url": {"url": url}}
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": [part]}]}).encode()


def test_a_large_picture_holds_up_no_event_loop(tv: TokVigil, picture: bytes) -> None:
    """15 MB. Beside a bare client, which writes as much to its connection."""

    async def take(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            200, json={"id": "1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
        )

    def posting(client: httpx2.AsyncClient) -> Callable[[], Any]:
        headers = {"content-type": "application/json"}
        return lambda: client.post(
            "https://api.openai.com/v1/chat/completions", content=picture, headers=headers
        )

    bare = openai.AsyncOpenAI(
        api_key="sk", http_client=openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(take))
    )
    guarded = tv.wrap(bare, user_id="ada")._client
    posting(guarded)  # made outside of the loops
    plain = min(longest_pause_s(posting(bare._client)) for _ in range(3))
    pause = min(longest_pause_s(posting(guarded)) for _ in range(3))
    as_json = min(_timed(lambda: json.dumps(json.loads(picture))) for _ in range(3))
    # Reading and writing it as JSON would take all of that.
    assert pause < plain + as_json / 2


async def take(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json={"id": "1", "choices": [], "usage": {"prompt_tokens": 9}})


@pytest.fixture
def large(tv: TokVigil) -> Callable[[], Any]:
    """Makes an awaited call whose prompt takes long to count."""
    http = openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(take))
    client = tv.wrap(openai.AsyncOpenAI(api_key="sk", http_client=http), user_id="ada")
    return lambda: client.chat.completions.create(
        model="gpt-4o", messages=[MESSAGES[0] | {"content": "word " * 20_000}]
    )


def test_counting_needs_no_thread_that_may_be_waiting_for_the_call(
    large: Callable[[], Any], books: Books
) -> None:
    """As where an application's own threads wait for what their event loop asks."""

    async def main() -> None:
        # Once a client's life openai itself needs such a thread.
        await large()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        ask = lambda: asyncio.run_coroutine_threadsafe(large(), loop).result(5)  # noqa: E731
        assert (await asyncio.to_thread(ask)).id

    asyncio.run(main())
    assert len(books.settled()) == 2


def test_threads_that_count_end_with_their_event_loop(large: Callable[[], Any]) -> None:
    def counting() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("tokvigil-work")]

    async def main() -> None:
        await asyncio.gather(*(large() for _ in range(5)))
        assert 1 <= len(counting()) <= 2

    asyncio.run(main())
    wait_for(lambda: not counting())


def test_a_call_is_counted_where_no_thread_can_be_begun_any_more(
    large: Callable[[], Any], books: Books
) -> None:
    """As in what an event loop does last."""

    async def main() -> None:
        await large()
        await asyncio.get_running_loop().shutdown_asyncgens()
        await large()

    asyncio.run(main())
    before, after = (asked["input_tokens"] for asked in books.asked)
    assert before == after


def _timed(work: Callable[[], Any]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def test_a_long_text_is_counted_though_it_is_not_read_as_json(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    text = "one two three four five " * 40_000
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
        asked: Any = {"model": "gpt-4o-mini", "messages": [MESSAGES[0] | {"content": text}]}
        tv.wrap(bare, user_id="ada").chat.completions.create(**asked)
    assert books.asked[0]["input_tokens"] == pytest.approx(200_000, rel=0.35)
