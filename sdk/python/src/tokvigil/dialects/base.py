"""What the SDK needs to know of any provider's wire format.

Pure: bytes and values in, bytes and values out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from tokvigil.models import Usage


class ProviderCall(ABC):
    """One AI call as a provider's request says it."""

    # As usage reports name it ("openai", "anthropic", "google", ...); None: an endpoint nobody knows.
    provider: str | None
    model: str
    # The most it may produce, all answers together; None: the request sets no cap, or produces no tokens.
    max_output_tokens: int | None
    # Whether the answer comes as a stream of events.
    streams: bool

    @abstractmethod
    def count_input(self) -> int:
        """Input tokens, counted here: milliseconds for long prompts."""

    @abstractmethod
    def body(self, max_output_tokens: int | None) -> bytes:
        """The request body to send; the original bytes if nothing changes.

        The cap is written in: never above the request's own, shared out among several answers, and never so
        low that the provider refuses it. Usage is asked for where a stream does not tell it by itself.
        """

    @abstractmethod
    def reader(self) -> AnswerReader:
        """A new reader for this call's answer."""

    @abstractmethod
    def refusal(self, message: str, code: str) -> Mapping[str, Any]:
        """The body of a 403 in the provider's own error shape."""


class AnswerReader(ABC):
    """Reads a successful answer while it passes through to the caller."""

    @abstractmethod
    def feed(self, data: bytes) -> bytes:
        """Takes the next decoded bytes; returns what the caller is to see now. Whole events, in a stream."""

    @abstractmethod
    def finish(self) -> bytes:
        """The answer ended as it should; returns what is left for the caller to see."""

    @abstractmethod
    def is_answer(self) -> bool:
        """Whether what has come is an answer at all: not a proxy's page, nor an error under a status of success."""

    @abstractmethod
    def is_complete(self) -> bool:
        """Whether the provider has said that nothing more comes. Many callers read no further then."""

    @abstractmethod
    def usage(self) -> Usage | None:
        """What the provider says the whole call used; None as long as it has not said so."""

    @abstractmethod
    def estimate(self) -> Usage:
        """What the call used as far as the answer was seen; `source` is "estimated".

        The provider's own figures where it gave some, else counted here. Input with text in it is never 0.
        """
