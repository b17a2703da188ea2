"""Around a call that the caller makes in any way: ask before it, report after it.

`with tv.guard(...)`, `async with tv.guard(...)`, `@tv.guarded(...)`.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import suppress
from contextvars import Token
from functools import wraps
from typing import Any, ParamSpec, Required, Self, TypedDict, TypeVar

from tokvigil import checked
from tokvigil.answered_model import model_of
from tokvigil.attribution import inside_guard
from tokvigil.calls import Call
from tokvigil.endings import Ending
from tokvigil.errors import ConfigurationError
from tokvigil.failures import ending_of_error
from tokvigil.models import Decision, Usage, UsageStatus, checked_usage
from tokvigil.usage_reading import read_usage

logger = logging.getLogger("tokvigil")
P = ParamSpec("P")
R = TypeVar("R")


class Guard:
    """An allowed call. Record what it used, or say that it did `not_sent`.

    A call that is left without either is charged what it holds: nobody knows what it used. `max_output_tokens` is the
    cap to pass to the provider.
    """

    def __init__(self, call: Call, decision: Decision) -> None:
        self._call = call
        self.decision = decision
        self.request_id = call.request_id
        self.max_output_tokens = decision.max_output_tokens
        # An answer came, even if nobody can say what it used.
        self._answered = False
        self._entered: Token[str | None] | None = None
        # What was being handled when it was entered: attempts before belong to guards before.
        self._before: BaseException | None = None

    def record(self, used: Any, *, status: UsageStatus = "succeeded", model: str | None = None) -> Usage:
        """Report what the call used: a `Usage`, or the provider's answer. The first record counts. `model` is the one
        that answered; an answer says it by itself.

        Raises `ConfigurationError` for an answer that says no usage, and for counts that are no whole numbers: pass a
        `Usage` that is right then. If nobody does, the call is charged what it holds.
        """
        self._answered = True
        usage = used if isinstance(used, Usage) else read_usage(used)
        if usage is None:
            raise ConfigurationError(
                "the answer says no usage: record(Usage(input_tokens=..., output_tokens=...))"
            )
        usage = checked_usage(usage)
        answered_by = model_of(used) if model is None else checked.model(model)
        if self._call.reported is not None:
            logger.warning("request %s: its usage is recorded already", self.request_id)
        return self._call.record(status, usage, answered_by)

    def not_sent(self) -> None:
        """The provider was not called after all: nothing is charged, and the hold is given back."""
        self._call.end(Ending.NOT_SENT)

    def __enter__(self) -> Self:
        self._entered = inside_guard.set(self.request_id)
        self._before = sys.exception()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._end(error)
        finally:
            self._before = None
            if self._entered is not None:
                # A generator that was begun in one context may be ended in another, where nothing was set.
                with suppress(ValueError):
                    inside_guard.reset(self._entered)

    def _end(self, error: BaseException | None) -> None:
        """By what is known, if nothing was recorded."""
        if self._call.reported is not None:
            return
        ending = Ending.UNANSWERED
        if not self._answered and error is not None:
            ending = ending_of_error(error, self._before)
        if ending is Ending.UNANSWERED:
            logger.warning(
                "request %s: no usage was recorded%s, so it is charged what it holds; say call.not_sent() if the"
                " provider was not called",
                self.request_id,
                "" if error is None else f" before {type(error).__name__} was raised",
            )
        self._call.end(ending)


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

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._guard is not None:
            self._guard.__exit__(kind, error, trace)


class GuardOptions(TypedDict, total=False):
    """Of `guarded`: as `guard` takes them, or functions of the guarded function's arguments that give them."""

    user_id: str | Callable[..., str | None] | None
    model: Required[str | Callable[..., str]]
    feature: str | Callable[..., str | None] | None
    plan: str | Callable[..., str | None] | None
    messages: Callable[..., Iterable[Mapping[str, Any]]]
    input_text: Callable[..., str]
    input_tokens: int | Callable[..., int]
    max_output_tokens: int | Callable[..., int]
    service_tier: str | Callable[..., str | None] | None
    region: str | Callable[..., str | None] | None
    quantities: Mapping[str, int] | Callable[..., Mapping[str, int] | None] | None
    provider: str
    run_id: str | Callable[..., str | None] | None
    metadata: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None
    # The name of a parameter of the function that gets the guard.
    pass_guard: str | None


def guarded(function: Callable[P, R], guard: Callable[..., Guard], options: GuardOptions) -> Callable[P, R]:
    """The function with a guard around each call. Raises `ConfigurationError` for one whose call returns before its
    work has begun: the guard would be over by then.
    """
    if _is_any(function, inspect.iscoroutinefunction):
        raise ConfigurationError("this function is `async def`: use the guarded of an AsyncTokVigil")
    parameter = _guard_parameter(function, options)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with guard(**_resolved(options, args, kwargs)) as opened:
            if parameter is not None:
                kwargs[parameter] = opened
            return _recorded(opened, function(*args, **kwargs))

    return call


def guarded_async(
    function: Callable[P, Awaitable[R]], guard: Callable[..., AsyncGuard], options: GuardOptions
) -> Callable[P, Coroutine[Any, Any, R]]:
    """As `guarded`, for a function that returns an awaitable."""
    parameter = _guard_parameter(function, options)

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        async with guard(**_resolved(options, args, kwargs)) as opened:
            if parameter is not None:
                kwargs[parameter] = opened
            answer = function(*args, **kwargs)
            if not inspect.isawaitable(answer):
                opened._call.end(Ending.UNANSWERED)
                raise ConfigurationError(
                    "this function returns nothing to await: use TokVigil.guarded for it"
                )
            return _recorded(opened, await answer)

    return call


def _is_any(function: Any, *kinds: Callable[[Any], bool]) -> bool:
    """Of functions, and of objects that are called like them."""
    return any(kind(function) or kind(function.__call__) for kind in kinds)


def _guard_parameter(function: Callable[..., Any], options: GuardOptions) -> str | None:
    """Raises `ConfigurationError` for a function that yields, and for one that has no such parameter."""
    if _is_any(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise ConfigurationError(
            "a function that yields cannot be guarded: use `with tv.guard(...)` inside it"
        )
    name = options.get("pass_guard")
    if name is not None:
        parameters = inspect.signature(function).parameters.values()
        if not any(each.name == name or each.kind is each.VAR_KEYWORD for each in parameters):
            raise ConfigurationError(f"pass_guard names {name!r}, and this function has no such parameter")
    return name


def _resolved(options: GuardOptions, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they are for one call."""
    return {
        name: option(*args, **kwargs) if callable(option) else option
        for name, option in options.items()
        if name != "pass_guard"
    }


def _recorded(guard: Guard, answer: R) -> R:
    """The function's answer, recorded unless the function has done so. The answer matters more than its report."""
    if guard._call.reported is None:
        try:
            guard.record(answer)
        except Exception as error:
            logger.warning("request %s: %s", guard.request_id, error)
    return answer
