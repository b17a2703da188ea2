"""A guarded HTTP client over a provider SDK's own one, of the same library: httpx or httpx2, neither imported here.

The guard is the transport of a new client; behind it the old client sends, with its proxies, hooks and certificates.
The new client follows redirects, so that each request on the way passes the gate: an AI call that has moved is asked
for where it is, and what did not run is reported as failed. What ran, and has its answer elsewhere (303), is not.
What the provider's SDK sees is a client as it knows it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from tokvigil.blocked import ERROR
from tokvigil.decisions import CALL
from tokvigil.dialects import may_be_call
from tokvigil.errors import ConfigurationError, TokVigilError
from tokvigil.steps import Steps
from tokvigil.wrapping.gate import Attempt, Gate, HttpRequest, refusal

LIBRARIES = ("httpx2", "httpx")
REFUSAL_STATUS = 403
# What a request's `extensions` hold: where a chain of redirects began, None once it has left that host; whether it has
# the password of its client, because it was sent with no other; and what signs it.
ORIGIN = "tokvigil_origin"
OWN_AUTH = "tokvigil_own_auth"
SIGN = "tokvigil_sign"

Run = Callable[[Steps[Any]], Any]
RaisedAs = Callable[[TokVigilError], Exception]
RunAsync = Callable[[Steps[Any]], Awaitable[Any]]


def guarded_client(inner: Any, transport: Any) -> Any:
    """A client of the same library and kind as `inner` that sends through the guarded transport over it."""
    library, kind = _kind(inner)
    client = getattr(library, kind)(
        transport=transport,
        base_url=inner.base_url,
        headers=inner.headers,
        params=inner.params,
        cookies=inner.cookies,
        timeout=inner.timeout,
        follow_redirects=inner.follow_redirects,
        max_redirects=inner.max_redirects,
        default_encoding=inner._default_encoding,
        auth=_own_auth(library),
    )
    if type(inner).build_request is not type(client).build_request:
        client.build_request = inner.build_request
    return client


def guarded_transport(
    inner: Any, gate: Gate, run: Run, run_async: RunAsync, raised_as: RaisedAs | None
) -> GuardedTransport | GuardedAsyncTransport:
    """A transport that sends through the client `inner`, and whose AI calls pass the gate.

    A refusal is a 403 that the provider's SDK does not retry, with the exception in its `extensions`: most SDKs take
    an exception here for a broken connection, and try again. With `raised_as` it is what that makes of it, raised.
    Raises `ConfigurationError` for anything that is no client of these libraries.
    """
    library, kind = _kind(inner)
    if kind == "Client":
        return GuardedTransport(inner, gate, run, library, raised_as)
    return GuardedAsyncTransport(inner, gate, run_async, library, raised_as)


def unguarded(client: Any) -> Any:
    """The client behind a guarded one; any other as it is. Two guards would ask twice."""
    transport = getattr(client, "_transport", None)
    return transport._inner if isinstance(transport, _Guarded) else client


def is_http_client(client: Any) -> bool:
    return _kind_or_none(client) is not None


def _kind(client: Any) -> tuple[ModuleType, str]:
    kind = _kind_or_none(client)
    if kind is None:
        raise ConfigurationError(
            f"{type(client).__name__} is no HTTP client of httpx or httpx2: it cannot be guarded"
        )
    return kind


def _kind_or_none(client: Any) -> tuple[ModuleType, str] | None:
    for base in type(client).__mro__:
        library = base.__module__.partition(".")[0]
        if library in LIBRARIES and base.__name__ in ("Client", "AsyncClient"):
            return sys.modules[library], base.__name__
    return None


def _others_send(client: Any) -> bool:
    """Whether a transport that is not the library's, or a `send` of a class of one's own, sends the client's requests:
    it may send one more than once. aiohttp's transport does not."""
    library, kind = _kind(client)
    transports = (client._transport, *client._mounts.values())
    modules = [type(each).__module__.split(".") for each in transports if each is not None]
    return type(client).send is not getattr(library, kind).send or not all(
        module[0] in LIBRARIES or "httpx_aiohttp" in module for module in modules
    )


class _CountedBody:
    """The body of a request, which knows how often it was sent."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.times = 0

    def __iter__(self) -> Iterator[bytes]:
        self.times += 1
        yield self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.times += 1
        yield self._body


@cache
def _counted_type(library: ModuleType) -> Any:
    """As the library knows bodies: it looks at the class."""
    return type("CountedBody", (_CountedBody, library.ByteStream), {})


class _Guarded:
    """What sync and async have in common."""

    def __init__(
        self, inner: Any, gate: Gate, run: Any, library: ModuleType, raised_as: RaisedAs | None
    ) -> None:
        self._inner = inner
        self._gate = gate
        self._run = run
        self._library = library
        self._raised_as = raised_as
        self._others_send = _others_send(inner)

    def _sending(self, request: Any) -> dict[str, Any]:
        """How the inner client sends a request: as its own, but for redirects.

        It adds its own password where the guarded client has added no other, and none to a request that was redirected
        to another host.
        """
        origin = (request.url.scheme, request.url.host, request.url.port)
        options = {"stream": True, "follow_redirects": False}
        # What the client makes to follow a redirect has the extensions of the request before it.
        if request.extensions.setdefault(ORIGIN, origin) != origin:
            request.extensions[ORIGIN] = None
        if request.extensions[ORIGIN] is None or OWN_AUTH not in request.extensions:
            options["auth"] = self._library.Auth()
        return options

    def _outgoing(self, request: Any, attempt: Attempt) -> Any:
        # On the caller's request too, which the errors name that the caller gets.
        request.extensions[CALL] = attempt.call
        if attempt.body == request.content and not self._others_send:
            return request
        headers = request.headers.copy()
        headers.pop("content-length", None)
        headers.pop("transfer-encoding", None)
        outgoing = self._library.Request(
            request.method, request.url, headers=headers, content=attempt.body, extensions=request.extensions
        )
        if self._others_send:
            outgoing.stream = attempt.sent_by_others = _counted_type(self._library)(attempt.body)
        return outgoing

    def _signs(self, request: Any, options: Mapping[str, Any]) -> Any:
        """What signs a request before it is sent, over the body that is sent; None if nothing does, or may.

        No other host gets a signature with the caller's keys.
        """
        return None if "auth" in options else request.extensions.get(SIGN)

    def _answer(self, response: Any, attempt: Attempt, stream: type) -> Any:
        """The provider's answer as the caller is to have it."""
        response.extensions[CALL] = attempt.call
        if not response.is_success:
            attempt.refused(response.status_code)
            return response
        attempt.answered()
        headers = response.headers.copy()
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            # The caller gets the decoded bytes, perhaps without some.
            headers.pop(name, None)
        return self._library.Response(
            response.status_code,
            headers=headers,
            stream=stream(response, attempt),
            extensions=response.extensions,
        )

    def _refusal(self, request: Any, error: TokVigilError) -> Any:
        if self._raised_as is not None:
            raise self._raised_as(error)
        return self._library.Response(
            REFUSAL_STATUS,
            headers={"content-type": "application/json", "x-should-retry": "false"},
            content=json.dumps(refusal(error, _read(request))).encode(),
            extensions={ERROR: error},
        )


@cache
def _own_auth(library: ModuleType) -> Any:
    """Stands for the password of the inner client, which adds it itself: it may sign what is sent, with its cap."""

    def auth_flow(_: Any, request: Any) -> Iterator[Any]:
        request.extensions[OWN_AUTH] = True
        yield request

    return type("OwnAuth", (library.Auth,), {"auth_flow": auth_flow})()


class GuardedTransport(_Guarded):
    def handle_request(self, request: Any) -> Any:
        if self._inner.is_closed:
            return self._inner.send(request)  # refuses, and nobody was asked
        if not _may_be_call(request, self._library):
            return self._send(request, self._sending(request))
        request.read()
        try:
            attempt = self._run(self._gate.admit(_read(request)))
        except TokVigilError as error:
            return self._refusal(request, error)
        if attempt is None:
            return self._send(request, self._sending(request))
        try:
            response = self._send(self._outgoing(request, attempt), self._sending(request))
            while attempt.may_take_back(response.status_code) and attempt.takes_back(response.read()):
                response = self._send(self._outgoing(request, attempt), self._sending(request))
            return self._answer(response, attempt, _stream_type(self._library.SyncByteStream, _Stream))
        except BaseException as error:
            attempt.broke(error)
            raise

    def _send(self, request: Any, options: Mapping[str, Any]) -> Any:
        if sign := self._signs(request, options):
            sign(request)
        return self._inner.send(request, **options)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> GuardedTransport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GuardedAsyncTransport(_Guarded):
    async def handle_async_request(self, request: Any) -> Any:
        if self._inner.is_closed:
            return await self._inner.send(request)  # refuses, and nobody was asked
        if not _may_be_call(request, self._library):
            return await self._send(request, self._sending(request))
        await request.aread()
        try:
            attempt = await self._run(self._gate.admit(_read(request)))
        except TokVigilError as error:
            return self._refusal(request, error)
        if attempt is None:
            return await self._send(request, self._sending(request))
        try:
            response = await self._send(self._outgoing(request, attempt), self._sending(request))
            while attempt.may_take_back(response.status_code) and attempt.takes_back(await response.aread()):
                response = await self._send(self._outgoing(request, attempt), self._sending(request))
            return self._answer(response, attempt, _stream_type(self._library.AsyncByteStream, _AsyncStream))
        except BaseException as error:
            attempt.broke(error)
            raise

    async def _send(self, request: Any, options: Mapping[str, Any]) -> Any:
        if sign := self._signs(request, options):
            await sign(request)
        return await self._inner.send(request, **options)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> GuardedAsyncTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _may_be_call(request: Any, library: ModuleType) -> bool:
    """Only then its body is read: an upload may be larger than memory."""
    return may_be_call(
        request.method,
        request.url.raw_path.decode("ascii"),
        request.headers.get("content-type", ""),
        is_in_memory=isinstance(request.stream, library.ByteStream),
    )


def _read(request: Any) -> HttpRequest:
    """Of a request whose body was read."""
    url = request.url
    return HttpRequest(
        request.method, url.raw_path.decode("ascii"), url.host, request.headers, request.content
    )


class _PassingStream:
    """The body of an answer. Dropping it before its end counts as closing it early."""

    def __init__(self, response: Any, attempt: Attempt) -> None:
        self._response = response
        self._attempt = attempt

    def __del__(self) -> None:
        self._attempt.closed()


class _Stream(_PassingStream):
    def __iter__(self) -> Iterator[bytes]:
        for data in self._response.iter_bytes():
            if seen := self._attempt.feed(data):
                yield seen
        if rest := self._attempt.finish():
            yield rest

    def close(self) -> None:
        self._attempt.closed()
        self._response.close()


class _AsyncStream(_PassingStream):
    """No asynchronous generator: those that nobody closed end in an order that makes them stumble over each other."""

    _bytes: AsyncIterator[bytes] | None = None
    _finished = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._bytes = self._response.aiter_bytes()
        return self

    async def __anext__(self) -> bytes:
        assert self._bytes is not None
        while not self._finished:
            data = await anext(self._bytes, None)
            if data is None:
                self._finished = True
                seen = self._attempt.finish()
            else:
                seen = self._attempt.feed(data)
            if seen:
                return seen
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._attempt.closed()
        await self._response.aclose()


@cache
def _stream_type(base: type, stream: type) -> type:
    """The stream as the library knows streams: it looks at the class."""
    return type(stream.__name__, (stream, base), {})
