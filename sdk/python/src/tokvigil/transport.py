"""The HTTP connection to the control plane: one call, its retries, and an answer or a typed error."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

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
from tokvigil.version import __version__

if TYPE_CHECKING:
    import httpx2

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


class Transport:
    """Safe to share between threads. Nothing is sent before the first `request`."""

    def __init__(self, api_key: str, base_url: str, *, timeout_s: float, retry: RetryPolicy) -> None:
        import httpx2  # here, so that `import tokvigil` stays light

        self._retry = retry
        try:
            self._http = httpx2.Client(
                base_url=base_url,
                timeout=timeout_s,
                headers={
                    "Authorization": f"Bearer {api_key}",
                    "Content-Type": "application/json",
                    "User-Agent": f"tokvigil-python/{__version__}",
                },
            )
        except httpx2.InvalidURL as error:
            raise ConfigurationError(f"unusable base_url: {error}") from None

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        retry: bool = True,
        within_s: float | None = None,
    ) -> dict[str, Any]:
        """The answer as a JSON object ({} if it has no body). The same bytes go out at every attempt.

        No attempt begins, and none waits, after `within_s` seconds (connecting and answering may each take what is
        left of them).

        Raises `APIStatusError` for a 4xx and `TokVigilUnavailableError` for everything else that is no
        answer.
        """
        request = self._http.build_request(method, path, content=_json(body), params=params)
        deadline = None if within_s is None else time.monotonic() + within_s
        attempt = 0
        while True:
            outcome, retry_after_s = self._attempt(request)
            if not isinstance(outcome, TokVigilError):
                return outcome
            delay_s = self._retry.delay_s(attempt, retry_after_s) if retry and _retryable(outcome) else None
            if delay_s is None:
                raise outcome
            if deadline is not None:
                left_s = deadline - time.monotonic() - delay_s
                if left_s <= 0:
                    raise outcome
                request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left_s)
            time.sleep(delay_s)
            attempt += 1

    def close(self) -> None:
        self._http.close()

    def _attempt(self, request: httpx2.Request) -> tuple[dict[str, Any] | TokVigilError, float | None]:
        import httpx2

        try:
            response = self._http.send(request)
        except httpx2.TransportError as error:
            return _caused(TokVigilUnavailableError(f"TokVigil cannot be reached: {error!r}"), error), None
        except httpx2.RequestError as error:
            return _caused(MalformedAnswerError(f"TokVigil's answer cannot be read: {error!r}"), error), None
        if response.is_success:
            return _read_object(response), None
        return _error_from(response), parse_retry_after(response.headers.get("Retry-After"))


def _json(body: Mapping[str, Any] | None) -> bytes | None:
    if body is None:
        return None
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the call cannot be written as JSON: {error}") from None


def _retryable(error: TokVigilError) -> bool:
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
    if status >= 500:
        return TokVigilUnavailableError(f"TokVigil answered {status}: {detail}", status_code=status)
    if status < 400:
        return MalformedAnswerError(f"unexpected answer {status}: is base_url right?", status_code=status)
    return ERRORS_BY_STATUS.get(status, APIStatusError)(
        f"TokVigil answered {status}: {detail}",
        status_code=status,
        code=problem.get("code"),
        errors=problem.get("errors"),
        request_id=problem.get("request_id"),
        retry_after=parse_retry_after(response.headers.get("Retry-After")),
    )
