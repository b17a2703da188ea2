"""Clients of `google-genai`, which hold a sync and an async HTTP client and many parts that share one API client."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection
from typing import Any

from tokvigil.errors import AIUsageBlockedError, ConfigurationError, TokVigilError
from tokvigil.wrapping.blocked import blocked_as
from tokvigil.wrapping.gate import Retrying
from tokvigil.wrapping.http import REFUSAL_STATUS
from tokvigil.wrapping.wrapper import Wrapper

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
RETRIED_ERRORS = frozenset({"TimeoutException", "ConnectError"})  # of the HTTP library
# Clients of newer endpoints, with the HTTP client in many places; the client makes them when they are first used.
MADE_WHEN_USED = "google.genai._gaos."


def is_one(client: Any) -> bool:
    return any(
        base.__module__.startswith("google.genai.") and base.__name__ == "Client"
        for base in type(client).__mro__
    )


def wrap(client: Any, wrapper: Wrapper) -> Any:
    """A copy of the client, of the same class and with the same options, whose AI calls pass the gate."""
    api = client._api_client
    if api._httpx_client is None or api._async_httpx_client is None:
        raise ConfigurationError("this google-genai client does not send through httpx: it cannot be guarded")
    guarded_api = copy.copy(api)
    retrying = Retrying(
        attempts_max=lambda: _attempts_max(api),
        after_status=lambda status, headers: status in _retried_statuses(api),
        after_error=_is_retried,
    )
    sync, asynchronous = (
        wrapper.guarded_http(inner, retrying, _as_client_error)
        for inner in (api._httpx_client, api._async_httpx_client)
    )
    guarded_api._httpx_client, guarded_api._async_httpx_client = sync, asynchronous
    # Said in the options too, so that neither aiohttp nor a session of google-auth is taken instead.
    guarded_api._http_options = api._http_options.model_copy(
        update={"httpx_client": sync, "httpx_async_client": asynchronous}
    )
    guarded = _rebound(client, api, guarded_api)
    # The client closes its connections when it is collected, and the guarded one uses them.
    guarded._tokvigil_wraps = client
    return guarded


def _as_client_error(error: TokVigilError) -> Exception:
    """google-genai does not try again after an exception of the transport that it does not know."""
    if not isinstance(error, AIUsageBlockedError):
        return error
    body = {"error": {"code": REFUSAL_STATUS, "status": error.reason_code, "message": error.message}}
    return blocked_as(error, sys.modules["google.genai.errors"].ClientError(REFUSAL_STATUS, body))


def _attempts_max(api: Any) -> int:
    options = api._http_options.retry_options
    return 1 if options is None else int(options.attempts or 5)


def _retried_statuses(api: Any) -> Collection[int]:
    options = api._http_options.retry_options
    return (options and options.http_status_codes) or RETRIED_STATUSES


def _is_retried(error: Exception) -> bool:
    return any(base.__name__ in RETRIED_ERRORS for base in type(error).__mro__)


def _rebound(part: Any, api: Any, guarded_api: Any) -> Any:
    """A copy in which the part and its own parts use the guarded API client."""
    rebound = copy.copy(part)
    for name, value in vars(part).items():
        if value is api:
            setattr(rebound, name, guarded_api)
        elif type(value).__module__.startswith(MADE_WHEN_USED):
            setattr(rebound, name, None)
        elif any(held is api for held in getattr(value, "__dict__", {}).values()):
            setattr(rebound, name, _rebound(value, api, guarded_api))
    return rebound
