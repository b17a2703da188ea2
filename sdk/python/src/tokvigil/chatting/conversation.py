"""What a chat asks, in OpenAI's form, and how the formats of other providers read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokvigil.errors import ConfigurationError
from tokvigil.json_values import mapping, mappings, parse_object, string

SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """`options` are the provider's own, in its words."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    # Per answer; None: the caller set none.
    max_output_tokens: int | None
    streams: bool
    options: Mapping[str, Any]

    def turns(self) -> list[Mapping[str, Any]]:
        """The messages without those of the system."""
        return [message for message in self.messages if message.get("role") not in SYSTEM_ROLES]

    def system_parts(self) -> list[Mapping[str, Any]]:
        """The parts of all system messages, which Anthropic and Google take beside the conversation."""
        return [part for said in self.messages if said.get("role") in SYSTEM_ROLES for part in parts_of(said)]


class ToolCall(NamedTuple):
    """A call in an assistant's message, with its arguments as an object."""

    id: str
    name: str
    arguments: Mapping[str, Any]


def tool_calls_of(message: Mapping[str, Any]) -> list[ToolCall]:
    """Raises `ConfigurationError` for arguments that are not a JSON object: only OpenAI takes those back."""
    calls = []
    for call in mappings(message.get("tool_calls")):
        function = mapping(call.get("function"))
        name, arguments = string(function.get("name")), string(function.get("arguments"))
        read = parse_object(arguments or "{}")
        if read is None:
            raise ConfigurationError(f"the arguments of the call to {name!r} are not a JSON object")
        calls.append(ToolCall(string(call.get("id")), name, read))
    return calls


def parts_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a message's content. A plain text is one part; empty texts, which some refuse, are left out."""
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else mappings(content)
    return [part for part in parts if part.get("type") != "text" or part.get("text")]


def image_of(part: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Address, media type and base64 of an image; the last two are "" unless the address has the data in it.

    None for any other part. OpenAI takes the address as an object or as a plain text.
    """
    if part.get("type") != "image_url":
        return None
    image = part.get("image_url")
    url = image if isinstance(image, str) else string(mapping(image).get("url"))
    head, _, data = url.partition(",")
    is_data = head.startswith("data:") and head.endswith(";base64")
    return (url, head.removeprefix("data:").split(";")[0], data) if is_data else (url, "", "")


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The function of a tool in OpenAI's form. None: the tool is the provider's own, and goes to it as it is."""
    function = tool.get("function")
    return function if tool.get("type") == "function" and isinstance(function, dict) else None


def merged(turns: Iterable[tuple[str, Iterable[Any]]], name: str) -> list[dict[str, Any]]:
    """Role and parts of each message, as turns with the parts under this name.

    Neighbours of one role become one turn: the results of a turn's calls belong together. Empty ones are left out.
    """
    found: list[dict[str, Any]] = []
    for role, parts in turns:
        if found and found[-1]["role"] == role:
            found[-1][name] += parts
        elif parts:
            found.append({"role": role, name: list(parts)})
    return found


def with_options(fields: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Both together. Raises `ConfigurationError` for an option that an argument of chat() has already set."""
    twice = sorted(fields.keys() & options.keys())
    if twice:
        raise ConfigurationError(
            f"given twice, by an argument of chat() and as an option: {', '.join(twice)}"
        )
    return {**fields, **options}
