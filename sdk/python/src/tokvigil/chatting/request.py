"""The HTTP request of one chat."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokvigil.chatting.chat_format import ChatFormat, Conversation
from tokvigil.chatting.formats import FORMATS
from tokvigil.credentials import clean_key
from tokvigil.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A POST to the provider, whose answer `format` reads. The key is in the headers alone."""

    format: ChatFormat
    model: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @classmethod
    def build(
        cls,
        *,
        provider: str | None = None,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        max_output_tokens: int | None = None,
        tools: Iterable[Mapping[str, Any]] | None = None,
        stream: bool = False,
        options: Mapping[str, Any] | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> ChatRequest:
        """Without a provider: a `base_url` is OpenAI-compatible, else the model's name decides, else OpenAI.

        Without `base_url` and `api_key` the provider's own environment variables hold, then its public
        address. `options` go to the provider as they are. Raises `ConfigurationError` for what cannot work,
        before anything is held or spent.
        """
        format_ = _format(provider, model, base_url)
        options = _without_empty_caps(format_, options or {})
        conversation = Conversation(
            model=model,
            messages=_objects("messages", messages),
            tools=_objects("tools", tools or ()),
            max_output_tokens=max_output_tokens,
            streams=stream,
            options=options,
        )
        _check_cap_is_given_once(format_, max_output_tokens, options)
        return cls(
            format=format_,
            model=model,
            url=format_.url(_base_url(format_, base_url, environment), model, streams=stream),
            headers={
                "Content-Type": "application/json",
                **format_.headers(_key(format_, api_key, environment)),
            },
            body=_written(format_.body(conversation)),
        )


def _format(provider: str | None, model: str, base_url: str | None) -> ChatFormat:
    if provider is None:
        provider = "openai" if base_url is not None else _provider_by_model(model.lower())
    if provider not in FORMATS:
        raise ConfigurationError(
            f"provider is one of {', '.join(FORMATS)}; of an OpenAI-compatible endpoint pass the address"
        )
    return FORMATS[provider]


def _provider_by_model(model: str) -> str:
    if model.startswith("claude"):
        return "anthropic"
    return "google" if model.startswith("gemini") else "openai"


def _without_empty_caps(format_: ChatFormat, options: Mapping[str, Any]) -> dict[str, Any]:
    """A cap of None is one that was not given, as a provider's SDK has it too."""
    return {
        name: value for name, value in options.items() if value is not None or name not in format_.cap_names
    }


def _check_cap_is_given_once(
    format_: ChatFormat, max_output_tokens: int | None, options: Mapping[str, Any]
) -> None:
    given = [name for name in format_.cap_names if name in options]
    if len(given) + (max_output_tokens is not None) > 1:
        raise ConfigurationError(f"give one of max_output_tokens, {', '.join(format_.cap_names)}")


def _objects(name: str, values: Iterable[Any]) -> list[Mapping[str, Any]]:
    objects = list(values)
    if not all(isinstance(value, dict) for value in objects):
        raise ConfigurationError(f"{name} are dicts, as OpenAI takes them")
    return objects


def _base_url(format_: ChatFormat, base_url: str | None, environment: Mapping[str, str]) -> str:
    url = (base_url or environment.get(format_.base_url_variable) or format_.base_url).strip().rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"the provider's address is no http(s) address: {url!r}")
    return url


def _key(format_: ChatFormat, api_key: str | None, environment: Mapping[str, str]) -> str | None:
    in_environment = (environment.get(name) for name in format_.key_variables)
    return clean_key(api_key or next(filter(None, in_environment), None))


def _written(fields: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(fields, ensure_ascii=True, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the request cannot be written as JSON: {error}") from None
