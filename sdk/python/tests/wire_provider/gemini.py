"""Gemini's generateContent and what goes with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tokvigil import Usage

from .content import TEXT, calls_tool, embedding, example, pieces, text_for
from .exchange import Answer, Refused, Seen, Stream, event, require, require_at_least

__all__ = ["TEXT", "USAGE", "answer", "error", "headers", "stream_error"]

# Thoughts are output beside the candidates' 26.
USAGE = Usage(input_tokens=1_200, output_tokens=90, cached_input_tokens=1_024, reasoning_tokens=64)
# These models give each call an id and a signature, and refuse a history without them.
SIGNS = "gemini-3"
SIGNATURE = "c2lnbmVk"
METHOD = re.compile(r"/v1(?:beta|alpha)?/models/(?P<model>[^/:]+):(?P<method>\w+)")
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def headers(request_id: str) -> Mapping[str, str]:
    return {"server-timing": "gfet4t7; dur=7", "x-content-type-options": "nosniff"}


def answer(seen: Seen) -> Answer | Stream:
    called = METHOD.fullmatch(seen.path)
    if called is None or seen.method != "POST":
        raise Refused(404, "Requested entity was not found.")
    if not (seen.headers.get("x-goog-api-key") or seen.query.get("key")):
        raise Refused(403, "Method doesn't allow unregistered callers.")
    require(seen.body)
    match called["method"]:
        case "generateContent":
            return Answer(_whole(seen.body, called["model"]))
        case "streamGenerateContent":
            return _stream(seen.body, called["model"], as_events=seen.query.get("alt") == "sse")
        case "countTokens":
            cached = USAGE.cached_input_tokens
            return Answer({"totalTokens": USAGE.input_tokens, "cachedContentTokenCount": cached})
        case "embedContent":
            return Answer({"embedding": _embedding(seen.body)})
        case "batchEmbedContents":
            require(seen.body, "requests")
            return Answer({"embeddings": [_embedding(one) for one in seen.body["requests"]]})
    raise Refused(404, "Requested entity was not found.")


def error(seen: Seen, status: int, message: str) -> Any:
    return {"error": {"code": status, "message": message, "status": STATUSES.get(status, "UNKNOWN")}}


def stream_error() -> bytes:
    body = {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}
    return event({"error": body}, newline="\r\n")


def _stream(body: Mapping[str, Any], model: str, *, as_events: bool) -> Answer | Stream:
    """Google ends its lines with CRLF. Without alt=sse the same chunks come as a JSON array."""
    chunks = _chunks(body, model)
    return Stream([event(chunk, newline="\r\n") for chunk in chunks]) if as_events else Answer(chunks)


def _whole(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    call = _function_call(body)
    part: dict[str, Any] = {"text": _text(body)} if call is None else {"functionCall": call}
    if call is not None and model.startswith(SIGNS):
        call["id"] = f"fc-{len(_parts_with(body, 'functionCall')) + 1}"
    return _response(body, model, part | _signature(model), "STOP", _candidate_tokens())


def _chunks(body: Mapping[str, Any], model: str) -> list[dict[str, Any]]:
    if _function_call(body) is not None:
        return [_whole(body, model)]
    texts = pieces(_text(body))
    last = len(texts) - 1
    return [
        _response(
            body,
            model,
            {"text": text} | (_signature(model) if number == last else {}),
            "STOP" if number == last else None,
            # So far; in the last chunk, of all.
            _candidate_tokens() if number == last else number + 1,
        )
        for number, text in enumerate(texts)
    ]


def _signature(model: str) -> dict[str, str]:
    return {"thoughtSignature": SIGNATURE} if model.startswith(SIGNS) else {}


def _response(
    body: Mapping[str, Any], model: str, part: Any, finish_reason: str | None, candidate_tokens: int
) -> dict[str, Any]:
    require(body, "contents")
    _check_history(body, model)
    config = body.get("generationConfig") or {}
    require_at_least(config, "maxOutputTokens", 1)
    candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}}
    if finish_reason is not None:
        candidate["finishReason"] = finish_reason
    return {
        "candidates": [{**candidate, "index": n} for n in range(config.get("candidateCount") or 1)],
        "usageMetadata": _usage(candidate_tokens),
        "modelVersion": model,
        "responseId": "response-1",
    }


def _text(body: Mapping[str, Any]) -> str:
    config = body.get("generationConfig") or {}
    return text_for(config.get("responseJsonSchema") or config.get("responseSchema"))


def _function_call(body: Mapping[str, Any]) -> dict[str, Any] | None:
    if not calls_tool(body.get("tools"), body.get("contents")):
        return None
    function = body["tools"][0]["functionDeclarations"][0]
    # Google reads names in either case, and its SDK writes this one so.
    schema = function.get("parameters_json_schema") or function.get("parametersJsonSchema")
    return {"name": function["name"], "args": example(schema or function.get("parameters") or {})}


def _check_history(body: Mapping[str, Any], model: str) -> None:
    """Each call has a result, of the same name and id."""
    calls, results = (_parts_with(body, name) for name in ("functionCall", "functionResponse"))
    called = [(part["functionCall"].get("id"), part["functionCall"]["name"]) for part in calls]
    answered = [(part["functionResponse"].get("id"), part["functionResponse"]["name"]) for part in results]
    if called != answered:
        raise Refused(400, f"The function responses {answered} do not match the function calls {called}.")
    if model.startswith(SIGNS) and any(part.get("thoughtSignature") != SIGNATURE for part in calls):
        raise Refused(400, "Function call is missing a thought_signature in functionCall parts.")


def _parts_with(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    contents = body["contents"] if isinstance(body["contents"], list) else [body["contents"]]
    return [part for content in contents for part in content.get("parts") or [] if part.get(name)]


def _embedding(request: Mapping[str, Any]) -> dict[str, Any]:
    require(request, "content")
    return {"values": embedding(request.get("outputDimensionality"))}


def _candidate_tokens() -> int:
    return USAGE.output_tokens - USAGE.reasoning_tokens


def _usage(candidate_tokens: int) -> dict[str, Any]:
    return {
        "promptTokenCount": USAGE.input_tokens,
        "cachedContentTokenCount": USAGE.cached_input_tokens,
        "candidatesTokenCount": candidate_tokens,
        "thoughtsTokenCount": USAGE.reasoning_tokens,
        "totalTokenCount": USAGE.input_tokens + candidate_tokens + USAGE.reasoning_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": USAGE.input_tokens}],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": USAGE.cached_input_tokens}],
    }
