"""OpenAI's responses. Pure.

What the model reads beyond the body, `previous_response_id` or a stored `prompt`, cannot be counted here; the
answer's usage contains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokvigil.dialects.answers import Tally
from tokvigil.dialects.openai import OpenAICall
from tokvigil.json_values import mappings, string
from tokvigil.message_reading import Reading
from tokvigil.usage_reading import read_usage

CAP_NAME = "max_output_tokens"
FAILED_EVENT = "response.failed"
LAST_EVENTS = frozenset({"response.completed", "response.incomplete", FAILED_EVENT})
# Sound in base64; its transcript comes as text beside it.
SOUND_EVENT = "response.audio.delta"
# What stands in an item for the model to read, beside its content.
TEXTS_OF_ITEMS = ("name", "arguments", "input", "code")


class ResponsesCall(OpenAICall):
    operation = "chat"
    seen_through_as = "responses"
    # It bounds what a model reasons, too.
    cap_names: tuple[str, ...] = (CAP_NAME,)
    cap_min = 16

    def _tally(self) -> Tally:
        return ResponsesTally(self)

    def _read(self) -> Reading:
        reading = super()._read()
        # A text alone is the message of a user, and instructions are a message before it.
        reading.messages += sum(isinstance(self._fields.get(name), str) for name in ("input", "instructions"))
        return reading


class CompactCall(ResponsesCall):
    """`/responses/compact`: a model shortens a conversation, and bills for it. It takes no cap."""

    cap_names = ()


class ResponsesTally(Tally):
    def read_text(self, answer: Mapping[str, Any]) -> None:
        for item in mappings(answer.get("output")):
            for name in TEXTS_OF_ITEMS:
                self.add_text(string(item.get(name)))
            for part in mappings(item.get("content")) + mappings(item.get("summary")):
                self.add_text(string(part.get("text")) or string(part.get("refusal")))

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        kind = string(event.get("type"))
        if kind in LAST_EVENTS:
            self._has_failed = self._has_failed or kind == FAILED_EVENT
            self.hear(read_usage(event.get("response")))
            self.end()
        elif kind.endswith(".delta") and kind != SOUND_EVENT:
            self.add_text(string(event.get("delta")))
        return True
