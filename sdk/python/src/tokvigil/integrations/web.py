"""What the web frameworks have in common: who a request is for, and how a block is answered."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

from tokvigil.attribution import AskedLater, Attribution
from tokvigil.blocked import block_behind
from tokvigil.errors import ConfigurationError

logger = logging.getLogger("tokvigil")


def contexts(**fields: Any) -> Callable[[Any], AskedLater]:
    """Gives the context of a request. Each field of an attribution is a value, or a function of the request.

    The functions are called when the request makes its first AI call, not when the request begins. So it does not
    matter whether authentication runs before or after this, and a request without an AI call costs nothing.
    """
    for name, field in fields.items():
        if inspect.iscoroutinefunction(field):
            raise ConfigurationError(f"{name} is an async function, and an AI call cannot wait for it")

    def ask(request: Any) -> Attribution:
        said = {name: field(request) if callable(field) else field for name, field in fields.items()}
        return Attribution(**said)

    return lambda request: AskedLater(partial(ask, request))


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def answer_to(error: BaseException) -> Answer | None:
    """The answer to a request that ended with this error, if it is a block or was raised because of one; else None.

    A block that passes with time is a 429, any other a 403; the body is a problem (RFC 9457).
    """
    block = block_behind(error)
    if block is None:
        return None
    if block is not error:
        # No text of either: it may name the user.
        logger.info("a %s was answered as the block behind it", type(error).__name__)
    status = block.http_status
    body = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": block.reason_code,
        "detail": block.message,
    }
    headers = {"Content-Type": "application/problem+json", **block.http_headers}
    return Answer(status, headers, json.dumps(body).encode())
