"""Anthropic's messages, from Anthropic, Azure, or Vertex and Bedrock, where the model stands in the path. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tokvigil.answered_model import model_of
from tokvigil.dialects.answers import Tally
from tokvigil.dialects.openai import BLOCKED_TYPE
from tokvigil.dialects.provider_call import ProviderCall
from tokvigil.json_values import mapping, mappings, positive, string
from tokvigil.message_reading import compact
from tokvigil.usage_reading import read_usage_block

CAP_NAME = "max_tokens"
THINKING_BUDGET_MIN = 1_024  # Anthropic refuses less
STREAMING_PATH = re.compile(r":streamrawpredict$|/invoke-with-response-stream$", re.IGNORECASE)
DELTA_TEXTS = ("text", "partial_json", "thinking")


class MessagesCall(ProviderCall):
    operation = "chat"
    seen_through_as = "messages"
    provider_by_format = "anthropic"
    cap_names: tuple[str, ...] = (CAP_NAME,)

    def refusal(self, message: str, code: str) -> Mapping[str, Any]:
        return {"type": "error", "error": {"type": BLOCKED_TYPE, "message": message, "code": code}}

    def _streams(self) -> bool:
        """On Bedrock and Vertex the path says so."""
        return super()._streams() or STREAMING_PATH.search(self._request.path) is not None

    def _cap_min(self) -> int:
        budget = self._thinking_budget()
        return self.cap_min if budget is None else min(budget, THINKING_BUDGET_MIN) + 1

    def _with_cap(self, cap: int, names: list[str]) -> Mapping[str, Any]:
        fields = super()._with_cap(cap, names)
        budget, own = self._thinking_budget(), self._cap
        if budget is None or budget < cap:
            return fields
        lower = max(THINKING_BUDGET_MIN, budget * cap // (own or budget + 1))
        return {**fields, "thinking": {**mapping(fields.get("thinking")), "budget_tokens": lower}}

    def _thinking_budget(self) -> int | None:
        """Of tokens that must be fewer than the cap. Interleaved thinking may have more in all, and its cap still holds
        for each answer."""
        thinking, own = mapping(self._fields.get("thinking")), self._cap
        budget = positive(thinking.get("budget_tokens")) if thinking.get("type") == "enabled" else None
        return None if budget is None or (own is not None and budget >= own) else budget

    def _tally(self) -> Tally:
        return MessagesTally(self)


class MessagesTally(Tally):
    """The input is said at the start, the output as a running total, both by counts that only grow."""

    def __init__(self, call: MessagesCall) -> None:
        super().__init__(call)
        self._usage: dict[str, Any] = {}

    def read_text(self, answer: Mapping[str, Any]) -> None:
        for block in mappings(answer.get("content")):
            self._add_block(block)

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        match event.get("type"):
            case "message_start":
                self._add_usage(mapping(event.get("message")).get("usage"))
            case "content_block_start":
                self._add_block(mapping(event.get("content_block")))
            case "content_block_delta":
                for text in DELTA_TEXTS:
                    self.add_text(string(mapping(event.get("delta")).get(text)))
            case "message_delta":
                self._add_usage(event.get("usage"))
                if mapping(event.get("delta")).get("stop_reason") is not None:
                    self.is_final = True
            case "message_stop":
                self.is_final = True
        return True

    def end(self) -> None:
        """A stream that an error cut ends like any other, so its own events decide."""
        self.is_final = self.is_final or not self._usage

    def _add_block(self, block: Mapping[str, Any]) -> None:
        if block.get("type") == "fallback":
            self.model = string(mapping(block.get("to")).get("model")) or self.model
        for name in ("text", "thinking", "name"):
            self.add_text(string(block.get(name)))
        if block.get("input"):
            self.add_text(compact(block["input"]))

    def _add_usage(self, usage: Any) -> None:
        for name, value in mapping(usage).items():
            known = self._usage.get(name)
            if isinstance(value, int | float) and isinstance(known, int | float):
                self._usage[name] = max(value, known)
            elif value is not None:
                self._usage[name] = value
        self.model = model_of({"usage": self._usage}) or self.model
        self.hear(read_usage_block(self._usage))
