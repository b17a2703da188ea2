"""A block as an exception, which arrives through task queues and behind the exceptions of frameworks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, cast

from tokvigil.errors import TokVigilError, UnreachableError
from tokvigil.models import Decision, LimitState
from tokvigil.reasons import PASSING_CLASSES, ReasonClass, ReasonCode, class_of

# Errors that `find` looks at: they may be many, and refer to each other.
ERRORS_MAX = 200
# Where frameworks and retrying libraries keep the errors that they raise another one for.
KEPT_IN = (
    "exceptions",
    "original_exception",
    "original_error",
    "inner_exception",
    "last_exception",
    "exception",
    "error",
    "exc",
    "last_attempt",
    "failed_attempts",
)
# The HTTP response that an error is about, and what its `extensions` call the error that it stands for.
ANSWERED_IN = ("response", "raw_response")
ERROR = "tokvigil_error"


class AIUsageBlockedError(TokVigilError):
    """A policy does not allow this AI request. The provider was not called.

    `reason_class` is exhausted, transient, too_large, forbidden, frozen or degraded: what the caller can do about it.
    `retry_after` is in whole seconds until the same request may pass; None where waiting cannot help.

    Made of a `Decision`. It can also be made of its own `args`, its text and its decision as JSON, or of the text
    alone: so do pickle, and the result backends of task queues.
    """

    def __init__(self, said: Decision | str, decision: Mapping[str, Any] | None = None) -> None:
        if isinstance(said, str):
            self.decision = _read(said, decision)
            super().__init__(said, decision)
        else:
            self.decision = said
            super().__init__(f"{said.reason_code}: {said.message}", said.to_wire())
        self.request_id: str = self.decision.request_id
        self.reason_code: ReasonCode = self.decision.reason_code
        self.reason_class: ReasonClass = self.decision.reason_class
        self.message: str = self.decision.message
        self.limit_state: tuple[LimitState, ...] = self.decision.limit_state
        self.retry_after: int | None = self.decision.retry_after
        self.suggested_model: str | None = self.decision.suggested_model

    def __str__(self) -> str:
        return str(self.args[0])

    def __repr__(self) -> str:
        return f"AIUsageBlockedError({str(self)!r}, request_id={self.request_id!r})"

    @property
    def http_status(self) -> int:
        """What a web application answers its own caller with: 429 for a block that passes with time, else 403."""
        passes = self.retry_after is not None or self.reason_class in PASSING_CLASSES
        return 429 if passes else 403

    @property
    def http_headers(self) -> dict[str, str]:
        """The headers of that answer: Retry-After, where it is known when the block passes."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @staticmethod
    def find(error: BaseException | None) -> AIUsageBlockedError | None:
        """The block that this error is, or that is behind it: its cause, its context unless that was suppressed, a
        member of its group, or an error that a framework keeps in it. Where the context was suppressed it may still be
        the provider's answer that stands for a block, which litellm hides."""
        return None if error is None else _found(error, of_defects=True)


def block_behind(error: BaseException) -> AIUsageBlockedError | None:
    """As `find`, for code that answers a block by itself: a defect must not pass for a block. So the context of an
    error of Python's own, such as a KeyError, does not count: it was raised while a block was handled, and not from
    it. The errors of litellm and others have the block in their context alone."""
    return _found(error, of_defects=False)


def _found(error: BaseException, *, of_defects: bool) -> AIUsageBlockedError | None:
    pending = deque([error])
    seen: set[int] = set()
    while pending and len(seen) < ERRORS_MAX:
        found = pending.popleft()
        if isinstance(found, AIUsageBlockedError):
            return found
        if id(found) not in seen:
            seen.add(id(found))
            pending.extend(_behind(found, of_defects))
    return None


def _behind(error: BaseException, of_defects: bool) -> Iterator[BaseException]:
    if error.__cause__ is not None:
        yield error.__cause__
    if error.__context__ is not None:
        if error.__suppress_context__:
            yield from _answered(error.__context__)
        elif of_defects or type(error).__module__ != "builtins":
            yield error.__context__
    yield from _answered(error)
    for name in KEPT_IN:
        # A property of somebody else's may raise anything.
        with suppress(Exception):
            yield from _errors_in(getattr(error, name, None))


def _answered(error: BaseException) -> Iterator[BaseException]:
    """The guard's answer to a request: an SDK that `wrap` does not know makes an error of its own of it."""
    for name in ANSWERED_IN:
        with suppress(Exception):
            yield from _errors_in(getattr(error, name).extensions.get(ERROR))


def _errors_in(kept: Any) -> Iterator[BaseException]:
    if isinstance(kept, BaseException):
        yield kept
    elif isinstance(kept, list | tuple):
        for each in kept[:ERRORS_MAX]:
            # An attempt is a tuple itself, with an error among other things.
            inner = each if isinstance(each, tuple) else (each,)
            yield from (one for one in inner if isinstance(one, BaseException))
    elif isinstance(kept, Future) and kept.done() and not kept.cancelled():
        yield from _errors_in(kept.exception())


def _read(text: str, decision: Mapping[str, Any] | None) -> Decision:
    """The decision as it was written, or what the text alone says of it."""
    try:
        return Decision.from_wire(decision or {})
    except UnreachableError:
        code, _, message = text.partition(": ")
        return Decision(
            request_id="",
            allowed=False,
            reason_code=cast("ReasonCode", code),
            reason_class=class_of(code),
            message=message,
        )
