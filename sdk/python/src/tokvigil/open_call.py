"""One AI call between its decision and its report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tokvigil import checked, telemetry
from tokvigil.connections import CLOSED
from tokvigil.errors import AIUsageBlockedError, ConfigurationError
from tokvigil.estimating import OUTPUT_TOKENS_WITHOUT_CAP
from tokvigil.evaluation import NO_USAGE, Evaluation, Question
from tokvigil.models import Decision, Usage, UsageEvent, UsageStatus
from tokvigil.steps import Steps

if TYPE_CHECKING:
    from tokvigil.reporting import Reporter


class OpenCall:
    """A call from before its decision until its one report."""

    # Once it is allowed.
    decision: Decision

    def __init__(self, question: Question, provider: str | None, reporter: Reporter) -> None:
        self.question = question
        self.provider = provider
        # How often it was sent to the provider.
        self.attempts = 1
        self._reporter = reporter
        self._span = telemetry.current_span()
        self._started_s = time.perf_counter()
        self._pid = os.getpid()
        # One at most. A dictionary, because threads that write to it agree on who was first.
        self._reports: dict[str, UsageEvent] = {}
        self._put_off: Callable[[], object] | None = None
        # Its report, should nobody be there any more to hear the end of its answer.
        self.report_as_it_stands: Callable[[], object] = self.report_unknown

    def allow(self, decision: Decision) -> None:
        """It may go out, and what it takes is measured from now on."""
        self.decision = decision
        self._span = telemetry.current_span()
        self._started_s = time.perf_counter()

    @property
    def request_id(self) -> str:
        return self.question.request_id

    @property
    def is_open(self) -> bool:
        """Nothing was reported yet."""
        return not self._reports

    @property
    def reported(self) -> UsageEvent | None:
        """Its report; one that was put off is made first."""
        put_off, self._put_off = self._put_off, None
        if put_off is not None:
            put_off()
        return self._reports.get(self.request_id)

    def report(self, status: UsageStatus, usage: Usage) -> UsageEvent:
        """The first report counts; any later one is the first again."""
        return self._report(self._event(status, usage))

    def _report(self, event: UsageEvent) -> UsageEvent:
        if os.getpid() != self._pid:
            # A forked child has a copy of its parent's call. The call is the parent's.
            return event
        first = self._reports.setdefault(self.request_id, event)
        if first is event:
            try:
                self._reporter.report(event)
            except BaseException:
                # Interrupted before it was written down: there may be another report.
                self._reports.pop(self.request_id, None)
                raise
            telemetry.note_usage(self._span, event)
        return first

    def report_failed(self) -> UsageEvent:
        """The provider did not answer: nothing was used, its hold ends."""
        return self._report(self.failed())

    def report_cancelled(self) -> UsageEvent:
        """It did not go out."""
        return self._report(self.cancelled())

    def report_unheard(self) -> UsageEvent:
        """It went out, and nobody waited for the answer: the provider has read the prompt at least."""
        return self.report("partial", self._estimated(0))

    def report_unknown(self) -> UsageEvent:
        """It was answered, and nobody can say what it used."""
        return self._report(self.unknown())

    def put_off(self, report: Callable[[], object]) -> None:
        """Have its report made in the background, or when somebody asks for it. Takes no lock; see `Reporter.later`."""
        if self.is_open:
            self._put_off = report
            self._reporter.later(self.request_id, report)

    def unknown(self) -> UsageEvent:
        """The report if nobody ever learns what it used: what it may use at most."""
        return self._event("partial", self._usage_at_most())

    def cancelled(self) -> UsageEvent:
        """The report of a call that never goes out."""
        return self._event("cancelled", NO_USAGE)

    def failed(self) -> UsageEvent:
        """The report if no other attempt comes."""
        return self._event("failed", NO_USAGE)

    def _usage_at_most(self) -> Usage:
        held = (self.decision.reserved or {}).get("output_tokens")
        known = (held, self.decision.max_output_tokens, self.question.max_output_tokens)
        output_tokens = next(
            (tokens for tokens in known if isinstance(tokens, int)), OUTPUT_TOKENS_WITHOUT_CAP
        )
        return self._estimated(output_tokens)

    def _estimated(self, output_tokens: int) -> Usage:
        """With the prompt. No call has more than TokVigil takes, whatever its cap says."""
        return Usage(
            input_tokens=min(checked.TOKENS_MAX, self.question.input_tokens or 0),
            output_tokens=min(checked.TOKENS_MAX, output_tokens),
            source="estimated",
        )

    def _event(self, status: UsageStatus, usage: Usage) -> UsageEvent:
        latency_ms = min(checked.LATENCY_MS_MAX, round((time.perf_counter() - self._started_s) * 1000))
        return self.question.report(status, usage, provider=self.provider, latency_ms=latency_ms)


class Desk:
    """Opens calls: asks for the decision, and writes an allowed call down before it goes out."""

    def __init__(self, evaluation: Evaluation, reporter: Reporter) -> None:
        self.evaluation = evaluation
        self.reporter = reporter

    def open(self, question: Question, provider: str | None) -> Steps[OpenCall]:
        """Raises `AIUsageBlockedError`. The call is held at the price of the provider, as it is reported."""
        call = OpenCall(replace(question, provider=provider), provider, self.reporter)
        self.reporter.expect(call)
        try:
            decision = yield from self.evaluation.evaluate(call.question)
            if not decision.allowed:
                raise AIUsageBlockedError(decision)
        except Exception:
            self.reporter.forget(call)
            raise
        except BaseException:
            # Interrupted: something may be held for a call that will never go out.
            call.report_cancelled()
            raise
        call.allow(decision)
        if not self.reporter.begin(call):
            call.report_cancelled()
            raise ConfigurationError(CLOSED)
        return call
