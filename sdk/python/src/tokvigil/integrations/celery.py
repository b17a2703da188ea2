"""For Celery: a task's AI calls are for the user around the code that sent the task.

    from tokvigil.integrations.celery import connect

    app = Celery("shop")
    connect()

The attribution travels in the header `tokvigil` of the task's message, through chains, groups, chords and retries. The
next task of a chain and the body of a chord have that of the task before, so if one has `headers` of its own, give them
to all. A task that was sent outside of any context runs without a user.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from celery.exceptions import TaskPredicate
from celery.signals import before_task_publish, task_postrun, task_prerun

from tokvigil.attribution import NOBODY, Attribution, applied, around, context, only
from tokvigil.blocked import block_behind
from tokvigil.errors import ConfigurationError
from tokvigil.json_values import present

logger = logging.getLogger("tokvigil")
F = TypeVar("F", bound=Callable[..., Any])

HEADER = "tokvigil"
FIELDS = tuple(Attribution.__dataclass_fields__)
# For a block that passes with time but has no `retry_after`.
WAIT_S = 5
# A broker on Redis gives a task that waits for an hour to a second worker as well (its visibility timeout).
WAIT_S_MAX = 1800
# The contexts of the tasks that run, until they end.
_running: WeakKeyDictionary[Any, AbstractContextManager[None]] = WeakKeyDictionary()


def connect() -> None:
    """Send the attribution along with tasks, and apply it where they run: for all Celery apps of the process.

    Call it in the module that makes the app, because workers need it as well as the processes that send tasks. A second
    call changes nothing.
    """
    before_task_publish.connect(_send, weak=False, dispatch_uid=HEADER)
    task_prerun.connect(_begin, weak=False, dispatch_uid=HEADER)
    task_postrun.connect(_end, weak=False, dispatch_uid=HEADER)


def headers(**said: Any) -> dict[str, Any]:
    """The headers of a task with this attribution; takes what `context` takes. For a beat schedule:

    {"task": "digest", "schedule": 3600, "options": {"headers": headers(user_id="nightly-job")}}
    """
    return {HEADER: _written(context(**said).read())}


def retry_blocks(wait_s_max: float = WAIT_S_MAX) -> Callable[[F], F]:
    """Retry a task whose AI call is blocked, after the block's `retry_after`. The task must be bound.

        @app.task(bind=True, max_retries=5)
        @retry_blocks()
        def summarize(self, text): ...

    The task fails with the block if waiting does not help, if the wait is longer than `wait_s_max` seconds, or if its
    `max_retries` are used up.
    """

    if callable(wait_s_max):
        raise ConfigurationError("retry_blocks is called before it decorates: write @retry_blocks()")

    def decorate(function: F) -> F:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            task = args[0] if args else None
            if task is None or not hasattr(task, "retry"):
                raise ConfigurationError(
                    f"retry_blocks needs a bound task: write bind=True for {function.__name__}"
                )
            try:
                return function(*args, **kwargs)
            except TaskPredicate:
                raise  # The task has retried itself, or asks Celery for something else.
            except Exception as error:
                wait_s = _wait_s(error)
                if wait_s is None or wait_s > wait_s_max:
                    raise
                raise task.retry(exc=error, countdown=wait_s) from error

        # Celery checks a task's arguments by it.
        run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return decorate


def _wait_s(error: Exception) -> int | None:
    """None: this is no block, or one that time does not lift."""
    block = block_behind(error)
    if block is None or block.http_status != 429:
        return None
    return WAIT_S if block.retry_after is None else block.retry_after


def _send(headers: dict[str, Any], **_: Any) -> None:
    # A retry has the header of the task's first message, whatever is around it now.
    if HEADER not in headers:
        try:
            headers[HEADER] = _written(around())
        except ConfigurationError as error:
            # The task fails at its first AI call. No text of the error: it may name the user.
            logger.info("a task is sent without attribution: %s", type(error).__name__)


def _begin(task: Any, **_: Any) -> None:
    request = task.request
    said = (request.headers or {}).get(HEADER)
    if said is None and request.is_eager:
        return  # It runs inside the code that called it.
    # Without the contexts that are open in the worker, if there are any.
    _running[request] = running = only((applied(_read(said)),))
    running.__enter__()


def _end(task: Any, **_: Any) -> None:
    running = _running.pop(task.request, None)
    if running is not None:
        running.__exit__(None, None, None)


def _written(attribution: Attribution) -> dict[str, Any]:
    return present({field: getattr(attribution, field) for field in FIELDS})


def _read(said: Any) -> Attribution:
    if not isinstance(said, dict):
        return NOBODY
    try:
        return Attribution(**{field: said.get(field) for field in FIELDS})
    except ConfigurationError:
        logger.warning("a task has a header %r that cannot be read: it runs without attribution", HEADER)
        return NOBODY
