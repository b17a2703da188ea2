"""What a provider's request asks for, whatever its wire format. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokvigil import json_values
from tokvigil.dialects.answers import AnswerReader, Tally

# Where a request is nested too deeply for its text to be walked: the median over 96 languages.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A provider's request. `body` is what `fields` were read from."""

    provider: str | None
    model: str
    path: str
    query: str
    # They hold the prompt, which must not get into a log or a traceback.
    fields: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)
    # A signature over the body goes with it: it must arrive as it is.
    is_signed: bool


class ProviderCall(ABC):
    """One AI call as a provider's request says it, in a body that holds named fields.

    Subclasses say where their format keeps cap and text.
    """

    # Of whom a path of this format speaks, whatever the host.
    provider_by_format: str | None = None

    def __init__(self, request: Request) -> None:
        self._request = request
        self._fields = request.fields
        self._input_tokens: int | None = None
        # As usage reports name it ("openai", "anthropic", "google", ...); None: an endpoint nobody knows.
        self.provider = request.provider or self.provider_by_format
        self.model = request.model
        # Whether the answer is to come as a stream of events.
        self.streams = self._streams()
        cap = self._cap()
        # The most it may produce, all answers together; None: the request sets no cap, or produces no tokens.
        self.max_output_tokens = None if cap is None else cap * self._answers()

    def count_input(self) -> int:
        """Input tokens, counted here: milliseconds for long prompts."""
        if self._input_tokens is None:
            try:
                self._input_tokens = self._count_input()
            except RecursionError:
                self._input_tokens = len(self._request.body) // BYTES_PER_TOKEN
        return self._input_tokens

    def body(self, max_output_tokens: int | None) -> bytes:
        """The request body to send; the original bytes if nothing changes.

        The cap is written in: never above the request's own, shared out among several answers, and never so
        low that the provider refuses it. Usage is asked for where a stream does not tell it by itself.
        """
        if self._request.is_signed:
            return self._request.body
        fields = self._asking_for_usage(self._capped(max_output_tokens))
        return self._request.body if fields is self._fields else json_values.write(fields)

    def reader(self) -> AnswerReader:
        """A new reader for this call's answer."""
        return AnswerReader(self._tally(), streams=self.streams)

    @abstractmethod
    def refusal(self, message: str, code: str) -> Mapping[str, Any]:
        """The body of a 403 in the provider's own error shape."""

    @abstractmethod
    def _count_input(self) -> int: ...

    @abstractmethod
    def _tally(self) -> Tally: ...

    def _streams(self) -> bool:
        return json_values.is_true(self._fields.get("stream"))

    def _answers(self) -> int:
        """How many answers the request asks for. A provider's cap is per answer."""
        return 1

    def _cap(self) -> int | None:
        """The request's own cap, per answer."""
        return None

    def _cap_min(self) -> int:
        """The provider refuses this request with a lower cap."""
        return 1

    def _with_cap(self, cap: int) -> Mapping[str, Any]:
        """The fields with this cap per answer. As they are, where the format has no cap."""
        return self._fields

    def _asking_for_usage(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields, so that the answer tells its usage."""
        return fields

    def _capped(self, max_output_tokens: int | None) -> Mapping[str, Any]:
        if max_output_tokens is None:
            return self._fields
        share = max(self._cap_min(), max_output_tokens // self._answers())
        cap = self._cap()
        return self._with_cap(share) if cap is None or share < cap else self._fields
