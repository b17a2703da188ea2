"""How an AI call ended, and what it is charged for that: one rule for every style of call.

A request that may have reached the provider, and whose answer told no figures, is charged what it holds. It is charged
nothing only if it was demonstrably not reached, or refused. The provider's own figures win whenever they came.

| ending      | the provider's figures came | text of it was counted | nothing is known |
|-------------|-----------------------------|------------------------|------------------|
| NOT_SENT    | -                           | -                      | cancelled, 0     |
| NOT_REACHED | -                           | -                      | failed, 0        |
| REFUSED     | -                           | -                      | failed, 0        |
| UNANSWERED  | succeeded, the figures      | partial, the hold      | partial, the hold |
| CUT         | succeeded, the figures      | partial, the count     | partial, the hold |
| COMPLETE    | succeeded, the figures      | succeeded, the count   | partial, the hold |

Text is counted only if it shows every token that is billed: what a model reasons is not in it.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from tokvigil.blocked import AIUsageBlockedError
from tokvigil.checked import TOKENS_MAX
from tokvigil.errors import ConfigurationError
from tokvigil.models import COUNTS, Usage, UsageStatus, contradiction

NO_USAGE = Usage(input_tokens=0, output_tokens=0)

# Statuses by which a gateway says that the provider did not answer it: the request may have been worked on, and billed.
GATEWAY_STATUSES = frozenset({502, 504, 520, 524})
# Errors of HTTP libraries before a byte of the request was sent, by class name: httpx and httpx2, aiohttp, urllib3,
# botocore, and the operating system.
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
CAUSES_MAX = 20
# With each attempt the SDKs of OpenAI and Anthropic say how many came before.
RETRY_COUNT_HEADER = "x-stainless-retry-count"


class Ending(Enum):
    NOT_SENT = "it did not go out"
    NOT_REACHED = "no connection came about"
    REFUSED = "the provider answered with an error"
    UNANSWERED = "it went out, and no answer could be read"
    CUT = "its answer broke off, or nobody read on"
    COMPLETE = "its answer was read to the end"


class Charge(NamedTuple):
    status: UsageStatus
    usage: Usage


# Without the provider's figures: the status, and whether what was counted of the answer is charged.
_CHARGES: dict[Ending, tuple[UsageStatus, bool]] = {
    Ending.UNANSWERED: ("partial", False),
    Ending.CUT: ("partial", True),
    Ending.COMPLETE: ("succeeded", True),
}
_UNCHARGED: dict[Ending, UsageStatus] = {
    Ending.NOT_SENT: "cancelled",
    Ending.NOT_REACHED: "failed",
    Ending.REFUSED: "failed",
}


def charge(
    ending: Ending, *, hold: Usage, figures: Usage | None = None, counted: Usage | None = None
) -> Charge:
    """What is reported of a call. `hold` is what it may use at most, `figures` what the provider says that all of it
    used, `counted` what was used as far as its answer tells; None: nobody can tell."""
    if ending in _UNCHARGED:
        return Charge(_UNCHARGED[ending], NO_USAGE)
    if figures is not None and is_possible(figures):
        return Charge("succeeded", figures)
    status, counts = _CHARGES[ending]
    if counts and counted is not None and is_possible(counted):
        return Charge(status, counted)
    return Charge("partial", hold)


def is_possible(usage: Usage) -> bool:
    """Whether TokVigil takes such counts: of one call, and parts no larger than their totals."""
    counts = [getattr(usage, name) for name in COUNTS]
    return min(counts) >= 0 and max(counts) <= TOKENS_MAX and contradiction(usage) is None


def ending_of_status(status: int) -> Ending:
    """Of an answer with an error status."""
    return Ending.UNANSWERED if status in GATEWAY_STATUSES else Ending.REFUSED


def ending_of_error(error: BaseException, *, of_attempt: bool = False) -> Ending:
    """Of a call that raised instead of answering, by the error or what caused it (`raise ... from`).

    With `of_attempt` the error is about one request. Else a provider's SDK may have tried before, and nobody saw how
    that ended.
    """
    cause: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if cause is None:
            break
        ending = _ending_named_by(cause)
        if ending is not None:
            return ending if of_attempt or not _was_tried_before(cause) else Ending.UNANSWERED
        cause = cause.__cause__
    return Ending.UNANSWERED


def _ending_named_by(error: BaseException) -> Ending | None:
    if isinstance(error, AIUsageBlockedError | ConfigurationError):
        return Ending.NOT_SENT
    status = _status_of(error)
    if status is not None:
        return ending_of_status(status)
    if any(base.__name__ in NOT_REACHED_ERRORS for base in type(error).__mro__):
        return Ending.NOT_REACHED
    return None


def _status_of(error: BaseException) -> int | None:
    """Of the answer that an SDK's error is about: `status_code`, `response.status_code`, `code` of google-genai, or
    where botocore keeps it."""
    response = _said(error, "response")
    if isinstance(response, dict):
        metadata = response.get("ResponseMetadata")
        said = [metadata.get("HTTPStatusCode")] if isinstance(metadata, dict) else []
    else:
        said = [_said(error, "status_code"), _said(response, "status_code")]
        said.append(_said(error, "code") if isinstance(error, Exception) else None)
    return next((status for status in said if isinstance(status, int) and 400 <= status < 600), None)


def _was_tried_before(error: BaseException) -> bool:
    request = _said(error, "request") or _said(_said(error, "response"), "request")
    headers = _said(request, "headers")
    return headers is not None and headers.get(RETRY_COUNT_HEADER, "0") != "0"


def _said(source: Any, name: str) -> Any:
    """httpx raises for a request that an error does not have."""
    try:
        return getattr(source, name, None)
    except Exception:
        return None
