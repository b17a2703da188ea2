"""What a model answers, in OpenAI's form, whole or event by event."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, ClassVar

from tokvigil.chatting.conversation import ToolCall, tool_calls_of
from tokvigil.json_values import mapping, mappings, string

# The field of an assistant's message that carries what OpenAI's form cannot say, by provider: thoughts and their
# signatures, which must go back as they came. Only this package reads it, and no provider is sent it.
CARRIED = "tokvigil"
ID_CHARS = 24


class Answer(ABC):
    """What was said so far. Answers may have any shape: reading them never fails."""

    # The provider's reasons to stop, in OpenAI's words.
    reasons: ClassVar[Mapping[str, str]]

    def __init__(self) -> None:
        # Whether anything came that is an answer of the model.
        self.is_answer = False
        self.model: str | None = None
        self._id = ""
        self._stopped_by: str | None = None
        self._texts: list[str] = []

    def take(self, said: Mapping[str, Any]) -> str:
        """Reads a whole answer, or the next event of a stream; returns the text it adds."""
        self._texts.append(self._take(said))
        return self._texts[-1]

    @property
    def text(self) -> str:
        """The text of the first answer; "" if it has none, as when it only calls tools."""
        return "".join(self._texts)

    @property
    @abstractmethod
    def tool_calls(self) -> list[dict[str, Any]]: ...

    @property
    @abstractmethod
    def message(self) -> dict[str, Any]:
        """The assistant's message, to be sent back."""

    @property
    def finish_reason(self) -> str | None:
        """None: not said yet. A reason that OpenAI does not have is in the provider's words.

        "tool_calls" wherever tools were called: some servers say "stop" then, and Google always does.
        """
        reason = self.reasons.get(self._stopped_by or "", self._stopped_by)
        return "tool_calls" if reason == "stop" and self.tool_calls else reason

    @abstractmethod
    def _take(self, said: Mapping[str, Any]) -> str: ...

    def _note(self, *, id_: Any, model: Any, reason: Any) -> None:
        """Keep what the answer says of itself, once it says it."""
        self._id = string(id_) or self._id
        self.model = string(model) or self.model
        self._stopped_by = string(reason) or self._stopped_by

    def _call(self, number: int, id_: Any, name: Any, arguments: Any) -> dict[str, Any]:
        """A call in OpenAI's form, from arguments as JSON or as an object. One without an id gets a stable one."""
        made = f"call_{sha256(f'{self._id}/{number}'.encode(errors='replace')).hexdigest()[:ID_CHARS]}"
        written = arguments if isinstance(arguments, str) else ""
        written = written or json.dumps(mapping(arguments), ensure_ascii=False)
        function = {"name": string(name), "arguments": written}
        return {"id": string(id_) or made, "type": "function", "function": function}


class PartsAnswer(Answer):
    """An answer in parts of the provider's own, some of which must go back as they came."""

    provider: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[dict[str, Any]] = []

    @property
    def message(self) -> dict[str, Any]:
        calls = self.tool_calls
        said: dict[str, Any] = {"role": "assistant", "content": self.text or (None if calls else "")}
        if calls:
            said["tool_calls"] = calls
        if not all(map(self._is_plain, self.parts)):
            said[CARRIED] = {self.provider: self.parts}
        return said

    @classmethod
    def carried_by(cls, message: Mapping[str, Any], calls: Iterable[ToolCall]) -> list[Mapping[str, Any]]:
        """The parts that a message with these calls carries for the provider, to be sent instead of what it says.

        Empty if it carries none, or if its text or its calls were changed since.
        """
        answer = cls()
        text = answer.add(mappings(mapping(message.get(CARRIED)).get(cls.provider)))
        said = [call[1:] for call in tool_calls_of({"tool_calls": answer.tool_calls})]
        is_changed = text != (message.get("content") or "") or said != [call[1:] for call in calls]
        return [] if is_changed else list(answer.parts)

    @abstractmethod
    def add(self, parts: Iterable[Mapping[str, Any]]) -> str:
        """Takes complete parts; returns their text."""

    @abstractmethod
    def _is_plain(self, part: Mapping[str, Any]) -> bool:
        """Whether OpenAI's form says all of it."""
