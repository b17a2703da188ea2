"""OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .content import calls_tool, example, pieces, text_for
from .exchange import Answer, Refused, Stream, event, require, require_at_least
from .openai_figures import CREATED, USAGE, snapshot

MESSAGE_FIELDS = frozenset(
    {
        "annotations",
        "audio",
        "content",
        "function_call",
        "name",
        "refusal",
        "role",
        "tool_call_id",
        "tool_calls",
    }
)
UNFILTERED = {
    name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")
}


def answer(body: Mapping[str, Any], on_azure: bool) -> Answer | Stream:
    _check(body)
    if not body.get("stream"):
        return Answer(_completion(body, on_azure))
    chunks = [_prompt_filter_chunk(body)] if on_azure else []
    chunks += [_chunk(body, choices) for choices in _stream_choices(body)]
    return chunk_stream(body, chunks, _usage())


def chunk_stream(body: Mapping[str, Any], chunks: list[dict[str, Any]], usage: Mapping[str, Any]) -> Stream:
    """If the request wants to know its usage, each chunk has the field, and one more, without choices, its value."""
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append({**chunks[-1], "choices": [], "usage": usage})
    return Stream([event(chunk) for chunk in chunks] + [event("[DONE]")])


def _check(body: Mapping[str, Any]) -> None:
    require(body, "messages")
    require_at_least(body, "max_tokens", 1)
    require_at_least(body, "max_completion_tokens", 1)
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise Refused(
            400, "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        )
    if body.get("stream_options") is not None and not body.get("stream"):
        raise Refused(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    _check_history(body["messages"])


def _check_history(messages: list[dict[str, Any]]) -> None:
    """Each call must have its result right behind it."""
    open_ids: list[str] = []
    for number, message in enumerate(messages):
        if unknown := sorted(message.keys() - MESSAGE_FIELDS):
            raise Refused(400, f"Unknown parameter: 'messages[{number}].{unknown[0]}'.")
        if message.get("role") == "tool":
            if message.get("tool_call_id") not in open_ids:
                raise Refused(400, "messages with role 'tool' must be a response to a preceding message.")
            open_ids.remove(message["tool_call_id"])
        elif open_ids:
            raise Refused(400, f"tool_call_ids did not have response messages: {open_ids}")
        open_ids += [call["id"] for call in message.get("tool_calls") or []]


def _completion(body: Mapping[str, Any], on_azure: bool) -> dict[str, Any]:
    call = _tool_call(body)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _text(body) if call is None else None,
        "refusal": None,
        "annotations": [],
    }
    if call is not None:
        message["tool_calls"] = [call]
    choice: dict[str, Any] = {"message": message, "logprobs": None, "finish_reason": _finish_reason(body)}
    if on_azure:
        choice["content_filter_results"] = UNFILTERED
    return {
        **_head(body, "chat.completion"),
        "choices": [{"index": number, **choice} for number in range(_answers(body))],
        "usage": _usage(),
    }


def _stream_choices(body: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The choices of each chunk: one at a time, the answers' pieces in turn."""
    for delta in _deltas(body):
        for number in range(_answers(body)):
            yield [{"index": number, "delta": delta, "logprobs": None, "finish_reason": None}]
    for number in range(_answers(body)):
        yield [{"index": number, "delta": {}, "logprobs": None, "finish_reason": _finish_reason(body)}]


def _deltas(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    call = _tool_call(body)
    if call is None:
        yield {"role": "assistant", "content": "", "refusal": None}
        for piece in pieces(_text(body)):
            yield {"content": piece}
        return
    function = call["function"]
    begun = {**call, "index": 0, "function": {**function, "arguments": ""}}
    yield {"role": "assistant", "content": None, "tool_calls": [begun], "refusal": None}
    for piece in pieces(function["arguments"]):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


def _chunk(body: Mapping[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_head(body, "chat.completion.chunk"), "choices": choices}


def _prompt_filter_chunk(body: Mapping[str, Any]) -> dict[str, Any]:
    """Azure begins a stream with a chunk that has no choices, and no usage either."""
    results = [{"prompt_index": 0, "content_filter_results": UNFILTERED}]
    empty = {"id": "", "object": "", "created": 0, "model": ""}
    return {**empty, "choices": [], "prompt_filter_results": results}


def _head(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": kind,
        "created": CREATED,
        "model": snapshot(body["model"]),
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


def _answers(body: Mapping[str, Any]) -> int:
    return body.get("n") or 1


def _text(body: Mapping[str, Any]) -> str:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return text_for({"type": "object"})
    return text_for(wanted["json_schema"]["schema"] if "json_schema" in wanted else None)


def _tool_call(body: Mapping[str, Any]) -> dict[str, Any] | None:
    if not calls_tool(body.get("tools"), body["messages"]):
        return None
    function = body["tools"][0]["function"]
    arguments = json.dumps(example(function.get("parameters") or {}))
    before = sum(len(message.get("tool_calls") or []) for message in body["messages"])
    return {
        "id": f"call_{before + 1}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _finish_reason(body: Mapping[str, Any]) -> str:
    return "tool_calls" if calls_tool(body.get("tools"), body["messages"]) else "stop"


def _usage() -> dict[str, Any]:
    return {
        "prompt_tokens": USAGE.input_tokens,
        "completion_tokens": USAGE.output_tokens,
        "total_tokens": USAGE.input_tokens + USAGE.output_tokens,
        "prompt_tokens_details": {"cached_tokens": USAGE.cached_input_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": USAGE.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
