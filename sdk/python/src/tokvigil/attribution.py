"""Who an AI call is for, and for what: said once around the code that makes the calls.

    with tv.context(user_id="user_123", feature="chat"):
        client.chat.completions.create(...)

It is kept in a context variable, so it follows `await`, `asyncio.create_task` and `asyncio.to_thread`, and never leaks
into another request. A thread started by hand begins without it: run its target in `contextvars.copy_context()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any

from tokvigil import checked
from tokvigil.errors import MissingAttributionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """None: not said (here; a context around this one may have said it)."""

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
        """What holds inside both: this one where it says something, else the outer one."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return Attribution(
            **{name: getattr(outer, name) if value is None else value for name, value in said.items()}
        )


NOBODY = Attribution()
# The request id of the guard around this code, if there is one.
inside_guard: ContextVar[str | None] = ContextVar("tokvigil_inside_guard", default=None)
_current: ContextVar[Attribution] = ContextVar("tokvigil_attribution", default=NOBODY)


def context(
    *,
    user_id: str | None = None,
    feature: str | None = None,
    plan: str | None = None,
    run_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> AbstractContextManager[None]:
    """Whose the calls of wrapped clients are, and what for. Contexts nest: the inner one adds to the outer.

    with tokvigil.context(user_id="user_123", feature="chat", plan="free"):
        client.chat.completions.create(...)
    """
    return applied(Attribution(user_id=user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata))


@contextmanager
def applied(attribution: Attribution) -> Iterator[None]:
    """The calls of guarded clients inside are attributed so. It holds in the whole process, for all clients."""
    token = _current.set(attribution.within(_current.get()))
    try:
        yield
    finally:
        # A generator that was begun in one context may be ended in another, where nothing was set.
        with suppress(ValueError):
            _current.reset(token)


def around() -> Attribution:
    """What the contexts around this code say."""
    return _current.get()


def current(default: Attribution) -> Attribution:
    """What holds here. Raises `MissingAttributionError` if nobody said whose call it is."""
    found = _current.get().within(default)
    if not found.user_id:
        raise MissingAttributionError(
            "nobody said whose AI call this is: make it inside `with tv.context(user_id=..., feature=...)`; a thread,"
            " an executor or a background task that starts anew has no context: run it in"
            " contextvars.copy_context().run, or open the context there"
        )
    return found
