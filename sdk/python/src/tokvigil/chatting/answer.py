"""What a provider's answer to a chat says. Takes JSON of any shape; `provider` as `ChatRequest` names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokvigil.chatting.formats import FORMATS


def is_answer(provider: str, answer: Mapping[str, Any]) -> bool:
    """Whether it is an answer of the model. Some servers say 200 and send an error."""
    return answer.get("error") is None and FORMATS[provider].is_answer(answer)


def read_text(provider: str, answer: Mapping[str, Any]) -> str:
    """The text of the first answer; "" if it has none, as when it calls a tool."""
    return FORMATS[provider].text(answer)


def text_delta(provider: str, event: Mapping[str, Any]) -> str:
    """What one event of a stream adds to the text of the first answer."""
    return FORMATS[provider].text_delta(event)


def finish_reason(provider: str, answer: Mapping[str, Any]) -> str | None:
    """Why the model stopped, in the provider's words: of an answer, or of the event that says it."""
    return FORMATS[provider].finish_reason(answer)


def model_name(provider: str, answer: Mapping[str, Any]) -> str | None:
    """The model that answered: of an answer, or of the event that says it."""
    return FORMATS[provider].model_name(answer)
