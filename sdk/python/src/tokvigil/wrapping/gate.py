"""The guard before each AI call of an HTTP client, and what its answer means. Waits for nothing itself.

request -> read (a dialect) -> user (context) -> decision -> attempt: the request with its cap
answer  -> attempt: passed through a reader; its usage is written down before the caller has the last of it

Each request that reaches the provider is a call of its own, also if the provider's SDK tries again by itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from tokvigil import containing, decisions
from tokvigil.attribution import Attribution, current, inside_guard
from tokvigil.blocked import AIUsageBlockedError
from tokvigil.calls import Call, Calls
from tokvigil.dialects import (
    AnswerReader,
    CapCannotBeObeyedError,
    ProviderCall,
    read_call,
    unread_call,
)
from tokvigil.endings import Ending, ending_of_status
from tokvigil.errors import TokVigilError
from tokvigil.failures import ending_of_attempt
from tokvigil.models import Decision
from tokvigil.question import Question
from tokvigil.steps import Steps

logger = logging.getLogger("tokvigil")

# Counting the tokens of more than this takes milliseconds.
LARGE_BYTES = 50_000
# By which providers refuse a parameter, naming it.
REFUSES_PARAMETERS = frozenset({400, 422})
# In what words they say that they do not know one, before or after its name. Between the two is no new sentence, and
# no brace: some repeat the request in their error.
DOES_NOT_KNOW = (
    r"(?:unsupported(?! ?value)|unrecogni[sz]ed|unknown|unexpected|extraneous|extra ?(?:forbidden|fields|inputs|param)"
    r"|does not support|only allowed|not (?:supported|permitted|allowed|recogni[sz]ed|a valid (?:field|param|arg)))"
)
BETWEEN = r"(?:[^.{}]|\.(?=\S)){0,40}?"
ERROR_BYTES_MAX = 20_000
REFUSED_MAX = 1_000


class HttpRequest(NamedTuple):
    """What the gate must know of a request. `path` has the query; the body was read."""

    method: str
    path: str
    host: str
    headers: Mapping[str, str]
    body: bytes


class SentBody(Protocol):
    times: int


class Gate:
    """Of one guarded client. `default` is the attribution of calls outside of any context."""

    def __init__(self, calls: Calls, default: Attribution) -> None:
        self._calls = calls
        self._default = default
        self._refused = Refused()

    def admit(self, request: HttpRequest) -> Steps[Attempt | None]:
        """The attempt that a request is; None if it is no AI call.

        Raises `AIUsageBlockedError`, `MissingAttributionError`, and whatever else keeps it from going out.
        """
        asked = _read(request)
        if asked is None:
            return None
        attribution = current(self._default)
        guarded = inside_guard.get()
        if guarded is not None:
            logger.warning("the call inside the guard of request %s asks by itself: it counts twice", guarded)
        count = partial(_count_input, asked)
        input_tokens = (yield count) if len(request.body) > LARGE_BYTES else count()
        question = Question.of(
            attribution,
            asked.model,
            provider=asked.provider,
            input_tokens=input_tokens,
            quantities=None if input_tokens is None else _announced(asked),
            max_output_tokens=asked.max_output_tokens,
            service_tier=asked.service_tier,
            region=asked.region,
        )
        call = yield from self._calls.open(question, asked.operation)
        try:
            return Attempt(call, asked, request, self._refused)
        except BaseException:
            # Interrupted, or a request that the cap cannot be written into.
            call.end(Ending.NOT_SENT)
            raise


def _read(request: HttpRequest) -> ProviderCall | None:
    """A request that we fail to read is asked for as a call of an unspecified model, and goes out as it is."""
    try:
        return read_call(*request)
    except TokVigilError:
        raise
    except Exception as error:
        containing.say("a provider's request cannot be read", error)
        return unread_call(request.path, request.body)


def _count_input(asked: ProviderCall) -> int | None:
    try:
        return asked.count_input()
    except Exception as error:
        containing.say("the input of a call cannot be counted", error)
        return None


def _announced(asked: ProviderCall) -> Mapping[str, int] | None:
    try:
        return asked.quantities()
    except Exception as error:
        containing.say("what a call will use beside text cannot be read", error)
        return None


def _letters(text: str) -> str:
    """Providers name their parameters in camelCase or in snake_case."""
    return text.replace("_", "").lower()


def _does_not_know(name: str, error: str) -> bool:
    """Whether a provider's error, in `_letters`, says that there is no such parameter."""
    name = rf"\b{_letters(name)}\b"
    return re.search(rf"{DOES_NOT_KNOW}{BETWEEN}{name}|{name}{BETWEEN}{DOES_NOT_KNOW}", error) is not None


def _is_too_large(name: str, error: str) -> bool:
    """Whether its value is above all that the provider would do without it."""
    return re.search(rf"\b{_letters(name)}\b{BETWEEN}too large", error) is not None


class Refused:
    """Parameters that the guard added and a provider does not know, by host and model. Safe to share between threads.

    That a model takes no cap at all is not remembered: each call tries, so that no mistake switches off the caps of
    others.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], frozenset[str]] = {}

    def of(self, host: str, model: str) -> frozenset[str]:
        return self._names.get((host, model), frozenset())

    def add(self, host: str, model: str, names: Collection[str]) -> None:
        if len(self._names) < REFUSED_MAX:
            self._names[host, model] = self.of(host, model) | frozenset(names)


class Attempt:
    """One request of an allowed call, and its answer."""

    def __init__(self, call: Call, asked: ProviderCall, request: HttpRequest, refused: Refused) -> None:
        self.call = call
        self.body = request.body
        # Its body on its way, if code of others sends it, perhaps more than once.
        self.sent_by_others: SentBody | None = None
        self._asked = asked
        self._host = request.host
        self._refused = refused
        self._added: tuple[str, ...] = ()
        # What is not added, and what of it the provider has said of this request that it does not know.
        self._without = refused.of(request.host, asked.model)
        self._unknown: frozenset[str] = frozenset()
        self._reader: AnswerReader = asked.reader()
        self._is_remembered = False
        self._write_body()

    def _write_body(self) -> None:
        """With the decision's cap, and without what the provider refuses.

        Raises `AIUsageBlockedError` if the cap cannot be obeyed: a call must not use more than is held for it.
        """
        decision = self.call.decision
        cap = None if decision is None else decision.max_output_tokens
        try:
            outgoing = self._asked.outgoing(cap, self._without)
            self.body, self._added = outgoing.body, outgoing.added
        except CapCannotBeObeyedError as error:
            assert decision is not None
            raise AIUsageBlockedError(_too_large(decision, error)) from error
        except TokVigilError:
            raise
        except Exception as error:
            containing.say("the cap of a call cannot be written into it", error)

    def may_take_back(self, status: int) -> bool:
        """Whether the provider may have refused a parameter that the guard has added."""
        return status in REFUSES_PARAMETERS and bool(self._added)

    def takes_back(self, answer: bytes) -> bool:
        """Whether the provider's error is about such a parameter: `body` is without it now, and to be sent once more.

        Without a cap that is too large for it the provider answers with less than the cap allows.
        """
        error = _letters(answer[:ERROR_BYTES_MAX].decode("utf-8", "replace"))
        added = [name for name in self._added if name not in self._without]
        unknown = frozenset(name for name in added if _does_not_know(name, error))
        named = unknown.union(name for name in added if _is_too_large(name, error))
        if not named:
            return False
        self._unknown |= unknown
        self._without |= named
        self._write_body()
        logger.warning(
            "%s does not take %s for %s: request %s is sent again without it%s",
            self._host,
            " and ".join(sorted(named)),
            self._asked.model,
            self.call.request_id,
            "" if self._has_cap() or not named.intersection(self._asked.cap_names) else ", and has no cap",
        )
        return True

    def _has_cap(self) -> bool:
        """One that the guard has added."""
        return any(name in self._asked.cap_names for name in self._added)

    def broke(self, error: BaseException) -> None:
        """No answer came."""
        self._end(self._certain(ending_of_attempt(error, self.call)))

    def refused(self, status: int) -> None:
        """The provider answered with an error."""
        self._end(self._certain(ending_of_status(status)))

    def _certain(self, ending: Ending) -> Ending:
        """Others may have sent it before, and been answered. That it was sent once, and refused, is certain."""
        sent = self.sent_by_others
        return ending if sent is None or (ending is Ending.REFUSED and sent.times == 1) else Ending.UNANSWERED

    def answered(self) -> None:
        """A successful answer begins."""
        self.call.answer = self._reader
        unknown = self._unknown
        if unknown and not self._has_cap():
            unknown = unknown.difference(self._asked.cap_names)
        if unknown:
            self._refused.add(self._host, self._asked.model, unknown)

    def feed(self, data: bytes) -> bytes:
        """What the caller is to see of it; the usage is written down first, once the provider has said it."""
        reader = self._reader
        seen = reader.feed(data)
        if reader.answer_id and not self._is_remembered:
            self._remember()
        if self.call.is_open and reader.is_complete():
            self._end(reader.ending())
        return seen

    def finish(self) -> bytes:
        """The answer is complete."""
        reader = self._reader
        rest = reader.finish()
        if reader.answer_id and not self._is_remembered:
            self._remember()
        if self.call.is_open:
            self._end(reader.ending())
        return rest

    def closed(self) -> None:
        """Nothing will be read any more. If the answer was not complete, it broke off, or nobody wanted the rest.

        Safe while objects are being collected, which is when streams end that nobody closed.
        """
        if self.call.is_open:
            self.call.end_later(Ending.CUT)

    def _end(self, ending: Ending) -> None:
        with containing.defects("the usage of a call cannot be reported"):
            self.call.end(ending)

    def _remember(self) -> None:
        """Which decision let the answer through, as soon as its id is known."""
        self._is_remembered = True
        if self.call.decision is not None:
            with containing.defects("the decision behind an answer cannot be remembered"):
                decisions.remember(self._reader.answer_id, self.call.decision)


def _too_large(decision: Decision, error: CapCannotBeObeyedError) -> Decision:
    """The block of a call that cannot be made as small as the decision has it."""
    return replace(
        decision,
        allowed=False,
        reason_code="REQUEST_TOKENS_EXCEEDED",
        reason_class="too_large",
        message=f"{error}.",
        reserved=None,
        max_output_tokens=None,
    )


def refusal(error: TokVigilError, request: HttpRequest) -> Mapping[str, Any]:
    """The error as the provider would write it, so that its SDK makes an error of it."""
    code: str
    if isinstance(error, AIUsageBlockedError):
        message, code = error.message, error.reason_code
    else:
        message, code = str(error), type(error).__name__
    try:
        asked = read_call(*request)
    except Exception as unread:
        if not isinstance(unread, TokVigilError):
            containing.say("a refused request cannot be read", unread)
        asked = None
    if asked is not None:
        return asked.refusal(message, code)
    return {"error": {"message": message, "type": "tokvigil_error", "param": None, "code": code}}
