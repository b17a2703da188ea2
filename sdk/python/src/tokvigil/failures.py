"""How a call ended that raised instead of answering, by its error or what caused it.

An application's own errors look like a provider's: they have a status, or a connection to its database was refused. So
only these say that the provider was not reached, or that it refused; after any other the call may have been answered.

| the error's class is of  | its status counts      | that no connection came about counts |
|--------------------------|------------------------|--------------------------------------|
| a provider's SDK         | always                 | always                               |
| an HTTP library          | if it names an AI call | unless it names another request      |
| the operating system     | -                      | if one of the above was caused by it |
| anything else            | never                  | never                                |

What TokVigil or a guarded client raises inside a guard is about another call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from traceback import walk_tb
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from tokvigil.blocked import ERROR
from tokvigil.decisions import CALL, call_of
from tokvigil.dialects.paths import use_of
from tokvigil.endings import Ending, ending_of_status
from tokvigil.errors import TokVigilError, causes_of, said_by

# By the modules of their errors.
GOOGLE = "google.genai"
PROVIDERS = (
    *("anthropic", "cerebras", "cohere", "fireworks", "groq", "litellm", "mistralai", "ollama", "openai"),
    *("together", "voyageai", GOOGLE),
)
HTTP_LIBRARIES = (
    *("aiohttp.client_exceptions", "botocore", "httpcore", "httpcore2", "httpx", "httpx2", "requests"),
    *("urllib.error", "urllib3"),
)
# What botocore's errors name if they are about a model of Bedrock.
BEDROCK_OPERATIONS = ("Converse", "ConverseStream", "InvokeModel", "InvokeModelWithResponseStream")
# Errors before a byte of the request was sent, by class name: of httpx and httpx2, aiohttp, urllib3, botocore, and the
# operating system.
NOT_REACHED_ERRORS = frozenset(
    {
        "ClientConnectorError",
        "ConnectError",
        "ConnectTimeout",
        "ConnectTimeoutError",
        "ConnectionRefusedError",
        "EndpointConnectionError",
        "NewConnectionError",
        "PoolTimeout",
        "ProxyError",
        "UnsupportedProtocol",
        "gaierror",
    }
)
ERRORS_MAX = 100
# With each attempt the SDKs of OpenAI and Anthropic say how many came before.
RETRY_COUNT_HEADER = "x-stainless-retry-count"
# What tells nobody that it has tried before, and after which statuses it tries, beside those from 500 on.
TRIES_AGAIN_UNSEEN = ("cohere",)
TRIED_AGAIN = frozenset({408, 409, 429})
# The variable in which a library's function counts its attempts.
ATTEMPTS = {"backoff": "tries", "botocore": "attempts"}


def ending_of_attempt(error: BaseException, call: object) -> Ending:
    """Of the request of a guarded client that is this call's.

    Hooks and transports of the application run behind the guard, some of them after the answer has come. What their
    errors are about is not this request.
    """
    cause = next((each for each in causes_of(error, _cause_of) if _is_of(each, HTTP_LIBRARIES)), None)
    if cause is None or call_of(said_by(cause, "request")) is not call:
        return Ending.UNANSWERED
    return _ending_named_by(cause, is_providers=True) or Ending.UNANSWERED


def ending_of_error(error: BaseException, before: BaseException | None = None) -> Ending:
    """Of a call that a guard is around; `before` is what was being handled when the guard began.

    What is refused now may have been answered at an attempt before: that shows in errors that were being handled, and
    in what libraries keep that try again by themselves.
    """
    endings = [_ending_of_failure(causes) for causes in _failures(error, before)]
    ending = endings[0] if error is not before else None
    return Ending.UNANSWERED if ending is None or Ending.UNANSWERED in endings else ending


def _failures(error: BaseException, before: BaseException | None) -> Iterator[list[BaseException]]:
    """The error with its causes, and so each one that was being handled when another was raised."""
    pending, seen = [error], {id(before)}
    while pending and len(seen) < ERRORS_MAX:
        causes = [cause for cause in causes_of(pending.pop(), _cause_of) if id(cause) not in seen]
        if causes:
            yield causes
        seen.update(map(id, causes))
        pending.extend(each.__context__ for each in causes if each.__context__ is not None)


def _ending_of_failure(causes: list[BaseException]) -> Ending | None:
    """None: it is not about a provider."""
    # Whether it is about a provider for certain, and whether it is about a request at all.
    is_providers = is_http = False
    for cause in causes:
        if _is_of_guarded_client(cause):
            return None
        if _is_of(cause, PROVIDERS) or said_by(cause, "operation_name") in BEDROCK_OPERATIONS:
            is_providers = is_http = True
        elif _is_of(cause, HTTP_LIBRARIES) and not is_providers:
            names_ai_call = _names_ai_call(cause)
            if names_ai_call is False:
                return None
            is_providers, is_http = names_ai_call is True, True
        ending = _ending_named_by(cause, is_providers=is_providers) if is_http else None
        if ending is not None:
            return Ending.UNANSWERED if any(map(_was_tried_before, causes)) else ending
    return Ending.UNANSWERED if is_http or _may_end_an_attempt(causes[0]) else None


def _may_end_an_attempt(error: BaseException) -> bool:
    """A cancellation, a time limit of the caller's, or one of several tasks that failed."""
    return not isinstance(error, Exception) or isinstance(error, TimeoutError | BaseExceptionGroup)


def _ending_named_by(error: BaseException, *, is_providers: bool) -> Ending | None:
    if not isinstance(error, OSError) and not _is_of(error, (*PROVIDERS, *HTTP_LIBRARIES)):
        return None
    status = _status_of(error) if is_providers else None
    if status is not None:
        return ending_of_status(status)
    is_unreached = any(base.__name__ in NOT_REACHED_ERRORS for base in type(error).__mro__)
    return Ending.NOT_REACHED if is_unreached else None


def _is_of(error: BaseException, modules: tuple[str, ...]) -> bool:
    names = [f"{base.__module__}." for base in type(error).__mro__]
    return any(name.startswith(f"{module}.") for name in names for module in modules)


def _request_of(error: BaseException) -> Any:
    return said_by(error, "request") or said_by(said_by(error, "response"), "request")


def _cause_of(error: BaseException) -> BaseException | None:
    """requests and urllib name no `__cause__`, and keep it as an argument; older versions of urllib3 as `reason`."""
    kept = (error.__cause__, *error.args, said_by(error, "reason"))
    return next((cause for cause in kept if isinstance(cause, BaseException)), None)


def _is_of_guarded_client(error: BaseException) -> bool:
    """Also of TokVigil itself. Such a client asks for its calls, and reports them, by itself: this is another call."""
    for message in (_request_of(error), said_by(error, "response")):
        extensions = said_by(message, "extensions")
        if isinstance(extensions, dict) and not extensions.keys().isdisjoint((CALL, ERROR)):
            return True
    return isinstance(error, TokVigilError)


def _names_ai_call(error: BaseException) -> bool | None:
    """Whether the request that an HTTP library's error is about is an AI call; None: it names none."""
    request = _request_of(error) or said_by(error, "request_info")
    url = said_by(request, "url") or said_by(error, "url")
    if url is None and isinstance(named := said_by(error, "kwargs"), dict):
        url = named.get("endpoint_url")
    if url is None:
        return None
    body = said_by(request, "content") or said_by(request, "body")
    if isinstance(body, str):
        body = body.encode("utf-8", "replace")
    with suppress(ValueError):
        return use_of(urlsplit(str(url)).path).runs_a_model or (
            isinstance(body, bytes) and b'"model"' in body
        )
    return None


def _status_of(error: BaseException) -> int | None:
    """Of the answer that an error is about: its response's, also where botocore keeps that, or its own. An error in the
    middle of an answer has no response, or one of success."""
    response = said_by(error, "response")
    if isinstance(response, dict):
        said = [_aws_metadata(error).get("HTTPStatusCode")]
    elif response is not None:
        said = [said_by(response, "status_code"), said_by(response, "status")]
    else:
        said = [said_by(error, "status_code"), said_by(error, "status")]
        said.append(said_by(error, "code") if _is_of(error, (GOOGLE,)) else None)
    return next((status for status in said if isinstance(status, int) and 400 <= status < 600), None)


def _aws_metadata(error: BaseException) -> Mapping[str, Any]:
    """Of an answer, as botocore keeps it."""
    response = said_by(error, "response")
    metadata = response.get("ResponseMetadata") if isinstance(response, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _was_tried_before(error: BaseException) -> bool:
    """Whether what raised it has tried before, as far as that can be seen."""
    headers = said_by(_request_of(error), "headers")
    if headers is not None and headers.get(RETRY_COUNT_HEADER, "0") != "0":
        return True
    status = _status_of(error)
    if _is_of(error, TRIES_AGAIN_UNSEEN) and status is not None:
        return status in TRIED_AGAIN or status >= 500
    # Of urllib3, which requests has inside.
    retries = said_by(said_by(said_by(error, "response"), "raw"), "retries")
    return bool(
        _aws_metadata(error).get("RetryAttempts")
        or said_by(retries, "history")
        or any(_has_tried_before(frame) for frame, _ in walk_tb(error.__traceback__))
    )


def _has_tried_before(frame: FrameType) -> bool:
    """Libraries that try again by themselves count that in a variable of a function."""
    module, variables = str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_locals
    if module == "urllib3":
        return bool(said_by(variables.get("retries"), "history"))
    if module == "tenacity":
        attempts = said_by(variables.get("retry_state"), "attempt_number")
    else:
        attempts = variables.get(ATTEMPTS.get(module, ""))
    return isinstance(attempts, int) and attempts > 1
