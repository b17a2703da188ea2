"""Which request is an AI call, of which kind, and of which model. Pure.

On a path that can bill, a request is an AI call or is refused: what cannot be read is not let through unseen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from tokvigil import bodies, json_values
from tokvigil.bodies import Body
from tokvigil.dialects import paths
from tokvigil.dialects.anthropic import MessagesCall
from tokvigil.dialects.generic import FORM, CohereChatCall, FormCall, read_form
from tokvigil.dialects.paths import Use
from tokvigil.dialects.provider_call import ProviderCall, Request
from tokvigil.dialects.providers import provider_of
from tokvigil.errors import ConfigurationError
from tokvigil.json_values import mapping, string

logger = logging.getLogger("tokvigil")

# The model of a call that names none: the provider's default, or that of an agent. It has no price, so that
# policies decide by their `unknown_price`.
UNSPECIFIED = "unspecified"

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
# A request that names one of these runs its model, on a path that nobody knows.
_RUNNERS = ("agent", "agent_id", "assistant_id")
# How Google writes the name of a model that does not stand in the path.
_GOOGLE_RESOURCES = ("models/", "projects/")
# A body signed by AWS must arrive as it was signed.
SIGNED_BY_AWS = "AWS4-"

# What was said in the log; a path may have ids in it.
_said: set[str] = set()
SAID_MAX = 100

_UNREADABLE = "the request's {} cannot be read, so its cost cannot be limited: send {}"


def read_call(
    method: str, url_path: str, host: str, headers: Mapping[str, str], body: bytes
) -> ProviderCall | None:
    """The AI call that a request is; None for any other request.

    One that names no model is an AI call too, on a path that is known to run one.

    `url_path` may have a query. Raises `ConfigurationError` for an AI call that cannot be settled: one that
    is billed later, or whose body cannot be read.
    """
    if method.upper() not in _WITH_BODY:
        return None
    raw_path, _, query = url_path.partition("?")
    path = paths.normalized(raw_path)
    _check_can_be_settled(path)
    use = paths.use_of(path)
    if use is None:
        return None
    named = {name.lower(): value for name, value in headers.items()}
    if named.get("content-encoding", "identity") != "identity":
        raise ConfigurationError("the request's body is compressed: send it as it is, so that it can be read")
    is_form = named.get("content-type", "").lower().startswith(FORM)
    read = _read(use, named["content-type"] if is_form else None, body)
    model = None if read is None else _model(path, read.fields, use)
    provider = provider_of(host)
    if read is None or model is None:
        if provider is not None:
            _say_once(
                f"{method.upper()} {path} of {provider} is not known as an AI call, so it is not limited"
            )
        return None
    fields = read.fields
    if paths.may_run_in_the_background(path):
        _check_is_billed_now(fields)
    return (FormCall if is_form else _format(use, path, provider, fields))(
        Request(
            provider=provider,
            model=model,
            path=path,
            query=query,
            body=read,
            is_signed=named.get("authorization", "").startswith(SIGNED_BY_AWS),
        )
    )


def _say_once(message: str) -> None:
    if message not in _said and len(_said) < SAID_MAX:
        _said.add(message)
        logger.warning(message)


def may_be_call(method: str, url_path: str) -> bool:
    """Whether the body of a request must be read: an upload, whatever is in it, is no AI call."""
    path = paths.normalized(url_path.partition("?")[0])
    is_written = method.upper() in _WITH_BODY
    return is_written and (paths.use_of(path) is not None or paths.billed_later(path) is not None)


def unread_call(url_path: str, body: bytes) -> ProviderCall:
    """An AI call of which nothing is known."""
    return FormCall(
        Request(
            provider=None,
            model=UNSPECIFIED,
            path=url_path,
            query="",
            body=Body(body, {}, {}),
            is_signed=True,
        )
    )


def _format(use: Use, path: str, provider: str | None, fields: Mapping[str, Any]) -> type[ProviderCall]:
    """Of a body in JSON."""
    if paths.takes_the_makers_format(path) and "anthropic_version" in fields:
        return MessagesCall
    if provider == "cohere" and path.endswith("/chat"):
        return CohereChatCall
    return use.format


def _check_can_be_settled(path: str) -> None:
    later = paths.billed_later(path)
    if later is not None:
        what, instead = later
        raise ConfigurationError(
            f"{what} is billed later, when nobody is there to report it: {instead}make it with a client that "
            "is not wrapped"
        )


def _check_is_billed_now(fields: Mapping[str, Any]) -> None:
    if json_values.is_true(fields.get("background")) and fields.get("stream") is not True:
        raise ConfigurationError(
            "what runs in the background is billed later, when nobody is there to report it: stream it, leave "
            "out `background`, or make it with a client that is not wrapped"
        )


def _read(use: Use, form_type: str | None, body: bytes) -> Body | None:
    """What the body says; None for what is neither JSON nor a form, on a path that nobody knows."""
    if form_type is not None:
        fields = read_form(form_type, body) if use.takes_forms else None
        read = None if fields is None else Body(body, fields, {})
    else:
        read = bodies.read(body) if body.strip() else Body(body, {}, {})
    is_meant_to_be_read = form_type is not None or body.lstrip(json_values.BLANK).startswith(b"{")
    if read is None and (use.runs_a_model or is_meant_to_be_read):
        is_form = form_type is not None and use.takes_forms
        wanted = "a form with boundary and CRLF" if is_form else "one JSON object in UTF-8"
        raise ConfigurationError(_UNREADABLE.format("body", wanted))
    return read


def _model(path: str, fields: Mapping[str, Any], use: Use) -> str | None:
    """The path's where it says what runs, else the body's, else Azure's deployment; None: none is run."""
    in_path = paths.model_in(path)
    if in_path:
        return in_path
    named = fields.get("model")
    # Some say more than the name: `{"id": ..., "speed": ...}`.
    in_body = string(mapping(named).get("id", named)).strip() or paths.deployment_in(path)
    if in_body:
        return in_body.rpartition("models/")[2] if in_body.startswith(_GOOGLE_RESOURCES) else in_body
    if named is not None:
        raise ConfigurationError(_UNREADABLE.format("`model`", "its name as a string"))
    runs = use.runs_a_model or any(fields.get(name) is not None for name in _RUNNERS)
    return UNSPECIFIED if runs else None
