"""An evaluation as `POST /v1/evaluate` answers it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from policies.decision import Decision, Verdict
from policies.evaluation import Evaluated
from usage import limit_state
from usage.assessment import Assessment, PolicyRef
from usage.limit_state import LimitState
from usage.money import format_usd


class PolicyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    version: int
    scope: str


class ShadowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What monitored policies would have said."""

    allowed: bool
    reason_code: str
    reason_class: str
    message: str
    policy: PolicyAnswer | None


class ReservedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is held for the call until it is reported."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: str


class CandidateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    policy: PolicyAnswer
    kind: str
    mode: str
    outcome: str


class PriceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    provider: str
    model: str
    matched_by: str
    effective_from: datetime


class TraceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How the decision came about; with `explain`."""

    revision: int
    plan: str
    plan_source: str
    candidates: tuple[CandidateAnswer, ...]
    price: PriceAnswer | None
    held_output_tokens: int


class EvaluateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    allowed: bool
    reason_code: str
    reason_class: str
    message: str
    policy: PolicyAnswer | None
    shadow: ShadowAnswer | None
    limit_state: tuple[LimitState, ...]
    retry_after: int | None
    estimated_cost_usd: str | None
    reserved: ReservedAnswer | None
    expires_at: datetime | None
    max_output_tokens: int | None
    suggested_model: str | None
    degraded: bool
    trace: TraceAnswer | None


def answer(evaluated: Evaluated, *, explain: bool) -> EvaluateAnswer:
    assessed, verdict = evaluated.assessment, evaluated.decision.verdict
    held = evaluated.expires_at_ms is not None
    return EvaluateAnswer(
        request_id=assessed.request_id,
        allowed=verdict.allowed,
        reason_code=verdict.reason_code,
        reason_class=verdict.reason_class.value,
        message=verdict.message,
        policy=policy_answer(verdict.policy),
        shadow=_shadow(evaluated.decision.shadow),
        limit_state=limit_states(assessed, evaluated.decision, held=held),
        retry_after=verdict.retry_after_s,
        estimated_cost_usd=format_usd(assessed.cost_nano) if assessed.priced else None,
        reserved=_reserved(assessed) if held else None,
        expires_at=limit_state.instant(evaluated.expires_at_ms),
        max_output_tokens=assessed.max_output_tokens if verdict.allowed else None,
        suggested_model=None,
        degraded=evaluated.degraded,
        trace=_trace(evaluated) if explain else None,
    )


def limit_states(assessed: Assessment, decided: Decision, *, held: bool) -> tuple[LimitState, ...]:
    """As they stand after the call: with what it holds, if it holds anything."""
    return tuple(
        limit_state.state(
            assessed,
            finding.limit,
            finding.used,
            finding.held + (assessed.amounts.of(finding.limit.metric) if held else 0),
            exceeded=finding.exceeded,
        )
        for finding in decided.findings
    )


def policy_answer(ref: PolicyRef | None) -> PolicyAnswer | None:
    return (
        None if ref is None else PolicyAnswer(id=ref.id, name=ref.name, version=ref.version, scope=ref.scope)
    )


def _shadow(verdict: Verdict | None) -> ShadowAnswer | None:
    if verdict is None:
        return None
    return ShadowAnswer(
        allowed=verdict.allowed,
        reason_code=verdict.reason_code,
        reason_class=verdict.reason_class.value,
        message=verdict.message,
        policy=policy_answer(verdict.policy),
    )


def _reserved(assessed: Assessment) -> ReservedAnswer:
    return ReservedAnswer(
        requests=1,
        input_tokens=assessed.input_tokens,
        output_tokens=assessed.output_tokens,
        cost_usd=format_usd(assessed.cost_nano),
    )


def _trace(evaluated: Evaluated) -> TraceAnswer:
    assessed, user, match = evaluated.assessment, evaluated.user, evaluated.match
    candidates = evaluated.snapshot.policies.explain(
        user=assessed.user_id, feature=assessed.feature, plan=assessed.plan
    )
    stored = user.known and user.plan != ""
    return TraceAnswer(
        revision=evaluated.snapshot.revision,
        plan=assessed.plan,
        plan_source="stored" if stored else "request" if assessed.plan else "none",
        candidates=tuple(
            CandidateAnswer(
                policy=PolicyAnswer(
                    id=candidate.policy.ref.id,
                    name=candidate.policy.ref.name,
                    version=candidate.policy.ref.version,
                    scope=candidate.policy.ref.scope,
                ),
                kind=candidate.policy.rule.kind.value,
                mode=candidate.policy.rule.mode.value,
                outcome=candidate.outcome,
            )
            for candidate in candidates
        ),
        price=None
        if match is None
        else PriceAnswer(
            provider=match.price.provider,
            model=match.price.model,
            matched_by=match.kind.value,
            effective_from=match.price.effective_from,
        ),
        held_output_tokens=assessed.output_tokens,
    )
