"""Asking the control plane: one call, its retries, and an answer or a typed error."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from tokvigil import forking, steps
from tokvigil.errors import (
    ConfigurationError,
    HoldNotFoundError,
    IdempotencyConflictError,
    InvalidKeyError,
    InvalidRequestError,
    MissingScopeError,
    RefusedError,
    TokVigilError,
    TooManyRequestsError,
    UnreachableError,
    causes_of,
)
from tokvigil.json_values import decimal
from tokvigil.links import Answer, Request
from tokvigil.retries import RETRYABLE_STATUSES, RetryPolicy, backoff_s, parse_retry_after
from tokvigil.steps import Steps
from tokvigil.version import __version__

T = TypeVar("T")
Read = Callable[[dict[str, Any]], Any]

HOLDS = "/v1/reservations"
ERRORS_BY_STATUS: Mapping[int, type[RefusedError]] = {
    400: InvalidRequestError,
    401: InvalidKeyError,
    403: MissingScopeError,
    404: HoldNotFoundError,
    409: IdempotencyConflictError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: TooManyRequestsError,
}
# Of one process; a client has one.
ADDRESSES_MAX = 1000
NO_NUMBER = Decimal("NaN")
# Not on every system.
EAI_NODATA = getattr(socket, "EAI_NODATA", socket.EAI_NONAME)


class Sender(Protocol):
    """What carries requests to the control plane: `Links`, or a test's."""

    def send(self, request: Request) -> Answer: ...

    async def send_async(self, request: Request) -> Answer: ...

    def close(self) -> None: ...

    async def close_async(self) -> None: ...


class Transport:
    """Safe to share between threads, event loops and, after a fork, processes."""

    def __init__(
        self, api_key: str, base_url: str, *, timeout_s: float, retry: RetryPolicy, sender: Sender
    ) -> None:
        self._base_url = base_url
        self._headers = [
            (b"Authorization", f"Bearer {api_key}".encode()),
            (b"Content-Type", b"application/json"),
            (b"User-Agent", f"tokvigil-python/{__version__}".encode()),
        ]
        self._timeout_s = timeout_s
        self._retry = retry
        self._sender = sender

    def request(self, method: str, path: str, **options: Any) -> Any:
        """As `ask`, for a caller that blocks."""
        return self.run(self.ask(method, path, **options))

    def run(self, wanted: Steps[T]) -> T:
        forking.notice()
        return steps.run(wanted, self._sender.send)

    async def run_async(self, wanted: Steps[T]) -> T:
        forking.notice()
        return await steps.run_async(wanted, self._sender.send_async)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | bytes | None = None,
        params: Mapping[str, str] | None = None,
        read: Read | None = None,
        retry: bool = True,
        within_s: float | None = None,
    ) -> Steps[Any]:
        """The answer as a JSON object ({} if it has no body), or what `read` makes of it; what `read` takes, TokVigil
        has sent. A body of bytes is JSON already; the same bytes go out at every attempt. What is read is about the
        `request_id` of the body, or it is no answer: it is asked for again, through another connection.

        An attempt takes `timeout_s` at most; or, with `within_s`, all of them together no longer than that. Too many
        requests (429) are then tried again as long as there is time, and are a busy TokVigil at last.

        Raises `RefusedError` for a 4xx, `UnreachableError` for everything else that is no answer, and
        `ConfigurationError` if `base_url` seems to be wrong and TokVigil never answered there.
        """
        written = _json(body)
        about = body.get("request_id") if isinstance(body, Mapping) else None
        asked = f"{path}?{urlencode(params)}" if params else path
        deadline = None if within_s is None else time.monotonic() + within_s
        attempt = 0
        may_have_arrived = False
        while True:
            ends_at = time.monotonic() + self._timeout_s if deadline is None else deadline
            request = Request(
                method=method, path=asked, headers=self._headers, body=written, deadline=ends_at
            )
            try:
                answer: Answer = yield request
                return self._read(answer, request, read, about)
            except _ForeignError as foreign:
                error = self._of_this_address(foreign)
            except TokVigilError as failure:
                mend = mend_of(failure)
                error = failure if mend is None else self._of_this_address(_ForeignError(failure, mend))
            is_patient = False
            if isinstance(error, TooManyRequestsError) and retry and deadline is not None:
                error, is_patient = _busy(error), True
            if isinstance(error, UnreachableError):
                error.may_have_arrived = may_have_arrived = may_have_arrived or error.may_have_arrived
            delay_s = self._delay_s(error, attempt, is_patient=is_patient) if retry else None
            if delay_s is None or (deadline is not None and time.monotonic() + delay_s >= deadline):
                raise error
            yield delay_s
            attempt += 1

    def _read(self, answer: Answer, request: Request, read: Read | None, about: str | None) -> Any:
        if not 200 <= answer.status < 300:
            raise _error_from(answer, request)
        try:
            said = _read_object(answer)
            if read is None:
                return said
            value = read(said)
        except UnreachableError as error:
            raise _ForeignError(error, f"something that is not TokVigil answers there ({error})") from None
        if about is not None and value.request_id != about:
            answer.reject()
            raise _OtherRequestError(
                f"the answer is about request {value.request_id}, and not about {about}", reason="answer"
            )
        if self._base_url not in _answering:
            _note_answering(self._base_url)
        return value

    def _of_this_address(self, foreign: _ForeignError) -> TokVigilError:
        if self._base_url in _answering:
            return foreign.error
        error = ConfigurationError(f"base_url is {self._base_url}: {foreign.mend}")
        error.__cause__ = foreign.error
        return error

    def _delay_s(self, error: TokVigilError, attempt: int, *, is_patient: bool) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        retry_after_s: float | None = getattr(error, "retry_after", None)
        if is_patient:
            return backoff_s(attempt, retry_after_s)
        return self._retry.delay_s(attempt, retry_after_s) if is_retryable(error) else None


class _ForeignError(Exception):
    """It looks as if something else than TokVigil were at `base_url`; `mend` says what to do if it always was."""

    def __init__(self, error: TokVigilError, mend: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.mend = mend


class _OtherRequestError(UnreachableError):
    """The answer to another request than the one that was sent."""


# Addresses at which TokVigil has answered this process: there, foreign answers are an outage.
_answering: set[str] = set()


def _note_answering(base_url: str) -> None:
    if len(_answering) >= ADDRESSES_MAX:
        _answering.clear()
    _answering.add(base_url)


def hold_path(request_id: str) -> str:
    return f"{HOLDS}/{quote(request_id, safe='')}"


def is_retryable(error: TokVigilError) -> bool:
    if isinstance(error, UnreachableError):
        if error.reason == "status":
            return error.status_code in RETRYABLE_STATUSES
        return error.reason != "answer" or isinstance(error, _OtherRequestError)
    return isinstance(error, TooManyRequestsError)


def mend_of(error: TokVigilError) -> str | None:
    """What to mend if connections never came about for this reason."""
    if isinstance(error, UnreachableError) and error.reason == "busy":
        return None
    for cause in causes_of(error):
        # Not EAI_AGAIN: then a name server is away.
        if isinstance(cause, socket.gaierror) and cause.errno in (socket.EAI_NONAME, EAI_NODATA):
            return f"its host name does not resolve ({cause})"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate cannot be verified ({cause}); pass your own certificates as `verify`"
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            return "what answers there does not speak TLS: mend its port, or begin it with http://"
    return None


def _json(body: Mapping[str, Any] | bytes | None) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the call cannot be written as JSON: {error}") from None


def _read_object(answer: Answer) -> dict[str, Any]:
    """Raises `UnreachableError`."""
    if not answer.body:
        return {}
    try:
        said = _loaded(answer.body)
    except (ValueError, RecursionError):
        raise UnreachableError("the answer is not JSON", status_code=answer.status, reason="answer") from None
    if not isinstance(said, dict):
        raise UnreachableError("the answer is no JSON object", status_code=answer.status, reason="answer")
    return said


def _loaded(text: bytes) -> Any:
    """A number that Python cannot hold is no number: one field cannot be read then, and not the whole answer."""
    try:
        return json.loads(text, parse_float=_decimal)
    except ValueError:
        # Text that is no JSON fails once more.
        return json.loads(text, parse_float=_decimal, parse_int=_whole)


def _decimal(digits: str) -> Decimal:
    number = decimal(digits)
    return NO_NUMBER if number is None else number


def _whole(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:
        return NO_NUMBER


def _error_from(answer: Answer, request: Request) -> Exception:
    status = answer.status
    is_page = False
    try:
        problem = _read_object(answer)
    except UnreachableError:
        problem, is_page = {}, True
    said = f"TokVigil answered {status}: {problem.get('detail') or problem.get('title') or 'no detail'}"
    retry_after_s = parse_retry_after(answer.header("Retry-After"))
    if status < 400:
        error = UnreachableError(said, reason="answer", status_code=status)
        return _ForeignError(error, _redirected(answer, request))
    # 408: the request did not arrive whole, so nothing came of it.
    if status >= 500 or status == HTTPStatus.REQUEST_TIMEOUT:
        return UnreachableError(
            said, reason="status", status_code=status, retry_after=retry_after_s, may_have_arrived=True
        )
    if status == HTTPStatus.NOT_FOUND and not request.path.startswith(HOLDS):
        error = UnreachableError(f"{said} ({request.path})", reason="status", status_code=status)
        mend = "check host and port, and what follows them"
        return _ForeignError(error, f"there is no {request.path} at it, so this is not TokVigil: {mend}")
    refusal = ERRORS_BY_STATUS.get(status, RefusedError)(
        said,
        status_code=status,
        code=problem.get("code"),
        errors=problem.get("errors"),
        request_id=problem.get("request_id"),
        retry_after=retry_after_s,
    )
    if is_page and status != HTTPStatus.TOO_MANY_REQUESTS:
        return _ForeignError(refusal, f"it answers {status} with a page, and TokVigil answers with JSON")
    return refusal


def _redirected(answer: Answer, request: Request) -> str:
    """What to do about a redirect. It is not followed: the key is for the address that was named."""
    target = urlsplit(answer.header("Location") or "")
    if not target.netloc:
        return f"it answers {answer.status}, and TokVigil does not"
    # Without a name and a password, should it have them.
    shown = urlunsplit((target.scheme or "https", target.netloc.rpartition("@")[2], target.path, "", ""))
    return f"it redirects, so set base_url to {shown.removesuffix(request.path)}"


def _busy(error: TooManyRequestsError) -> UnreachableError:
    return UnreachableError(
        str(error), reason="busy", status_code=error.status_code, retry_after=error.retry_after
    )
