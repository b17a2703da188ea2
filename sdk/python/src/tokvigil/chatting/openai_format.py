"""OpenAI's chat completions, which every compatible server takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokvigil.chatting.answer import CARRIED, Answer
from tokvigil.chatting.conversation import Conversation, with_options
from tokvigil.dialects.openai import CAP_NAMES, cap_name
from tokvigil.errors import ConfigurationError
from tokvigil.json_values import mapping, mappings, string

# What a stream delivers in pieces. Any other field comes whole, and some servers repeat it in each event.
TEXTS_IN_PIECES = frozenset(
    {"arguments", "content", "input", "reasoning", "reasoning_content", "refusal", "text"}
)
LISTS_IN_PIECES = frozenset({"tool_calls", "reasoning_details"})
OBJECTS_IN_PIECES = frozenset({"function", "custom"})


class OpenAIAnswer(Answer):
    """Its message goes back as the server said it, with what compatible servers add of their own."""

    reasons = {"function_call": "tool_calls", "model_length": "length"}

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, Any] = {}

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        calls = []
        for number, said in enumerate(mappings(self._said.get("tool_calls"))):
            function = mapping(said.get("function"))
            call = self._call(number, said.get("id"), function.get("name"), function.get("arguments"))
            own = {name: value for name, value in said.items() if name != "index"}
            calls.append(own | call if function else own)
        return calls

    @property
    def message(self) -> dict[str, Any]:
        calls = self.tool_calls
        said = {"role": "assistant", "content": None if calls else ""} | self._said
        return said | ({"tool_calls": calls} if calls else {})

    def _take(self, said: Mapping[str, Any]) -> str:
        choices = said.get("choices")
        self.is_answer = self.is_answer or isinstance(choices, list)
        choice = next((one for one in mappings(choices) if one.get("index") in (None, 0)), {})
        self._note(id_=said.get("id"), model=said.get("model"), reason=choice.get("finish_reason"))
        added = mapping(choice.get("message"))
        if added:
            self._said = dict(added)
        else:
            added = mapping(choice.get("delta"))
            _grow(self._said, added)
        content = added.get("content")
        # Mistral's reasoning models answer in parts.
        return string(content) or "".join(string(part.get("text")) for part in mappings(content))


def url(base_url: str, model: str, streams: bool) -> str:
    return f"{base_url}/chat/completions"


def body(asked: Conversation) -> Mapping[str, Any]:
    messages = [{name: said for name, said in one.items() if name != CARRIED} for one in asked.messages]
    fields: dict[str, Any] = {"model": asked.model, "messages": messages}
    if asked.tools:
        fields["tools"] = asked.tools
    if asked.streams:
        fields["stream"] = True
    caps = [name for name in CAP_NAMES if name in asked.options]
    if asked.max_output_tokens is not None:
        fields[cap_name(asked.model)] = asked.max_output_tokens
        caps.append("max_output_tokens")
    if len(caps) > 1:
        raise ConfigurationError(f"give one of {', '.join(caps)}")
    return with_options(fields, asked.options)


def _grow(said: dict[str, Any], delta: Mapping[str, Any], levels: int = 2) -> None:
    """Add what one event of a stream says: to the message, to its calls, to their functions."""
    for name, value in delta.items():
        known = said.get(name)
        if isinstance(value, str) and name in TEXTS_IN_PIECES:
            said[name] = string(known) + value
        elif levels and isinstance(value, dict) and name in OBJECTS_IN_PIECES:
            said[name] = dict(mapping(known))
            _grow(said[name], value, levels - 1)
        elif levels and isinstance(value, list) and name in LISTS_IN_PIECES:
            said[name] = entries = [dict(entry) for entry in mappings(known)]
            for item in mappings(value):
                _grow(_entry(entries, item), item, levels - 1)
        elif isinstance(value, list):
            said[name] = (known if isinstance(known, list) else []) + value
        elif value not in (None, "") or known is None:
            said[name] = value


def _entry(entries: list[dict[str, Any]], item: Mapping[str, Any]) -> dict[str, Any]:
    """The entry that an item goes on with: the last with its number. A new id begins a new entry."""
    of_number = [one for one in entries if item.get("index") in (None, one.get("index"))]
    if not of_number or item.get("id") not in (None, "", of_number[-1].get("id")):
        of_number = [{}]
        entries += of_number
    return of_number[-1]
