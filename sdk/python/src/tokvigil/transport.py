"""The HTTP connection to the control plane: one call, its retries, and an answer or a typed error."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from tokvigil import steps
from tokvigil.connections import Connections
from tokvigil.deadlines import Until
from tokvigil.errors import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    MalformedAnswerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    TokVigilError,
    TokVigilUnavailableError,
    ValidationError,
)
from tokvigil.retries import RETRYABLE_STATUSES, RetryPolicy, parse_retry_after
from tokvigil.steps import Steps
from tokvigil.version import __version__

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

ERRORS_BY_STATUS: Mapping[int, type[APIStatusError]] = {
    400: ValidationError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: ValidationError,
    415: ValidationError,
    422: ValidationError,
    429: RateLimitedError,
}


class NotReachedError(TokVigilUnavailableError):
    """No connection came about, so nothing has arrived."""


class Transport:
    """Safe to share between threads, event loops and, after a fork, processes. Connects at the first request."""

    def __init__(
        self, api_key: str, base_url: str, *, timeout_s: float, retry: RetryPolicy, connections: Connections
    ) -> None:
        import httpx2  # here, so that `import tokvigil` stays light

        try:
            self._base_url = str(httpx2.URL(base_url)).rstrip("/")
        except httpx2.InvalidURL as error:
            raise ConfigurationError(f"unusable base_url: {error}") from None
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "User-Agent": f"tokvigil-python/{__version__}",
        }
        self._timeout_s = timeout_s
        self._retry = retry
        self._connections = connections

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """As `ask`, for a caller that blocks."""
        return self.run(self.ask(method, path, **options))

    def run(self, wanted: Steps[T]) -> T:
        return steps.run(wanted, lambda request: self._connections.blocking.send(request))

    async def run_async(self, wanted: Steps[T]) -> T:
        return await steps.run_async(wanted, self._send_async)

    async def _send_async(self, request: httpx2.Request) -> httpx2.Response:
        import httpx2

        client = self._connections.awaiting
        left_s = request.extensions["timeout"].get("read")
        try:
            async with asyncio.timeout(left_s):
                return await client.send(request)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no answer in time", request=request) from error

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | bytes | None = None,
        params: Mapping[str, str] | None = None,
        retry: bool = True,
        within_s: float | None = None,
    ) -> Steps[dict[str, Any]]:
        """The answer as a JSON object ({} if it has no body). A body of bytes is JSON already; the same bytes go out at
        every attempt.

        An attempt takes `timeout_s` at most; or, with `within_s`, all of them together no longer than that.

        Raises `APIStatusError` for a 4xx and `TokVigilUnavailableError` for everything else that is no
        answer.
        """
        import httpx2

        request = httpx2.Request(
            method, self._base_url + path, params=params, headers=self._headers, content=_json(body)
        )
        deadline = None if within_s is None else time.monotonic() + within_s
        attempt = 0
        may_have_arrived = False
        while True:
            request.extensions["timeout"] = _Timeouts(deadline or time.monotonic() + self._timeout_s)
            outcome, retry_after_s = yield from _attempt(request)
            if not isinstance(outcome, TokVigilError):
                return outcome
            if not isinstance(outcome, NotReachedError):
                may_have_arrived = True
            elif may_have_arrived:
                outcome = _caused(TokVigilUnavailableError(str(outcome)), outcome)
            delay_s = self._retry.delay_s(attempt, retry_after_s) if retry and is_retryable(outcome) else None
            if delay_s is None or (deadline is not None and time.monotonic() + delay_s >= deadline):
                raise outcome
            yield delay_s
            attempt += 1


class _Timeouts(dict[str, float]):
    """Those of one request: whatever the phase, what is left until one deadline."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self.deadline = deadline

    def get(self, phase: str, default: Any = None) -> float:
        return Until(self.deadline)


def _attempt(request: httpx2.Request) -> Steps[tuple[dict[str, Any] | TokVigilError, float | None]]:
    import httpx2

    try:
        response = yield request
    except httpx2.TransportError as error:
        where = f"{request.url.scheme}://{request.url.netloc.decode()}"
        was_reached = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        kind = TokVigilUnavailableError if was_reached else NotReachedError
        return _caused(kind(f"TokVigil cannot be reached at {where}: {error!r}"), error), None
    except httpx2.RequestError as error:
        return _caused(MalformedAnswerError(f"TokVigil's answer cannot be read: {error!r}"), error), None
    if response.is_success:
        return _read_object(response), None
    return _error_from(response), parse_retry_after(response.headers.get("Retry-After"))


def _json(body: Mapping[str, Any] | bytes | None) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the call cannot be written as JSON: {error}") from None


def hold_path(request_id: str) -> str:
    return f"/v1/reservations/{quote(request_id, safe='')}"


def is_retryable(error: TokVigilError) -> bool:
    if isinstance(error, MalformedAnswerError):
        return False
    if isinstance(error, TokVigilUnavailableError):
        return error.status_code is None or error.status_code in RETRYABLE_STATUSES
    return isinstance(error, RateLimitedError)


def _caused(error: TokVigilError, cause: Exception) -> TokVigilError:
    error.__cause__ = cause
    return error


def _read_object(response: httpx2.Response) -> dict[str, Any] | TokVigilError:
    if not response.content:
        return {}
    try:
        answer = json.loads(response.content, parse_float=Decimal)
    except (ValueError, RecursionError):
        return MalformedAnswerError("TokVigil's answer is not JSON", status_code=response.status_code)
    if not isinstance(answer, dict):
        return MalformedAnswerError("TokVigil's answer is no JSON object", status_code=response.status_code)
    return answer


def _error_from(response: httpx2.Response) -> TokVigilError:
    status = response.status_code
    problem = _read_object(response)
    if not isinstance(problem, dict):
        problem = {}
    detail = str(problem.get("detail") or problem.get("title") or response.reason_phrase or "no detail")
    # 408: the request did not arrive whole, so nothing came of it.
    if status >= 500 or status == 408:
        return TokVigilUnavailableError(f"TokVigil answered {status}: {detail}", status_code=status)
    if status < 400:
        return MalformedAnswerError(f"unexpected answer {status}: is base_url right?", status_code=status)
    return ERRORS_BY_STATUS.get(status, APIStatusError)(
        f"TokVigil answered {status}: {detail}" + (f" ({response.request.url})" if status == 404 else ""),
        status_code=status,
        code=problem.get("code"),
        errors=problem.get("errors"),
        request_id=problem.get("request_id"),
        retry_after=parse_retry_after(response.headers.get("Retry-After")),
    )
