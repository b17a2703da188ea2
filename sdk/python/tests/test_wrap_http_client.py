"""`tv.http_client()`: a guarded client of httpx2 or httpx, for whatever takes one."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
import tokvigil
from google import genai
from tokvigil import AIUsageBlockedError, AsyncTokVigil, TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, CLAUDE, GEMINI, Books

LIBRARIES = {"httpx2": httpx2, "httpx": httpx}
AUTH = {"authorization": "Bearer sk-caller"}


def every(stream: Any) -> list[Any]:
    return list(stream)


async def awaited(answer: Any) -> Any:
    return await answer


# What takes a guarded client, and calls through it: made anew for each test.
SYNC: dict[str, Callable[[Any, str], Any]] = {
    "openai": lambda http, url: openai.OpenAI(
        api_key="sk", base_url=url + "/v1", http_client=http
    ).chat.completions.create(**CHAT),
    "openai, streaming": lambda http, url: every(
        openai.OpenAI(api_key="sk", base_url=url + "/v1", http_client=http).chat.completions.create(
            **CHAT, stream=True
        )
    ),
    "anthropic": lambda http, url: anthropic.Anthropic(
        api_key="sk", base_url=url, http_client=http
    ).messages.create(**CLAUDE),
    "google-genai": lambda http, url: genai.Client(
        api_key="k", http_options={"base_url": url, "httpx_client": http}
    ).models.generate_content(**GEMINI),
    "no SDK": lambda http, url: http.post(
        url + "/v1/chat/completions", json=CHAT, headers=AUTH
    ).raise_for_status(),
}
ASYNC: dict[str, Callable[[Any, str], Any]] = {
    "openai": lambda http, url: openai.AsyncOpenAI(
        api_key="sk", base_url=url + "/v1", http_client=http
    ).chat.completions.create(**CHAT),
    "anthropic": lambda http, url: anthropic.AsyncAnthropic(
        api_key="sk", base_url=url, http_client=http
    ).messages.create(**CLAUDE),
    "google-genai": lambda http, url: genai.Client(
        api_key="k", http_options={"base_url": url, "httpx_async_client": http}
    ).aio.models.generate_content(**GEMINI),
    "no SDK": lambda http, url: http.post(url + "/v1/chat/completions", json=CHAT, headers=AUTH),
}
# anthropic takes clients of httpx2 alone.
TAKEN = [
    (name, library) for name in SYNC for library in LIBRARIES if (name, library) != ("anthropic", "httpx")
]
TAKEN_ASYNC = [(name, library) for name, library in TAKEN if name in ASYNC]


@pytest.mark.parametrize(("name", "library"), TAKEN)
def test_a_call_through_it_is_asked_and_settled_once(
    tv: TokVigil, wire_provider: WireProvider, books: Books, name: str, library: Any
) -> None:
    with tv.http_client(user_id="user_123", feature="chat", library=library) as http:
        assert isinstance(http, LIBRARIES[library].Client)
        SYNC[name](http, wire_provider.url)
    settled = books.only()
    assert (settled.status, settled.user_id, settled.feature) == ("succeeded", "user_123", "chat")
    assert settled.usage.output_tokens == wire_provider.openai.USAGE.output_tokens


@pytest.mark.parametrize(("name", "library"), TAKEN_ASYNC)
def test_an_awaited_call_through_it_is_asked_and_settled_once(
    tv: TokVigil, wire_provider: WireProvider, books: Books, name: str, library: Any
) -> None:
    async def call() -> None:
        async with tv.async_http_client(library=library) as http:
            assert isinstance(http, LIBRARIES[library].AsyncClient)
            with tokvigil.context(user_id="user_123", feature="chat"):
                await ASYNC[name](http, wire_provider.url)

    asyncio.run(call())
    settled = books.only()
    assert (settled.status, settled.user_id, settled.feature) == ("succeeded", "user_123", "chat")


@pytest.mark.parametrize(("name", "library"), TAKEN)
def test_a_block_is_not_tried_again_and_is_found_in_the_error_of_the_sdk(
    tv: TokVigil,
    control_plane: Any,
    wire: Any,
    wire_provider: WireProvider,
    books: Books,
    name: str,
    library: Any,
) -> None:
    control_plane.script("/v1/evaluate", *[wire.Answer(200, wire.blocked())] * 5)
    http = tv.http_client(user_id="user_123", library=library)
    with pytest.raises(Exception, match=r"403|DAILY_REQUEST_LIMIT_EXCEEDED|Daily request limit") as raised:
        SYNC[name](http, wire_provider.url)
    assert not isinstance(raised.value, AIUsageBlockedError)
    block = AIUsageBlockedError.find(raised.value)
    assert block is not None
    assert (block.reason_code, block.retry_after) == ("DAILY_REQUEST_LIMIT_EXCEEDED", 3600)
    assert len(books.asked) == 1
    assert wire_provider.seen == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_an_sdk_it_can_raise_the_block_itself(
    tv: TokVigil, control_plane: Any, wire: Any, wire_provider: WireProvider, library: Any
) -> None:
    control_plane.script("/v1/evaluate", *[wire.Answer(200, wire.blocked())] * 2)
    url = wire_provider.url + "/v1/chat/completions"
    http = tv.http_client(user_id="user_123", library=library, raise_blocks=True)
    with pytest.raises(AIUsageBlockedError, match="Daily request limit"):
        http.post(url, json=CHAT)
    asynchronous = tv.async_http_client(user_id="user_123", library=library, raise_blocks=True)
    with pytest.raises(AIUsageBlockedError, match="Daily request limit"):
        asyncio.run(awaited(asynchronous.post(url, json=CHAT)))
    assert wire_provider.seen == []


def test_a_call_without_a_user_does_not_go_out(tv: TokVigil, wire_provider: WireProvider) -> None:
    with pytest.raises(tokvigil.MissingAttributionError):
        tv.http_client(raise_blocks=True).post(wire_provider.url + "/v1/chat/completions", json=CHAT)
    assert wire_provider.seen == []


def test_it_has_the_options_of_the_librarys_own_client(tv: TokVigil, wire_provider: WireProvider) -> None:
    seen: list[str] = []
    options: Any = {
        "base_url": wire_provider.url,
        "headers": AUTH | {"x-mine": "1"},
        "timeout": 7.0,
        "event_hooks": {"request": [lambda request: seen.append(request.url.path)]},
    }
    with tv.http_client(user_id="user_123", **options) as http:
        assert http.post("/v1/chat/completions", json=CHAT).json()["usage"]["completion_tokens"] == 90
        assert http.timeout == httpx2.Timeout(7.0)
    assert seen == ["/v1/chat/completions"]
    assert wire_provider.seen[0].headers["x-mine"] == "1"


PASSWORDS: list[Any] = [
    {},
    {"auth": ("other", "pw")},
    {"auth": None},
    {"auth": lambda request: (request.headers.update({"Authorization": "Bearer other"}), request)[1]},
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
@pytest.mark.parametrize("own", [None, ("ada", "secret")])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_password_for_one_request_is_the_one_that_is_sent(
    tv: TokVigil, provider: Any, wire: Any, library: Any, own: Any, path: str
) -> None:
    """As without a guard: in place of the client's own, of the one in the address, or none at all."""
    provider.defaults["/v1/models"] = lambda _: wire.Answer(200, {})
    addresses = [provider.url, provider.url.replace("//", "//user:pw@")]

    def ask(http: Any) -> list[Any]:
        for url in addresses:
            for said in PASSWORDS:
                http.post(url + path, json=CHAT, **said).raise_for_status()
        return sent()

    async def ask_async(http: Any) -> list[Any]:
        for url in addresses:
            for said in PASSWORDS:
                (await http.post(url + path, json=CHAT, **said)).raise_for_status()
        return sent()

    def sent() -> list[Any]:
        passwords = [seen.headers.get("Authorization") for seen in provider.seen]
        provider.seen.clear()
        return passwords

    bare = ask(LIBRARIES[library].Client(auth=own))
    assert len(set(bare)) == (4 if own is None else 5)
    assert ask(tv.http_client(auth=own, user_id="ada", library=library)) == bare
    asynchronous = tv.async_http_client(auth=own, user_id="ada", library=library)
    assert asyncio.run(ask_async(asynchronous)) == bare


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_clients_own_signature_is_over_the_body_that_is_sent(
    tv: TokVigil, provider: Any, library: Any
) -> None:
    class Signed(LIBRARIES[library].Auth):  # type: ignore[name-defined, misc]
        requires_request_body = True

        def auth_flow(self, request: Any) -> Any:
            request.headers["x-signature"] = hashlib.sha256(request.content).hexdigest()
            yield request

    tv.http_client(auth=Signed(), user_id="ada", library=library).post(
        provider.url + "/v1/chat/completions", json=CHAT
    )
    (seen,) = provider.seen
    assert seen.body["max_tokens"] == 100
    assert seen.headers["x-signature"] == hashlib.sha256(seen.raw).hexdigest()


def test_both_clients_make_both_kinds(control_plane: Any, wire_provider: WireProvider, books: Books) -> None:
    url = wire_provider.url + "/v1/chat/completions"
    tv = AsyncTokVigil(api_key="tv_dev_id_secret", base_url=control_plane.url)
    tv.http_client(user_id="user_123").post(url, json=CHAT, headers=AUTH).raise_for_status()
    asyncio.run(awaited(tv.async_http_client(user_id="user_123").post(url, json=CHAT, headers=AUTH)))
    asyncio.run(tv.close())
    assert [event.status for event in books.settled()] == ["succeeded"] * 2
    assert len(books.asked) == 2


def test_what_is_no_ai_call_passes(tv: TokVigil, wire_provider: WireProvider, books: Books) -> None:
    with tv.http_client() as http:
        http.get(wire_provider.url + "/v1/models", headers=AUTH)
    assert books.asked == []


NO_AI_CALLS: dict[str, dict[str, Any]] = {
    "NDJSON": {
        "url": "/_bulk",
        "content": b'{"index":{}}\n{"a":1}\n',
        "headers": {"content-type": "application/x-ndjson"},
    },
    "a text that begins like JSON": {"method": "PUT", "url": "/letter.rtf", "content": b"{\\rtf1 hello}"},
    "a template": {
        "url": "/templates/1",
        "content": b"{{ name }}",
        "headers": {"content-type": "text/plain"},
    },
    "compressed": {
        "url": "/telemetry",
        "content": b"\x1f\x8b",
        "headers": {"content-encoding": "gzip", "content-type": "application/json"},
    },
    "not in UTF-8": {
        "url": "/customers",
        "content": b'{"name":"Zo\xeb"}',
        "headers": {"content-type": "application/json; charset=latin-1"},
    },
    "a broken form": {
        "url": "/forms",
        "content": b"--x\ncontent-disposition: form-data",
        "headers": {"content-type": "multipart/form-data; boundary=x"},
    },
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("asked", NO_AI_CALLS.values(), ids=NO_AI_CALLS)
def test_what_cannot_be_read_passes_where_nobody_runs_a_model(
    tv: TokVigil, books: Books, library: Any, asked: dict[str, Any]
) -> None:
    seen: list[bytes] = []
    module: Any = LIBRARIES[library]

    def take(request: Any) -> Any:
        seen.append(request.content)
        return module.Response(200)

    with tv.http_client(
        library=library, base_url="https://example.org", transport=module.MockTransport(take)
    ) as http:
        assert http.request(**{"method": "POST", **asked}).status_code == 200
        known = {"url": "/v1/chat/completions"}
        assert http.request(**{"method": "POST", **asked, **known}).status_code == 403
    assert (seen, books.asked) == ([asked["content"]], [])


def noting(made: list[str]) -> Any:
    for number in range(3):
        made.append(f"made {number}")
        yield str(number).encode()


@pytest.mark.parametrize("kind", [None, "video/mp4", "application/octet-stream", "application/x-ndjson"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_streamed_upload_to_an_unknown_path_is_sent_while_it_is_made(
    tv: TokVigil, library: Any, kind: str | None
) -> None:
    """It may be larger than memory."""
    module: Any = LIBRARIES[library]
    order: list[str] = []

    class Transport(module.BaseTransport, module.AsyncBaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            order.extend(f"seen {data.decode()}" for data in request.stream)
            return module.Response(200)

        async def handle_async_request(self, request: Any) -> Any:
            async for data in request.stream:
                order.append(f"seen {data.decode()}")
            return module.Response(200)

    async def awaited_upload() -> None:
        async def content() -> Any:
            for data in noting(order):
                yield data

        async with tv.async_http_client(library=library, transport=Transport()) as http:
            await http.put("https://s3.amazonaws.com/video.mp4", content=content(), headers=headers)

    headers = {"content-type": kind} if kind else {}
    expected = [f"{what} {number}" for number in range(3) for what in ("made", "seen")]
    with tv.http_client(library=library, transport=Transport()) as http:
        http.put("https://example.org/video.mp4", content=noting(order), headers=headers)
    assert order == expected
    order.clear()
    asyncio.run(awaited_upload())
    assert order == expected


@pytest.mark.parametrize(
    ("path", "kind", "is_streamed"),
    [
        ("/a/path/of/tomorrow", "application/json", True),
        ("/a/path/of/tomorrow", "application/vnd.tomorrow+json; charset=utf-8", True),
        ("/a/path/of/tomorrow", "text/plain", False),
        ("/a/path/of/tomorrow", None, False),
        ("/v1/chat/completions", "text/plain", True),
        ("/v1/chat/completions", None, True),
    ],
)
def test_a_body_that_names_a_model_is_a_call_however_it_is_sent(
    tv: TokVigil, books: Books, path: str, kind: str | None, is_streamed: bool
) -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json={}))
    content: Any = b'{"model": "gpt-4o", "messages": []}'
    with tv.http_client(user_id="ada", transport=transport) as http:
        http.post(
            "https://example.org" + path,
            content=iter([content[:5], content[5:]]) if is_streamed else content,
            headers={"content-type": kind} if kind else {},
        )
    assert [asked["model"] for asked in books.asked] == ["gpt-4o"]


@pytest.mark.parametrize("library", ["requests", "aiohttp"])
def test_another_library_is_refused(tv: TokVigil, library: Any) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match='"httpx2" or "httpx"'):
        tv.http_client(library=library)


def test_a_library_that_is_not_installed_says_so(tv: TokVigil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(tokvigil.ConfigurationError, match="pip install httpx"):
        tv.http_client(library="httpx")
