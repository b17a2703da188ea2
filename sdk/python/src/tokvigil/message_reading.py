"""What of a chat's messages the model reads, in OpenAI's and in Anthropic's shape. Pure; nothing is counted here.

Messages and their parts are dicts, or a provider SDK's own objects, whose fields `model_dump` gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokvigil.errors import ConfigurationError

# Longer ASCII without a single space is a file in base64, not something a model reads as text.
FILE_CHARS_MIN = 1_000

# The text of a part, or parts inside it.
TEXT_FIELDS = ("text", "refusal", "thinking", "name", "title", "content")
ATTACHMENT_TYPES = frozenset({"image", "audio", "video", "document", "file"})
ATTACHMENT_FIELDS = frozenset(
    {"image_url", "input_audio", "audio", "video_url", "file", "file_id", "file_data", "file_url"}
)
# Of a part that nobody described here: what is no text for the model.
PASSED_OVER = frozenset(
    {"type", "id", "tool_use_id", "cache_control", "signature", "data", "encrypted_content"}
)


class Attachment:
    """A picture, sound, document or file: its provider counts it by its size."""


ATTACHMENT = Attachment()


def read_messages(messages: Iterable[Any]) -> list[Mapping[str, Any]]:
    """The fields of each message. Raises `ConfigurationError` for what are no messages."""
    if isinstance(messages, Iterable) and not isinstance(messages, str | bytes | Mapping):
        read = [fields(message) for message in messages]
        if None not in read:
            return [message for message in read if message is not None]
    raise ConfigurationError("messages are dicts, as OpenAI takes them")


def fields(value: Any) -> Mapping[str, Any] | None:
    """What a dict or a provider SDK's object says, without the fields that are None; None for anything else."""
    if not isinstance(value, Mapping) and hasattr(value, "model_dump") and not isinstance(value, type):
        value = value.model_dump()
    if not isinstance(value, Mapping):
        return None
    return {name: said for name, said in value.items() if said is not None}


def pieces_of_message(message: Mapping[str, Any]) -> Iterator[str | Attachment]:
    for name, value in message.items():
        if name == "content":
            yield from pieces_of_content(value)
        elif name == "audio":
            yield ATTACHMENT
        elif isinstance(value, list | tuple):
            yield from map(compact, value)
        else:
            yield from _text_or_json(value)


def pieces_of_content(content: Any) -> Iterator[str | Attachment]:
    """Of a text, or of parts: texts, tools' calls and results, documents, pictures."""
    if isinstance(content, list | tuple):
        for part in content:
            yield from pieces_of_content(part)
    elif (part := fields(content)) is not None:
        yield from _pieces_of_part(part)
    else:
        yield from _text_or_json(content)


def pieces_of_any(value: Any) -> Iterator[str | Attachment]:
    """All strings anywhere in a value of unknown shape; files among them are attachments."""
    if isinstance(value, str):
        yield ATTACHMENT if is_file(value) else value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from pieces_of_any(item)
    elif isinstance(value, Mapping):
        yield from pieces_of_any(list(value.values()))


def compact(value: Any) -> str:
    """JSON as models get to see it: of a tool, or of its call."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)


def is_file(text: str) -> bool:
    return text.startswith("data:") or (len(text) >= FILE_CHARS_MIN and text.isascii() and " " not in text)


def _pieces_of_part(part: Mapping[str, Any]) -> Iterator[str | Attachment]:
    source = part.get("source")
    if isinstance(source, Mapping) and source.get("type") in ("text", "content"):
        yield from pieces_of_content(source.get("data"))
        yield from pieces_of_content(source.get("content"))
    elif isinstance(source, Mapping) or _is_attachment(part):
        yield ATTACHMENT
    elif part.keys().isdisjoint((*TEXT_FIELDS, "input")):
        yield from pieces_of_any({name: part[name] for name in part if name not in PASSED_OVER})
    for name in TEXT_FIELDS:
        yield from pieces_of_content(part.get(name))
    if part.get("input"):
        yield from _text_or_json(part["input"])


def _is_attachment(part: Mapping[str, Any]) -> bool:
    return str(part.get("type")) in ATTACHMENT_TYPES or not ATTACHMENT_FIELDS.isdisjoint(part)


def _text_or_json(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif value is not None and value != {}:
        yield compact(value)


def _plain(value: Any) -> Any:
    read = fields(value)
    return str(value) if read is None else read
