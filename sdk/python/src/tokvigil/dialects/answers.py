"""How an answer passes through to the caller while it is read. Pure.

`AnswerReader` knows the forms in which answers come: one JSON value, server-sent events, or a JSON array
that grows. What the JSON in them says is the business of a `Tally`, one per wire format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokvigil import json_values
from tokvigil.dialects.json_array import ArrayParser
from tokvigil.dialects.sse import EventParser
from tokvigil.models import Usage
from tokvigil.tokens import count_text

if TYPE_CHECKING:
    from tokvigil.dialects.provider_call import ProviderCall

# A longer answer (many images or embeddings) is passed on; its usage is estimated.
ANSWER_BYTES_MAX = 32 * 1024 * 1024
# Of longer text than this, no more is kept: the count is extrapolated.
TEXT_CHARS_MAX = 4_000_000

# How a stream of events begins.
_EVENT_FIELDS = (b":", b"data:", b"event:", b"id:", b"retry:")


class Tally(ABC):
    """What one answer has said so far: figures of the provider, and text to count where there are none."""

    # Whether an answer that is no JSON is none.
    expects_json = True

    def __init__(self, call: ProviderCall) -> None:
        self._call = call
        self.is_answer = not self.expects_json
        # The provider's figures so far, and whether no others will come.
        self.said: Usage | None = None
        self.is_final = False
        self._texts: list[str] = []
        self._chars_kept = 0
        self._chars_seen = 0

    def take_answer(self, answer: Mapping[str, Any]) -> None:
        """The whole answer, as one JSON object."""
        self.is_answer = self.is_answer or not answer.get("error")
        self.read_answer(answer)

    def take_event(self, name: str, event: Mapping[str, Any]) -> bool:
        """One event of a stream; returns whether the caller is to see it."""
        self.is_answer = self.is_answer or not event.get("error")
        return self.read_event(name, event)

    @abstractmethod
    def read_answer(self, answer: Mapping[str, Any]) -> None:
        """What a whole answer says."""

    @abstractmethod
    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        """What one event says; returns whether the caller is to see it."""

    def end(self) -> None:
        """The answer ended as it should: what it said last is final."""
        self.is_final = True

    def add_text(self, text: str) -> None:
        self._chars_seen += len(text)
        if text and self._chars_kept < TEXT_CHARS_MAX:
            self._chars_kept += len(text)
            self._texts.append(text)

    def output_tokens(self) -> int:
        """Tokens of the text seen, counted here."""
        if not self._texts:
            return 0
        counted = count_text("".join(self._texts), self._call.model)
        return -(-counted * self._chars_seen // self._chars_kept)

    def estimate(self, unread: str) -> Usage:
        """`unread`: what came of an answer that cannot be read as JSON, as a rule because it was cut."""
        output_tokens = self.output_tokens() + self._count_unread(unread)
        if self.said is None:
            return Usage(
                input_tokens=self._call.count_input(), output_tokens=output_tokens, source="estimated"
            )
        if self.is_final:
            return replace(self.said, source="estimated")
        return replace(
            self.said,
            input_tokens=self.said.input_tokens or self._call.count_input(),
            output_tokens=max(self.said.output_tokens, output_tokens),
            source="estimated",
        )

    def _count_unread(self, unread: str) -> int:
        """JSON around a text makes its count too high, but never higher than the cap."""
        tokens = count_text(unread, self._call.model) if unread else 0
        cap = self._call.max_output_tokens
        return tokens if cap is None else min(tokens, cap)


class Form(ABC):
    """One form of answers: cuts the bytes into JSON for the tally."""

    @abstractmethod
    def feed(self, data: bytes) -> bytes: ...

    @abstractmethod
    def finish(self) -> bytes: ...

    def unread(self) -> str:
        """The text that did not become JSON."""
        return ""


class AnswerReader:
    """Reads a successful answer while it passes through to the caller. `streams`: whether a stream was asked for."""

    def __init__(self, tally: Tally, *, streams: bool) -> None:
        self._tally = tally
        self._streams = streams
        # Known by how the answer begins: some servers stream unasked, and others do not when asked.
        self._form: Form | None = None
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Takes the next decoded bytes; returns what the caller is to see now. Whole events, in a stream."""
        if self._form is not None:
            return self._form.feed(data)
        data, self._held = self._held + data, b""
        start = data.lstrip(json_values.BLANK)
        if not start:
            return data
        if not self._streams and any(name.startswith(start) for name in _EVENT_FIELDS):
            self._held = data
            return b""
        self._form = self._form_that_begins(start)
        return self._form.feed(data)

    def finish(self) -> bytes:
        """The answer ended as it should; returns what is left for the caller to see."""
        if self._held:
            self._form = Whole(self._tally)
            self._form.feed(self._held)
        left = b"" if self._form is None else self._form.finish()
        self._tally.end()
        return self._held + left

    def is_answer(self) -> bool:
        """Whether what has come is an answer at all: not a proxy's page, nor an error under a status of success."""
        return self._tally.is_answer

    def is_complete(self) -> bool:
        """Whether the provider has said that nothing more comes. Many callers read no further then."""
        return self._tally.is_final

    def usage(self) -> Usage | None:
        """What the provider says the whole call used; None as long as it has not said so."""
        return self._tally.said if self._tally.is_final else None

    def estimate(self) -> Usage:
        """What the call used as far as the answer was seen; `source` is "estimated".

        The provider's own figures where it gave some, else counted here. Input with text in it is never 0.
        """
        if isinstance(self._form, Whole) and self._form.has_all():
            # Whoever read it to its end need not wait to be told that nothing more comes.
            self.finish()
        return self._tally.estimate("" if self._form is None else self._form.unread())

    def _form_that_begins(self, start: bytes) -> Form:
        if not self._streams:
            return Events(self._tally) if start.startswith(_EVENT_FIELDS) else Whole(self._tally)
        if start.startswith(b"{"):
            return Whole(self._tally)
        return GrowingArray(self._tally) if start.startswith(b"[") else Events(self._tally)


class Whole(Form):
    """One JSON object, passed on as it comes and read at its end."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._body = bytearray()
        self._reads = True

    def feed(self, data: bytes) -> bytes:
        if self._reads:
            self._body += data
            self._reads = len(self._body) <= ANSWER_BYTES_MAX
            if not self._reads:
                self._tally.is_answer = True
                self._body.clear()
        return data

    def finish(self) -> bytes:
        answer = json_values.parse_object(self._body)
        if answer is not None:
            self._body.clear()
            self._tally.take_answer(answer)
        return b""

    def has_all(self) -> bool:
        """Whether what has come is an answer that nothing is missing of. As costly as reading it."""
        return json_values.parse_object(self._body) is not None

    def unread(self) -> str:
        return self._body.decode("utf-8", "ignore")


class Events(Form):
    """Server-sent events, passed on whole, without those that the caller is not to see."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._parser = EventParser()

    def feed(self, data: bytes) -> bytes:
        return b"".join(
            event.raw for event in self._parser.feed(data) if self._is_shown(event.name, event.data)
        )

    def finish(self) -> bytes:
        return b"".join(
            event.raw for event in self._parser.finish() if self._is_shown(event.name, event.data)
        )

    def _is_shown(self, name: str, data: str | None) -> bool:
        if data is None:
            return True
        if data.startswith("[DONE]"):
            self._tally.end()
            return True
        fields = json_values.parse_object(data)
        return fields is None or self._tally.take_event(name, fields)


class GrowingArray(Form):
    """A JSON array of events. None is left out: the commas between them are not ours to move."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._parser = ArrayParser()

    def feed(self, data: bytes) -> bytes:
        for item in self._parser.feed(data):
            fields = json_values.parse_object(item)
            if fields is not None:
                self._tally.take_event("", fields)
        return data

    def finish(self) -> bytes:
        return b""
