"""What a wrapped client is: the client it was made from, and nothing else has changed."""

from __future__ import annotations

import asyncio
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
import tokvigil
from google import genai
from tokvigil import TokVigil
from tokvigil.wrapping import versions

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, Books

# The library that this version of openai speaks.
http: Any = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]
CHAT_PATH = "/v1/chat/completions"


@pytest.fixture
def url(wire_provider: WireProvider) -> str:
    return wire_provider.url + "/v1"


@pytest.fixture
def bare(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="sk") as client:
        yield client


MAKE: dict[str, Callable[[str], Any]] = {
    "openai": lambda url: openai.OpenAI(base_url=url, api_key="sk"),
    "openai async": lambda url: openai.AsyncOpenAI(base_url=url, api_key="sk"),
    "azure": lambda url: openai.AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key="sk"),
    "anthropic": lambda url: anthropic.Anthropic(base_url=url, api_key="sk"),
    "anthropic async": lambda url: anthropic.AsyncAnthropic(base_url=url, api_key="sk"),
    "foundry": lambda url: anthropic.AnthropicFoundry(base_url=url, api_key="sk"),
    "gemini": lambda url: genai.Client(api_key="k", http_options={"base_url": url}),
}


@pytest.mark.parametrize("name", MAKE)
def test_the_same_class_comes_back_and_the_client_given_is_another(tv: TokVigil, url: str, name: str) -> None:
    bare = MAKE[name](url)
    before = dict(vars(bare))
    wrapped = tv.wrap(bare)
    assert type(wrapped) is type(bare)
    assert wrapped is not bare
    assert {key: vars(bare)[key] for key in before} == before


def test_a_class_of_ones_own_stays_it(tv: TokVigil, url: str, books: Books) -> None:
    class Ours(openai.OpenAI):
        def hello(self) -> Any:
            return self.chat.completions.create(**CHAT)

    wrapped = tv.wrap(Ours(base_url=url, api_key="sk"), user_id="user_123")
    assert type(wrapped) is Ours
    wrapped.hello()
    wrapped.with_options(timeout=9).hello()
    assert len(books.settled()) == 2


def test_neither_the_client_given_nor_any_other_is_guarded(
    tv: TokVigil, bare: openai.OpenAI, url: str, books: Books
) -> None:
    tv.wrap(bare)
    bare.chat.completions.create(**CHAT)
    bare.with_options(timeout=9).chat.completions.create(**CHAT)
    openai.OpenAI(base_url=url, api_key="sk").chat.completions.create(**CHAT)
    assert books.asked == []


def test_options_stay_as_they_were(tv: TokVigil, url: str, wire_provider: WireProvider) -> None:
    bare = openai.OpenAI(
        base_url=url,
        api_key="sk",
        organization="org-1",
        project="proj-1",
        timeout=12.5,
        max_retries=7,
        default_headers={"x-app": "ours"},
        default_query={"from": "ours"},
    )
    wrapped = tv.wrap(bare, user_id="user_123")
    for made in (wrapped, wrapped.with_options(), wrapped.copy().copy()):
        for option in ("base_url", "api_key", "organization", "project", "timeout", "max_retries"):
            assert getattr(made, option) == getattr(bare, option)
    wrapped.with_options(max_retries=1).chat.completions.create(**CHAT, extra_headers={"x-call": "this"})
    bare.with_options(max_retries=1).chat.completions.create(**CHAT, extra_headers={"x-call": "this"})
    ours, bares = wire_provider.seen
    assert ours.headers == bares.headers | {"content-length": ours.headers["content-length"]}
    assert (ours.headers["x-app"], ours.headers["openai-organization"]) == ("ours", "org-1")
    assert ours.query == bares.query == {"from": "ours"}


def test_a_clients_own_http_client_sends_with_its_hooks_headers_and_mounts(
    tv: TokVigil, bare: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    noted: list[str] = []
    mounted = http.HTTPTransport()
    own = http.Client(
        headers={"x-http": "ours"},
        event_hooks={
            "request": [lambda request: noted.append(f"asks {request.url.path}")],
            "response": [lambda response: noted.append(f"got {response.status_code}")],
        },
        mounts={"http://": mounted},
        trust_env=False,
    )
    used: list[Any] = []
    sends = mounted.handle_request
    mounted.handle_request = lambda request: (used.append(request), sends(request))[1]
    wrapped = tv.wrap(bare.copy(http_client=own), user_id="user_123")
    wrapped.chat.completions.create(**CHAT)
    wrapped.with_options(timeout=9).chat.completions.create(**CHAT)
    assert noted == ["asks /v1/chat/completions", "got 200"] * 2
    assert len(used) == 2
    assert [seen.headers["x-http"] for seen in wire_provider.seen] == ["ours", "ours"]
    assert len(books.settled()) == 2


def test_a_hook_that_raises_for_a_status_reports_nothing_as_used(
    tv: TokVigil, bare: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    own = http.Client(event_hooks={"response": [lambda response: response.raise_for_status()]})
    wire_provider.fail(400, times=9)
    with pytest.raises((openai.APIError, http.HTTPStatusError)):
        tv.wrap(bare.copy(http_client=own, max_retries=0), user_id="u").chat.completions.create(**CHAT)
    assert (books.only().status, books.only().usage.output_tokens) == ("failed", 0)


# What a hook of the application's HTTP client does with each answer, as for an audit log. Nobody listens `elsewhere`.
AUDITS: dict[str, Callable[[str], Any]] = {
    "the operating system": lambda elsewhere: socket.create_connection(
        (urlsplit(elsewhere).hostname, urlsplit(elsewhere).port)
    ),
    "urllib": lambda elsewhere: urllib.request.urlopen(elsewhere),  # noqa: S310
    "the HTTP library": lambda elsewhere: http.post(elsewhere, json={}),
    "an AI call of its own": lambda elsewhere: http.post(elsewhere + CHAT_PATH, json=CHAT),
    "a refusal": lambda elsewhere: http.Response(
        404, request=http.Request("POST", elsewhere + CHAT_PATH)
    ).raise_for_status(),
    "a block": lambda _: raise_block(),
}


def raise_block() -> None:
    raise tokvigil.AIUsageBlockedError("MODEL_NOT_ALLOWED: no")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("audit", AUDITS)
def test_a_hook_that_fails_does_not_make_an_answered_call_free(
    tv: TokVigil,
    url: str,
    wire_provider: WireProvider,
    unreachable: str,
    books: Books,
    audit: str,
    is_async: bool,
) -> None:
    async def hook(response: Any) -> None:
        AUDITS[audit](unreachable)

    async def call() -> None:
        own = http.AsyncClient(event_hooks={"response": [hook]})
        bare = openai.AsyncOpenAI(base_url=url, api_key="sk", http_client=own, max_retries=0)
        await tv.wrap(bare, user_id="u").chat.completions.create(**CHAT)

    own = http.Client(event_hooks={"response": [lambda response: AUDITS[audit](unreachable)]})
    bare = openai.OpenAI(base_url=url, api_key="sk", http_client=own, max_retries=0)
    with pytest.raises(Exception):  # noqa: B017 - each hook has its own
        asyncio.run(call()) if is_async else tv.wrap(bare, user_id="u").chat.completions.create(**CHAT)
    assert len(wire_provider.seen) == 1
    assert (books.only().status, books.only().usage.output_tokens) == ("partial", 100)


def test_what_the_sdk_tells_of_the_http_response_is_still_told(tv: TokVigil, bare: openai.OpenAI) -> None:
    ours = tv.wrap(bare, user_id="user_123").chat.completions.with_raw_response.create(**CHAT)
    bares = bare.chat.completions.with_raw_response.create(**CHAT)
    for raw in (ours, bares):
        assert raw.headers["x-request-id"] == raw.request_id == raw.parse()._request_id
        assert raw.elapsed.total_seconds() > 0
        assert raw.retries_taken == 0
    assert (ours.status_code, ours.http_version, ours.url) == (
        bares.status_code,
        bares.http_version,
        bares.url,
    )
    assert (ours.text, ours.http_request.url) == (bares.text, bares.http_request.url)
    of_the_transfer = {"content-encoding", "content-length", "transfer-encoding"}
    assert set(bares.headers) - set(ours.headers) <= of_the_transfer
    assert set(ours.headers) <= set(bares.headers)


def test_a_proxy_stays_the_proxy(tv: TokVigil, wire_provider: WireProvider, books: Books) -> None:
    """The local provider takes requests for any host, as a proxy does."""
    bare = openai.OpenAI(
        base_url="http://provider.invalid/v1", api_key="sk", http_client=http.Client(proxy=wire_provider.url)
    )
    tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)
    assert wire_provider.seen[0].headers["host"] == "provider.invalid"
    assert books.only().status == "succeeded"


def test_another_http_client_for_a_copy_is_guarded_too(
    tv: TokVigil, bare: openai.OpenAI, wire_provider: WireProvider, books: Books
) -> None:
    wrapped = tv.wrap(bare, user_id="user_123").with_options(
        http_client=http.Client(headers={"x-http": "other"})
    )
    wrapped.chat.completions.create(**CHAT)
    assert wire_provider.seen[0].headers["x-http"] == "other"
    assert books.only().status == "succeeded"


def test_wrapping_twice_asks_once(tv: TokVigil, bare: openai.OpenAI, books: Books) -> None:
    twice = tv.wrap(tv.wrap(bare, user_id="ada"), user_id="bob")
    twice.chat.completions.create(**CHAT)
    assert books.only().user_id == "bob"


@pytest.mark.parametrize("is_async", [False, True])
def test_an_http_client_that_builds_its_requests_in_its_own_way_still_does(
    tv: TokVigil, url: str, wire_provider: WireProvider, books: Books, is_async: bool
) -> None:
    class Tenant:
        def build_request(self, *args: Any, **options: Any) -> Any:
            request = super().build_request(*args, **options)  # type: ignore[misc]
            request.headers["x-tenant"] = "t1"
            return request

    own = type("Own", (Tenant, http.AsyncClient if is_async else http.Client), {})()
    kind = openai.AsyncOpenAI if is_async else openai.OpenAI
    wrapped = tv.wrap(kind(base_url=url, api_key="sk", http_client=own), user_id="user_123")

    async def call() -> None:
        await wrapped.chat.completions.create(**CHAT)

    asyncio.run(call()) if is_async else wrapped.chat.completions.create(**CHAT)
    assert wire_provider.seen[0].headers["x-tenant"] == "t1"
    assert books.only().status == "succeeded"


def test_redirects_are_followed_as_before(
    tv: TokVigil, wire_provider: WireProvider, provider: Any, wire: Any, books: Books
) -> None:
    provider.script(CHAT_PATH, wire.Answer(307, headers={"Location": wire_provider.url + CHAT_PATH}))
    bare = openai.OpenAI(base_url=provider.url + "/v1", api_key="sk", max_retries=0)
    with pytest.raises(openai.AuthenticationError):  # no key goes to another host
        tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)
    assert len(wire_provider.seen) == 1
    assert {settled.status for settled in books.settled()} == {"failed"}


@pytest.fixture
def moved(provider: Any, wire: Any) -> Any:
    """A provider whose files are its chat completions, and whose chat has moved to another path."""
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    answer = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [],
        "usage": usage,
    }
    there = {"Location": "/there" + CHAT_PATH}
    provider.defaults["/there" + CHAT_PATH] = lambda seen: wire.Answer(200, answer)
    provider.defaults["/v1/files"] = provider.defaults[CHAT_PATH] = lambda seen: wire.Answer(
        307, headers=there
    )
    return provider


def test_a_redirect_to_an_ai_call_is_one(tv: TokVigil, moved: Any, books: Books) -> None:
    bare = openai.OpenAI(base_url=moved.url + "/v1", api_key="sk", max_retries=0)
    tv.wrap(bare, user_id="user_123").post("/files", body=CHAT, cast_to=object)
    assert books.only().usage.input_tokens == 9


def test_a_redirect_to_an_ai_call_is_one_for_who_awaits(tv: TokVigil, moved: Any, books: Books) -> None:
    bare = openai.AsyncOpenAI(base_url=moved.url + "/v1", api_key="sk", max_retries=0)
    asyncio.run(tv.wrap(bare, user_id="user_123").post("/files", body=CHAT, cast_to=object))
    assert books.only().usage.input_tokens == 9


def test_a_redirect_to_a_blocked_ai_call_goes_nowhere(
    tv: TokVigil, moved: Any, control_plane: Any, wire: Any
) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.blocked(seen.body["request_id"])
    )
    bare = openai.OpenAI(base_url=moved.url + "/v1", api_key="sk", max_retries=0)
    with pytest.raises(tokvigil.AIUsageBlockedError):
        tv.wrap(bare, user_id="user_123").post("/files", body=CHAT, cast_to=object)
    assert [seen.path for seen in moved.seen] == ["/v1/files"]


def test_an_ai_call_that_has_moved_is_asked_for_where_it_is(tv: TokVigil, moved: Any, books: Books) -> None:
    """What did not run takes nothing of the limits."""
    bare = openai.OpenAI(base_url=moved.url + "/v1", api_key="sk", max_retries=0)
    wrapped = tv.wrap(bare, user_id="user_123")
    ours, bares = (
        client.chat.completions.with_raw_response.create(**CHAT, max_tokens=5) for client in (wrapped, bare)
    )
    assert ours.http_response.url == bares.http_response.url
    assert [seen.url for seen in ours.http_response.history] == [
        seen.url for seen in bares.http_response.history
    ]
    assert len(ours.http_response.history) == 1
    assert [asked["max_output_tokens"] for asked in books.asked] == [5, 5]
    assert sorted((settled.status, settled.usage.input_tokens) for settled in books.settled()) == [
        ("failed", 0),
        ("succeeded", 9),
    ]


def test_a_client_that_follows_no_redirects_still_follows_none(
    tv: TokVigil, moved: Any, books: Books
) -> None:
    own = http.Client(follow_redirects=False)
    bare = openai.OpenAI(base_url=moved.url + "/v1", api_key="sk", max_retries=0, http_client=own)
    with pytest.raises(openai.APIStatusError):
        tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)
    assert len(moved.seen) == 1
    assert books.only().status == "failed"


def test_redirects_end_where_they_ended(tv: TokVigil, moved: Any, wire: Any, books: Books) -> None:
    moved.defaults["/there" + CHAT_PATH] = moved.defaults[CHAT_PATH]
    own = http.Client(follow_redirects=True, max_redirects=3)
    bare = openai.OpenAI(base_url=moved.url + "/v1", api_key="sk", max_retries=0, http_client=own)
    with pytest.raises(openai.APIConnectionError):
        tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)
    assert len(moved.seen) == 4
    assert {settled.status for settled in books.settled()} == {"failed"}


def test_a_clients_own_password_stays_with_its_host(
    tv: TokVigil, moved: Any, wire_provider: WireProvider, control_plane: Any, wire: Any
) -> None:
    """Also where the request that goes out is not the one that came, and over a host in between."""
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.decision(seen.body["request_id"], max_output_tokens=70)
    )
    own = http.Client(auth=("ada", "secret"), follow_redirects=True)
    bare = openai.OpenAI(base_url=moved.url + "/v1", api_key="sk", max_retries=0, http_client=own)
    wrapped = tv.wrap(bare, user_id="user_123")
    wrapped.chat.completions.create(**CHAT)
    here, there = (seen.headers.get("Authorization") for seen in moved.seen)
    assert here == there
    assert here.startswith("Basic ")
    away = {"Location": wire_provider.url + CHAT_PATH}
    moved.defaults[CHAT_PATH] = lambda seen: wire.Answer(307, headers=away)
    with pytest.raises(openai.AuthenticationError):
        wrapped.chat.completions.create(**CHAT)
    assert "authorization" not in wire_provider.seen[0].headers


def test_text_is_read_in_the_encoding_of_the_http_client(tv: TokVigil, wire: Any, provider: Any) -> None:
    provider.defaults["/v1/completions"] = lambda _: wire.Answer(
        200, "naïve".encode("latin-1"), {"Content-Type": "text/plain"}
    )
    own = http.Client(default_encoding="latin-1")
    bare = openai.OpenAI(base_url=provider.url + "/v1", api_key="sk", http_client=own)
    for client in (bare, tv.wrap(bare, user_id="user_123")):
        assert client.post("/completions", body={"model": "m", "prompt": "hi"}, cast_to=str) == "naïve"


@pytest.mark.parametrize(
    "kind", [openai.OpenAI, openai.AsyncOpenAI, anthropic.Anthropic, anthropic.AsyncAnthropic]
)
@pytest.mark.parametrize("is_strict", [True, False])
def test_answers_are_validated_as_strictly_as_before(tv: TokVigil, kind: Any, is_strict: bool) -> None:
    bare = kind(api_key="sk", _strict_response_validation=is_strict)
    assert tv.wrap(bare)._strict_response_validation is is_strict


def test_a_strict_client_refuses_what_it_refused(tv: TokVigil, wire: Any, provider: Any) -> None:
    provider.defaults["/v1/chat/completions"] = lambda _: wire.Answer(200, {"id": 7, "choices": "none"})
    bare = openai.OpenAI(base_url=provider.url + "/v1", api_key="sk", _strict_response_validation=True)
    for client in (bare, tv.wrap(bare, user_id="user_123")):
        with pytest.raises(openai.APIResponseValidationError):
            client.chat.completions.create(**CHAT)


class OtherErrors(openai.OpenAI):
    """As an openai might be that makes its errors in another place."""

    def _make_status_error_from_response(self, response: Any) -> Any:
        return openai.PermissionDeniedError("no", response=response, body=None)


def test_a_block_is_found_also_in_an_error_made_in_another_place(
    tv: TokVigil, url: str, control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    client = tv.wrap(OtherErrors(base_url=url, api_key="sk"), user_id="user_123")
    with pytest.raises(openai.PermissionDeniedError) as raised:
        client.chat.completions.create(**CHAT)
    block = tokvigil.AIUsageBlockedError.find(raised.value)
    assert block is not None
    assert block.reason_code == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert wire_provider.seen == []


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("openai", "_make_status_error"),
        ("openai async", "_prepare_request"),
        ("anthropic", "_client"),
        ("gemini", "_models"),
        ("gemini", "_api_client"),
    ],
)
def test_an_sdk_without_a_private_name_that_the_guard_needs_is_refused_by_its_version(
    tv: TokVigil, url: str, name: str, lacking: str
) -> None:
    bare = MAKE[name](url)

    class Without(type(bare)):  # type: ignore[misc]
        def __getattribute__(self, asked: str) -> Any:
            if asked == lacking:
                raise AttributeError(asked)
            return super().__getattribute__(asked)

    bare.__class__ = Without
    package = name.removesuffix(" async").replace("gemini", "google-genai")
    with pytest.raises(
        tokvigil.ConfigurationError, match=rf"{package} \d+\.\S+ lacks .*{lacking}.* major version"
    ):
        tv.wrap(bare)
    bare.__class__ = type(bare).__mro__[1]


class NewerPart:
    def __init__(self) -> None:
        self._http = http.Client()


@pytest.mark.parametrize("place", ["client", "part", "api client", "part of a part"])
def test_a_gemini_client_with_an_http_client_that_nobody_knows_is_refused(
    tv: TokVigil, url: str, place: str
) -> None:
    bare = MAKE["gemini"](url)
    holder = {"api client": bare._api_client, "part of a part": bare._aio}.get(place, bare)
    holder.newer = NewerPart() if place.startswith("part") else http.Client()
    with pytest.raises(tokvigil.ConfigurationError, match=r"holds an HTTP client that wrap does not know"):
        tv.wrap(bare)


def test_a_major_version_that_was_not_tested_is_said_once(
    tv: TokVigil, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(versions, "_said", set())
    for name in MAKE:
        tv.wrap(MAKE[name](url))
    assert caplog.records == []
    for module in (openai, anthropic, sys.modules["google.genai"]):
        monkeypatch.setattr(module, "__version__", "9.1.0")
    for name in (*MAKE, *MAKE):
        tv.wrap(MAKE[name](url))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "wrap is tested with openai 2 and 3, and this is 9.1.0",
        "wrap is tested with anthropic 2, and this is 9.1.0",
        "wrap is tested with google-genai 3, and this is 9.1.0",
    ]


def test_closing_the_wrapped_client_closes_the_connections(tv: TokVigil, url: str) -> None:
    bare = openai.OpenAI(base_url=url, api_key="sk")
    with tv.wrap(bare, user_id="user_123") as wrapped:
        wrapped.chat.completions.create(**CHAT)
    assert wrapped.is_closed()
    assert bare.is_closed()


def test_nobody_is_asked_for_the_call_of_a_closed_client(tv: TokVigil, url: str, books: Books) -> None:
    bare = openai.OpenAI(base_url=url, api_key="sk", max_retries=0)
    wrapped = tv.wrap(bare, user_id="user_123")
    bare.close()
    with pytest.raises((RuntimeError, openai.APIConnectionError), match=r"closed|Connection"):
        wrapped.chat.completions.create(**CHAT)

    async def awaited() -> None:
        bare = openai.AsyncOpenAI(base_url=url, api_key="sk", max_retries=0)
        wrapped = tv.wrap(bare, user_id="user_123")
        await bare.close()
        await wrapped.chat.completions.create(**CHAT)

    with pytest.raises((RuntimeError, openai.APIConnectionError), match=r"closed|Connection"):
        asyncio.run(awaited())
    assert books.asked == books.settled() == []


@pytest.mark.parametrize("client", [object(), "client", None, http.Client()])
def test_an_unknown_client_is_refused_with_what_to_do_instead(tv: TokVigil, client: Any) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match=r"tv\.http_client\(\) .* or put tv\.guard"):
        tv.wrap(client)
