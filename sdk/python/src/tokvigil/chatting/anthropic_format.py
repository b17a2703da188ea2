"""Anthropic's messages, out of OpenAI's.

System messages move to `system`. Calls of tools and their results become blocks, the results in the turn of
the user. Neighbouring messages of one role become one turn, as Anthropic wants all results in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokvigil.chatting.chat_format import (
    SYSTEM_ROLES,
    ChatFormat,
    Conversation,
    data_url,
    image_url_of,
    is_function,
    parts_of,
    system_parts_of,
    text_or_none,
    tool_calls_of,
    with_options,
)
from tokvigil.dialects.anthropic import CAP_NAME
from tokvigil.estimating import OUTPUT_TOKENS_WITHOUT_CAP
from tokvigil.json_values import mapping, mappings, positive, string

API_VERSION = "2023-06-01"
# Anthropic takes no request without a cap. What stands here is also what TokVigil is asked for and holds, and
# its decision can lower it but never raise it: a high default would hold budgets that nobody uses and block
# others, a low one cuts answers short (they say so: their finish reason is "max_tokens"). So it is what
# TokVigil holds for a call without a cap. Who needs longer answers says max_output_tokens.
OUTPUT_TOKENS_DEFAULT = OUTPUT_TOKENS_WITHOUT_CAP


class AnthropicFormat(ChatFormat):
    base_url = "https://api.anthropic.com"
    base_url_variable = "ANTHROPIC_BASE_URL"
    key_variables = ("ANTHROPIC_API_KEY",)
    cap_names = (CAP_NAME,)

    def url(self, base_url: str, model: str, *, streams: bool) -> str:
        return f"{base_url.removesuffix('/v1')}/v1/messages"

    def headers(self, api_key: str | None) -> Mapping[str, str]:
        version = {"anthropic-version": API_VERSION}
        return version if api_key is None else version | {"x-api-key": api_key}

    def body(self, conversation: Conversation) -> Mapping[str, Any]:
        fields: dict[str, Any] = {"model": conversation.model, "messages": _turns(conversation.messages)}
        if CAP_NAME not in conversation.options:
            cap = conversation.max_output_tokens
            fields[CAP_NAME] = _default_cap(conversation.options) if cap is None else cap
        system = [_block(part) for part in system_parts_of(conversation.messages)]
        if system:
            fields["system"] = system
        if conversation.tools:
            fields["tools"] = [_tool(tool) for tool in conversation.tools]
        if conversation.streams:
            fields["stream"] = True
        return with_options(fields, conversation.options)

    def _has_answer(self, answer: Mapping[str, Any]) -> bool:
        return isinstance(answer.get("content"), list)

    def text(self, answer: Mapping[str, Any]) -> str:
        blocks = mappings(answer.get("content"))
        return "".join(string(block.get("text")) for block in blocks if block.get("type") == "text")

    def text_delta(self, event: Mapping[str, Any]) -> str:
        is_delta = event.get("type") == "content_block_delta"
        return string(mapping(event.get("delta")).get("text")) if is_delta else ""

    def finish_reason(self, answer: Mapping[str, Any]) -> str | None:
        said_by = answer if "stop_reason" in answer else mapping(answer.get("delta"))
        return text_or_none(said_by.get("stop_reason"))

    def model_name(self, answer: Mapping[str, Any]) -> str | None:
        return text_or_none(answer.get("model"))


def _default_cap(options: Mapping[str, Any]) -> int:
    """Thinking is part of the output: the default is what may come after it."""
    return (positive(mapping(options.get("thinking")).get("budget_tokens")) or 0) + OUTPUT_TOKENS_DEFAULT


def _turns(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.get("role") in SYSTEM_ROLES:
            continue
        role = "assistant" if message.get("role") == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = [_block(part) for part in parts_of(message.get("content"))]
    if message.get("role") == "tool":
        id_of_call = string(message.get("tool_call_id"))
        return [{"type": "tool_result", "tool_use_id": id_of_call, "content": content}]
    return content + [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in tool_calls_of(message)
    ]


def _block(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part as Anthropic has it. One that is not OpenAI's is Anthropic's own."""
    url = image_url_of(part)
    if url is None:
        return dict(part)
    data = data_url(url)
    if data is None:
        return {"type": "image", "source": {"type": "url", "url": url}}
    return {"type": "image", "source": {"type": "base64", "media_type": data[0], "data": data[1]}}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if not is_function(tool):
        return dict(tool)
    function = tool["function"]
    described = {"description": function["description"]} if "description" in function else {}
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {"name": function.get("name"), **described, "input_schema": schema}
