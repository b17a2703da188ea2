"""Which request is an AI call, of which kind, and of which model. Pure.

On a path that is known to run a model, what cannot be read is refused, not let through unseen; on any other only at a
provider.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tokvigil import bodies, json_values, prices
from tokvigil.bodies import Body
from tokvigil.dialects import paths
from tokvigil.dialects.anthropic import MessagesCall
from tokvigil.dialects.generic import FORM, CohereChatCall, GenericCall, read_form
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
# What an AI call's body says that it is, if it says so.
_JSON_OR_FORM = re.compile(rf"\bjson\b|^{FORM}", re.IGNORECASE)
# A request that names one of these runs its model, on a path that nobody knows.
_RUNNERS = ("agent", "agent_id", "assistant_id")
# What OpenAI keeps of a conversation.
_NOTES = frozenset({"metadata"})
# How Google writes the name of a model that does not stand in the path.
_GOOGLE_RESOURCES = ("models/", "projects/")
# A body signed by AWS must arrive as it was signed.
SIGNED_BY_AWS = "AWS4-"

# Whatever it costs, and since when.
_EVER = datetime.max.replace(tzinfo=UTC)

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
    use = paths.use_of(raw_path)
    if use.billed_later is not None:
        raise _is_billed_later(*use.billed_later)
    if use.format is None:
        return None
    named = {name.lower(): value for name, value in headers.items()}
    kind = named.get("content-type", "")
    provider = provider_of(host)
    must_be_read = use.runs_a_model or (provider is not None and (not kind or _is_json_or_form(kind)))
    if named.get("content-encoding", "identity") != "identity":
        if must_be_read:
            raise ConfigurationError(
                "the request's body is compressed: send it as it is, so that it can be read"
            )
        return None
    is_form = kind.lower().startswith(FORM)
    read = _read(use, kind if is_form else None, body, must_be_read=must_be_read)
    model = None if read is None else _model(use, read.fields, must_be_read=must_be_read)
    if read is None or model is None:
        if provider is not None:
            _say_once(
                f"{method.upper()} {use.path} of {provider} is not known as an AI call, so it is not limited"
            )
        return None
    fields = read.fields
    call_format = use.format
    if use.takes_the_makers_format and "anthropic_version" in fields:
        call_format = MessagesCall
    elif provider == "cohere" and use.path.endswith("/chat"):
        call_format = CohereChatCall
    _check_is_billed_now(use, fields)
    return call_format(
        Request(
            provider=provider,
            model=model,
            path=use.path,
            query=query,
            body=read,
            is_signed=named.get("authorization", "").startswith(SIGNED_BY_AWS),
        )
    )


def _say_once(message: str) -> None:
    if message not in _said and len(_said) < SAID_MAX:
        _said.add(message)
        logger.warning(message)


def may_be_call(method: str, url_path: str, content_type: str, *, is_in_memory: bool) -> bool:
    """Whether the body of a request must be read: an upload, whatever is in it, is no AI call."""
    if method.upper() not in _WITH_BODY:
        return False
    use = paths.use_of(url_path.partition("?")[0])
    if use.format is None or use.billed_later is not None:
        return use.billed_later is not None
    return use.runs_a_model or is_in_memory or _is_json_or_form(content_type)


def _is_json_or_form(content_type: str) -> bool:
    return _JSON_OR_FORM.search(content_type) is not None


def unread_call(url_path: str, body: bytes) -> ProviderCall:
    """An AI call of which nothing is known."""
    return GenericCall(
        Request(
            provider=None,
            model=UNSPECIFIED,
            path=url_path,
            query="",
            body=Body(body, {}, {}),
            is_signed=True,
        )
    )


def _is_billed_later(what: str, instead: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} is billed later, when nobody is there to report it: {instead}make it with a client that is not wrapped"
    )


def _check_is_billed_now(use: Use, fields: Mapping[str, Any]) -> None:
    is_streamed = fields.get("stream") is True
    if use.runs_an_assistant and not is_streamed:
        raise _is_billed_later("a run of an assistant", "stream it, or ")
    if not use.may_run_in_the_background:
        return
    if json_values.is_true(fields.get("background")) and not is_streamed:
        raise _is_billed_later("what runs in the background", "stream it, leave out `background`, or ")
    if json_values.is_true(fields.get("deferred")):
        raise _is_billed_later("a deferred answer", "leave out `deferred`, or ")


def _read(use: Use, form_type: str | None, body: bytes, *, must_be_read: bool) -> Body | None:
    """What the body says; None for what cannot be read, where that is nothing to refuse."""
    if form_type is not None:
        fields = read_form(form_type, body) if use.takes_forms else None
        read = None if fields is None else Body(body, fields, {})
    else:
        read = bodies.read(body) if body.strip() else Body(body, {}, {})
    is_meant_to_be_read = form_type is not None or body.lstrip(json_values.BLANK).startswith(b"{")
    if read is None and must_be_read and (use.runs_a_model or is_meant_to_be_read):
        is_form = form_type is not None and use.takes_forms
        wanted = "a form with boundary and CRLF" if is_form else "one JSON object in UTF-8"
        raise ConfigurationError(_UNREADABLE.format("body", wanted))
    return read


def _model(use: Use, fields: Mapping[str, Any], *, must_be_read: bool) -> str | None:
    """The path's where it says what runs, else the body's; None: none is run.

    Azure runs the deployment of the path, whatever the body says. A deployment may have any name: it is the model if
    the price book knows it as one, or if the body names none.
    """
    if use.model:
        return use.model
    named = fields.get("model")
    # Some say more than the name: `{"id": ..., "speed": ...}`.
    in_body = string(mapping(named).get("id", named)).strip()
    if use.deployment and (not in_body or _names_another_model(use.deployment, in_body)):
        return use.deployment
    if in_body:
        return in_body.rpartition("models/")[2] if in_body.startswith(_GOOGLE_RESOURCES) else in_body
    if named is not None and must_be_read:
        raise ConfigurationError(_UNREADABLE.format("`model`", "its name as a string"))
    runs = use.runs_a_model and not (use.may_take_notes and fields.keys() <= _NOTES)
    runs = runs or any(fields.get(name) is not None for name in ("model", *_RUNNERS))
    return UNSPECIFIED if runs else None


def _names_another_model(deployment: str, in_body: str) -> bool:
    return deployment.lower() != in_body.lower() and prices.find(deployment, _EVER) is not None
