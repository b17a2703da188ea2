"""The HTTP request of one chat."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tokvigil import checked
from tokvigil.chatting import anthropic_format, google_format, openai_format
from tokvigil.chatting.answer import Answer
from tokvigil.chatting.conversation import Conversation
from tokvigil.credentials import clean_key
from tokvigil.dialects import paths
from tokvigil.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """How one provider is asked: its public address, the variables that hold another one and the key, its header for
    the key, and how the rest is written and read."""

    base_url: str
    base_url_variable: str
    key_variables: tuple[str, ...]
    key_header: tuple[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    url: Callable[[str, str, bool], str]
    body: Callable[[Conversation], Mapping[str, Any]]
    answer: type[Answer]


# By the names that callers give.
FORMATS: Mapping[str, ChatFormat] = {
    "openai": ChatFormat(
        base_url="https://api.openai.com/v1",
        base_url_variable="OPENAI_BASE_URL",
        key_variables=("OPENAI_API_KEY",),
        key_header=("Authorization", "Bearer "),
        url=openai_format.url,
        body=openai_format.body,
        answer=openai_format.OpenAIAnswer,
    ),
    "anthropic": ChatFormat(
        base_url="https://api.anthropic.com",
        base_url_variable="ANTHROPIC_BASE_URL",
        key_variables=("ANTHROPIC_API_KEY",),
        key_header=("x-api-key", ""),
        headers={"anthropic-version": "2023-06-01"},
        url=anthropic_format.url,
        body=anthropic_format.body,
        answer=anthropic_format.AnthropicAnswer,
    ),
    "google": ChatFormat(
        base_url="https://generativelanguage.googleapis.com",
        base_url_variable="GOOGLE_GEMINI_BASE_URL",
        # The one that is surely for Gemini first.
        key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        key_header=("x-goog-api-key", ""),
        url=google_format.url,
        body=google_format.body,
        answer=google_format.GoogleAnswer,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A POST to the provider, whose answer `format` reads. The key is in the headers alone. `lacks_key`: it is for the
    provider's public address, and has none."""

    format: ChatFormat
    model: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    lacks_key: bool

    @classmethod
    def build(
        cls,
        *,
        model: str,
        messages: Iterable[Mapping[str, Any]],
        max_output_tokens: int | None = None,
        tools: Iterable[Mapping[str, Any]] | None = None,
        stream: bool = False,
        provider: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ChatRequest:
        """Without a provider: a `base_url` is OpenAI-compatible, else the model's name decides, else OpenAI.

        Without `base_url` and `api_key` the provider's own environment variables count, then its public address.
        `options` go to the provider as they are, without those that are None. Raises `ConfigurationError` for what
        cannot work, before anything is held or spent.
        """
        model = checked.model(model)
        format_ = _format(provider, model, base_url)
        conversation = Conversation(
            model=model,
            messages=_objects("messages", messages),
            tools=_objects("tools", tools or ()),
            max_output_tokens=max_output_tokens,
            streams=stream,
            options={name: value for name, value in (options or {}).items() if value is not None},
        )
        headers = {"Content-Type": "application/json", **format_.headers}
        key = clean_key(api_key or next(filter(None, map(os.environ.get, format_.key_variables)), None))
        if key is not None:  # a server of one's own may need none
            name, prefix = format_.key_header
            headers[name] = prefix + key
        address = (
            (base_url or os.environ.get(format_.base_url_variable) or format_.base_url).strip().rstrip("/")
        )
        return cls(
            format=format_,
            model=model,
            url=_url(format_, address, model, stream),
            headers=headers,
            body=_written(format_.body(conversation)),
            lacks_key=key is None and address == format_.base_url,
        )


def _format(provider: str | None, model: str, base_url: str | None) -> ChatFormat:
    if provider is None:
        makers = {"claude": "anthropic", "gemini": "google"}
        by_model = (maker for name, maker in makers.items() if model.lower().startswith(name))
        provider = "openai" if base_url is not None else next(by_model, "openai")
    if provider not in FORMATS:
        raise ConfigurationError(
            f"provider is one of {', '.join(FORMATS)}; for an OpenAI-compatible endpoint pass its address"
        )
    return FORMATS[provider]


def _objects(name: str, values: Iterable[Any]) -> list[Mapping[str, Any]]:
    objects = list(values)
    if not all(isinstance(value, dict) for value in objects):
        raise ConfigurationError(f"{name} are dicts, as OpenAI takes them")
    return objects


def _url(format_: ChatFormat, base_url: str, model: str, streams: bool) -> str:
    if not base_url.startswith(("http://", "https://")):
        raise ConfigurationError("the provider's address must begin with http:// or https://")
    url = format_.url(base_url, model, streams)
    # The guard asks only for what it knows as an AI call, and nothing else may go out.
    use = paths.use_of(urlsplit(url).path)
    if use.format is None or not use.runs_a_model:
        raise ConfigurationError(
            "the provider's address and the model's name do not make the address of a chat"
        )
    return url


def _written(fields: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(fields, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the request cannot be written as JSON: {error}") from None
