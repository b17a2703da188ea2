"""Everything the SDK raises by itself. Catch `AIUsageBlockedError` to tell a user about a limit.

Every error survives pickling, because task queues carry exceptions between processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokvigil.models import Decision, LimitState


# Blocks that pass without anybody doing anything, even where nobody can say when.
PASSING_CLASSES = frozenset({"transient", "degraded"})


class TokVigilError(Exception):
    """The root of the tree."""


class ConfigurationError(TokVigilError, ValueError):
    """Something was set up or called in a way that can never work: no key, no address, an unknown option, a count
    below 0. A ValueError, as Python has it for arguments that cannot be."""


class MissingAttributionError(ConfigurationError):
    """A wrapped client was used outside of any context that says whose call it is. The provider was not called."""


class TokVigilUnavailableError(TokVigilError):
    """The control plane gave no usable answer: connection error, timeout, 408 or a 5xx, retries included."""

    def __init__(self, message: str, *, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


class MalformedAnswerError(TokVigilUnavailableError):
    """Something answered, but not TokVigil: a proxy's page, a cut body, a decision without its verdict."""


class APIStatusError(TokVigilError):
    """TokVigil refused the call itself (not the AI request) with a 4xx problem document."""

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


class AuthenticationError(APIStatusError):
    """401: the API key is missing, malformed, unknown, revoked or expired."""


class PermissionDeniedError(APIStatusError):
    """403: the API key lacks the scope for this call."""


class NotFoundError(APIStatusError):
    """404: no such hold, or no such path on this server."""


class ConflictError(APIStatusError):
    """409: this request_id was already used, with other content or for a call that was reported; `code` says which."""


class ValidationError(APIStatusError):
    """400, 413, 415 or 422: the server names the fields in `errors`."""


class RateLimitedError(APIStatusError):
    """429: this API key calls TokVigil too often; `retry_after` is in seconds."""


class AIUsageBlockedError(TokVigilError):
    """A policy does not allow this AI request. The provider was not called."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision)
        self.decision = decision

    def __str__(self) -> str:
        return f"{self.reason_code}: {self.message}"

    @property
    def reason_code(self) -> str:
        return self.decision.reason_code

    @property
    def reason_class(self) -> str:
        """exhausted, transient, too_large, forbidden, frozen or degraded: what the caller can do about it."""
        return self.decision.reason_class

    @property
    def message(self) -> str:
        return self.decision.message

    @property
    def limit_state(self) -> tuple[LimitState, ...]:
        return self.decision.limit_state

    @property
    def retry_after(self) -> int | None:
        """Whole seconds until the same request may pass; None where waiting cannot help."""
        return self.decision.retry_after

    @property
    def http_status(self) -> int:
        """What a web application answers its own caller with: 429 for a block that passes with time, else 403."""
        passes = self.retry_after is not None or self.reason_class in PASSING_CLASSES
        return 429 if passes else 403

    @property
    def http_headers(self) -> dict[str, str]:
        """The headers of that answer: Retry-After, where it is known when the block passes."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @property
    def request_id(self) -> str:
        return self.decision.request_id

    @property
    def suggested_model(self) -> str | None:
        return self.decision.suggested_model


class ProviderError(TokVigilError):
    """The AI provider failed. Its hold was released; `status_code` is None if no HTTP answer came."""

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
