"""One AI call, from its question to its report."""

from __future__ import annotations

import logging
import os
import time
from typing import Protocol

from tokvigil import checked, containing
from tokvigil.answered_model import named
from tokvigil.blocked import AIUsageBlockedError
from tokvigil.connections import CLOSED
from tokvigil.endings import Charge, Ending, charge
from tokvigil.errors import ConfigurationError
from tokvigil.evaluation import Evaluation
from tokvigil.models import Decision, Usage, UsageStatus
from tokvigil.quantities import NAMES
from tokvigil.question import Question, Report
from tokvigil.reporting import Reporter
from tokvigil.steps import Steps
from tokvigil.telemetry import CallSpan
from tokvigil.usage_fitting import fitted

logger = logging.getLogger("tokvigil")

# What in a provider's figures cannot be is said this often.
SAY_DOUBTS_EVERY_S = 60.0
# As the server holds for a call that names no cap and whose feature has no history.
OUTPUT_TOKENS_WITHOUT_CAP = 1_024


class Answer(Protocol):
    """What has been read of a provider's answer. Its id and its model are "" as long as it has not said them."""

    @property
    def answer_id(self) -> str: ...

    @property
    def model(self) -> str: ...

    def figures(self) -> Usage | None:
        """What the provider says that the whole call used; None: it has not said it."""

    def counted(self) -> Usage | None:
        """What was used as far as the answer tells; None: nobody can tell."""


class Call:
    """A call from its question until its one report. The first ending counts."""

    decision: Decision | None = None
    # Once there is one.
    answer: Answer | None = None

    def __init__(self, question: Question, reporter: Reporter, operation: str | None = None) -> None:
        self.question = question
        self.request_id = question.request_id
        # What it may use at most.
        self.hold = _hold(question, None)
        self._reporter = reporter
        self.span = CallSpan(question, operation)
        self._started_s = time.perf_counter()
        self._pid = os.getpid()
        # One at most. A dictionary, because threads that write to it agree on who was first.
        self._charges: dict[str, Charge] = {}
        # The model that answered, if the caller has said it.
        self._answered_by = ""
        self._late: Ending | None = None

    @property
    def is_open(self) -> bool:
        """Nothing was reported yet."""
        return not self._charges

    @property
    def reported(self) -> Charge | None:
        """What was reported; an ending that was put off is reported first."""
        self.end_late()
        return self._charges.get(self.request_id)

    @property
    def model(self) -> str:
        """The one that is charged: that answered, as far as that is known."""
        return named(self.question.model, self._model_that_answered(), self.question.provider)[0]

    def allow(self, decision: Decision) -> None:
        """It may go out, and its time is measured from now on."""
        self.decision = decision
        self.hold = _hold(self.question, decision)
        self._started_s = time.perf_counter()

    def at_most(self) -> Report:
        """The report if nobody ever learns how it ended."""
        return self._report(charge(Ending.UNANSWERED, hold=self.hold))

    def end(self, ending: Ending) -> None:
        """Report it by its ending and what was read of its answer."""
        if not self.is_open:
            return
        figures = counted = None
        if self.answer is not None:
            try:
                # Counting reads what is left of the answer, and may come upon the figures.
                figures = self.answer.figures()
                counted = None if figures is not None else self.answer.counted()
                figures = figures or self.answer.figures()
            except Exception as error:
                containing.say("what a provider's answer used cannot be read", error)
        self._write(charge(ending, hold=self.hold, figures=figures, counted=counted))

    def record(self, status: UsageStatus, usage: Usage, answered_by: str = "") -> Usage:
        """Report what the caller says that it used, and which model; returns what was reported first."""
        self._answered_by = self._answered_by or answered_by
        return self._write(Charge(status, usage)).usage

    def end_later(self, ending: Ending) -> None:
        """As `end`, in the background or when somebody asks. Takes no lock; see `Reporter.later`."""
        if self.is_open:
            self._late = ending
            self._reporter.later(self)

    def end_late(self) -> None:
        """The ending that was put off, if there is one."""
        late, self._late = self._late, None
        if late is not None:
            self.end(late)

    def end_as_it_stands(self) -> None:
        """Nobody will be there to see its end."""
        self.end(Ending.UNANSWERED if self.answer is None else Ending.CUT)

    def _write(self, charged: Charge) -> Charge:
        if os.getpid() != self._pid:
            # A forked child has a copy of its parent's call. The call is the parent's.
            return charged
        first = self._charges.setdefault(self.request_id, charged)
        if first is charged:
            try:
                # First those of other models: should this process end now, the call is reported as what it holds.
                for beside in self.question.reports_beside(*charged):
                    self._reporter.report(beside)
                self._reporter.report(self._report(charged))
            except BaseException:
                # Interrupted before it was written down: there may be another report.
                self._charges.pop(self.request_id, None)
                raise
            answer_id = "" if self.answer is None else self.answer.answer_id
            self.span.answered(self._model_that_answered(), answer_id)
            self.span.used(*charged)
            if charged.usage.doubtful is not None:
                _say_doubt(self.request_id, charged.usage.doubtful)
        return first

    def _report(self, charged: Charge) -> Report:
        latency_ms = min(checked.LATENCY_MS_MAX, round((time.perf_counter() - self._started_s) * 1000))
        return self.question.report(
            charged.status, charged.usage, latency_ms=latency_ms, answered_by=self._model_that_answered()
        )

    def _model_that_answered(self) -> str:
        return self._answered_by or ("" if self.answer is None else self.answer.model)


_doubts_said_at = -SAY_DOUBTS_EVERY_S


def _say_doubt(request_id: str, doubt: str) -> None:
    global _doubts_said_at
    now = time.monotonic()
    if now - _doubts_said_at >= SAY_DOUBTS_EVERY_S:
        _doubts_said_at = now
        logger.warning("request %s: the provider's figures are doubtful: %s", request_id, doubt)


def _hold(asked: Question, decision: Decision | None) -> Usage:
    """No call has more than TokVigil takes, whatever its cap says."""
    output_tokens = asked.max_output_tokens
    if decision is not None:
        reserved = (decision.reserved or {}).get("output_tokens")
        cap = decision.max_output_tokens
        output_tokens = reserved if isinstance(reserved, int) else output_tokens if cap is None else cap
    if output_tokens is None:
        output_tokens = OUTPUT_TOKENS_WITHOUT_CAP
    counts = {"input_tokens": asked.input_tokens or 0, "output_tokens": output_tokens}
    parts = fitted({**(asked.quantities or {}), **counts}, [])
    return Usage(
        input_tokens=parts.pop("input_tokens"),
        output_tokens=parts.pop("output_tokens"),
        quantities={name: amount for name, amount in parts.items() if name in NAMES},
        service_tier=asked.service_tier,
        region=asked.region,
        source="estimated",
    )


class Calls:
    """Opens calls: asks for the decision, and writes a call down before it goes out."""

    def __init__(self, evaluation: Evaluation, reporter: Reporter) -> None:
        self._evaluation = evaluation
        self._reporter = reporter

    def open(self, question: Question, operation: str | None = None) -> Steps[Call]:
        """Raises `AIUsageBlockedError`. `operation` is what a trace calls it: "chat", "embeddings"."""
        call = Call(question, self._reporter, operation)
        try:
            with containing.defects("a call cannot be written down"):
                self._reporter.journal.asks(call.at_most())
            decision = yield from self._evaluation.evaluate(question)
        except BaseException as error:
            # The evaluation has given back what may be held for it.
            self._forget(call, type(error).__name__)
            raise
        try:
            call.span.decided(decision)
            if decision.allowed:
                self._begin(call, decision)
                return call
            self._forget(call, decision.reason_code)
        except BaseException:
            # Interrupted: something may be held.
            call.end(Ending.NOT_SENT)
            raise
        raise AIUsageBlockedError(decision)

    def _forget(self, call: Call, error_type: str) -> None:
        self._reporter.journal.forget(call.request_id)
        call.span.end(error_type)

    def _begin(self, call: Call, decision: Decision) -> None:
        asked_at_most = call.hold
        call.allow(decision)
        may_begin = True
        with containing.defects("a call cannot be written down"):
            may_begin = self._reporter.begin(call, None if call.hold == asked_at_most else call.at_most())
        if not may_begin:
            raise ConfigurationError(CLOSED)
