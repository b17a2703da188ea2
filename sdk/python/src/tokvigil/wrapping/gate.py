"""What stands before each AI call of a guarded HTTP client, and what its answer means. Waits for nothing itself.

request -> read (a dialect) -> whose is it (context) -> decision -> passage: the request with its cap
answer  -> passage: passed through a reader; its usage written down before the caller has the last of it
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tokvigil.attribution import Attribution, current, inside_guard
from tokvigil.dialects import AnswerReader, ProviderCall, read_call
from tokvigil.errors import AIUsageBlockedError, ConfigurationError, TokVigilError
from tokvigil.evaluation import Question
from tokvigil.models import UsageStatus
from tokvigil.open_call import Desk, OpenCall
from tokvigil.steps import Steps

logger = logging.getLogger("tokvigil")

COUNT_DIGITS_MAX = 4
# Counting the tokens of more than this takes milliseconds.
LARGE_BYTES = 50_000
# The provider has seen nothing of such a request, or refused it and a hook of the caller's made an exception of that.
# After any other failure it may have worked, and bill.
NOTHING_USED = frozenset(
    {"ConnectError", "ConnectTimeout", "HTTPStatusError", "PoolTimeout", "ProxyError", "UnsupportedProtocol"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """How a provider's SDK tries again: how often in all, after what, and the header that counts, if it sends one.

    `after_status` is asked with an answer's status and headers, `after_error` with what was raised instead of one.
    """

    attempts_max: Callable[[], int] = lambda: 1
    after_status: Callable[[int, Mapping[str, str]], bool] = lambda status, headers: False
    after_error: Callable[[Exception], bool] = lambda error: False
    count_header: str | None = None

    def may_be_retry(self, headers: Mapping[str, str]) -> bool:
        if self.count_header is None:
            return self.attempts_max() > 1
        return self.attempts_before(headers) > 0

    def attempts_before(self, headers: Mapping[str, str]) -> int:
        """As the SDK counts them; 0 if it does not say."""
        said = "" if self.count_header is None else headers.get(self.count_header, "")
        return int(said) if said.isdecimal() and len(said) <= COUNT_DIGITS_MAX else 0


ONE_ATTEMPT = Retrying()


class Gate:
    """Of one guarded client. `default` is whose the calls are where no context says otherwise."""

    def __init__(self, desk: Desk, default: Attribution, retrying: Retrying = ONE_ATTEMPT) -> None:
        self._desk = desk
        self._default = default
        self._retrying = retrying

    def admit(
        self, method: str, path: str, host: str, headers: Mapping[str, str], body: bytes
    ) -> Steps[Passage | None]:
        """The way on for a request; None if it is no AI call.

        Raises `AIUsageBlockedError`, `MissingAttributionError`, and whatever else keeps it from going out.
        """
        asked = read_call(method, path, host, headers, body)
        if asked is None:
            return None
        attribution = current(self._default)
        guarded = inside_guard.get()
        if guarded is not None:
            logger.warning("the call inside the guard of request %s asks by itself: it counts twice", guarded)

        def key() -> Hashable:
            """Of the same request of the same call of the same client. Large bodies take their time."""
            return id(self), host, path, sha256(body).digest(), repr(attribution)

        if self._retrying.may_be_retry(headers):
            call = self._desk.reporter.resume(key())
            if call is not None:
                call.attempts += 1
                return self._passage(call, asked, key)
        question = Question.of(
            attribution,
            asked.model,
            input_tokens=(yield asked.count_input) if len(body) > LARGE_BYTES else asked.count_input(),
            max_output_tokens=asked.max_output_tokens,
        )
        call = yield from self._desk.open(question, asked.provider)
        # Of a call whose answer broke off, a retry is a call of its own, and may be the last all the same.
        call.attempts += self._retrying.attempts_before(headers)
        return self._passage(call, asked, key)

    def _passage(self, call: OpenCall, asked: ProviderCall, key: Callable[[], Hashable]) -> Passage:
        try:
            return Passage(call, asked, key, self._desk.reporter.pause, self._retrying)
        except Exception:
            # A request that the cap cannot be written into.
            call.report_cancelled()
            raise


class Passage:
    """One attempt of an allowed call."""

    def __init__(
        self,
        call: OpenCall,
        asked: ProviderCall,
        key: Callable[[], Hashable],
        pause: Callable[[Hashable, OpenCall], None],
        retrying: Retrying,
    ) -> None:
        self.call = call
        self.asked = asked
        self.body = asked.body(call.decision.max_output_tokens)
        self._key = key
        self._pause = pause
        self._retrying = retrying
        self._is_last = call.attempts >= retrying.attempts_max()

    def broke(self, error: BaseException) -> None:
        """No answer came."""
        if not isinstance(error, Exception):
            self.call.put_off(self.call.report_unheard)
        elif not self._is_last and self._retrying.after_error(error):
            self._pause(self._key(), self.call)
        elif type(error).__name__ in NOTHING_USED:
            self.call.report_failed()
        else:
            self.call.report_unknown()

    def refused(self, status: int, headers: Mapping[str, str]) -> None:
        """The provider answered with an error."""
        if not self._is_last and self._retrying.after_status(status, headers):
            self._pause(self._key(), self.call)
        else:
            self.call.report_failed()

    def answered(self) -> Passing:
        return Passing(self.call, self.asked.reader())


class Passing:
    """A successful answer on its way to the caller."""

    def __init__(self, call: OpenCall, reader: AnswerReader) -> None:
        self._call = call
        self._reader = reader
        call.report_as_it_stands = self._report_cut

    def feed(self, data: bytes) -> bytes:
        """What the caller is to see of it; the usage is written down first, once the provider has said it."""
        seen = self._reader.feed(data)
        if self._reader.usage() is not None or self._reader.is_complete():
            self._report_whole()
        return seen

    def finish(self) -> bytes:
        """The answer is complete."""
        rest = self._reader.finish()
        self._report_whole()
        return rest

    def _report_whole(self) -> None:
        if not self._call.is_open:
            return
        if self._reader.is_answer():
            self._report("succeeded")
        else:
            self._call.report_failed()

    def end(self) -> None:
        """Nothing will be read any more. If the answer was not complete, it broke off, or nobody wanted the rest: the
        provider's figures so far are reported, else what can be counted, never 0.

        Safe while objects are being collected, which is when streams end that nobody closed.
        """
        self._call.put_off(self._report_cut)

    def _report_cut(self) -> None:
        if self._call.is_open:
            self._report("partial")

    def _report(self, status: UsageStatus) -> None:
        try:
            self._call.report(status, self._reader.usage() or self._reader.estimate())
        except ConfigurationError as error:
            # The answer matters more than figures that cannot be.
            logger.warning("request %s: %s; what it may use is reported", self._call.request_id, error)
            self._call.report_unknown()


def refusal(
    error: TokVigilError, method: str, path: str, host: str, headers: Mapping[str, str], body: bytes
) -> Mapping[str, Any]:
    """The error as the provider would write it, so that its SDK makes an error of it."""
    if isinstance(error, AIUsageBlockedError):
        message, code = error.message, error.reason_code
    else:
        message, code = str(error), type(error).__name__
    try:
        asked = read_call(method, path, host, headers, body)
    except TokVigilError:
        asked = None
    if asked is not None:
        return asked.refusal(message, code)
    return {"error": {"message": message, "type": "tokvigil_error", "param": None, "code": code}}
