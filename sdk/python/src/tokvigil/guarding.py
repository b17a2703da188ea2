"""Around a call that the caller makes in any way: ask before it, report after it.

`with tv.guard(...)`, `async with tv.guard(...)`, `@tv.guarded(...)`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import suppress
from contextvars import Token
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, Required, Self, TypedDict, TypeVar

from tokvigil.attribution import inside_guard
from tokvigil.errors import ConfigurationError
from tokvigil.models import Decision, Usage, UsageStatus
from tokvigil.open_call import OpenCall
from tokvigil.usage_reading import read_usage

logger = logging.getLogger("tokvigil")
P = ParamSpec("P")
R = TypeVar("R")
# A guarded function with a parameter of this name gets its guard.
CALL_PARAMETER = "call"


class Guard:
    """An allowed call. Record what it used; leaving without that gives its hold back.

    `max_output_tokens` is the cap to pass to the provider.
    """

    def __init__(self, call: OpenCall) -> None:
        self._call = call
        # An answer came: never 0, even if nobody can say what it used.
        self._answered = False
        self._entered: Token[str | None] | None = None

    @property
    def decision(self) -> Decision:
        return self._call.decision

    @property
    def request_id(self) -> str:
        return self._call.request_id

    @property
    def max_output_tokens(self) -> int | None:
        return self._call.decision.max_output_tokens

    def record(self, used: Any, *, status: UsageStatus = "succeeded") -> Usage:
        """Report what the call used: a `Usage`, or the provider's answer. The first record counts.

        Raises `ConfigurationError` for an answer that says no usage, and for counts that are no whole numbers: pass a
        `Usage` that is right then. If nobody does, the call is reported as `partial` with what it may use.
        """
        self._answered = True
        usage = used if isinstance(used, Usage) else read_usage(used)
        if usage is None:
            raise ConfigurationError(
                "the answer says no usage: record(Usage(input_tokens=..., output_tokens=...))"
            )
        if self._call.reported is not None:
            logger.warning("request %s: its usage is recorded already", self.request_id)
        return self._call.report(status, usage).usage

    def __enter__(self) -> Self:
        self._entered = inside_guard.set(self.request_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._report_end(error)
        finally:
            if self._entered is not None:
                # A generator that was begun in one context may be ended in another, where nothing was set.
                with suppress(ValueError):
                    inside_guard.reset(self._entered)

    def _report_end(self, error: BaseException | None) -> None:
        """What is known, if nothing was recorded."""
        if self._call.reported is not None:
            return
        if self._answered:
            logger.warning(
                "request %s: what it used is unknown; what it may use is reported", self.request_id
            )
            self._call.report_unknown()
        elif error is None:
            logger.warning("request %s: no usage was recorded; its hold is given back", self.request_id)
            self._call.report_cancelled()
        elif isinstance(error, Exception):
            self._call.report_failed()
        else:
            # Interrupted in the middle, and the call may be under way.
            self._call.report_unheard()


class AsyncGuard:
    """`async with`, or `await`, asks and gives the guard."""

    def __init__(self, opening: Callable[[], Awaitable[Guard]]) -> None:
        self._opening = opening
        self._guard: Guard | None = None

    def __await__(self) -> Generator[Any, None, Guard]:
        return self._opening().__await__()

    async def __aenter__(self) -> Guard:
        self._guard = await self._opening()
        return self._guard.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guard is not None:
            self._guard.__exit__(kind, error, trace)


class GuardOptions(TypedDict, total=False):
    """Of `guarded`: as `guard` takes them, or functions of the guarded function's arguments that give them."""

    user_id: Required[str | Callable[..., str]]
    model: Required[str | Callable[..., str]]
    feature: str | Callable[..., str | None] | None
    plan: str | Callable[..., str | None] | None
    messages: Callable[..., Iterable[Mapping[str, Any]]]
    input_text: Callable[..., str]
    input_tokens: int | Callable[..., int]
    max_output_tokens: int | Callable[..., int]
    provider: str
    run_id: str | Callable[..., str | None] | None
    metadata: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None


def guarded(function: Callable[P, R], guard: Callable[..., Guard], options: GuardOptions) -> Callable[P, R]:
    """The function with a guard around each call. Raises `ConfigurationError` for one whose call returns before its
    work has begun: the guard would be over by then.
    """
    _refuse_generators(function)
    if _is_any(function, inspect.iscoroutinefunction):
        raise ConfigurationError("this function is `async def`: use the guarded of an AsyncTokVigil")
    wants_guard = _wants_guard(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with guard(**_resolved(options, args, kwargs)) as opened:
            if wants_guard:
                kwargs[CALL_PARAMETER] = opened
            return _recorded(opened, function(*args, **kwargs))

    return call


def guarded_async(
    function: Callable[P, Awaitable[R]], guard: Callable[..., AsyncGuard], options: GuardOptions
) -> Callable[P, Coroutine[Any, Any, R]]:
    """As `guarded`, for a function that returns an awaitable."""
    _refuse_generators(function)
    wants_guard = _wants_guard(function)

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        async with guard(**_resolved(options, args, kwargs)) as opened:
            if wants_guard:
                kwargs[CALL_PARAMETER] = opened
            answer = function(*args, **kwargs)
            if not inspect.isawaitable(answer):
                opened._call.report_unknown()
                raise ConfigurationError(
                    "this function returns nothing to await: use TokVigil.guarded for it"
                )
            return _recorded(opened, await answer)

    return call


def _refuse_generators(function: Callable[..., Any]) -> None:
    if _is_any(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise ConfigurationError(
            "a function that yields cannot be guarded: use `with tv.guard(...)` inside it"
        )


def _is_any(function: Any, *kinds: Callable[[Any], bool]) -> bool:
    """Of functions, and of objects that are called like them."""
    return any(kind(function) or kind(function.__call__) for kind in kinds)


def _wants_guard(function: Callable[..., Any]) -> bool:
    return CALL_PARAMETER in inspect.signature(function).parameters


def _resolved(options: GuardOptions, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they are for one call."""
    said = {name: option(*args, **kwargs) if callable(option) else option for name, option in options.items()}
    return {"feature": None} | said


def _recorded(guard: Guard, answer: R) -> R:
    """The function's answer, recorded unless the function has done so. The answer matters more than its report."""
    if guard._call.reported is None:
        try:
            guard.record(answer)
        except Exception as error:
            logger.warning("request %s: %s", guard.request_id, error)
    return answer
