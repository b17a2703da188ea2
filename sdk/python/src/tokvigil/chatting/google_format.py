"""Gemini's contents, out of OpenAI's messages.

System messages move to `systemInstruction`, the assistant is the model. The result of a tool names the
function, which OpenAI's message only names by the id of the call before it.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from tokvigil import json_values
from tokvigil.chatting.chat_format import (
    SYSTEM_ROLES,
    ChatFormat,
    Conversation,
    data_url,
    first,
    image_url_of,
    is_function,
    parts_of,
    system_parts_of,
    text_or_none,
    tool_calls_of,
    with_options,
)
from tokvigil.errors import ConfigurationError
from tokvigil.json_values import mapping, mappings, string

CONFIG_NAME = "generationConfig"
CAP_NAME = "maxOutputTokens"
# What stands in generationConfig rather than beside it. Callers may write them in snake_case too.
CONFIG_FIELDS = frozenset(
    (
        "audioTimestamp",
        "candidateCount",
        "enableEnhancedCivicAnswers",
        "frequencyPenalty",
        "imageConfig",
        "logprobs",
        CAP_NAME,
        "mediaResolution",
        "presencePenalty",
        "responseJsonSchema",
        "responseLogprobs",
        "responseMimeType",
        "responseModalities",
        "responseSchema",
        "seed",
        "speechConfig",
        "stopSequences",
        "temperature",
        "thinkingConfig",
        "topK",
        "topP",
    )
)
_ENDS_IN_VERSION = re.compile(r"/v\d\w*$")


class GoogleFormat(ChatFormat):
    base_url = "https://generativelanguage.googleapis.com"
    base_url_variable = "GOOGLE_GEMINI_BASE_URL"
    # The one that is surely for Gemini first.
    key_variables = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    cap_names = (CAP_NAME,)

    def url(self, base_url: str, model: str, *, streams: bool) -> str:
        versioned = base_url if _ENDS_IN_VERSION.search(base_url) else f"{base_url}/v1beta"
        path = quote(model if "/" in model else f"models/{model}", safe="/@")
        return f"{versioned}/{path}:" + ("streamGenerateContent?alt=sse" if streams else "generateContent")

    def headers(self, api_key: str | None) -> Mapping[str, str]:
        return {} if api_key is None else {"x-goog-api-key": api_key}

    def body(self, conversation: Conversation) -> Mapping[str, Any]:
        fields: dict[str, Any] = {"contents": _contents(conversation.messages)}
        system = [_part(part) for part in system_parts_of(conversation.messages)]
        if system:
            fields["systemInstruction"] = {"parts": system}
        if conversation.tools:
            fields["tools"] = _tools(conversation.tools)
        config, beside = _split(conversation.options)
        if conversation.max_output_tokens is not None:
            config = with_options({CAP_NAME: conversation.max_output_tokens}, config)
        if config:
            fields[CONFIG_NAME] = config
        return with_options(fields, beside)

    def _has_answer(self, answer: Mapping[str, Any]) -> bool:
        """A prompt that Google blocks is answered too, without a candidate."""
        return isinstance(answer.get("candidates"), list) or isinstance(answer.get("promptFeedback"), dict)

    def text(self, answer: Mapping[str, Any]) -> str:
        parts = mappings(mapping(first(answer.get("candidates")).get("content")).get("parts"))
        return "".join(string(part.get("text")) for part in parts if part.get("thought") is not True)

    def text_delta(self, event: Mapping[str, Any]) -> str:
        candidates = mappings(event.get("candidates"))
        return self.text({"candidates": [one for one in candidates if one.get("index", 0) == 0]})

    def finish_reason(self, answer: Mapping[str, Any]) -> str | None:
        candidate = text_or_none(first(answer.get("candidates")).get("finishReason"))
        return candidate or text_or_none(mapping(answer.get("promptFeedback")).get("blockReason"))

    def model_name(self, answer: Mapping[str, Any]) -> str | None:
        return text_or_none(answer.get("modelVersion"))


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that belong into generationConfig, and those beside it."""
    config: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    for name, value in options.items():
        if _camel(name) == CONFIG_NAME:
            config = with_options(config, mapping(value))
        elif _camel(name) in CONFIG_FIELDS:
            config = with_options(config, {_camel(name): value})
        else:
            beside[name] = value
    return config, beside


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _contents(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring messages of one role become one content: all results of a turn's calls belong together."""
    contents: list[dict[str, Any]] = []
    called: dict[str, str] = {}
    for message in messages:
        if message.get("role") in SYSTEM_ROLES:
            continue
        role = "model" if message.get("role") == "assistant" else "user"
        parts = _parts(message, called)
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    return contents


def _parts(message: Mapping[str, Any], called: dict[str, str]) -> list[dict[str, Any]]:
    """`called` takes the names of the functions that were called, by the id of the call."""
    if message.get("role") == "tool":
        return [_result(message, called)]
    parts = [_part(part) for part in parts_of(message.get("content"))]
    for call in tool_calls_of(message):
        called[call.id] = call.name
        part: dict[str, Any] = {"functionCall": {"name": call.name, "args": call.arguments}}
        # Google's own OpenAI interface hands it out there; the newer models refuse a call without it.
        signature = mapping(call.extra.get("google")).get("thought_signature")
        parts.append(part if signature is None else part | {"thoughtSignature": signature})
    return parts


def _result(message: Mapping[str, Any], called: Mapping[str, str]) -> dict[str, Any]:
    name = called.get(string(message.get("tool_call_id"))) or string(message.get("name"))
    if not name:
        raise ConfigurationError(
            "a tool's result has no call before it, and no `name`: Gemini needs the function's name"
        )
    texts = "".join(string(part.get("text")) for part in parts_of(message.get("content")))
    response = json_values.parse_object(texts)
    return {
        "functionResponse": {"name": name, "response": {"result": texts} if response is None else response}
    }


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part as Gemini has it. One that is not OpenAI's is Gemini's own."""
    if part.get("type") == "text":
        return {"text": part.get("text")}
    url = image_url_of(part)
    if url is None:
        return dict(part)
    data = data_url(url)
    if data is not None:
        return {"inlineData": {"mimeType": data[0], "data": data[1]}}
    kind = mimetypes.guess_type(url.partition("?")[0])[0]
    return {"fileData": {"fileUri": url} if kind is None else {"mimeType": kind, "fileUri": url}}


def _tools(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    functions = [tool["function"] for tool in tools if is_function(tool)]
    own = [dict(tool) for tool in tools if not is_function(tool)]
    declared = [{"functionDeclarations": [_declaration(function) for function in functions]}]
    return (declared if functions else []) + own


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    """With the schema as JSON Schema: `parameters` would take only a part of it."""
    declaration = {name: function[name] for name in ("name", "description") if name in function}
    schema = function.get("parameters")
    return declaration | ({"parametersJsonSchema": schema} if schema else {})
