"""The chat formats by the names that callers give."""

from __future__ import annotations

from collections.abc import Mapping

from tokvigil.chatting.anthropic_format import AnthropicFormat
from tokvigil.chatting.chat_format import ChatFormat
from tokvigil.chatting.google_format import GoogleFormat
from tokvigil.chatting.openai_format import OpenAIFormat

FORMATS: Mapping[str, ChatFormat] = {
    "openai": OpenAIFormat(),
    "anthropic": AnthropicFormat(),
    "google": GoogleFormat(),
}
