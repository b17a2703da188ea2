"""Anthropic's messages, from Anthropic, Amazon Bedrock and Google's Vertex."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from tokvigil import Usage

from . import aws_events
from .content import TEXT, THOUGHT, calls_tool, example, pieces, text_for
from .exchange import Answer, Refused, Seen, Stream, event, require, require_at_least

__all__ = ["TEXT", "THINKING_USAGE", "THOUGHT", "USAGE", "answer", "error", "headers", "stream_error"]

USAGE = Usage(input_tokens=1_200, output_tokens=90, cached_input_tokens=1_024, cache_write_tokens=64)
# Of a request that asks for thinking.
THINKING_USAGE = Usage(
    input_tokens=1_200,
    output_tokens=90,
    cached_input_tokens=1_024,
    cache_write_tokens=64,
    reasoning_tokens=40,
)
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
Block = dict[str, Any]
# The clouds name the model in the path.
HOSTED = re.compile(
    r"/model/(?P<bedrock>.+)/invoke(?P<bedrock_streams>-with-response-stream)?"
    r"|/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/(?P<vertex>[^/:]+):(?:streamR|r)awPredict"
)


def headers(request_id: str) -> Mapping[str, str]:
    return {"request-id": request_id, "anthropic-organization-id": "org-1"}


def answer(seen: Seen) -> Answer | Stream:
    hosted = HOSTED.fullmatch(seen.path)
    if hosted is not None:
        return _answer_of_cloud(seen, hosted)
    if seen.method != "POST" or seen.path not in ("/v1/messages", "/v1/messages/count_tokens"):
        raise Refused(404, "Not found")
    if not (seen.headers.get("x-api-key") or seen.headers.get("authorization")):
        raise Refused(401, "x-api-key header is required")
    if "anthropic-version" not in seen.headers:
        raise Refused(400, "anthropic-version: header is required")
    require(seen.body, "model", "messages")
    if seen.path.endswith("/count_tokens"):
        return Answer({"input_tokens": USAGE.input_tokens})
    return _answer(seen.body)


def _answer(body: Mapping[str, Any]) -> Answer | Stream:
    _check_cap(body)
    _check_history(body)
    if body.get("stream"):
        return Stream([event(data, data["type"]) for data in _events(body)])
    return Answer(_message(body, _blocks(body), _stop_reason(body), _usage(body)))


def _answer_of_cloud(seen: Seen, hosted: re.Match[str]) -> Answer | Stream:
    if not seen.headers.get("authorization"):
        raise Refused(403, "Missing Authentication Token")
    require(seen.body, "anthropic_version", "messages")
    if "model" in seen.body:
        raise Refused(400, "model: Extra inputs are not permitted")
    body = {**seen.body, "model": unquote(hosted["bedrock"] or hosted["vertex"])}
    if hosted["bedrock_streams"]:
        _check_cap(body)
        return Stream(
            [aws_events.chunk(data) for data in _events(body)],
            aws_events.CONTENT_TYPE,
            aws_events.exception("modelStreamErrorException", "Overloaded"),
        )
    return _answer(body)


def error(seen: Seen, status: int, message: str) -> Any:
    kind = ERROR_TYPES.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def stream_error() -> bytes:
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    return event(body, "error")


def _check_cap(body: Mapping[str, Any]) -> None:
    require(body, "max_tokens")
    require_at_least(body, "max_tokens", 1)
    budget = (body.get("thinking") or {}).get("budget_tokens", 0)
    if budget >= body["max_tokens"]:
        raise Refused(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")


def _check_history(body: Mapping[str, Any]) -> None:
    """A turn that called tools comes back as it was, thoughts first, and all its results in the next turn."""
    turns = body["messages"]
    for turn, following in zip(turns, [*turns[1:], {}], strict=True):
        called = [block["id"] for block in _blocks_of(turn) if block.get("type") == "tool_use"]
        answered = [one["tool_use_id"] for one in _blocks_of(following) if one.get("type") == "tool_result"]
        if sorted(called) != sorted(answered):
            raise Refused(
                400, f"`tool_use` ids {called} were found without `tool_result` blocks after: {answered}"
            )
        if called and _thinks(body) and _blocks_of(turn)[0] != _thought():
            raise Refused(
                400, "Expected `thinking` or `redacted_thinking`, as it was in the original response."
            )


def _blocks_of(turn: Mapping[str, Any]) -> list[Block]:
    content = turn.get("content")
    return content if isinstance(content, list) else []


def _events(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    # At first one token is written, and the last figure counts from the beginning.
    begun = {**_usage(body), "output_tokens": 1}
    begun.pop("output_tokens_details", None)
    yield {"type": "message_start", "message": _message(body, [], None, begun)}
    for index, block in enumerate(_blocks(body)):
        yield {"type": "content_block_start", "index": index, "content_block": _emptied(block)}
        if index == 0:
            yield {"type": "ping"}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    used = _usage(body)
    output = {name: used[name] for name in ("output_tokens", "output_tokens_details") if name in used}
    delta = {"stop_reason": _stop_reason(body), "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": output}
    yield {"type": "message_stop"}


def _emptied(block: Block) -> Block:
    """As a stream announces it."""
    match block["type"]:
        case "text":
            return {**block, "text": ""}
        case "thinking":
            return {**block, "thinking": "", "signature": ""}
    return {**block, "input": {}}


def _deltas(block: Block) -> Iterator[dict[str, Any]]:
    match block["type"]:
        case "text":
            for piece in pieces(block["text"]):
                yield {"type": "text_delta", "text": piece}
        case "thinking":
            for piece in pieces(block["thinking"]):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "tool_use":
            yield {"type": "input_json_delta", "partial_json": ""}
            for piece in pieces(json.dumps(block["input"])):
                yield {"type": "input_json_delta", "partial_json": piece}


def _message(
    body: Mapping[str, Any], blocks: list[Block], stop_reason: str | None, usage: Any
) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": blocks,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _blocks(body: Mapping[str, Any]) -> list[Block]:
    return [_thought(), _said(body)] if _thinks(body) else [_said(body)]


def _thought() -> Block:
    return {"type": "thinking", "thinking": THOUGHT, "signature": "c2lnbmVk"}


def _said(body: Mapping[str, Any]) -> Block:
    if calls_tool(body.get("tools"), body["messages"]):
        tool = body["tools"][0]
        used = [one for turn in body["messages"] for one in _blocks_of(turn) if one.get("type") == "tool_use"]
        return {
            "type": "tool_use",
            "id": f"toolu_{len(used) + 1}",
            "name": tool["name"],
            "input": example(tool["input_schema"]),
        }
    format_ = (body.get("output_config") or {}).get("format") or {}
    return {"type": "text", "text": text_for(format_.get("schema")), "citations": None}


def _stop_reason(body: Mapping[str, Any]) -> str:
    return "tool_use" if calls_tool(body.get("tools"), body["messages"]) else "end_turn"


def _thinks(body: Mapping[str, Any]) -> bool:
    return bool(body.get("thinking")) and body["thinking"]["type"] != "disabled"


def _usage(body: Mapping[str, Any]) -> dict[str, Any]:
    """Here input_tokens is only what neither came from the cache nor went into it."""
    usage = {
        "input_tokens": USAGE.input_tokens - USAGE.cached_input_tokens - USAGE.cache_write_tokens,
        "cache_creation_input_tokens": USAGE.cache_write_tokens,
        "cache_read_input_tokens": USAGE.cached_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": USAGE.cache_write_tokens,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": USAGE.output_tokens,
        "service_tier": "standard",
    }
    if _thinks(body):
        usage["output_tokens_details"] = {"thinking_tokens": THINKING_USAGE.reasoning_tokens}
    return usage
