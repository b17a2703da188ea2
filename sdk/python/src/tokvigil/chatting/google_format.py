"""Gemini's contents, out of OpenAI's messages and back.

System messages move to `systemInstruction`, and the assistant is the model. A tool's result must name the function, and
OpenAI's message names only the id of the call before it.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

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
from tokvigil.errors import ConfigurationError
from tokvigil.json_values import mapping, mappings, parse_object, string

CONFIG_NAMES = ("generationConfig", "generation_config")
# The options that stand beside generationConfig; all others belong into it. Google takes both spellings.
BESIDE_CONFIG = frozenset(
    {"safetySettings", "toolConfig", "cachedContent", "systemInstruction", "labels", "serviceTier", "store"}
    | {"safety_settings", "tool_config", "cached_content", "system_instruction", "service_tier"}
    | {"contents", "tools"}
)
FILTERED = (
    *("BLOCKED", "BLOCKLIST", "MODEL_ARMOR", "PROHIBITED_CONTENT", "RECITATION", "SAFETY", "SPII"),
    *("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_SAFETY"),
)
_ENDS_IN_VERSION = re.compile(r"/v\d\w*$")


class GoogleAnswer(PartsAnswer):
    provider = "google"
    reasons = {"STOP": "stop", "MAX_TOKENS": "length"} | dict.fromkeys(FILTERED, "content_filter")

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        called = [mapping(part["functionCall"]) for part in self.parts if "functionCall" in part]
        return [
            self._call(n, said.get("id"), said.get("name"), said.get("args")) for n, said in enumerate(called)
        ]

    def _take(self, said: Mapping[str, Any]) -> str:
        """A whole answer and a chunk look the same."""
        candidates = mappings(said.get("candidates"))
        candidate = next((one for one in candidates if one.get("index") in (None, 0)), {})
        # A prompt that Google blocks is answered too, without a candidate.
        is_blocked = bool(mapping(said.get("promptFeedback")).get("blockReason"))
        self.is_answer = self.is_answer or is_blocked or isinstance(said.get("candidates"), list)
        reason = "BLOCKED" if is_blocked else candidate.get("finishReason")
        self._note(id_=said.get("responseId"), model=said.get("modelVersion"), reason=reason)
        return self.add(mappings(mapping(candidate.get("content")).get("parts")))

    def add(self, parts: Iterable[Mapping[str, Any]]) -> str:
        """Pieces of a text become one part, but none with a signature, which is only valid for its own part."""
        texts = []
        for part in parts:
            if part.get("thought") is True and "thoughtSignature" not in part:
                continue
            last = self.parts[-1] if self.parts else {}
            if part.keys() == last.keys() == {"text"}:
                last["text"] = string(last["text"]) + string(part["text"])
            else:
                self.parts.append(dict(part))
            texts.append(string(part.get("text")) if part.get("thought") is not True else "")
        return "".join(texts)

    def _is_plain(self, part: Mapping[str, Any]) -> bool:
        return part.keys() <= {"text"} or (
            part.keys() == {"functionCall"} and mapping(part["functionCall"]).keys() <= {"name", "args"}
        )


def url(base_url: str, model: str, streams: bool) -> str:
    versioned = base_url if _ENDS_IN_VERSION.search(base_url) else f"{base_url}/v1beta"
    path = quote(model if "/" in model else f"models/{model}", safe="/@")
    return f"{versioned}/{path}:" + ("streamGenerateContent?alt=sse" if streams else "generateContent")


def body(asked: Conversation) -> Mapping[str, Any]:
    called: dict[str, Mapping[str, Any]] = {}
    turns = merged([_turn(message, called) for message in asked.turns()], "parts")
    fields: dict[str, Any] = {"contents": turns}
    system = [_part(part) for part in asked.system_parts()]
    if system:
        fields["systemInstruction"] = {"parts": system}
    if asked.tools:
        fields["tools"] = _tools(asked.tools)
    cap = asked.max_output_tokens
    config: dict[str, Any] = {} if cap is None else {"maxOutputTokens": cap}
    for name, value in asked.options.items():
        if name in BESIDE_CONFIG:
            fields = with_options(fields, {name: value})
        else:
            config = with_options(config, mapping(value) if name in CONFIG_NAMES else {name: value})
    return fields | ({CONFIG_NAMES[0]: config} if config else {})


def _turn(
    message: Mapping[str, Any], called: dict[str, Mapping[str, Any]]
) -> tuple[str, list[Mapping[str, Any]]]:
    """`called` takes the heads of the results, by the ids of their calls."""
    if message.get("role") == "tool":
        return "user", [_result(message, called)]
    calls = tool_calls_of(message)
    own = GoogleAnswer.carried_by(message, calls)
    ids = [mapping(part.get("functionCall")).get("id") for part in own]
    for call in calls:
        # An id goes back to Google only if it came from there.
        called[call.id] = {"name": call.name} | ({"id": call.id} if call.id in ids else {})
    parts = [_part(part) for part in parts_of(message)]
    parts += [{"functionCall": {"name": call.name, "args": call.arguments}} for call in calls]
    return "model" if message.get("role") == "assistant" else "user", own or parts


def _result(message: Mapping[str, Any], called: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    head = called.get(string(message.get("tool_call_id"))) or {"name": string(message.get("name"))}
    if not head["name"]:
        raise ConfigurationError(
            "a tool's result has no call before it and no `name`: Gemini needs the function's name"
        )
    text = "".join(string(part.get("text")) for part in parts_of(message))
    response = parse_object(text)
    return {"functionResponse": {**head, "response": {"result": text} if response is None else response}}


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part as Gemini has it. One that is not OpenAI's is Gemini's own."""
    if part.get("type") == "text":
        return {"text": part.get("text")}
    image = image_of(part)
    if image is None:
        return part
    url, kind, data = image
    if data:
        return {"inlineData": {"mimeType": kind, "data": data}}
    guessed = mimetypes.guess_type(url.partition("?")[0])[0]
    return {"fileData": {"fileUri": url} | ({"mimeType": guessed} if guessed else {})}


def _tools(tools: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    functions = [_declaration(said) for tool in tools if (said := function_of(tool)) is not None]
    own = [tool for tool in tools if function_of(tool) is None]
    return [{"functionDeclarations": functions}, *own] if functions else own


def _declaration(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the schema as JSON Schema: `parameters` would take only a part of it."""
    declaration = {name: function[name] for name in ("name", "description") if name in function}
    schema = function.get("parameters")
    return declaration | ({"parametersJsonSchema": schema} if schema else {})
