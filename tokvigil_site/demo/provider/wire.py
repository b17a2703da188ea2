"""OpenAI's wire format: what is read of a chat call, and how answers, usage and errors are written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CHOICES_MAX = 8
MESSAGES_MAX = 2_048
OUTPUT_TOKENS_MAX = 16_384
STREAM_WORDS_PER_CHUNK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error in OpenAI's shape."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class RefusedError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def refused(message: str, param: str | None = None, code: str | None = None) -> RefusedError:
    return RefusedError(Failure(status=400, message=message, param=param, code=code))


def not_found(method: str, path: str) -> Failure:
    return Failure(status=404, message=f"Invalid URL ({method} {path})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """A checked request. Raises `RefusedError` while being read."""

    model: str
    messages: list[dict[str, Any]]
    tools: list[Any]
    output_tokens_max: int
    choices: int
    stream: bool
    include_usage: bool

    @classmethod
    def read(cls, data: Any) -> ChatCall:
        if not isinstance(data, dict):
            raise refused("We could not parse the JSON body of your request.")
        model, messages = data.get("model"), data.get("messages")
        if not isinstance(model, str) or not model:
            raise refused("you must provide a model parameter")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise refused("'messages' must be a non-empty array of objects.", "messages")
        if len(messages) > MESSAGES_MAX:
            raise refused(f"'messages' may have at most {MESSAGES_MAX} elements.", "messages")
        caps = [_positive(data, name, OUTPUT_TOKENS_MAX) for name in ("max_tokens", "max_completion_tokens")]
        options = data.get("stream_options")
        tools = data.get("tools")
        return cls(
            model=model,
            messages=messages,
            tools=tools if isinstance(tools, list) else [],
            output_tokens_max=min(caps),
            choices=_positive(data, "n", 1, CHOICES_MAX),
            stream=data.get("stream") is True,
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model "says", the same for every choice. `output_tokens` includes the reasoning."""

    text: str
    finish_reason: str
    output_tokens: int
    reasoning_tokens: int


def usage(prompt_tokens: int, cached_tokens: int, answer: Answer, choices: int) -> dict[str, Any]:
    """As OpenAI reports it."""
    completion_tokens = answer.output_tokens * choices
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": min(cached_tokens, prompt_tokens), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens * choices,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def deltas(answer: Answer) -> Iterator[tuple[dict[str, str], str | None]]:
    """The pieces of a streamed answer, each with its finish reason."""
    yield {"role": "assistant", "content": ""}, None
    words = re.findall(r"\s*\S+|\s+$", answer.text)
    for at in range(0, len(words), STREAM_WORDS_PER_CHUNK):
        yield {"content": "".join(words[at : at + STREAM_WORDS_PER_CHUNK])}, None
    yield {}, answer.finish_reason


def _positive(data: Mapping[str, Any], name: str, default: int, value_max: int | None = None) -> int:
    value = data.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value > (value_max or value):
        raise refused(f"Invalid value for '{name}'.", name)
    return value
