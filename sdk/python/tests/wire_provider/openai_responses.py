"""OpenAI's responses: items instead of choices, and a stream of named events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .content import calls_tool, example, pieces, text_for
from .exchange import Answer, Stream, event, require, require_at_least
from .openai_figures import CREATED, USAGE, snapshot

OUTPUT_TOKENS_MIN = 16  # OpenAI takes no smaller cap here
REASONING = {"id": "rs_1", "type": "reasoning", "summary": []}
Event = dict[str, Any]


def answer(body: Mapping[str, Any], on_azure: bool) -> Answer | Stream:
    require(body, "input")
    require_at_least(body, "max_output_tokens", OUTPUT_TOKENS_MIN)
    if not body.get("stream"):
        return Answer(_finished(body))
    events = [{**data, "sequence_number": number} for number, data in enumerate(_events(body))]
    return Stream([event(data, data["type"]) for data in events])


def _events(body: Mapping[str, Any]) -> Iterator[Event]:
    under_way = _response(body, "in_progress", [], None)
    yield {"type": "response.created", "response": under_way}
    yield {"type": "response.in_progress", "response": under_way}
    yield {"type": "response.output_item.added", "output_index": 0, "item": REASONING}
    yield {"type": "response.output_item.done", "output_index": 0, "item": REASONING}
    item = _item(body)
    yield from _message_events(item) if item["type"] == "message" else _call_events(item)
    yield {"type": "response.output_item.done", "output_index": 1, "item": item}
    yield {"type": "response.completed", "response": _finished(body)}


def _message_events(item: Mapping[str, Any]) -> Iterator[Event]:
    (part,) = item["content"]
    place = {"item_id": item["id"], "output_index": 1, "content_index": 0}
    begun = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 1, "item": begun}
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


def _call_events(item: Mapping[str, Any]) -> Iterator[Event]:
    place = {"item_id": item["id"], "output_index": 1}
    begun = {**item, "status": "in_progress", "arguments": ""}
    yield {"type": "response.output_item.added", "output_index": 1, "item": begun}
    for piece in pieces(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield {"type": "response.function_call_arguments.done", **place, **done}


def _item(body: Mapping[str, Any]) -> dict[str, Any]:
    if calls_tool(body.get("tools"), body["input"]):
        tool = body["tools"][0]
        arguments = json.dumps(example(tool.get("parameters") or {}))
        call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "status": "completed"}
        return {**call, "name": tool["name"], "arguments": arguments}
    format_ = (body.get("text") or {}).get("format") or {}
    part = {"type": "output_text", "text": text_for(format_.get("schema")), "annotations": [], "logprobs": []}
    return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}


def _finished(body: Mapping[str, Any]) -> dict[str, Any]:
    return _response(body, "completed", [REASONING, _item(body)], _usage())


def _response(body: Mapping[str, Any], status: str, output: list[Any], usage: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": {},
        "model": snapshot(body["model"]),
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
    }


def _usage() -> dict[str, Any]:
    return {
        "input_tokens": USAGE.input_tokens,
        "input_tokens_details": {"cached_tokens": USAGE.cached_input_tokens, "cache_write_tokens": 0},
        "output_tokens": USAGE.output_tokens,
        "output_tokens_details": {"reasoning_tokens": USAGE.reasoning_tokens},
        "total_tokens": USAGE.input_tokens + USAGE.output_tokens,
    }
