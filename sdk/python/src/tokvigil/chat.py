"""`tv.chat(...)`: one AI call to any provider, through a guarded HTTP client of our own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tokvigil import prices
from tokvigil.attribution import Attribution, applied
from tokvigil.chatting import ChatRequest
from tokvigil.connections import CLOSED, Connections
from tokvigil.dialects.sse import Event, EventParser
from tokvigil.errors import ConfigurationError, ProviderError, TokVigilError
from tokvigil.json_values import parse_object
from tokvigil.models import Decision, Usage, UsageEvent
from tokvigil.open_call import OpenCall
from tokvigil.retries import parse_retry_after
from tokvigil.version import __version__
from tokvigil.wrapping.gate import ONE_ATTEMPT
from tokvigil.wrapping.http import CALL
from tokvigil.wrapping.wrapper import Wrapper

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 5.0
ERROR_BODY_CHARS_MAX = 2_000
STREAM_CLOSED = "this stream was closed before its end: read it inside its `with`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResult:
    """A provider's answer, with what it used and the decision that let it through.

    `cost_usd` is the list price, None if the model has none; what TokVigil charges, with a tenant's own prices, is in
    its ledger. `raw` is the provider's whole answer.
    """

    text: str
    raw: Mapping[str, Any] = field(repr=False)
    usage: Usage
    cost_usd: Decimal | None
    decision: Decision
    request_id: str
    model: str
    finish_reason: str | None
    latency_ms: int


class Chat:
    """Sends chat requests to providers. Safe to share between threads, event loops and forked children."""

    def __init__(self, wrapper: Wrapper, connections: Connections | None = None) -> None:
        self._wrapper = wrapper
        self._connections = connections or Connections(
            headers={"User-Agent": f"tokvigil-python/{__version__}"}, timeout=TIMEOUT_S
        )

    def complete(self, request: ChatRequest, attribution: Attribution) -> ChatResult:
        """Raises `AIUsageBlockedError` and `ProviderError`."""
        with self.stream(request, attribution) as answer:
            return answer._read_whole()

    async def complete_async(self, request: ChatRequest, attribution: Attribution) -> ChatResult:
        """Raises `AIUsageBlockedError` and `ProviderError`."""
        async with await self.stream_async(request, attribution) as answer:
            return await answer._read_whole()

    def stream(self, request: ChatRequest, attribution: Attribution) -> ChatStream:
        """The answer as it comes. Raises `AIUsageBlockedError` and `ProviderError`."""
        http = self._connections.blocking
        with _client_errors(http), _provider_errors(), applied(attribution):
            response = self._guard(http).handle_request(_http(request))
            if not response.is_success:
                response.read()
        return ChatStream(request, response)

    async def stream_async(self, request: ChatRequest, attribution: Attribution) -> AsyncChatStream:
        """The answer as it comes. Raises `AIUsageBlockedError` and `ProviderError`."""
        http = self._connections.awaiting
        with _client_errors(http), _provider_errors(), applied(attribution):
            response = await self._guard(http).handle_async_request(_http(request))
            if not response.is_success:
                await response.aread()
        return AsyncChatStream(request, response)

    def _guard(self, http: httpx2.Client | httpx2.AsyncClient) -> Any:
        return self._wrapper.guarded_transport(http, ONE_ATTEMPT, raised_as=_as_it_is)

    def close(self) -> None:
        self._connections.close()

    async def close_async(self) -> None:
        await self._connections.close_async()


class _Answer:
    """A provider's answer on its way. Raises `ProviderError` if it is none."""

    def __init__(self, request: ChatRequest, response: httpx2.Response) -> None:
        if not response.is_success:
            raise _refused(response, parse_object(response.content) or {})
        self._request = request
        self._response = response
        self._call: OpenCall = response.extensions[CALL]
        self._parser = EventParser()
        self._events: deque[Event] = deque()
        self._has_ended = False
        self._is_closed = False
        self._texts: list[str] = []
        self.finish_reason: str | None = None

    @property
    def text(self) -> str:
        """What was read so far."""
        return "".join(self._texts)

    @property
    def decision(self) -> Decision:
        return self._call.decision

    @property
    def request_id(self) -> str:
        return self._call.request_id

    @property
    def usage(self) -> Usage | None:
        """What it used, once that is known: at the end, or when the stream is closed."""
        return None if self._call.reported is None else self._call.reported.usage

    @property
    def cost_usd(self) -> Decimal | None:
        """See `ChatResult`."""
        return None if self._call.reported is None else _list_price(self._call.reported)

    def _next_text(self) -> str | None:
        """Of what has come; None: more must come first, if anything more does."""
        if self._is_closed and not self._has_ended:
            raise ConfigurationError(STREAM_CLOSED)
        while self._events:
            fields = parse_object(self._events.popleft().data or "") or {}
            if fields.get("error"):
                raise _refused(self._response, fields)
            text = self._request.format.text_delta(fields)
            self.finish_reason = self._request.format.finish_reason(fields) or self.finish_reason
            if text:
                self._texts.append(text)
                return text
        return None

    def _take(self, data: bytes | None) -> None:
        """The next bytes of the stream; None: it has ended."""
        self._has_ended = data is None
        self._events += self._parser.finish() if data is None else self._parser.feed(data)

    def _result(self, content: bytes) -> ChatResult:
        """Of the whole of an answer that does not stream."""
        answer = parse_object(content) or {}
        format_ = self._request.format
        if not format_.is_answer(answer):
            raise _refused(self._response, answer)
        reported = self._call.reported
        assert reported is not None  # the answer was read to its end
        return ChatResult(
            text=format_.text(answer),
            raw=answer,
            usage=reported.usage,
            cost_usd=_list_price(reported),
            decision=self.decision,
            request_id=self.request_id,
            model=format_.model_name(answer) or self._request.model,
            finish_reason=format_.finish_reason(answer),
            latency_ms=reported.latency_ms or 0,
        )


class ChatStream(_Answer):
    """The text of an answer, piece by piece. Close it, or leave its `with`, to end it early: it is then reported as
    `partial`, with what it has used as far as anybody can tell.

    It is read once: reading goes on where it stopped, and after the end nothing comes. Raises `ProviderError` where the
    provider breaks off, and `ConfigurationError` if it is read on after it was closed before its end.
    """

    def __init__(self, request: ChatRequest, response: httpx2.Response) -> None:
        super().__init__(request, response)
        self._bytes = response.iter_bytes()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        while (text := self._next_text()) is None:
            if self._has_ended:
                raise StopIteration
            with _provider_errors():
                data = next(self._bytes, None)
            self._take(data)
        return text

    def _read_whole(self) -> ChatResult:
        with _provider_errors():
            content = self._response.read()
        return self._result(content)

    def close(self) -> None:
        self._is_closed = True
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChatStream(_Answer):
    """As `ChatStream`, for `async for` and `async with`."""

    def __init__(self, request: ChatRequest, response: httpx2.Response) -> None:
        super().__init__(request, response)
        self._bytes = response.aiter_bytes()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while (text := self._next_text()) is None:
            if self._has_ended:
                raise StopAsyncIteration
            with _provider_errors():
                data = await anext(self._bytes, None)
            self._take(data)
        return text

    async def _read_whole(self) -> ChatResult:
        with _provider_errors():
            content = await self._response.aread()
        return self._result(content)

    async def close(self) -> None:
        self._is_closed = True
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _as_it_is(error: TokVigilError) -> Exception:
    return error


def _http(request: ChatRequest) -> httpx2.Request:
    import httpx2

    timeout = httpx2.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    try:
        return httpx2.Request(
            "POST",
            request.url,
            headers=request.headers,
            content=request.body,
            extensions={"timeout": timeout.as_dict()},
        )
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"unusable provider_base_url: {error}") from None


@contextmanager
def _provider_errors() -> Iterator[None]:
    """What the HTTP library raises is the provider's failure."""
    import httpx2

    try:
        yield
    except httpx2.RequestError as error:
        url = error.request.url
        raise ProviderError(
            f"no answer of the provider at {url.scheme}://{url.netloc.decode()}: {error!r}"
        ) from error


@contextmanager
def _client_errors(http: httpx2.Client | httpx2.AsyncClient) -> Iterator[None]:
    """Another thread may close the client while its call is being asked for."""
    try:
        yield
    except RuntimeError as error:
        if not http.is_closed:
            raise
        raise ConfigurationError(CLOSED) from error


def _refused(response: httpx2.Response, answer: Mapping[str, Any]) -> ProviderError:
    problem = answer.get("error")
    fields = problem if isinstance(problem, dict) else {"message": problem}
    no_answer = "no chat answer" if response.is_success else response.reason_phrase
    code = fields.get("code") or fields.get("status") or fields.get("type")
    return ProviderError(
        f"the provider answered {response.status_code}: {fields.get('message') or no_answer}",
        status_code=response.status_code,
        code=None if code is None else str(code),
        body=answer or response.content[:ERROR_BODY_CHARS_MAX].decode(errors="replace"),
        request_id=response.headers.get("x-request-id") or response.headers.get("request-id"),
        retry_after=parse_retry_after(response.headers.get("Retry-After")),
    )


def _list_price(event: UsageEvent) -> Decimal | None:
    """None also for counts that nobody can mean: they must not cost the caller the answer."""
    try:
        return prices.cost(
            event.model, event.usage, event.occurred_at or datetime.now(UTC), provider=event.provider
        )
    except ConfigurationError:
        return None
