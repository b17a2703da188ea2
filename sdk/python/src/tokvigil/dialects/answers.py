"""How an answer passes through to the caller while it is read. Pure.

`AnswerReader` knows the forms in which answers come: one JSON value, server-sent events, or a JSON array that grows. A
`Tally`, one for each wire format, knows what the JSON in them says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from tokvigil import containing, json_values
from tokvigil.answered_model import model_of
from tokvigil.dialects import reasoning
from tokvigil.dialects.aws_event_stream import MessageParser
from tokvigil.dialects.bulk import Condensed
from tokvigil.dialects.json_array import ArrayParser
from tokvigil.dialects.sse import Event, EventParser
from tokvigil.endings import Ending
from tokvigil.json_values import string
from tokvigil.models import Usage
from tokvigil.quantities import BY_PIECE
from tokvigil.tokens import count_text
from tokvigil.usage_reading import read_usage

# Of longer text than this, no more is kept: the count is extrapolated.
TEXT_CHARS_MAX = 4_000_000

# How a stream of events begins, and one of AWS: with the length of its first message.
_EVENT_FIELDS = (b":", b"data:", b"event:", b"id:", b"retry:")
_BEGINNINGS_OF_FIELDS = frozenset(name[:end] for name in _EVENT_FIELDS for end in range(1, len(name) + 1))
_AWS_EVENTS = b"\0"


class AskedCall(Protocol):
    """What a tally must know of the request."""

    model: str
    cap_names: tuple[str, ...]

    def count_input(self) -> int: ...

    def shows_every_token(self) -> bool: ...

    def bills_output(self) -> bool: ...

    def pieces(self) -> Mapping[str, int]: ...


class Tally(ABC):
    """What one answer has said so far: figures of the provider, and text to count where there are none."""

    # Whether all output is text: what comes that is no JSON is no answer, and what is read of a cut stream is counted.
    answers_in_text = True
    # Whether the caller is not to see some event.
    hides_usage = False

    def __init__(self, call: AskedCall) -> None:
        self._call = call
        # By its provider, once it has said it.
        self.answer_id = ""
        # The provider's figures so far; whether it has counted its input, or said zeros; whether they are of all output
        # until now; and whether no others will come.
        self.said: Usage | None = None
        self.counts_input = False
        self.says_so_far = False
        self.is_final = False
        self._shows_all = True
        self._has_answered = False
        self._has_failed = False
        # The model that answers, once the answer has named it.
        self.model = ""
        self._texts: list[str] = []
        self._chars_kept = 0
        self._chars_seen = 0

    def take_answer(self, answer: Mapping[str, Any]) -> None:
        """The whole answer, as one JSON object. Its text counts only if it says no usage."""
        self._take(answer)
        self.hear(read_usage(answer))
        if self.said is None or not self.said.output_tokens or not self.counts_input:
            self.read_text(answer)

    def take_event(self, name: str, event: Mapping[str, Any]) -> bool:
        """One event of a stream; returns whether the caller is to see it."""
        self._take(event)
        return self.read_event(name, event)

    def _take(self, fields: Mapping[str, Any]) -> None:
        if fields.get("error") or fields.get("type") == "error":
            self._has_failed = True
        else:
            self._has_answered = True
        # The answer itself, or the event of a stream that introduces it.
        for answer in (fields, fields.get("message"), fields.get("response")):
            if isinstance(answer, dict):
                self.answer_id = self.answer_id or string(answer.get("id") or answer.get("responseId"))
                self.model = model_of(answer) or self.model

    def hear(self, usage: Usage | None) -> None:
        """What the provider says. Servers that cannot count say zeros, also after others' figures."""
        if usage is None:
            return
        is_by_piece = not BY_PIECE.isdisjoint(usage.quantities)
        if usage.input_tokens or is_by_piece or self.said is None:
            self.said = usage
            self.counts_input = usage.input_tokens > 0 or is_by_piece or self._call.count_input() == 0

    def figures(self) -> Usage | None:
        """The provider's so far; None if it has said none, or zeros for a prompt or for text that was seen."""
        said = self.said
        if said is None or not self.counts_input or (self._texts and not said.output_tokens):
            return None
        return said

    def read_text(self, answer: Mapping[str, Any]) -> None:
        """The text of a whole answer, with `add_text`; of some formats none counts."""
        return

    def skip(self) -> None:
        """Something came that cannot be read. What was said before may not be all, and the text is not all there is."""
        self.said, self.says_so_far, self._shows_all = None, False, False

    @abstractmethod
    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        """What one event says; returns whether the caller is to see it."""

    def end(self) -> None:
        """The answer ended as it should: what it said last is final."""
        self.is_final = True

    def ending(self) -> Ending:
        """Of an answer that was read to its end. What says an error beside text was not refused."""
        if not self._has_failed:
            return Ending.COMPLETE
        if self.figures() is not None:
            return Ending.FAILED
        return Ending.CUT if self._has_answered or self._texts else Ending.REFUSED

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

    def counted(self) -> Usage | None:
        """What was used as far as the answer tells: its own figures so far, and tokens counted here where all of them
        are to be seen. None: nobody can tell."""
        output_tokens = self.output_tokens()
        said = self.said or Usage(input_tokens=0, output_tokens=0)
        tells_all = self.says_so_far or (self.is_final and said.output_tokens > 0)
        if self._call.bills_output() and not tells_all and not (output_tokens and self._shows_every_token()):
            return None
        return replace(
            said,
            input_tokens=said.input_tokens or self._call.count_input(),
            output_tokens=max(said.output_tokens, output_tokens),
            quantities=said.quantities or self._call.pieces(),
            source="estimated",
        )

    def _shows_every_token(self) -> bool:
        """A deployment may have any name: the answer then says which model it is."""
        reasons = any(map(reasoning.is_reasoning_model, (self._call.model, self.model)))
        return self._shows_all and self._call.shows_every_token() and not reasons


class Form(ABC):
    """One form of answers: cuts the bytes into JSON for the tally."""

    # How many of the bytes fed have not been returned yet.
    waiting_bytes = 0

    @abstractmethod
    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes:
        """What is left for the caller to see at the end."""
        return b""

    def ending(self, tally: Tally) -> Ending:
        return tally.ending()


class AnswerReader:
    """Reads a successful answer while it passes through to the caller. `streams`: whether a stream was asked for."""

    def __init__(self, tally: Tally, *, streams: bool, bills_output: bool) -> None:
        self._tally = tally
        self._streams = streams
        self._bills_output = bills_output
        # Known by how the answer begins: some servers stream unasked, and others do not when asked, or stream sound.
        self._form: Form | None = None
        self._held = b""
        self._has_finished = False
        # Bytes that the caller has not been given yet. Should reading fail, they are passed on as they came.
        self._unpassed = bytearray()
        self._is_broken = False

    @property
    def answer_id(self) -> str:
        """As its provider names the answer; "" until it has."""
        return self._tally.answer_id

    @property
    def model(self) -> str:
        """The model that answers; "" until the answer has named it."""
        return self._tally.model

    def feed(self, data: bytes) -> bytes:
        """Takes the next decoded bytes; returns what the caller is to see now, in whole events where one may go."""
        if self._is_broken:
            return data
        self._unpassed += data
        try:
            seen = self._feed(data)
        except Exception as error:
            return self._give_up(error)
        waiting = len(self._held) if self._form is None else self._form.waiting_bytes
        del self._unpassed[: len(self._unpassed) - waiting]
        return seen

    def finish(self) -> bytes:
        """The answer ended as it should; returns what is left for the caller to see."""
        if self._is_broken:
            return b""
        self._has_finished = True
        try:
            if self._held:
                self._form = Whole(self._tally)
                self._form.feed(self._held)
            left = b"" if self._form is None else self._form.finish()
            self._tally.end()
        except Exception as error:
            return self._give_up(error)
        return self._held + left

    def _feed(self, data: bytes) -> bytes:
        if self._form is not None:
            return self._form.feed(data)
        data, self._held = self._held + data, b""
        start = data.lstrip(json_values.BLANK)
        if not start:
            return data
        if bytes(start) in _BEGINNINGS_OF_FIELDS:
            self._held = data
            return b""
        self._form = self._form_that_begins(start)
        return self._form.feed(data)

    def _give_up(self, error: Exception) -> bytes:
        """Nothing is read from here on: the caller gets the rest as it comes."""
        containing.say("a provider's answer cannot be read", error)
        self._is_broken = True
        return bytes(self._unpassed)

    def is_complete(self) -> bool:
        """Whether the provider has said that nothing more comes. Many callers read no further then."""
        return self._tally.is_final and not self._is_broken

    def ending(self) -> Ending:
        """Of an answer that was read to its end: an error under a status of success is a refusal."""
        if self.figures() is not None:
            return self._tally.ending()
        if self._is_broken:
            return Ending.UNANSWERED
        return Ending.UNANSWERED if self._form is None else self._form.ending(self._tally)

    def figures(self) -> Usage | None:
        """What the provider says that the whole call used; None as long as it has not said it."""
        return self._tally.figures() if self.is_complete() else None

    def counted(self) -> Usage | None:
        """What was used as far as the answer was read; None: nobody can tell."""
        if self._is_broken:
            return None
        if isinstance(self._form, Whole):
            if not self._has_finished and self._form.has_all():
                # A caller who reads exactly the announced length is not told that nothing more comes.
                self.finish()
            if not self._form.was_read and self._bills_output:
                return None
        return self._tally.counted()

    def _form_that_begins(self, start: bytes) -> Form:
        if start.startswith(_AWS_EVENTS):
            return AwsEvents(self._tally)
        if start.startswith(_EVENT_FIELDS):
            return Events(self._tally)
        is_array = self._streams and start.startswith(b"[")
        return GrowingArray(self._tally) if is_array else Whole(self._tally)


class Whole(Form):
    """One JSON object, a line of JSON for each event, or anything else: passed on as it comes and read at its end."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._body = Condensed()
        self._begins = b""
        # Whether its end was reached, and it was an answer that can be read.
        self.was_read = False

    def feed(self, data: bytes) -> bytes:
        self._begins = self._begins or data.lstrip(json_values.BLANK)[:1]
        self._body.add(data)
        return data

    def finish(self) -> bytes:
        answer = self._answer()
        if answer is not None:
            self._tally.take_answer(answer)
        elif not self._body.is_cut and self._begins == b"{":
            _take_lines(self._tally, self._body)
        self.was_read = answer is not None or not self._tally.answers_in_text
        self._body.clear()
        return b""

    def ending(self, tally: Tally) -> Ending:
        if self.was_read:
            return tally.ending()
        # A page of a proxy is no answer of the provider.
        return Ending.REFUSED if self._begins == b"<" else Ending.UNANSWERED

    def has_all(self) -> bool:
        """Whether what has come is an answer that nothing is missing of. As costly as reading it."""
        return self._answer() is not None

    def _answer(self) -> dict[str, Any] | None:
        return None if self._body.is_cut else json_values.parse_object(self._body)


def _take_lines(tally: Tally, text: str | bytearray) -> None:
    """Each line is an event."""
    for line in text.splitlines():
        event = json_values.parse_object(line)
        if event is not None:
            tally.take_event("", event)


class Events(Form):
    """Server-sent events. Where one may be left out, they are passed on whole; else as they come."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._parser = EventParser()

    def feed(self, data: bytes) -> bytes:
        events = self._parser.feed(data)
        shown = self._shown(events)
        if not self._tally.hides_usage:
            return data
        self.waiting_bytes += len(data) - sum(len(event.raw) for event in events)
        return shown

    def finish(self) -> bytes:
        self.waiting_bytes = 0
        shown = self._shown(self._parser.finish())
        return shown if self._tally.hides_usage else b""

    def _shown(self, events: Iterable[Event]) -> bytes:
        return b"".join(event.raw for event in events if self._is_shown(event))

    def _is_shown(self, event: Event) -> bool:
        if event.is_too_large:
            self._tally.skip()
        if event.data is None:
            return True
        if event.data.startswith("[DONE]"):
            self._tally.end()
            return True
        fields = json_values.parse_object(event.data)
        if fields is None:
            # As of servers that write no blank line after an event.
            _take_lines(self._tally, event.data)
            return True
        return self._tally.take_event(event.name, fields)


class GrowingArray(Form):
    """A JSON array of events. None is left out: the commas between them are not ours to move."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._parser = ArrayParser()

    def feed(self, data: bytes) -> bytes:
        for item in self._parser.feed(data):
            if item is None:
                self._tally.skip()
                continue
            fields = json_values.parse_object(item)
            if fields is not None:
                self._tally.take_event("", fields)
        return data


class AwsEvents(Form):
    """The event stream of Amazon Bedrock, passed on as it comes."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._parser = MessageParser()

    def feed(self, data: bytes) -> bytes:
        for message in self._parser.feed(data):
            fields = message.event()
            if fields is not None:
                self._tally.take_event("", fields)
        if self._parser.is_broken:
            self._tally.skip()
        return data

    def ending(self, tally: Tally) -> Ending:
        return Ending.UNANSWERED if self._parser.is_broken and tally.answers_in_text else tally.ending()
