"""Gemini's generated content and embeddings, from the Gemini API and Vertex. Pure.

The model stands in the path. Keys may be written in camelCase or snake_case: Google's servers take both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokvigil.dialects.answers import Tally
from tokvigil.dialects.openai import EmbeddingsTally
from tokvigil.dialects.provider_call import ProviderCall
from tokvigil.json_values import count, either, mapping, mappings, string
from tokvigil.message_reading import compact
from tokvigil.usage_reading import read_usage

STREAMING_VERB = ":streamgeneratecontent"
CONFIG_NAMES = ("generationConfig", "generation_config")
CAP_NAMES = ("maxOutputTokens", "max_output_tokens")
GROUNDING_NAMES = ("groundingMetadata", "grounding_metadata")
CALL_NAMES = ("functionCall", "function_call", "executableCode", "executable_code")


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
    operation = "generate_content"
    seen_through_as = "content"
    # It bounds thoughts, too, whatever their budget.
    cap_names: tuple[str, ...] = CAP_NAMES
    config_names = CONFIG_NAMES

    def _streams(self) -> bool:
        return self._request.path.lower().endswith(STREAMING_VERB)

    def _count_answers(self) -> int:
        return count(either(self._config, "candidateCount", "candidate_count")) or 1

    def _tally(self) -> Tally:
        return ContentTally(self)


class EmbedCall(GeminiCall):
    """One or many contents become vectors: no tokens come out."""

    operation = "embeddings"

    def bills_output(self) -> bool:
        return False

    def _tally(self) -> Tally:
        return EmbeddingsTally(self)


class ContentTally(Tally):
    """Usage comes with every chunk, each time for all of the call so far; what was searched for comes once."""

    def __init__(self, call: ContentCall) -> None:
        super().__init__(call)
        self._grounded: list[Mapping[str, Any]] = []

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        candidates = mappings(event.get("candidates"))
        self._grounded += [each for each in candidates if either(each, *GROUNDING_NAMES) is not None]
        self.hear(read_usage({**event, "candidates": self._grounded}))
        self.says_so_far = self.counts_input
        self.read_text(event)
        return True

    def read_text(self, answer: Mapping[str, Any]) -> None:
        for candidate in mappings(answer.get("candidates")):
            for part in mappings(mapping(candidate.get("content")).get("parts")):
                self.add_text(string(part.get("text")))
                call = either(part, *CALL_NAMES)
                self.add_text(compact(call) if call is not None else "")
