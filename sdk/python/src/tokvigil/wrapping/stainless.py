"""Clients of `openai` and `anthropic`, sync and async: generated from one template, they share what is used here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tokvigil.errors import AIUsageBlockedError
from tokvigil.retries import parse_retry_after
from tokvigil.wrapping.blocked import blocked_as
from tokvigil.wrapping.gate import Retrying
from tokvigil.wrapping.http import ERROR
from tokvigil.wrapping.wrapper import Wrapper

CLASSES = frozenset(
    {
        ("openai", "OpenAI"),
        ("openai", "AsyncOpenAI"),
        ("anthropic", "Anthropic"),
        ("anthropic", "AsyncAnthropic"),
    }
)
Retype = Callable[[AIUsageBlockedError, Exception], Exception]
RETRY_HEADER = "x-stainless-retry-count"
RETRIED_STATUSES = frozenset({408, 409, 429})
# Whoever is told to wait longer gives up, or comes back when the call's hold is long over.
RETRY_AFTER_S_MAX = 60.0


def is_one(client: Any) -> bool:
    return any((base.__module__.partition(".")[0], base.__name__) in CLASSES for base in type(client).__mro__)


def wrap(client: Any, wrapper: Wrapper, retype: Retype = blocked_as) -> Any:
    """A copy of the client, of the same class and with the same options, whose AI calls pass the gate.

    A block is raised as what `retype` makes of it and of the SDK's own error.
    """
    return _guarded(client, client._client, wrapper, retype)


def _guarded(client: Any, inner: Any, wrapper: Wrapper, retype: Retype) -> Any:
    """`inner` is the HTTP client without a guard."""
    retrying = Retrying(
        attempts_max=lambda: 1 + int(guarded.max_retries),
        after_status=_retries_after,
        after_error=lambda error: True,
        count_header=RETRY_HEADER,
    )
    guarded = type(client).copy(client, http_client=wrapper.guarded_http(inner, retrying))
    guarded._make_status_error = partial(_status_error, retype, guarded._make_status_error)
    guarded.copy = guarded.with_options = partial(_copy, guarded, inner, wrapper, retype)
    return guarded


def _copy(guarded: Any, inner: Any, wrapper: Wrapper, retype: Retype, **options: Any) -> Any:
    """`client.with_options(...)`: what it makes is guarded too."""
    own = options.pop("http_client", None)
    return _guarded(type(guarded).copy(guarded, **options), own or inner, wrapper, retype)


def _retries_after(status: int, headers: Mapping[str, str]) -> bool:
    retry_after_s = parse_retry_after(headers.get("retry-after"))
    if retry_after_s is not None and retry_after_s > RETRY_AFTER_S_MAX:
        return False
    asked_for = headers.get("x-should-retry")
    if asked_for in ("true", "false"):
        return asked_for == "true"
    return status in RETRIED_STATUSES or status >= 500


def _status_error(retype: Retype, make: Any, message: str, *, body: object, response: Any) -> Exception:
    made: Exception = make(message, body=body, response=response)
    error = response.extensions.get(ERROR)
    if isinstance(error, AIUsageBlockedError):
        return retype(error, made)
    return made if error is None else error
