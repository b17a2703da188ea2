"""Gemini's generated content and embeddings, from the Gemini API and Vertex. Pure.

The model stands in the path. Keys may be written in camelCase or snake_case: Google's servers take both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokvigil.dialects.answers import Tally
from tokvigil.dialects.openai import EmbeddingsTally
from tokvigil.dialects.prompt import Prompt
from tokvigil.dialects.provider_call import ProviderCall
from tokvigil.json_values import count, either, mapping, mappings, positive, string
from tokvigil.message_reading import compact
from tokvigil.usage_reading import read_usage

STREAMING_VERB = ":streamgeneratecontent"
CONFIG_NAMES = ("generationConfig", "generation_config")
CAP_NAMES = ("maxOutputTokens", "max_output_tokens")
CALL_NAMES = ("functionCall", "function_call", "executableCode", "executable_code")
RESULT_NAMES = (
    "functionResponse",
    "function_response",
    "codeExecutionResult",
    "code_execution_result",
)
FILE_NAMES = ("inlineData", "inline_data", "fileData", "file_data")


class GeminiCall(ProviderCall):
    provider_by_format = "google"

    def refusal(self, message: str, code: str) -> Mapping[str, Any]:
        return {
            "error": {
                "code": 403,
                "message": message,
                "status": "PERMISSION_DENIED",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": code,
                        "domain": "tokvigil",
                    }
                ],
            }
        }


class ContentCall(GeminiCall):
    def _streams(self) -> bool:
        return self._request.path.lower().endswith(STREAMING_VERB)

    def _answers(self) -> int:
        return count(either(self._config(), "candidateCount", "candidate_count")) or 1

    def _cap(self) -> int | None:
        return positive(either(self._config(), *CAP_NAMES))

    def _with_cap(self, cap: int) -> Mapping[str, Any]:
        config = self._config()
        config_name = _name_in(self._fields, CONFIG_NAMES)
        return {**self._fields, config_name: {**config, _name_in(config, CAP_NAMES): cap}}

    def _config(self) -> Mapping[str, Any]:
        return mapping(either(self._fields, *CONFIG_NAMES))

    def _tally(self) -> Tally:
        return ContentTally(self)

    def _count_input(self) -> int:
        prompt = Prompt()
        _add_content(prompt, either(self._fields, "systemInstruction", "system_instruction"))
        contents = self._fields.get("contents")
        for content in [contents] if isinstance(contents, dict) else mappings(contents):
            _add_content(prompt, content)
        for tool in mappings(self._fields.get("tools")):
            prompt.add_json(tool)
        schemas = ("responseSchema", "response_schema", "responseJsonSchema", "response_json_schema")
        prompt.add_json(either(self._config(), *schemas))
        return prompt.count(self.model)


class EmbedCall(GeminiCall):
    """One or many contents become vectors: no tokens come out."""

    def _tally(self) -> Tally:
        return EmbeddingsTally(self)

    def _count_input(self) -> int:
        prompt = Prompt()
        for request in (self._fields, *mappings(self._fields.get("requests"))):
            _add_content(prompt, request.get("content"))
        return prompt.count(self.model)


class ContentTally(Tally):
    """Usage comes with every chunk, each time for all of the call so far."""

    def read_answer(self, answer: Mapping[str, Any]) -> None:
        self.read_event("", answer)

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        self.said = read_usage(event) or self.said
        for candidate in mappings(event.get("candidates")):
            for part in mappings(mapping(candidate.get("content")).get("parts")):
                self.add_text(string(part.get("text")))
                call = either(part, *CALL_NAMES)
                self.add_text(compact(call) if call is not None else "")
        return True


def _add_content(prompt: Prompt, content: Any) -> None:
    """A content, or what the servers take for one: a text, or a list of parts."""
    if content is None:
        return
    prompt.add_message()
    prompt.add_text(content)
    for part in mappings(mapping(content).get("parts")) or mappings(content):
        prompt.add_text(part.get("text"))
        for name in (*CALL_NAMES, *RESULT_NAMES):
            prompt.add_json(part.get(name))
        if any(name in part for name in FILE_NAMES):
            prompt.add_attachment()


def _name_in(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The spelling that the caller uses; the first if he uses none."""
    return next((name for name in names if fields.get(name) is not None), names[0])
