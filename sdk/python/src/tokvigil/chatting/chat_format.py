"""What every provider's chat format must do, and the parts of OpenAI's messages that the others translate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokvigil import json_values
from tokvigil.errors import ConfigurationError
from tokvigil.json_values import mapping, mappings, string

SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What the caller asks, in OpenAI's words. `options` are the provider's own."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    # Per answer; None: the caller set none.
    max_output_tokens: int | None
    streams: bool
    options: Mapping[str, Any]


class ChatFormat(ABC):
    """One provider's way to be asked and to answer. Answers may have any shape: reading them never fails."""

    base_url: str
    base_url_variable: str
    key_variables: tuple[str, ...]
    # The names under which an option may set the cap.
    cap_names: tuple[str, ...]

    @abstractmethod
    def url(self, base_url: str, model: str, *, streams: bool) -> str: ...

    @abstractmethod
    def headers(self, api_key: str | None) -> Mapping[str, str]: ...

    @abstractmethod
    def body(self, conversation: Conversation) -> Mapping[str, Any]:
        """Raises `ConfigurationError` for messages that the format cannot say."""

    def is_answer(self, answer: Mapping[str, Any]) -> bool:
        """Whether it is an answer of the model. Some servers say 200 and send an error."""
        return answer.get("error") is None and self._has_answer(answer)

    @abstractmethod
    def _has_answer(self, answer: Mapping[str, Any]) -> bool:
        """Whether something stands where the model's answer does."""

    @abstractmethod
    def text(self, answer: Mapping[str, Any]) -> str:
        """The text of the first answer; "" if it has none, as when it calls a tool."""

    @abstractmethod
    def text_delta(self, event: Mapping[str, Any]) -> str:
        """What one event of a stream adds to that text."""

    @abstractmethod
    def finish_reason(self, answer: Mapping[str, Any]) -> str | None:
        """Why the model stopped, in the provider's words; of an answer, or of the event that says it."""

    @abstractmethod
    def model_name(self, answer: Mapping[str, Any]) -> str | None:
        """The model that answered."""


def with_options(fields: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The body: the options beside what was made of the conversation.

    Raises `ConfigurationError` for an option that would replace some of that.
    """
    twice = sorted(fields.keys() & options.keys())
    if twice:
        raise ConfigurationError(
            f"given twice, by an argument of chat() and as an option: {', '.join(twice)}"
        )
    return {**fields, **options}


def parts_of(content: Any) -> list[Mapping[str, Any]]:
    """The parts of a message's content, of which a text is one. Empty texts, which some refuse, are none."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else mappings(content)
    return [part for part in parts if part.get("type") != "text" or part.get("text")]


def system_parts_of(messages: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The parts of all system messages, which others than OpenAI take beside the conversation."""
    return [
        part
        for message in messages
        if message.get("role") in SYSTEM_ROLES
        for part in parts_of(message.get("content"))
    ]


def is_function(tool: Mapping[str, Any]) -> bool:
    """Whether a tool is written as OpenAI does. Any other is the provider's own, and goes to it as it is."""
    return tool.get("type") == "function" and isinstance(tool.get("function"), dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What an assistant's message called."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    # What a provider wants back with it, if it came through OpenAI's format.
    extra: Mapping[str, Any]


def tool_calls_of(message: Mapping[str, Any]) -> list[ToolCall]:
    """Raises `ConfigurationError` for arguments that are no JSON object: only OpenAI takes those back."""
    calls = []
    for call in mappings(message.get("tool_calls")):
        function = mapping(call.get("function"))
        name, written = string(function.get("name")), string(function.get("arguments"))
        arguments = json_values.parse_object(written or "{}")
        if arguments is None:
            raise ConfigurationError(f"the arguments of the call to {name!r} are no JSON object")
        calls.append(
            ToolCall(
                id=string(call.get("id")),
                name=name,
                arguments=arguments,
                extra=mapping(call.get("extra_content")),
            )
        )
    return calls


def data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 of a data URL; None for any other."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    return head.removeprefix("data:").split(";")[0], data


def image_url_of(part: Mapping[str, Any]) -> str | None:
    """The address of a part that is an image, also if it is written short."""
    if part.get("type") != "image_url":
        return None
    image = part.get("image_url")
    return image if isinstance(image, str) else string(mapping(image).get("url"))


def first(items: Any) -> Mapping[str, Any]:
    """The first object of a list, or none."""
    return next(iter(mappings(items)), {})


def text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
