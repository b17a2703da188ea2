"""What a request gives its model to read, gathered for counting. Pure."""

from __future__ import annotations

from typing import Any

from tokvigil.dialects import json_values
from tokvigil.tokens import TOKENS_PER_ATTACHMENT, TOKENS_PER_MESSAGE, count_text

# Longer ASCII without a single space is a file in base64, not something a model reads as text.
FILE_CHARS_MIN = 1_000


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
            self._texts.append(json_values.compact(value))

    def add_attachment(self) -> None:
        self._attachments += 1

    def add_tokens(self, tokens: int) -> None:
        self._tokens += tokens

    def add_strings(self, value: Any) -> None:
        """All strings anywhere in a value of unknown shape; files among them are attachments."""
        if isinstance(value, str):
            if is_file(value):
                self.add_attachment()
            else:
                self._texts.append(value)
        elif isinstance(value, dict):
            self.add_strings(list(value.values()))
        elif isinstance(value, list):
            for item in value:
                self.add_strings(item)

    def count(self, model: str) -> int:
        """Counted as one text: milliseconds for long prompts."""
        tokens = count_text("\n".join(self._texts), model)
        return (
            tokens
            + self._tokens
            + self._messages * TOKENS_PER_MESSAGE
            + self._attachments * TOKENS_PER_ATTACHMENT
        )


def is_file(text: str) -> bool:
    return text.startswith("data:") or (len(text) >= FILE_CHARS_MIN and text.isascii() and " " not in text)
