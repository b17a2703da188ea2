"""Anthropic's messages, out of OpenAI's and back.

System messages move to `system`. Calls of tools and their results become blocks, the results in the turn of the user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokvigil.chatting.answer import PartsAnswer
from tokvigil.chatting.conversation import (
    Conversation,
    function_of,
    image_of,
    merged,
    parts_of,
    tool_calls_of,
    with_options,
)
from tokvigil.dialects.anthropic import CAP_NAME
from tokvigil.estimating import OUTPUT_TOKENS_WITHOUT_CAP
from tokvigil.json_values import mapping, mappings, parse_object, positive, string

# Anthropic takes no request without a cap, and TokVigil holds what the cap allows. So the default is what TokVigil
# holds for a call without one: more would hold budgets that nobody uses. A longer answer is cut there ("length").
OUTPUT_TOKENS_DEFAULT = OUTPUT_TOKENS_WITHOUT_CAP
# What OpenAI's form says too.
PLAIN = {"text": {"type", "text"}, "tool_use": {"type", "id", "name", "input"}}


class AnthropicAnswer(PartsAnswer):
    provider = "anthropic"
    reasons = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        called = [block for block in self.parts if block.get("type") == "tool_use"]
        return [
            self._call(n, said.get("id"), said.get("name"), said.get("input"))
            for n, said in enumerate(called)
        ]

    def _take(self, said: Mapping[str, Any]) -> str:
        delta = mapping(said.get("delta"))
        # A stream begins with the message as it would be whole, but empty.
        message = mapping(said.get("message")) or said
        reason = message.get("stop_reason") or delta.get("stop_reason")
        self._note(id_=message.get("id"), model=message.get("model"), reason=reason)
        if said.get("type") in ("content_block_delta", "content_block_stop"):
            return self._grow(delta, is_last=said["type"] == "content_block_stop")
        block = said.get("content_block")
        blocks = message.get("content") if block is None else [block]
        self.is_answer = self.is_answer or isinstance(blocks, list)
        return self.add(mappings(blocks))

    def add(self, parts: Iterable[Mapping[str, Any]]) -> str:
        added = [dict(part) for part in parts]
        self.parts += added
        return "".join(string(part.get("text")) for part in added if part.get("type") == "text")

    def _grow(self, delta: Mapping[str, Any], is_last: bool) -> str:
        """Blocks come one after the other: a delta belongs to the last one."""
        block = self.parts[-1] if self.parts else {}
        for name in ("text", "thinking", "signature"):
            if isinstance(delta.get(name), str):
                block[name] = string(block.get(name)) + delta[name]
        if "citation" in delta:
            block["citations"] = [*mappings(block.get("citations")), delta["citation"]]
        if "partial_json" in delta:
            # A text until the block ends.
            block["input"] = string(block.get("input")) + string(delta["partial_json"])
        if is_last and isinstance(block.get("input"), str):
            read = parse_object(block["input"] or "{}")
            block["input"] = block["input"] if read is None else read
        return string(delta.get("text"))

    def _is_plain(self, part: Mapping[str, Any]) -> bool:
        said = {name for name, value in part.items() if value is not None}
        return said <= PLAIN.get(string(part.get("type")), set())


def url(base_url: str, model: str, streams: bool) -> str:
    return f"{base_url.removesuffix('/v1')}/v1/messages"


def body(asked: Conversation) -> Mapping[str, Any]:
    turns = merged(map(_turn, asked.turns()), "content")
    fields: dict[str, Any] = {"model": asked.model, "messages": turns}
    if asked.max_output_tokens is not None:
        fields[CAP_NAME] = asked.max_output_tokens
    elif CAP_NAME not in asked.options:
        # Thinking is part of the output: the default is what may come after it.
        budget = positive(mapping(asked.options.get("thinking")).get("budget_tokens")) or 0
        fields[CAP_NAME] = budget + OUTPUT_TOKENS_DEFAULT
    system = [_block(part) for part in asked.system_parts()]
    if system:
        fields["system"] = system
    if asked.tools:
        fields["tools"] = [_tool(tool) for tool in asked.tools]
    if asked.streams:
        fields["stream"] = True
    return with_options(fields, asked.options)


def _turn(message: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    content: list[Mapping[str, Any]] = [_block(part) for part in parts_of(message)]
    if message.get("role") == "tool":
        call_id = string(message.get("tool_call_id"))
        return "user", [{"type": "tool_result", "tool_use_id": call_id, "content": content}]
    calls = tool_calls_of(message)
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in calls
    ]
    role = "assistant" if message.get("role") == "assistant" else "user"
    return role, AnthropicAnswer.carried_by(message, calls) or content


def _block(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part as Anthropic has it. One that is not OpenAI's is Anthropic's own."""
    image = image_of(part)
    if image is None:
        return part
    url, kind, data = image
    by_url = {"type": "url", "url": url}
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": kind, "data": data} if data else by_url,
    }


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = function_of(tool)
    if function is None:
        return tool
    described = {"description": function["description"]} if "description" in function else {}
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {"name": function.get("name"), **described, "input_schema": schema}
