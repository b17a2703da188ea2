"""Asking the control plane whether an AI call may go out, and deciding without it while it is away."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from tokvigil import telemetry
from tokvigil.attribution import Attribution
from tokvigil.availability import Asked, Availability, LeftAloneError
from tokvigil.connections import CLOSED
from tokvigil.errors import APIStatusError, ConfigurationError, TokVigilError, TokVigilUnavailableError
from tokvigil.models import Decision, Usage, UsageEvent, UsageStatus
from tokvigil.reporting import Reporter
from tokvigil.steps import Steps
from tokvigil.transport import NotReachedError, Transport

NO_USAGE = Usage(input_tokens=0, output_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One AI call that may go out or not. `input_tokens` None: not known."""

    user_id: str
    model: str
    feature: str | None = None
    plan: str | None = None
    input_tokens: int | None = None
    max_output_tokens: int | None = None
    # The same when it is asked again. Whoever names it may ask, and report, by this name again later.
    request_id: str = field(default_factory=lambda: new_request_id())
    is_named_by_caller: bool = False
    run_id: str | None = None
    # Who will be called, by the name that the price book knows; None: nobody knows.
    provider: str | None = None
    metadata: Mapping[str, Any] | None = None
    dry_run: bool = False
    explain: bool = False

    @classmethod
    def of(
        cls, attribution: Attribution, model: str, *, input_tokens: int | None, max_output_tokens: int | None
    ) -> Self:
        """A call for whom the attribution names."""
        return cls(
            user_id=attribution.user_id or "",
            model=model,
            feature=attribution.feature,
            plan=attribution.plan,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            run_id=attribution.run_id,
            metadata=attribution.metadata,
        )

    def to_wire(self) -> dict[str, Any]:
        """The JSON body of POST /v1/evaluate; what is not said is left out."""
        body = {
            "request_id": self.request_id,
            "user_id": self.user_id,
            "model": self.model,
            "feature": self.feature,
            "plan": self.plan,
            "input_tokens": self.input_tokens,
            "max_output_tokens": self.max_output_tokens,
            "run_id": self.run_id,
            "provider": self.provider,
            "metadata": self.metadata,
            "dry_run": self.dry_run or None,
            "explain": self.explain or None,
        }
        return {name: value for name, value in body.items() if value is not None}

    def report(
        self, status: UsageStatus, usage: Usage, *, provider: str | None = None, latency_ms: int | None = None
    ) -> UsageEvent:
        """Of this call: stamped now and never changed, so that a late report still belongs to this moment."""
        return UsageEvent(
            request_id=self.request_id,
            user_id=self.user_id,
            model=self.model,
            usage=usage,
            status=status,
            feature=self.feature,
            plan=self.plan,
            run_id=self.run_id,
            provider=provider,
            latency_ms=latency_ms,
            occurred_at=datetime.now(UTC),
            metadata=self.metadata,
        )


class Evaluation:
    """Safe to share between threads."""

    def __init__(
        self,
        transport: Transport,
        availability: Availability,
        reporter: Reporter,
        *,
        timeout_s: float,
        telemetry_user_id: bool = False,
    ) -> None:
        self._transport = transport
        self._availability = availability
        self._reporter = reporter
        self._timeout_s = timeout_s
        self._telemetry_user_id = telemetry_user_id

    def evaluate(self, question: Question) -> Steps[Decision]:
        """The decision; `on_unavailable` decides if the control plane gives none.

        Raises `APIStatusError` if TokVigil refuses the call itself: a wrong key must not switch the limits off.
        """
        if self._reporter.is_closing:
            raise ConfigurationError(CLOSED)
        asked = Asked(
            user_id=question.user_id, feature=question.feature, model=question.model, plan=question.plan
        )
        deadline = time.monotonic() + self._timeout_s
        try:
            decision = yield from self._ask(question, deadline)
        except TokVigilUnavailableError as error:
            decision = self._availability.decide(asked, question.request_id, error)
            if decision.allowed:
                # Nobody lowered it, and callers pass it on.
                decision = replace(decision, max_output_tokens=question.max_output_tokens)
            elif not isinstance(error, LeftAloneError | NotReachedError):
                self._give_back(question)
        except APIStatusError:
            # A refusal is an answer: the control plane is there.
            self._availability.answered()
            raise
        else:
            self._availability.answered()
            if decision.reason_class == "transient":
                decision = yield from self._ask_again(question, decision, deadline)
            self._availability.remember(asked, decision)
        telemetry.note_decision(question, decision, name_user=self._telemetry_user_id)
        return decision

    def _ask_again(self, question: Question, decision: Decision, deadline: float) -> Steps[Decision]:
        """Calls in flight stand in the way, and this process may not yet have told that its own are over."""
        now = time.monotonic()
        # Half of what is left, so that there is time to ask.
        if not (yield from self._reporter.catch_up(now + (deadline - now) / 2)):
            return decision
        try:
            return (yield from self._ask(question, deadline))
        except TokVigilUnavailableError:
            self._give_back(question)
            return decision
        except TokVigilError:
            return decision

    def _give_back(self, question: Question) -> None:
        """It was asked, does not go out, has no answer, and may be held all the same."""
        if not question.dry_run and not question.is_named_by_caller:
            self._reporter.report(question.report("cancelled", NO_USAGE))

    def _ask(self, question: Question, deadline: float) -> Steps[Decision]:
        self._availability.admit()
        try:
            answer = yield from self._transport.ask(
                "POST", "/v1/evaluate", body=question.to_wire(), within_s=deadline - time.monotonic()
            )
            return Decision.from_wire(answer)
        except TokVigilUnavailableError:
            self._availability.failed()
            raise
        except (KeyboardInterrupt, asyncio.CancelledError, GeneratorExit):
            self._give_back(question)
            raise


def new_request_id() -> str:
    """A UUIDv7: unique without coordination, and in order of time, which keeps the server's index compact."""
    milliseconds = time.time_ns() // 1_000_000
    random_bits = uuid.uuid4().int & ((1 << 76) - 1)
    value = (milliseconds & ((1 << 48) - 1)) << 80 | random_bits
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
