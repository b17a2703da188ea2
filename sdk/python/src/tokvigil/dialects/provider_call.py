"""What a provider's request asks for, whatever its wire format. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokvigil import json_values
from tokvigil.billing_terms import region, service_tier
from tokvigil.bodies import Body
from tokvigil.dialects import reasoning
from tokvigil.dialects.announcing import Asked, announced
from tokvigil.dialects.answers import AnswerReader, Tally
from tokvigil.errors import ConfigurationError
from tokvigil.json_values import either, mapping, positive
from tokvigil.message_reading import Reading, read_request
from tokvigil.tokens import count_reading

# Where a request is nested too deeply for its text to be walked: the median over 96 languages.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A provider's request."""

    provider: str | None
    model: str
    path: str
    query: str
    # It holds the prompt, which must not get into a log or a traceback.
    body: Body = field(repr=False)
    # A signature over the body goes with it: it must arrive as it is.
    is_signed: bool


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The body to send, and the names of the parameters in it that are not the caller's."""

    body: bytes = field(repr=False)
    added: tuple[str, ...] = ()


class CapCannotBeObeyedError(ConfigurationError):
    """The request cannot be sent so that its answers stay below the decision's cap.

    `cap` is the decision's, and `needed` the lowest that can be obeyed; both are of all answers together. None: the
    request is signed and names no cap.
    """

    def __init__(self, cap: int, needed: int | None) -> None:
        instead = (
            f"it needs {needed} at least"
            if needed
            else "it is signed: name an output cap before it is signed"
        )
        super().__init__(f"at most {cap} output tokens are left for this call, and {instead}")
        self.cap = cap
        self.needed = needed


class ProviderCall(ABC):
    """One AI call as a provider's request says it, in a body that holds named fields.

    Subclasses say where their format keeps cap and text.
    """

    # As OpenTelemetry's conventions name it; None: they have no name for it.
    operation: str | None = None
    # Of whom a path of this format speaks, whatever the host.
    provider_by_format: str | None = None
    # The names under which a request says its cap, for each answer; none: the format has no cap.
    cap_names: tuple[str, ...] = ()
    # The names of the object that holds it; none: it stands in the body itself.
    config_names: tuple[str, ...] = ()
    # How requests of this format are seen through, by its name in `usage_forms.json`; None: they are not.
    seen_through_as: str | None = None
    # The provider refuses lower caps.
    cap_min = 1

    def __init__(self, request: Request) -> None:
        self._request = request
        self._fields = request.body.fields
        self._input_tokens: int | None = None
        # How many there are in it, once its input is counted.
        self._files: int | None = None
        # As usage reports name it ("openai", "anthropic", "google", ...); None: an endpoint nobody knows.
        self.provider = request.provider or self.provider_by_format
        self.model = request.model
        # Whether the answer is to come as a stream of events.
        self.streams = self._streams()
        # The object that holds the cap, and the names of it that are said.
        self._config = (
            mapping(either(self._fields, *self.config_names)) if self.config_names else self._fields
        )
        self._said_names = [name for name in self.cap_names if self._config.get(name) is not None]
        # The request's own cap, for each answer. Under several names the highest: the server may read any of them.
        caps = [positive(self._config[name]) for name in self._said_names]
        self._cap = max((cap for cap in caps if cap), default=None) if all(caps) else None
        # How many answers the request asks for.
        self._answers = self._count_answers()
        # The most it may produce, all answers together; None: the request sets no cap, or produces no tokens.
        self.max_output_tokens = None if self._cap is None else self._cap * self._answers
        # As asked for, if that makes a price. What serves the call is said by its answer.
        self.service_tier = service_tier(self._fields, self._fields, [])
        self.region = region(self._fields)

    def count_input(self) -> int:
        """Input tokens, counted here: milliseconds for long prompts."""
        if self._input_tokens is None:
            try:
                self._input_tokens = self._count_input()
            except RecursionError:
                self._input_tokens = len(self._request.body.raw) // BYTES_PER_TOKEN
        return self._input_tokens

    def shows_every_token(self) -> bool:
        """Whether the answer shows all output that is billed, as far as the request tells."""
        return not reasoning.is_asked_for(self._fields)

    def bills_output(self) -> bool:
        """Whether what such a call produces is billed by token."""
        return True

    def pieces(self) -> Mapping[str, int]:
        """What the request alone tells that is billed by piece, by the names of `quantities`."""
        return {}

    def quantities(self) -> Mapping[str, int] | None:
        """What it will use at most beside text, by the names of `quantities`; None: nobody can tell."""
        pieces = self.pieces()
        if pieces or self.seen_through_as is None:
            return pieces or None
        input_tokens = self.count_input() if self._input_tokens is None else self._input_tokens
        return announced(
            Asked(
                format=self.seen_through_as,
                provider=self.provider,
                model=self.model,
                fields=self._fields,
                files=self._files,
                input_tokens=input_tokens,
                max_output_tokens=self.max_output_tokens,
            )
        )

    def outgoing(self, max_output_tokens: int | None, without: Container[str] = ()) -> Outgoing:
        """What to send; the original bytes if nothing changes.

        The cap is written in: never above the request's own, and shared out among several answers. Usage is asked for
        where a stream does not tell it by itself. Parameters named in `without`, which the provider refuses, are not
        added; a cap then goes under the other name that the format has for it, or is left out.

        Raises `CapCannotBeObeyedError`.
        """
        cap = max_output_tokens
        fields: Mapping[str, Any] = self._fields
        added: list[str] = []
        if cap is not None and (self.max_output_tokens is None or self.max_output_tokens > cap):
            names = self._names_of_cap(without)
            if names:
                self._check_can_obey(cap)
                fields = self._with_cap(cap // self._answers, names)
                added = [name for name in names if name not in self._said_names]
        if self._request.is_signed:
            return Outgoing(self._request.body.raw)
        if self.streams:
            asked = self._asking_for_usage(fields, without)
            added += [name for name in asked if asked[name] is not fields.get(name)]
            fields = asked
        return Outgoing(self._request.body.write(fields), tuple(added))

    def reader(self) -> AnswerReader:
        """A new reader for this call's answer."""
        return AnswerReader(self._tally(), streams=self.streams, bills_output=self.bills_output())

    @abstractmethod
    def refusal(self, message: str, code: str) -> Mapping[str, Any]:
        """The body of a 403 in the provider's own error shape."""

    def _count_input(self) -> int:
        reading = self._read()
        self._files = reading.files
        return count_reading(reading, self.model)

    def _read(self) -> Reading:
        """What the model reads of the request."""
        return read_request(self._fields, self._request.body.long)

    @abstractmethod
    def _tally(self) -> Tally: ...

    def _streams(self) -> bool:
        return json_values.is_true(self._fields.get("stream"))

    def _count_answers(self) -> int:
        """How many answers the request asks for. A provider's cap is per answer."""
        return 1

    def _cap_min(self) -> int:
        """The lowest cap that the provider takes of this request."""
        return self.cap_min

    def _names_of_cap(self, without: Container[str]) -> list[str]:
        """Those that the request uses; else the first that the provider takes."""
        return self._said_names or [name for name in self._preferred_names() if name not in without][:1]

    def _preferred_names(self) -> tuple[str, ...]:
        """The names of the cap, the one that the provider is most certain to take first."""
        return self.cap_names

    def _with_cap(self, cap: int, names: list[str]) -> Mapping[str, Any]:
        """The fields with this cap for each answer."""
        config = {**self._config, **dict.fromkeys(names, cap)}
        if not self.config_names:
            return config
        used = (name for name in self.config_names if self._fields.get(name) is not None)
        return {**self._fields, next(used, self.config_names[0]): config}

    def _asking_for_usage(self, fields: Mapping[str, Any], without: Container[str]) -> Mapping[str, Any]:
        """The fields, so that a stream tells its usage."""
        return fields

    def _check_can_obey(self, max_output_tokens: int) -> None:
        """A cap that is to be written in."""
        if self._request.is_signed:
            raise CapCannotBeObeyedError(max_output_tokens, self.max_output_tokens)
        if max_output_tokens // self._answers < self._cap_min():
            raise CapCannotBeObeyedError(max_output_tokens, self._cap_min() * self._answers)
