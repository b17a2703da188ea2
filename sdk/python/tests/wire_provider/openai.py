"""OpenAI's API, and Azure's of the same models."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from . import openai_chat, openai_responses
from .content import TEXT, embedding, pieces
from .exchange import Answer, Refused, Seen, Stream, event, require, require_at_least
from .openai_chat import chunk_stream
from .openai_figures import (
    CREATED,
    EMBEDDING_USAGE,
    IMAGE_USAGE,
    LEGACY_USAGE,
    USAGE,
    snapshot,
)

__all__ = [
    "EMBEDDING_USAGE",
    "IMAGE_USAGE",
    "LEGACY_USAGE",
    "TEXT",
    "USAGE",
    "answer",
    "error",
    "headers",
    "snapshot",
    "stream_error",
]

ENDPOINT = re.compile(r"/(?:openai/)?(?:v1|deployments/(?P<deployment>[^/]+))/(?P<name>.+)")
AZURE_ROOT = "/openai/"
MODELS = ("gpt-4o-mini", "text-embedding-3-small")
PNG_BASE64 = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
MODERATION_CATEGORIES = ("harassment", "hate", "self-harm", "sexual", "violence")
ERROR_TYPES = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def headers(request_id: str) -> Mapping[str, str]:
    return {"x-request-id": request_id, "openai-version": "2020-10-01", "openai-processing-ms": "7"}


def answer(seen: Seen) -> Answer | Stream:
    endpoint = ENDPOINT.fullmatch(seen.path)
    if endpoint is None:
        raise Refused(404, f"Invalid URL ({seen.method} {seen.path})")
    _check_credentials(seen)
    if seen.method == "GET":
        return _get(endpoint["name"])
    route = ROUTES.get(endpoint["name"])
    if route is None:
        raise Refused(404, f"Invalid URL ({seen.method} {seen.path})")
    require(seen.body)
    # On Azure it is the path that names the model; the body need not.
    body = {"model": endpoint["deployment"]} | seen.body
    require(body, "model")
    return route(body, _on_azure(seen))


def error(seen: Seen, status: int, message: str) -> Any:
    if _on_azure(seen):
        return {"error": {"code": str(status), "message": message}}
    kind, code = ERROR_TYPES.get(status, ("server_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def stream_error() -> bytes:
    body = {
        "type": "server_error",
        "message": "The server had an error.",
        "code": "server_error",
        "param": None,
    }
    return event({"error": body})


def _on_azure(seen: Seen) -> bool:
    return seen.path.startswith(AZURE_ROOT)


def _check_credentials(seen: Seen) -> None:
    if _on_azure(seen) and "api-version" not in seen.query and "/deployments/" in seen.path:
        raise Refused(404, "Resource not found")
    bearer = seen.headers.get("authorization", "").removeprefix("Bearer ")
    if not (bearer or (_on_azure(seen) and seen.headers.get("api-key"))):
        raise Refused(401, "You didn't provide an API key.")


def _get(name: str) -> Answer:
    entries = [_model(model) for model in MODELS]
    if name == "models":
        return Answer({"object": "list", "data": entries})
    for entry in entries:
        if name == f"models/{entry['id']}":
            return Answer(entry)
    raise Refused(404, f"The resource '{name}' does not exist")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "openai"}


def _completion(body: Mapping[str, Any], on_azure: bool) -> Answer | Stream:
    require(body, "prompt")
    require_at_least(body, "max_tokens", 1)
    head = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": body["model"]}
    usage = {
        "prompt_tokens": LEGACY_USAGE.input_tokens,
        "completion_tokens": LEGACY_USAGE.output_tokens,
        "total_tokens": LEGACY_USAGE.input_tokens + LEGACY_USAGE.output_tokens,
    }
    if not body.get("stream"):
        return Answer({**head, "choices": [_text_choice(TEXT, "stop")], "usage": usage})
    choices = [_text_choice(piece, None) for piece in pieces(TEXT)] + [_text_choice("", "stop")]
    return chunk_stream(body, [{**head, "choices": [choice]} for choice in choices], usage)


def _text_choice(text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}


def _embeddings(body: Mapping[str, Any], on_azure: bool) -> Answer:
    require(body, "input")
    several = isinstance(body["input"], list) and not isinstance(body["input"][0], int)
    vector: Any = embedding(body.get("dimensions"))
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    count = len(body["input"]) if several else 1
    data = [{"object": "embedding", "index": number, "embedding": vector} for number in range(count)]
    tokens = EMBEDDING_USAGE.input_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer({"object": "list", "data": data, "model": body["model"], "usage": usage})


def _images(body: Mapping[str, Any], on_azure: bool) -> Answer:
    require(body, "prompt")
    return Answer(
        {
            "created": CREATED,
            "data": [{"b64_json": PNG_BASE64}] * (body.get("n") or 1),
            "usage": {
                "input_tokens": IMAGE_USAGE.input_tokens,
                "input_tokens_details": {"image_tokens": 0, "text_tokens": IMAGE_USAGE.input_tokens},
                "output_tokens": IMAGE_USAGE.output_tokens,
                "total_tokens": IMAGE_USAGE.input_tokens + IMAGE_USAGE.output_tokens,
            },
        }
    )


def _moderations(body: Mapping[str, Any], on_azure: bool) -> Answer:
    require(body, "input")
    result = {
        "flagged": False,
        "categories": dict.fromkeys(MODERATION_CATEGORIES, False),
        "category_scores": dict.fromkeys(MODERATION_CATEGORIES, 0.001),
        "category_applied_input_types": {name: ["text"] for name in MODERATION_CATEGORIES},
    }
    return Answer({"id": "modr-1", "model": body["model"], "results": [result]})


ROUTES: dict[str, Callable[[Mapping[str, Any], bool], Answer | Stream]] = {
    "chat/completions": openai_chat.answer,
    "responses": openai_responses.answer,
    "completions": _completion,
    "embeddings": _embeddings,
    "images/generations": _images,
    "moderations": _moderations,
}
