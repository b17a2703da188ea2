"""What a request gives its model to read, gathered for counting. Pure."""

from __future__ import annotations

from typing import Any

from tokvigil.message_reading import compact, pieces_of_any
from tokvigil.tokens import TOKENS_PER_ATTACHMENT, TOKENS_PER_MESSAGE, count_text


class Prompt:
    """Texts, attachments and tokens of one request. Attachments are taken high, as `tokens` does."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._attachments = 0
        self._messages = 0
        self._tokens = 0

    def add_message(self) -> None:
        """A message begins, or whatever else the provider puts between marks of its own."""
        self._messages += 1

    def add_text(self, value: Any) -> None:
        """A text; anything else counts nothing."""
        if isinstance(value, str):
            self._texts.append(value)

    def add_json(self, value: Any) -> None:
        """A value that the model reads as JSON: a tool, its arguments, its result."""
        if value not in (None, [], {}):
            self._texts.append(compact(value))

    def add_attachment(self) -> None:
        self._attachments += 1

    def add_tokens(self, tokens: int) -> None:
        self._tokens += tokens

    def add_strings(self, value: Any) -> None:
        """All strings anywhere in a value of unknown shape; files among them are attachments."""
        for piece in pieces_of_any(value):
            if isinstance(piece, str):
                self.add_text(piece)
            else:
                self.add_attachment()

    def count(self, model: str) -> int:
        """Counted as one text: milliseconds for long prompts."""
        tokens = count_text("\n".join(self._texts), model)
        return (
            tokens
            + self._tokens
            + self._messages * TOKENS_PER_MESSAGE
            + self._attachments * TOKENS_PER_ATTACHMENT
        )
