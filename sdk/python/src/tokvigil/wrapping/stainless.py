"""Clients of `openai`, `anthropic` and `groq`, sync and async, on all their platforms.

They are generated from one template, and share what is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from tokvigil.blocked import ERROR, AIUsageBlockedError
from tokvigil.dialects.recognising import SIGNED_BY_AWS
from tokvigil.wrapping import versions
from tokvigil.wrapping.blocked import blocked_as
from tokvigil.wrapping.http import SIGN
from tokvigil.wrapping.wrapper import Wrapper

# Those that are not here are subclasses of these.
CLASSES = frozenset(
    {
        ("openai", "OpenAI"),
        ("openai", "AsyncOpenAI"),
        ("anthropic", "Anthropic"),
        ("anthropic", "AsyncAnthropic"),
        ("anthropic", "AnthropicBedrock"),
        ("anthropic", "AsyncAnthropicBedrock"),
        ("anthropic", "AnthropicBedrockMantle"),
        ("anthropic", "AsyncAnthropicBedrockMantle"),
        ("anthropic", "AnthropicVertex"),
        ("anthropic", "AsyncAnthropicVertex"),
        ("groq", "Groq"),
        ("groq", "AsyncGroq"),
    }
)
NEEDED = ("_client", "_prepare_request", "_make_status_error", "copy")
Retype = Callable[[AIUsageBlockedError, Exception], Exception]


def is_one(client: Any) -> bool:
    return _package(client) is not None


def _package(client: Any) -> str | None:
    kinds = ((base.__module__.partition(".")[0], base.__name__) for base in type(client).__mro__)
    return next((kind[0] for kind in kinds if kind in CLASSES), None)


def wrap(client: Any, wrapper: Wrapper, retype: Retype | None = None) -> Any:
    """A copy of the client, of the same class and with the same options, whose AI calls pass the gate.

    A block is raised as what `retype` makes of it and of the SDK's own error: an error of both classes, if nothing is
    said. Raises `ConfigurationError` if the SDK is not as this knows it.
    """
    versions.check(client, _package(client) or "", NEEDED)
    return _guarded(client, client._client, wrapper, retype or blocked_as)


def _guarded(client: Any, inner: Any, wrapper: Wrapper, retype: Retype) -> Any:
    """`inner` is the HTTP client without a guard."""
    guarded = type(client).copy(client, http_client=wrapper.guarded_http(inner))
    # The SDK's own copy forgets it.
    guarded._strict_response_validation = getattr(client, "_strict_response_validation", False)
    _sign_behind_the_guard(guarded)
    guarded._make_status_error = partial(_status_error, retype, guarded._make_status_error)
    guarded.copy = guarded.with_options = partial(_copy, guarded, inner, wrapper, retype)
    return guarded


def _sign_behind_the_guard(client: Any) -> None:
    """A client of AWS signs each request with its body: behind the guard, which may write a cap into it."""
    sign = client._prepare_request

    def prepare(request: Any) -> None:
        if request.headers.get("authorization", "").startswith(SIGNED_BY_AWS):
            del request.headers["authorization"]
            request.extensions[SIGN] = sign

    def prepared(request: Any) -> None:
        # Here already, so that missing keys are the error that they are without a guard.
        sign(request)
        prepare(request)

    async def prepared_async(request: Any) -> None:
        await sign(request)
        prepare(request)

    client._prepare_request = prepared_async if iscoroutinefunction(sign) else prepared


def _copy(guarded: Any, inner: Any, wrapper: Wrapper, retype: Retype, **options: Any) -> Any:
    """`client.with_options(...)`: what it makes is guarded too."""
    own = options.pop("http_client", None)
    return _guarded(type(guarded).copy(guarded, **options), own or inner, wrapper, retype)


def _status_error(retype: Retype, make: Any, message: str, *, body: object, response: Any) -> Exception:
    made: Exception = make(message, body=body, response=response)
    error = response.extensions.get(ERROR)
    if isinstance(error, AIUsageBlockedError):
        return retype(error, made)
    return made if error is None else error
