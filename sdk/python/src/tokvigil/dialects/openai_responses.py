"""OpenAI's responses. Pure.

What the model reads beyond the body, `previous_response_id` or a stored `prompt`, cannot be counted here; the
answer's usage contains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokvigil.dialects.answers import Tally
from tokvigil.dialects.openai import OpenAICall
from tokvigil.dialects.prompt import Prompt
from tokvigil.json_values import mapping, mappings, positive, string
from tokvigil.usage_reading import read_usage

CAP_NAME = "max_output_tokens"
# OpenAI refuses a lower cap.
CAP_MIN = 16
LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})
# Sound in base64; its transcript comes as text beside it.
SOUND_EVENT = "response.audio.delta"
# What stands in an item for the model to read, beside its content.
TEXTS_OF_ITEMS = ("name", "arguments", "input", "code")


class ResponsesCall(OpenAICall):
    def _cap(self) -> int | None:
        return positive(self._fields.get(CAP_NAME))

    def _cap_min(self) -> int:
        return CAP_MIN

    def _with_cap(self, cap: int) -> Mapping[str, Any]:
        return {**self._fields, CAP_NAME: cap}

    def _tally(self) -> Tally:
        return ResponsesTally(self)

    def _count_input(self) -> int:
        prompt = Prompt()
        prompt.add_message()
        prompt.add_text(self._fields.get("instructions"))
        prompt.add_text(self._fields.get("input"))
        for item in mappings(self._fields.get("input")):
            prompt.add_message()
            _add_item(prompt, item)
        for tool in mappings(self._fields.get("tools")):
            prompt.add_json(tool)
        prompt.add_json(mapping(mapping(self._fields.get("text")).get("format")).get("schema"))
        return prompt.count(self.model)


class CompactCall(ResponsesCall):
    """`/responses/compact`: a model shortens a conversation, and bills for it. It takes no cap."""

    def _cap(self) -> int | None:
        return None

    def _with_cap(self, cap: int) -> Mapping[str, Any]:
        return self._fields


class ResponsesTally(Tally):
    def read_answer(self, answer: Mapping[str, Any]) -> None:
        self.said = read_usage(answer)
        for item in mappings(answer.get("output")):
            for name in TEXTS_OF_ITEMS:
                self.add_text(string(item.get(name)))
            for part in mappings(item.get("content")) + mappings(item.get("summary")):
                self.add_text(string(part.get("text")) or string(part.get("refusal")))

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        kind = string(event.get("type"))
        if kind in LAST_EVENTS:
            self.said = read_usage(event.get("response")) or self.said
            self.end()
        elif kind.endswith(".delta") and kind != SOUND_EVENT:
            self.add_text(string(event.get("delta")))
        return True


def _add_item(prompt: Prompt, item: Mapping[str, Any]) -> None:
    """A message, a tool's call or its output."""
    for name in TEXTS_OF_ITEMS:
        prompt.add_text(item.get(name))
    for name in ("content", "output", "summary"):
        prompt.add_text(item.get(name))
        for part in mappings(item.get(name)):
            text = part.get("text", part.get("refusal"))
            if isinstance(text, str):
                prompt.add_text(text)
            else:
                prompt.add_attachment()
