"""OpenAI's chat, completions and embeddings, as OpenAI, Azure and every compatible server take them. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any
from urllib.parse import parse_qs

from tokvigil.dialects.answers import Tally
from tokvigil.dialects.provider_call import ProviderCall, Request
from tokvigil.json_values import count, is_true, mapping, mappings, string
from tokvigil.usage_reading import read_usage

CAP_NAMES = ("max_completion_tokens", "max_tokens")
# These refuse `max_tokens`; many compatible servers know nothing else. Names may begin with a vendor, or with "ft:".
REFUSES_MAX_TOKENS = re.compile(r"(?:^|[/:.])(?:o\d|gpt-(?:[5-9]|\d\d))", re.IGNORECASE)

BLOCKED_TYPE = "ai_usage_blocked"
# Says the usage of a stream without being asked, and refuses the question.
TELLS_USAGE_UNASKED = frozenset({"mistral"})
# Versions of Azure's interface before this refuse `stream_options` and `max_completion_tokens`.
AZURE_VERSION_MIN = "2024-09-01"


class OpenAICall(ProviderCall):
    """Any call whose errors are in OpenAI's shape."""

    def refusal(self, message: str, code: str) -> Mapping[str, Any]:
        return {"error": {"message": message, "type": BLOCKED_TYPE, "param": None, "code": code}}

    def _is_old_azure(self) -> bool:
        # "v1" and "preview" sort after dates.
        version = parse_qs(self._request.query).get("api-version", ["v1"])[0]
        return self.provider == "azure" and version < AZURE_VERSION_MIN


class GeneratingCall(OpenAICall):
    """Chat and completions: both stream chunks with `choices`, and usage only if asked."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        # Whether usage must be asked for: the caller has not, and the server takes the question.
        self._asks = self.streams and not request.is_signed and not self._is_asking() and self._may_ask()

    def _tally(self) -> Tally:
        return ChoicesTally(self, hides_usage=self._asks)

    def _asking_for_usage(self, fields: Mapping[str, Any], without: Container[str]) -> Mapping[str, Any]:
        if not self._asks or "stream_options" in without:
            return fields
        return {
            **fields,
            "stream_options": {**mapping(fields.get("stream_options")), "include_usage": True},
        }

    def _is_asking(self) -> bool:
        return is_true(mapping(self._fields.get("stream_options")).get("include_usage"))

    def _may_ask(self) -> bool:
        if self.provider in TELLS_USAGE_UNASKED or self._is_old_azure():
            return False
        # Azure over a caller's own documents has no stream options in any version.
        return self.provider != "azure" or "data_sources" not in self._fields


class ChatCall(GeneratingCall):
    operation = "chat"
    seen_through_as = "chat"
    cap_names: tuple[str, ...] = CAP_NAMES

    def _count_answers(self) -> int:
        return count(self._fields.get("n")) or 1

    def _preferred_names(self) -> tuple[str, ...]:
        is_openais = self.provider == "openai" or (self.provider == "azure" and not self._is_old_azure())
        return CAP_NAMES if is_openais or cap_name(self.model) == CAP_NAMES[0] else CAP_NAMES[::-1]


class CompletionsCall(GeneratingCall):
    """The older completions: one or more prompts, each answered `n` times."""

    operation = "text_completion"
    seen_through_as = "completions"
    cap_names = ("max_tokens",)

    def _count_answers(self) -> int:
        per_prompt = (count(self._fields.get("n")) or 1, count(self._fields.get("best_of")) or 1)
        return max(per_prompt) * max(1, len(_inputs(self._fields.get("prompt"))))


class EmbeddingsCall(OpenAICall):
    operation = "embeddings"
    seen_through_as = "embeddings"

    def bills_output(self) -> bool:
        return False

    def _tally(self) -> Tally:
        return EmbeddingsTally(self)


class ChoicesTally(Tally):
    def __init__(self, call: GeneratingCall, *, hides_usage: bool) -> None:
        super().__init__(call)
        self.hides_usage = hides_usage
        self._has_stopped = False

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        self.read_text(event)
        # Moonshot's stands in the choice, Groq's in a field of its own.
        if not any(mapping(said.get("usage")) for said in self._may_say_usage(event)):
            return True
        self.hear(read_usage(event))
        is_alone = event.get("choices") == []
        # Some servers say first what the prompt has.
        if not is_alone or (self.said is not None and self.said.output_tokens):
            # Others say the usage so far, in every chunk or between two.
            self.says_so_far = self.figures() is not None
            if is_alone and self._has_stopped:
                self.end()
        # Who did not ask for this chunk looks for `choices[0]` in it.
        return not (is_alone and self.hides_usage)

    def _may_say_usage(self, event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [event, mapping(event.get("x_groq")), *mappings(event.get("choices"))]

    def read_text(self, answer: Mapping[str, Any]) -> None:
        for choice in mappings(answer.get("choices")):
            self._has_stopped = self._has_stopped or bool(choice.get("finish_reason"))
            self._has_failed = self._has_failed or choice.get("finish_reason") == "error"
            self.add_text(string(choice.get("text")))
            for spoken in (choice.get("message"), choice.get("delta")):
                if isinstance(spoken, dict):
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

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        return True


def cap_name(model: str) -> str:
    """The name under which a chat model takes its cap, as far as its own name tells."""
    return CAP_NAMES[0] if REFUSES_MAX_TOKENS.search(model) else CAP_NAMES[1]


def _inputs(value: Any) -> list[Any]:
    """The single inputs of a value that may be one text, one list of tokens, or a list of either."""
    if not isinstance(value, list):
        return [] if value is None else [value]
    return [value] if value and all(isinstance(item, int) for item in value) else value
