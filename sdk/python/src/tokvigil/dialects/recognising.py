"""Which request is an AI call, of which kind, and of which model. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from tokvigil.dialects import json_values
from tokvigil.dialects.anthropic import MessagesCall
from tokvigil.dialects.base import ProviderCall
from tokvigil.dialects.gemini import ContentCall, EmbedCall
from tokvigil.dialects.generic import FORM, FormCall, GenericCall, read_form
from tokvigil.dialects.json_call import JsonCall, Request
from tokvigil.dialects.json_values import string
from tokvigil.dialects.openai import ChatCall, CompletionsCall, EmbeddingsCall
from tokvigil.dialects.openai_responses import CompactCall, ResponsesCall
from tokvigil.dialects.providers import provider_of
from tokvigil.errors import ConfigurationError

_CALLS_BY_ENDING: Mapping[str, type[JsonCall]] = {
    "/chat/completions": ChatCall,
    "/completions": CompletionsCall,
    "/responses/compact": CompactCall,
    "/responses": ResponsesCall,
    "/embeddings": EmbeddingsCall,
    "/v1/messages": MessagesCall,
}
_CALLS_BY_VERB: Mapping[str, type[JsonCall]] = {
    "generateContent": ContentCall,
    "streamGenerateContent": ContentCall,
    "embedContent": EmbedCall,
    "batchEmbedContents": EmbedCall,
    "predict": GenericCall,
    "predictLongRunning": GenericCall,
    "rawPredict": GenericCall,
    "streamRawPredict": GenericCall,
}
# Google names a model and what to do with it in the path; a tuned model of Vertex is an endpoint.
_GOOGLE = re.compile(r"/(?:models|tunedModels|endpoints)/(?P<model>[^/:]+):(?P<verb>\w+)$")
_CLAUDE_ON_VERTEX = re.compile(r"/publishers/anthropic/models/[^/:]+:(?:rawPredict|streamRawPredict)$")
# The path by which Anthropic's own client counts tokens on Vertex.
_COUNTING_ON_VERTEX = re.compile(r"/models/count-tokens:rawPredict$")
_AZURE_DEPLOYMENT = re.compile(r"/deployments/(?P<model>[^/]+)/")
_BEDROCK = re.compile(r"/model/(?P<model>[^/]+)/(?:invoke|converse)[a-z-]*$")

_BILLED_LATER = re.compile(r"/batches$|/batchPredictionJobs$|:batchGenerateContent$|:asyncBatchEmbedContent$")
_FREE = re.compile(r"/moderations$|/count_tokens$|/input_tokens$|[:/]cancel$|:countTokens$|:computeTokens$")
# Things kept on a server: making one may name a model, and runs none. Realtime sessions run theirs over a
# socket, which is not seen here.
_KEPT_THINGS = frozenset(
    (
        "assistants",
        "batches",
        "cachedContents",
        "containers",
        "conversations",
        "evals",
        "files",
        "fine_tuning",
        "organization",
        "realtime",
        "threads",
        "tuningJobs",
        "uploads",
        "vector_stores",
    )
)
# A body signed by AWS must arrive as it was signed.
_SIGNED_BY_AWS = "AWS4-"


def read_call(
    method: str, url_path: str, host: str, headers: Mapping[str, str], body: bytes
) -> ProviderCall | None:
    """The AI call that a request is; None for any other request, and for one that names no model.

    `url_path` may have a query. Raises `ConfigurationError` for an AI call that cannot be settled: one that
    is billed later, or whose body cannot be read.
    """
    if method.upper() != "POST":
        return None
    path, _, query = url_path.partition("?")
    path = path.rstrip("/")
    if _BILLED_LATER.search(path):
        raise ConfigurationError(
            "a batch is billed later, when nobody is there to report it: send its calls one by one, or make "
            "it with a client that is not wrapped"
        )
    kind = _kind_of(path)
    if kind is None:
        return None
    named = {name.lower(): value for name, value in headers.items()}
    if named.get("content-encoding", "identity") != "identity":
        raise ConfigurationError("the request's body is compressed: send it as it is, so that it can be read")
    if named.get("content-type", "").lower().startswith(FORM):
        kind, fields = FormCall, read_form(named["content-type"], body)
    else:
        fields = json_values.parse_object(body) or {}
    model = _model(path, fields)
    if not fields or not model:
        return None
    _check_is_billed_now(kind, fields)
    return kind(
        Request(
            provider=provider_of(host),
            model=model,
            path=path,
            query=query,
            fields=fields,
            body=body,
            is_signed=named.get("authorization", "").startswith(_SIGNED_BY_AWS),
        )
    )


def _kind_of(path: str) -> type[JsonCall] | None:
    """What a path is for; None: no AI call."""
    if _FREE.search(path) or _COUNTING_ON_VERTEX.search(path):
        return None
    for ending, kind in _CALLS_BY_ENDING.items():
        if path.endswith(ending):
            return kind
    if _CLAUDE_ON_VERTEX.search(path):
        return MessagesCall
    google = _GOOGLE.search(path)
    if google is not None and google["verb"] in _CALLS_BY_VERB:
        return _CALLS_BY_VERB[google["verb"]]
    # A run of an assistant is on a thread, and bills.
    is_kept = not _KEPT_THINGS.isdisjoint(path.split("/")) and not path.endswith("/runs")
    return None if is_kept else GenericCall


def _check_is_billed_now(kind: type[JsonCall], fields: Mapping[str, Any]) -> None:
    if kind is ResponsesCall and fields.get("background") is True and fields.get("stream") is not True:
        raise ConfigurationError(
            "a response in the background is billed later, when nobody is there to report it: stream it, or "
            "leave out `background`"
        )


def _model(path: str, fields: Mapping[str, Any]) -> str:
    """The path's where it says what runs, else the body's, else Azure's deployment; "" if none is named."""
    found = _GOOGLE.search(path) or _BEDROCK.search(path)
    if found is not None:
        return unquote(found["model"]).strip()
    deployment = _AZURE_DEPLOYMENT.search(path)
    return string(fields.get("model")).strip() or ("" if deployment is None else unquote(deployment["model"]))
