"""OpenAI's chat completions, which every compatible server takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokvigil.chatting.chat_format import ChatFormat, Conversation, first, text_or_none, with_options
from tokvigil.dialects.openai import CAP_NAMES, cap_name
from tokvigil.json_values import mapping, mappings, string


class OpenAIFormat(ChatFormat):
    base_url = "https://api.openai.com/v1"
    base_url_variable = "OPENAI_BASE_URL"
    key_variables = ("OPENAI_API_KEY",)
    cap_names = CAP_NAMES

    def url(self, base_url: str, model: str, *, streams: bool) -> str:
        return f"{base_url}/chat/completions"

    def headers(self, api_key: str | None) -> Mapping[str, str]:
        return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    def body(self, conversation: Conversation) -> Mapping[str, Any]:
        fields: dict[str, Any] = {"model": conversation.model, "messages": list(conversation.messages)}
        if conversation.tools:
            fields["tools"] = list(conversation.tools)
        if conversation.streams:
            fields["stream"] = True
        if conversation.max_output_tokens is not None:
            fields[cap_name(conversation.model)] = conversation.max_output_tokens
        return with_options(fields, conversation.options)

    def _has_answer(self, answer: Mapping[str, Any]) -> bool:
        return isinstance(answer.get("choices"), list)

    def text(self, answer: Mapping[str, Any]) -> str:
        return _text(mapping(first(answer.get("choices")).get("message")).get("content"))

    def text_delta(self, event: Mapping[str, Any]) -> str:
        choices = [choice for choice in mappings(event.get("choices")) if choice.get("index", 0) == 0]
        return _text(mapping(first(choices).get("delta")).get("content"))

    def finish_reason(self, answer: Mapping[str, Any]) -> str | None:
        return text_or_none(first(answer.get("choices")).get("finish_reason"))

    def model_name(self, answer: Mapping[str, Any]) -> str | None:
        return text_or_none(answer.get("model"))


def _text(content: Any) -> str:
    """Of a text, or of parts, as Mistral's reasoning models answer."""
    return (
        content
        if isinstance(content, str)
        else "".join(string(part.get("text")) for part in mappings(content))
    )
