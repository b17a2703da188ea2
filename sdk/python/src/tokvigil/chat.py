"""`tv.chat(...)`: one AI call to any provider, through a guarded HTTP client of our own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from tokvigil import prices
from tokvigil.attribution import Attribution, applied
from tokvigil.calls import Call
from tokvigil.chatting import ChatRequest
from tokvigil.connections import CLOSED, Connections
from tokvigil.decisions import CALL
from tokvigil.dialects.sse import Event, EventParser
from tokvigil.errors import ConfigurationError, ProviderError
from tokvigil.json_values import parse_object
from tokvigil.models import Decision, Usage
from tokvigil.retries import parse_retry_after
from tokvigil.version import __version__
from tokvigil.wrapping.http import OWN_AUTH
from tokvigil.wrapping.wrapper import Wrapper

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT_S = 5.0
# Between two pieces of an answer.
TIMEOUT_S = 600.0
ERROR_BODY_CHARS_MAX = 2_000
STREAM_CLOSED = "this stream was closed before its end: read it inside its `with`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResult:
    """A provider's answer in OpenAI's form, with what it used and the decision that allowed it.

    For an agent append `message` to your messages, then a message of the role "tool" for each of `tool_calls`. The
    message may carry a field `tokvigil`, with what a provider wants back as it came: keep it, `chat` reads it.

    `finish_reason` is "stop", "length", "tool_calls" or "content_filter". A reason that OpenAI does not have is in the
    provider's words; None: the provider gave none. `cost_usd` is the list price, None if the model has none; TokVigil's
    ledger has what is charged. `raw` is the provider's whole answer.
    """

    text: str
    tool_calls: list[dict[str, Any]]
    message: dict[str, Any] = field(repr=False)
    finish_reason: str | None
    model: str
    usage: Usage
    cost_usd: Decimal | None
    decision: Decision
    request_id: str
    raw: Mapping[str, Any] = field(repr=False)


class Chat:
    """Sends chat requests to providers. Safe to share between threads, event loops and forked children.

    All raise `AIUsageBlockedError` and `ProviderError`.
    """

    def __init__(self, wrapper: Wrapper, connections: Connections | None = None) -> None:
        self._wrapper = wrapper
        # Others than its own answer in the provider's place.
        self._needs_keys = connections is None
        self._connections = connections or Connections(
            headers={"User-Agent": f"tokvigil-python/{__version__}"},
            timeout=(CONNECT_TIMEOUT_S, TIMEOUT_S, TIMEOUT_S, TIMEOUT_S),
        )

    def complete(self, request: ChatRequest, attribution: Attribution) -> ChatResult:
        with self.stream(request, attribution) as answer, _provider_errors():
            return answer._result(answer._response.read())

    async def complete_async(self, request: ChatRequest, attribution: Attribution) -> ChatResult:
        async with await self.stream_async(request, attribution) as answer:
            with _provider_errors():
                return answer._result(await answer._response.aread())

    def stream(self, request: ChatRequest, attribution: Attribution) -> ChatStream:
        self._check_key(request)
        http = self._connections.blocking
        with _provider_errors(http), applied(attribution):
            response = self._guarded(http).handle_request(_http(http, request))
            if not response.is_success:
                response.read()
        return ChatStream(request, response, response.iter_bytes())

    async def stream_async(self, request: ChatRequest, attribution: Attribution) -> AsyncChatStream:
        self._check_key(request)
        http = self._connections.awaiting
        with _provider_errors(http), applied(attribution):
            response = await self._guarded(http).handle_async_request(_http(http, request))
            if not response.is_success:
                await response.aread()
        return AsyncChatStream(request, response, response.aiter_bytes())

    def _check_key(self, request: ChatRequest) -> None:
        if self._needs_keys and request.lacks_key:
            variables = " or ".join(request.format.key_variables)
            raise ConfigurationError(
                f"there is no key for {request.format.base_url}: pass provider_api_key or set {variables}"
            )

    def _guarded(self, http: httpx2.Client | httpx2.AsyncClient) -> Any:
        return self._wrapper.guarded_transport(http, raised_as=lambda error: error)

    def close(self) -> None:
        self._connections.close()

    async def close_async(self) -> None:
        await self._connections.close_async()


class _Stream:
    """A provider's answer on its way. Raises `ProviderError` if it is an error."""

    def __init__(self, request: ChatRequest, response: httpx2.Response, pieces: Any) -> None:
        if not response.is_success:
            raise _refused(response, response.content)
        self._request = request
        self._response = response
        # Its bytes, iterated over or awaited.
        self._pieces = pieces
        self._call: Call = response.extensions[CALL]
        assert self._call.decision is not None  # the call was allowed
        self.decision = self._call.decision
        self.request_id = self._call.request_id
        self._answer = request.format.answer()
        # What came first, to be shown if it is not an answer.
        self._first: str | bytes = b""
        self._parser = EventParser()
        self._events: deque[Event] = deque()
        self._has_ended = False
        self._is_closed = False

    @property
    def text(self) -> str:
        """What was read so far."""
        return self._answer.text

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """See `ChatResult`; complete at the end of the stream, as `message` and `finish_reason` are."""
        return self._answer.tool_calls

    @property
    def message(self) -> dict[str, Any]:
        return self._answer.message

    @property
    def finish_reason(self) -> str | None:
        return self._answer.finish_reason

    @property
    def usage(self) -> Usage | None:
        """What it used, once that is known: at the end, or when the stream is closed."""
        return None if self._call.reported is None else self._call.reported.usage

    @property
    def cost_usd(self) -> Decimal | None:
        """See `ChatResult`."""
        model, usage, provider = self._call.model, self.usage, self._call.question.provider
        return None if usage is None else prices.cost(model, usage, datetime.now(UTC), provider=provider)

    def _next_text(self) -> str | None:
        """Of what has come; None: more must come first."""
        if self._is_closed and not self._has_ended:
            raise ConfigurationError(STREAM_CLOSED)
        while self._events:
            event = self._events.popleft()
            # A server that does not stream, or that fails, sends one JSON object.
            if text := self._read(event.raw if event.data is None else event.data):
                return text
        if self._has_ended:
            self._check()
        return None

    def _take(self, data: bytes | None) -> None:
        """The next bytes of the stream; None: it has ended."""
        self._has_ended = data is None
        self._events += self._parser.finish() if data is None else self._parser.feed(data)

    def _read(self, content: str | bytes) -> str:
        """A whole answer, or what an event says; returns the text it adds."""
        self._first = self._first or content
        said = parse_object(content) or {}
        if said.get("error"):
            raise _refused(self._response, content)
        return self._answer.take(said)

    def _check(self) -> None:
        if not self._answer.is_answer:
            raise _refused(self._response, self._first)

    def _result(self, content: bytes) -> ChatResult:
        """Of the whole of an answer that does not stream."""
        self._read(content)
        self._check()
        assert self.usage is not None  # the answer was read to its end
        return ChatResult(
            text=self.text,
            tool_calls=self.tool_calls,
            message=self.message,
            finish_reason=self.finish_reason,
            model=self._answer.model or self._request.model,
            usage=self.usage,
            cost_usd=self.cost_usd,
            decision=self.decision,
            request_id=self.request_id,
            raw=parse_object(content) or {},
        )


class ChatStream(_Stream):
    """The text of an answer, piece by piece. Close it, or leave its `with`, to end it early: it is then reported as
    `partial`, with what it has used as far as that can be known.

    It is read once: reading goes on where it stopped, and after the end nothing comes. Raises `ProviderError` where the
    provider breaks off, and `ConfigurationError` if it is read on after it was closed before its end.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        try:
            while (text := self._next_text()) is None:
                if self._has_ended:
                    raise StopIteration
                with _provider_errors():
                    self._take(next(self._pieces, None))
        except ProviderError:
            self.close()
            raise
        return text

    def close(self) -> None:
        self._is_closed = True
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChatStream(_Stream):
    """As `ChatStream`, for `async for` and `async with`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        try:
            while (text := self._next_text()) is None:
                if self._has_ended:
                    raise StopAsyncIteration
                with _provider_errors():
                    self._take(await anext(self._pieces, None))
        except ProviderError:
            await self.close()
            raise
        return text

    async def close(self) -> None:
        self._is_closed = True
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _http(client: httpx2.Client | httpx2.AsyncClient, request: ChatRequest) -> httpx2.Request:
    return client.build_request(
        "POST", request.url, headers=request.headers, content=request.body, extensions={OWN_AUTH: True}
    )


@contextmanager
def _provider_errors(http: httpx2.Client | httpx2.AsyncClient | None = None) -> Iterator[None]:
    """What the HTTP library raises is the provider's failure, unless its client was closed meanwhile."""
    import httpx2

    try:
        yield
    except httpx2.RequestError as error:
        url = error.request.url
        raise ProviderError(
            f"no answer of the provider at {url.scheme}://{url.netloc.decode()}: {error!r}"
        ) from error
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"unusable provider_base_url: {error}") from None
    except RuntimeError as error:
        if http is None or not http.is_closed:
            raise
        raise ConfigurationError(CLOSED) from error


def _refused(response: httpx2.Response, content: str | bytes) -> ProviderError:
    """What came in the place of an answer: an error in the provider's words, or a foreign page."""
    said = parse_object(content) or {}
    problem = said.get("error")
    fields = problem if isinstance(problem, dict) else {"message": problem}
    no_answer = "not a chat answer" if response.is_success else response.reason_phrase
    # Google's `code` is the HTTP status, and its `status` what the others call a code.
    codes = (fields.get(name) for name in ("code", "status", "type"))
    shown = content if isinstance(content, str) else content.decode(errors="replace")
    return ProviderError(
        f"the provider answered {response.status_code}: {fields.get('message') or no_answer}",
        status_code=response.status_code,
        code=next((code for code in codes if isinstance(code, str)), None),
        body=said or shown[:ERROR_BODY_CHARS_MAX],
        request_id=response.headers.get("x-request-id") or response.headers.get("request-id"),
        retry_after=parse_retry_after(response.headers.get("Retry-After")),
    )
