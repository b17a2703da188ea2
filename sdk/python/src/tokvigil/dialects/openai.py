"""OpenAI's chat, completions and embeddings, as OpenAI, Azure and every compatible server take them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from tokvigil.dialects.answers import Tally
from tokvigil.dialects.prompt import Prompt
from tokvigil.dialects.provider_call import ProviderCall
from tokvigil.json_values import count, is_true, mapping, mappings, positive, string
from tokvigil.tokens import count_messages
from tokvigil.usage_reading import read_usage

CAP_NAMES = ("max_completion_tokens", "max_tokens")
# These refuse `max_tokens`; many compatible servers know nothing else.
WANTS_MAX_COMPLETION_TOKENS = re.compile(r"(?:^|/)(?:o\d|gpt-[5-9])", re.IGNORECASE)

BLOCKED_TYPE = "ai_usage_blocked"
# Says the usage of a stream without being asked, and refuses the question.
TELLS_USAGE_UNASKED = frozenset({"mistral"})
# The first version of Azure's interface that takes `stream_options`; older ones refuse it.
AZURE_VERSION_WITH_STREAM_OPTIONS = "2024-09-01"


class OpenAICall(ProviderCall):
    """Any call whose errors are in OpenAI's shape."""

    def refusal(self, message: str, code: str) -> Mapping[str, Any]:
        return {"error": {"message": message, "type": BLOCKED_TYPE, "param": None, "code": code}}


class GeneratingCall(OpenAICall):
    """Chat and completions: both stream chunks with `choices`, and usage only if asked."""

    def _tally(self) -> Tally:
        return ChoicesTally(self, hides_usage=self._asks())

    def _asking_for_usage(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._asks():
            return fields
        return {
            **fields,
            "stream_options": {**mapping(fields.get("stream_options")), "include_usage": True},
        }

    def _asks(self) -> bool:
        """Whether usage must be asked for: the caller has not, and the server takes the question."""
        asked = is_true(mapping(self._fields.get("stream_options")).get("include_usage"))
        return self.streams and not asked and not self._request.is_signed and self._may_ask()

    def _may_ask(self) -> bool:
        if self.provider in TELLS_USAGE_UNASKED:
            return False
        if self.provider != "azure":
            return True
        # Azure over a caller's own documents has no stream options in any version. "v1" sorts after dates.
        version = parse_qs(self._request.query).get("api-version", ["v1"])[0]
        return version >= AZURE_VERSION_WITH_STREAM_OPTIONS and "data_sources" not in self._fields


class ChatCall(GeneratingCall):
    def _answers(self) -> int:
        return count(self._fields.get("n")) or 1

    def _cap(self) -> int | None:
        caps = [cap for name in CAP_NAMES if (cap := positive(self._fields.get(name))) is not None]
        return min(caps, default=None)

    def _with_cap(self, cap: int) -> Mapping[str, Any]:
        named = [name for name in CAP_NAMES if self._fields.get(name) is not None]
        return {**self._fields, **dict.fromkeys(named or [cap_name(self.model)], cap)}

    def _count_input(self) -> int:
        tools = mappings(self._fields.get("tools")) + mappings(self._fields.get("functions"))
        beside = Prompt()
        beside.add_json(mapping(self._fields.get("response_format")).get("json_schema"))
        messages = mappings(self._fields.get("messages"))
        return count_messages(messages, self.model, tools=tools) + beside.count(self.model)


class CompletionsCall(GeneratingCall):
    """The older completions: one or more prompts, each answered `n` times."""

    def _answers(self) -> int:
        per_prompt = (count(self._fields.get("n")) or 1, count(self._fields.get("best_of")) or 1)
        return max(per_prompt) * max(1, len(_inputs(self._fields.get("prompt"))))

    def _cap(self) -> int | None:
        return positive(self._fields.get("max_tokens"))

    def _with_cap(self, cap: int) -> Mapping[str, Any]:
        return {**self._fields, "max_tokens": cap}

    def _count_input(self) -> int:
        return _count_inputs([self._fields.get("prompt"), self._fields.get("suffix")], self.model)


class EmbeddingsCall(OpenAICall):
    def _tally(self) -> Tally:
        return EmbeddingsTally(self)

    def _count_input(self) -> int:
        return _count_inputs([self._fields.get("input")], self.model)


class ChoicesTally(Tally):
    def __init__(self, call: GeneratingCall, *, hides_usage: bool) -> None:
        super().__init__(call)
        self._hides_usage = hides_usage

    def read_answer(self, answer: Mapping[str, Any]) -> None:
        self.said = read_usage(answer)
        self._add_choices(answer)

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        self._add_choices(event)
        if not mapping(event.get("usage")):
            return True
        self.said = read_usage(event) or self.said
        if event.get("choices") != []:
            # Some servers say the usage so far with every chunk.
            return True
        self.end()
        # Who did not ask for this chunk looks for `choices[0]` in it.
        return not self._hides_usage

    def _add_choices(self, fields: Mapping[str, Any]) -> None:
        for choice in mappings(fields.get("choices")):
            self.add_text(string(choice.get("text")))
            for spoken in (mapping(choice.get("message")), mapping(choice.get("delta"))):
                self._add_spoken(spoken)

    def _add_spoken(self, spoken: Mapping[str, Any]) -> None:
        for name in ("content", "refusal", "reasoning_content", "reasoning"):
            self.add_text(string(spoken.get(name)))
        for part in mappings(spoken.get("content")):
            self.add_text(string(part.get("text")))
        calls = [mapping(call.get("function")) for call in mappings(spoken.get("tool_calls"))]
        for call in (*calls, mapping(spoken.get("function_call"))):
            self.add_text(string(call.get("name")))
            self.add_text(string(call.get("arguments")))


class EmbeddingsTally(Tally):
    """Vectors are no output tokens, however many bytes they are."""

    def read_answer(self, answer: Mapping[str, Any]) -> None:
        self.said = read_usage(answer)

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        return True

    def _count_unread(self, unread: str) -> int:
        return 0


def cap_name(model: str) -> str:
    """The name under which a chat model takes its cap."""
    return CAP_NAMES[0] if WANTS_MAX_COMPLETION_TOKENS.search(model) else CAP_NAMES[1]


def _inputs(value: Any) -> list[Any]:
    """The single inputs of a value that may be one text, one list of tokens, or a list of either."""
    if not isinstance(value, list):
        return [] if value is None else [value]
    return [value] if value and all(isinstance(item, int) for item in value) else value


def _count_inputs(values: list[Any], model: str) -> int:
    prompt = Prompt()
    for item in [item for value in values for item in _inputs(value)]:
        if isinstance(item, list):
            prompt.add_tokens(len(item))
        elif isinstance(item, str):
            prompt.add_text(item)
        else:
            prompt.add_strings(item)
    return prompt.count(model)
