"""Everything the SDK raises by itself, but for the block, which is in `blocked`.

Every error survives pickling, because task queues carry exceptions between processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

# Looked at, of an error.
CAUSES_MAX = 20

UnreachableReason = Literal["connect", "timeout", "status", "answer", "busy"]


class TokVigilError(Exception):
    """The root of the tree."""


class ConfigurationError(TokVigilError, ValueError):
    """Something was set up or called in a way that can never work: no key, no address, an unknown option, a count
    below 0. A ValueError, as Python has it for arguments that cannot be."""


class MissingAttributionError(ConfigurationError):
    """A wrapped client was used outside of any context that says whose call it is. The provider was not called."""


class UnreachableError(TokVigilError):
    """The control plane gave no usable answer, retries included.

    `reason` says how: no connection ("connect"), no answer in time ("timeout"), a 408 or a 5xx, or the 404 of another
    server ("status"), something that is not TokVigil's ("answer"), or too much to do just now ("busy"). `retry_after`
    is in seconds, if the server named a time. If it `may_have_arrived`, TokVigil may hold or have counted something; an
    answer of any kind says so.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: UnreachableReason = "connect",
        status_code: int | None = None,
        retry_after: float | None = None,
        may_have_arrived: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status_code = status_code
        self.retry_after = retry_after
        if may_have_arrived is None:
            may_have_arrived = reason in ("status", "answer")
        self.may_have_arrived = may_have_arrived


class RefusedError(TokVigilError):
    """TokVigil refused the call itself (not the AI request) with a 4xx problem document.

    `code` is for programs, `errors` names the fields that are wrong, and `request_id` finds the refusal in the server's
    log.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int = 0,
        code: str | None = None,
        errors: Any = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.errors = errors
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        said = super().__str__()
        if isinstance(self.errors, list) and self.errors:
            said += f" ({'; '.join(map(_field_error, self.errors))})"
        return said if self.request_id is None else f"{said} [request {self.request_id}]"


def _field_error(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    return ": ".join(str(error[name]) for name in ("field", "message") if error.get(name))


class InvalidKeyError(RefusedError):
    """401: the API key is missing, malformed, unknown, revoked or expired."""


class MissingScopeError(RefusedError):
    """403: the API key lacks the scope for this call."""


class HoldNotFoundError(RefusedError):
    """404: nothing is held for that request any more."""


class IdempotencyConflictError(RefusedError):
    """409: this request_id was already used, with other content or for a call that was reported; `code` says which."""


class InvalidRequestError(RefusedError):
    """400, 413, 415 or 422: the server names the fields in `errors`."""


class TooManyRequestsError(RefusedError):
    """429: this API key calls TokVigil too often; `retry_after` is in seconds."""


class ProviderError(TokVigilError):
    """The AI provider failed. `status_code` is None if no HTTP answer came: it may have worked then, and bill."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        body: Any = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.body = body
        self.request_id = request_id
        self.retry_after = retry_after


def _cause_in_python(error: BaseException) -> BaseException | None:
    """What it was raised from, or in the handling of."""
    return error.__cause__ or error.__context__


def causes_of(
    error: BaseException, cause_of: Callable[[BaseException], BaseException | None] = _cause_in_python
) -> Iterator[BaseException]:
    """The error, its cause, and so on."""
    cause: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if cause is None:
            return
        yield cause
        cause = cause_of(cause)


def said_by(source: Any, name: str) -> Any:
    """An attribute of an error, or of another object that is not ours; None where reading it raises, as httpx does for
    the request that an error does not have."""
    try:
        return getattr(source, name, None)
    except Exception:
        return None
