"""Clients of `google-genai`, which hold a sync and an async HTTP client and many parts that share one API client."""

from __future__ import annotations

import copy
import sys
from functools import partial
from typing import Any

from tokvigil.attribution import begun_here
from tokvigil.blocked import AIUsageBlockedError
from tokvigil.errors import ConfigurationError, TokVigilError
from tokvigil.wrapping import versions
from tokvigil.wrapping.blocked import blocked_as
from tokvigil.wrapping.http import REFUSAL_STATUS, RaisedAs, is_http_client
from tokvigil.wrapping.wrapper import Wrapper

# Clients of newer endpoints, with the HTTP client in many places; the client makes them when they are first used.
MADE_WHEN_USED = "google.genai._gaos."
CLIENTS = ("_httpx_client", "_async_httpx_client")
NEEDED = (
    *(
        f"_api_client.{name}"
        for name in (*CLIENTS, "_http_options.httpx_client", "_http_options.httpx_async_client")
    ),
    "_models.generate_content_stream",
    "_aio._models.generate_content_stream",
)


def is_one(client: Any) -> bool:
    return any(
        base.__module__.startswith("google.genai.") and base.__name__ == "Client"
        for base in type(client).__mro__
    )


def wrap(client: Any, wrapper: Wrapper, raised_as: RaisedAs | None = None) -> Any:
    """A copy of the client, of the same class and with the same options, whose AI calls pass the gate.

    A block is raised as what `raised_as` makes of it: the SDK's own error, if nothing is said.
    """
    versions.check(client, "google-genai", NEEDED)
    api = client._api_client
    if api._httpx_client is None or api._async_httpx_client is None:
        raise ConfigurationError("this google-genai client does not send through httpx: it cannot be guarded")
    for name, value in vars(api).items():
        if name not in CLIENTS:
            _check_is_no_http_client(client, value)
    guarded_api = copy.copy(api)
    sync, asynchronous = (
        wrapper.guarded_http(inner, raised_as or _as_client_error)
        for inner in (api._httpx_client, api._async_httpx_client)
    )
    guarded_api._httpx_client, guarded_api._async_httpx_client = sync, asynchronous
    # Said in the options too, so that neither aiohttp nor a session of google-auth is taken instead.
    guarded_api._http_options = api._http_options.model_copy(
        update={"httpx_client": sync, "httpx_async_client": asynchronous}
    )
    guarded = _rebound(client, api, guarded_api)
    for models in (guarded._models, guarded._aio._models):
        # Of its class: a client that is wrapped again has the method of the first wrapping on it.
        models.generate_content_stream = begun_here(partial(type(models).generate_content_stream, models))
    # The client closes its connections when it is collected, and the guarded one uses them.
    guarded._tokvigil_wraps = client
    return guarded


def _as_client_error(error: TokVigilError) -> Exception:
    """google-genai does not try again after an exception of the transport that it does not know."""
    if not isinstance(error, AIUsageBlockedError):
        return error
    body = {"error": {"code": REFUSAL_STATUS, "status": error.reason_code, "message": error.message}}
    return blocked_as(error, sys.modules["google.genai.errors"].ClientError(REFUSAL_STATUS, body))


def _rebound(part: Any, api: Any, guarded_api: Any) -> Any:
    """A copy in which the part and its own parts use the guarded API client."""
    rebound = copy.copy(part)
    for name, value in vars(part).items():
        held = getattr(value, "__dict__", {}).values()
        if value is api:
            setattr(rebound, name, guarded_api)
        elif type(value).__module__.startswith(MADE_WHEN_USED):
            setattr(rebound, name, None)
        elif any(each is api for each in held):
            setattr(rebound, name, _rebound(value, api, guarded_api))
        else:
            for each in (value, *held):
                _check_is_no_http_client(part, each)
    return rebound


def _check_is_no_http_client(part: Any, value: Any) -> None:
    """What this does not know would send unasked."""
    if is_http_client(value):
        raise ConfigurationError(
            f"this google-genai {type(part).__name__} holds an HTTP client that wrap does not know, a"
            f" {type(value).__qualname__}, so it cannot be guarded: update tokvigil, or put tv.guard(...) around its"
            " calls"
        )
