"""Asking the control plane whether an AI call may go out, and deciding without it while it is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tokvigil import containing
from tokvigil.availability import Availability
from tokvigil.connections import CLOSED
from tokvigil.endings import NO_USAGE
from tokvigil.errors import ConfigurationError, RefusedError, TokVigilError, UnreachableError
from tokvigil.models import Decision
from tokvigil.question import Question
from tokvigil.reporting import Reporter
from tokvigil.steps import Steps
from tokvigil.transport import Transport

logger = logging.getLogger("tokvigil")


class Evaluation:
    """Safe to share between threads."""

    def __init__(
        self,
        transport: Transport,
        availability: Availability,
        reporter: Reporter,
        *,
        timeout_s: float,
        on_decision: Callable[[Decision], object] | None = None,
    ) -> None:
        self._transport = transport
        self._availability = availability
        self._reporter = reporter
        self._timeout_s = timeout_s
        self._on_decision = on_decision

    def evaluate(self, question: Question) -> Steps[Decision]:
        """The decision; `on_unreachable` decides if the control plane gives none.

        Raises `RefusedError` if TokVigil refuses the call itself: a wrong key must not switch the limits off.
        """
        if self._reporter.is_closing:
            raise ConfigurationError(CLOSED)
        try:
            return (yield from self._evaluate(question))
        except TokVigilError:
            raise
        except BaseException:
            # Interrupted, so that the call does not go out.
            self._give_back(question)
            raise

    def _evaluate(self, question: Question) -> Steps[Decision]:
        deadline = time.monotonic() + self._timeout_s
        try:
            decision = yield from self._ask(question, deadline)
        except UnreachableError as error:
            decision = self._decide(question, error)
        except TokVigilError:
            raise
        except Exception as error:
            containing.say("TokVigil cannot be asked", error)
            unknown = UnreachableError(repr(error), reason="answer", may_have_arrived=True)
            decision = self._decide(question, unknown)
        else:
            if decision.reason_class == "transient":
                decision = yield from self._ask_again(question, decision, deadline)
            if not question.dry_run:
                self._availability.remember(question.subject, decision)
                if not decision.allowed:
                    # Not the message: it may name the user.
                    policy = decision.policy.name if decision.policy else "no policy"
                    logger.info(
                        "request %s is blocked: %s, %s", decision.request_id, decision.reason_code, policy
                    )
        if self._on_decision is not None:
            with containing.defects("on_decision raised", whose="the call goes on"):
                self._on_decision(decision)
        return decision

    def _decide(self, question: Question, error: UnreachableError) -> Decision:
        """Without TokVigil."""
        decision = self._availability.decide(question.subject, question.request_id, error)
        if decision.allowed:
            # Nobody lowered it, and callers pass it on.
            return replace(decision, max_output_tokens=question.max_output_tokens)
        self._give_back(question, error)
        return decision

    def _ask_again(self, question: Question, decision: Decision, deadline: float) -> Steps[Decision]:
        """Calls in flight stand in the way, and this process may not yet have told that its own are over."""
        now = time.monotonic()
        # Half of what is left, so that there is time to ask.
        if not (yield from self._reporter.catch_up(now + (deadline - now) / 2)):
            return decision
        try:
            return (yield from self._ask(question, deadline))
        except UnreachableError as error:
            self._give_back(question, error)
            return decision
        except TokVigilError:
            return decision

    def _ask(self, question: Question, deadline: float) -> Steps[Decision]:
        asked_at = self._availability.clock()
        self._availability.admit()
        try:
            decision: Decision = yield from self._transport.ask(
                "POST",
                "/v1/evaluate",
                body=question.to_wire(),
                read=partial(Decision.from_wire, asked=question.request_id),
                within_s=deadline - time.monotonic(),
            )
        except UnreachableError as error:
            self._availability.failed(error, asked_at)
            raise
        except RefusedError:
            # A refusal is an answer: the control plane is there.
            self._availability.answered()
            raise
        self._availability.answered()
        return decision

    def _give_back(self, question: Question, error: UnreachableError | None = None) -> None:
        """The call does not go out, and its question, without an answer, may have made TokVigil hold something."""
        was_asked = error is None or error.may_have_arrived
        if was_asked and not question.dry_run and not question.is_named_by_caller:
            self._reporter.report(question.report("cancelled", NO_USAGE))
