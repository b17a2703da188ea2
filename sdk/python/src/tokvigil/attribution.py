"""Who an AI call is for, and for what: said once, around the code that makes the calls.

    with tokvigil.context(user_id="user_123", feature="chat"):
        client.chat.completions.create(...)

The open contexts are kept in a context variable. They follow `await`, `asyncio.create_task` and `asyncio.to_thread`,
and never leak into another request. A new thread or an executor starts without them: see `carry_context`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import reduce, wraps
from types import AsyncGeneratorType
from typing import Any, Never, TypeVar, cast

from tokvigil import checked
from tokvigil.errors import ConfigurationError, MissingAttributionError

F = TypeVar("F", bound=Callable[..., Any])

NO_USER = (
    "this AI call has no user, so it was not sent. Make it inside `with tv.context(user_id=..., feature=...)`. A new"
    " thread, an executor and a background task start without the context around them: give them"
    " `tokvigil.carry_context(function)`. Web applications and Celery tasks: see tokvigil.integrations"
)
NO_USER_OF_REQUEST = (
    "the `user_id` of the middleware gave no user for this request, so this AI call was not sent. Make it only for"
    " requests whose user is known, or inside `with tv.context(user_id=...)`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """A field that is None says nothing: what is around it may say it."""

    user_id: str | None = None
    feature: str | None = None
    plan: str | None = None
    run_id: str | None = None
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for field in ("user_id", "feature", "plan", "run_id"):
            object.__setattr__(self, field, checked.name(field, getattr(self, field)))
        object.__setattr__(self, "metadata", checked.metadata(self.metadata))

    def within(self, outer: Attribution) -> Attribution:
        """What holds inside both: this one where it says something, else the outer one. Metadata is merged.

        If both name a user and it is not the same one, only the feature is taken from the outer one: plan, run and
        metadata belong to its user. Raises `ConfigurationError` if the merged metadata has too many keys.
        """
        if outer is NOBODY:
            return self
        if self is NOBODY:
            return outer
        if self.user_id and outer.user_id and self.user_id != outer.user_id:
            return replace(self, feature=self.feature or outer.feature)
        return Attribution(
            user_id=self.user_id or outer.user_id,
            feature=self.feature or outer.feature,
            plan=self.plan or outer.plan,
            run_id=self.run_id or outer.run_id,
            metadata=_merged(self.metadata, outer.metadata),
        )


NOBODY = Attribution()


def _merged(inner: Mapping[str, Any] | None, outer: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not inner or not outer:
        return inner or outer
    merged = {**outer, **inner}
    if len(merged) > checked.METADATA_KEYS_MAX:
        raise ConfigurationError(
            f"metadata has at most {checked.METADATA_KEYS_MAX} keys, and this has {len(merged)}"
            " together with that of the contexts around it"
        )
    return merged


class context:
    """The AI calls inside are for this user, feature, plan and run, with this metadata.

        with tokvigil.context(user_id="user_123", feature="chat", plan="free"):
            client.chat.completions.create(...)

    `async with` is the same. As a decorator it holds while the function runs, also an `async def` function or a
    generator; a generator keeps the attribution of where it was called, and its caller never gets it.

    Contexts nest. The inner one adds to the outer one, and metadata is merged. An inner context that names another
    user takes only the feature from outside. One object can be used many times, also at once in several threads.
    """

    __slots__ = ("_said",)

    def __init__(
        self,
        *,
        user_id: str | None = None,
        feature: str | None = None,
        plan: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise TypeError(_unknown_argument(next(iter(unknown))))
        self._said = Attribution(
            user_id=user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata
        )

    def __enter__(self) -> None:
        _contexts.set((*_contexts.get(), self))

    def __exit__(self, *_: object) -> None:
        # Not with the variable's token: a context that a generator keeps open may end after a later one, or in
        # another thread or task.
        opened = _contexts.get()
        for place in reversed(range(len(opened))):
            if opened[place] is self:
                _contexts.set(opened[:place] + opened[place + 1 :])
                return

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __call__(self, function: F) -> F:
        return _run_in(lambda: (*_contexts.get(), self), function)

    def read(self) -> Attribution:
        """What this context says."""
        return self._said


class AskedLater(context):
    """A context that asks a function, because the user of a request may not be known when the request begins.

    It asks when a call is made, and no more once the function has named a user. If the function raises, the call
    raises `MissingAttributionError`: without its plan the wrong policy would decide it.
    """

    __slots__ = ("_ask",)

    def __init__(self, ask: Callable[[], Attribution]) -> None:
        super().__init__()
        self._ask: Callable[[], Attribution] | None = ask

    def read(self) -> Attribution:
        ask = self._ask
        if ask is not None:
            try:
                self._said = ask()
            except ConfigurationError:
                raise
            except Exception as error:
                raise MissingAttributionError(
                    f"a function that says who an AI call is for raised {type(error).__name__}; where there is no"
                    " user it returns None"
                ) from error
            if self._said.user_id:
                self._ask = None  # it holds the request
        return self._said


Contexts = tuple[context, ...]
# The open contexts, outermost first.
_contexts: ContextVar[Contexts] = ContextVar("tokvigil_contexts", default=())
# The request id of the guard around this code, if there is one.
inside_guard: ContextVar[str | None] = ContextVar("tokvigil_inside_guard", default=None)


def _unknown_argument(name: str) -> str:
    from difflib import get_close_matches

    known = list(Attribution.__dataclass_fields__)
    meant = get_close_matches(name, known, n=1)
    hint = f"did you mean {meant[0]}?" if meant else f"it takes {', '.join(known)}"
    return f"context() got an unexpected keyword argument {name!r}: {hint}"


def applied(attribution: Attribution) -> context:
    """The context that says this."""
    made = context()
    made._said = attribution
    return made


def around() -> Attribution:
    """What the contexts around this code say, all together."""
    return reduce(lambda outer, inner: inner.read().within(outer), _contexts.get(), NOBODY)


def current(default: Attribution) -> Attribution:
    """What the contexts around this code say, and `default` where they say nothing. Raises
    `MissingAttributionError` if there is no user.
    """
    return with_user(around().within(default))


def with_user(attribution: Attribution) -> Attribution:
    """The same. Raises `MissingAttributionError` if it names no user."""
    if not attribution.user_id:
        in_request = any(isinstance(each, AskedLater) for each in _contexts.get())
        raise MissingAttributionError(NO_USER_OF_REQUEST if in_request else NO_USER)
    return attribution


@contextmanager
def only(contexts: Contexts) -> Iterator[None]:
    """Inside, these contexts are open and no others."""
    token = _contexts.set(contexts)
    try:
        yield
    finally:
        # What was begun in one context of Python may be collected in another, where nothing was set.
        with suppress(ValueError):
            _contexts.reset(token)


def carry_context(function: F) -> F:
    """The same function, with the attribution of here wherever it is called, and however often at once.

        executor.submit(tokvigil.carry_context(summarize), text)

    For threads, executors, callbacks and background tasks; functions may be plain, `async`, or generators. Without a
    user around here, calls inside raise `MissingAttributionError` as they do here.
    """
    contexts = _contexts.get()
    for each in contexts:
        # Functions are asked now: the request may be over when the call is made.
        with suppress(ConfigurationError):
            each.read()
    return _run_in(lambda: contexts, function)


def begun_here(function: F) -> F:
    """The same generator function, whose generators keep the attribution of where they were called.

    For functions of others that send their request only when the first item is read.
    """
    return _run_in(_contexts.get, function)


def _run_in(contexts_of_call: Callable[[], Contexts], function: F) -> F:
    """The function, with the contexts that `contexts_of_call` gives when it is called."""
    if isinstance(function, type):
        raise TypeError(f"{function.__name__} is a class: attribution is carried by functions")

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        contexts = contexts_of_call()
        with only(contexts):
            result = function(*args, **kwargs)
        return _continued(result, contexts)

    @wraps(function)
    async def call_async(*args: Any, **kwargs: Any) -> Any:
        contexts = contexts_of_call()
        with only(contexts):
            waiting = function(*args, **kwargs)
        return _continued(await _awaited(waiting, contexts), contexts)

    return cast("F", call_async if _is_async(function) else call)


def _is_async(function: Any) -> bool:
    """Of functions, and of objects that are called like them."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)


def _continued(result: Any, contexts: Contexts) -> Any:
    """What a function returned, so that whatever of it runs later runs in the contexts too."""
    if inspect.isgenerator(result):
        return _Generator(result, _Own(contexts).run)
    if inspect.isasyncgen(result):
        return _AsyncGenerator(result, contexts)
    if inspect.iscoroutine(result):
        return _awaited(result, contexts)
    return result


async def _awaited(result: Awaitable[Any], contexts: Contexts) -> Any:
    return await _AwaitedSteps(result.__await__(), _Own(contexts).run)


class _Own:
    """The contexts of a body that runs step by step: those it began with, and those that it has opened itself."""

    def __init__(self, contexts: Contexts) -> None:
        self._opened = contexts

    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        with only(self._opened):
            try:
                return step(*args)
            finally:
                self._opened = _contexts.get()


class _Steps(Generator[Any, Any, Any]):
    """What runs each step of a body in its own contexts. Between two steps its caller does not see them."""

    def __init__(self, body: Generator[Any, Any, Any], run: Callable[..., Any]) -> None:
        self._body = body
        self._run = run

    def send(self, value: Any) -> Any:
        return self._run(self._body.send, value)

    def throw(self, *error: Any) -> Any:
        return self._run(self._body.throw, *error)

    def close(self) -> None:
        self._run(self._body.close)


class _AwaitedSteps(_Steps, Coroutine[Any, Any, Any]):
    def __await__(self) -> Generator[Any, Any, Any]:
        return self


class _Generator(_Steps):
    def __del__(self) -> None:
        # The collector would close the body in the contexts of whoever runs then.
        self.close()


class _AsyncGenerator(_Own, AsyncGenerator[Any, Any]):
    """Not itself an async generator: two of them, one around the other, cannot be closed together."""

    def __init__(self, body: AsyncGeneratorType[Any, Any], contexts: Contexts) -> None:
        super().__init__(contexts)
        self._body = body
        self._has_begun = False
        # The loop's, for those that nobody closed.
        self._close_later: Callable[[AsyncGenerator[Any, Any]], None] | None = None

    def asend(self, value: Any) -> Coroutine[Any, Any, Any]:
        return self._steps(self._body.asend, value)

    def athrow(self, *error: Any) -> Coroutine[Any, Any, Any]:
        return self._steps(self._body.athrow, *error)

    def aclose(self) -> Coroutine[Any, Any, None]:
        return self._steps(self._body.aclose)

    def __del__(self) -> None:
        if self._close_later is not None and self._body.ag_frame is not None:
            self._close_later(self)

    def _steps(self, step: Callable[..., Any], *args: Any) -> _AwaitedSteps:
        begun = step(*args) if self._has_begun else self._begin(step, *args)
        return _AwaitedSteps(begun, self.run)

    def _begin(self, step: Callable[..., Any], *args: Any) -> Any:
        """The loop gets to know this object, and not the body, which it would close in the contexts of whoever runs
        then."""
        self._has_begun = True
        hooks = sys.get_asyncgen_hooks()
        if hooks.firstiter is not None:
            hooks.firstiter(self)
        self._close_later = hooks.finalizer
        sys.set_asyncgen_hooks(firstiter=None, finalizer=hooks.finalizer and _leave)
        try:
            return step(*args)
        finally:
            sys.set_asyncgen_hooks(*hooks)


def _leave(_: AsyncGenerator[Any, Any]) -> None:
    """What is around it closes it."""
