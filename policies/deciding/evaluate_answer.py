"""An evaluation as `POST /v1/evaluate` answers it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from policies.deciding.decision import Decision, Verdict
from policies.deciding.evaluation import Evaluated
from policies.reasons import ALL_CODES, ReasonClass
from usage import limit_state
from usage.amounts import Amounts
from usage.assessment import Assessment, PolicyRef
from usage.limit_state import LimitState
from usage.metrics import COUNTS
from usage.money import format_usd

ReasonCode = Annotated[
    str,
    Meta(description="Why, for programs; part of the contract.", extra_json_schema={"enum": list(ALL_CODES)}),
]
ReasonClassName = Annotated[
    str,
    Meta(
        description="What the caller can do about it: `transient` passes soon, `exhausted` with the next window.",
        extra_json_schema={"enum": [each.value for each in ReasonClass]},
    ),
]


class PolicyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Of the policy: `GET /v1/policies/{id}`.")]
    name: Annotated[str, Meta(description="Of the policy, as it was published.")]
    version: Annotated[int, Meta(description="Grows by one with each change of the policy.")]
    scope: Annotated[
        str, Meta(description="What the policy names, such as plan or user+feature; default: nothing.")
    ]


class ShadowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What monitored policies would have said."""

    allowed: Annotated[bool, Meta(description="Whether they would have let the call through.")]
    reason_code: ReasonCode
    reason_class: ReasonClassName
    message: Annotated[str, Meta(description="The reason as a sentence, for people.")]
    policy: Annotated[
        PolicyAnswer | None, Meta(description="The policy that would have decided; null if none.")
    ]


class ReservedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is held for the call until it is reported."""

    # COUNT_FIELDS, each described.
    __annotations__.update((name, Annotated[int, Meta(description=row.held)]) for name, row in COUNTS.items())
    cost_usd: Annotated[str, Meta(description="Decimal string in USD.")]


class CandidateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    policy: Annotated[PolicyAnswer, Meta(description="A policy of the environment.")]
    kind: Annotated[str, Meta(description="override or guardrail.")]
    mode: Annotated[str, Meta(description="enforce, monitor or off.")]
    outcome: Annotated[str, Meta(description="Whether it applies to the call, or why not.")]


class PriceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    provider: Annotated[str, Meta(description="Whose price it is.")]
    model: Annotated[str, Meta(description="The name or pattern in the price book.")]
    matched_by: Annotated[str, Meta(description="How the model was found in the price book.")]
    effective_from: Annotated[datetime, Meta(description="Since when the price holds (RFC 3339, UTC).")]


class TraceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How the decision came about; with `explain`."""

    revision: Annotated[int, Meta(description="Of the environment: grows with every change of its rules.")]
    plan: Annotated[str, Meta(description="The plan that was decided by; empty: none.")]
    plan_source: Annotated[str, Meta(description="stored (with the end user), request or none.")]
    candidates: Annotated[tuple[CandidateAnswer, ...], Meta(description="The policies looked at.")]
    price: Annotated[
        PriceAnswer | None, Meta(description="The price it was estimated with; null if the model has none.")
    ]
    held_output_tokens: Annotated[int, Meta(description="Output tokens that the estimate counts with.")]


class EvaluateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    request_id: Annotated[str, Meta(description="As sent, or the one made: report the usage with it.")]
    allowed: Annotated[bool, Meta(description="Whether to make the call.")]
    reason_code: ReasonCode
    reason_class: ReasonClassName
    message: Annotated[str, Meta(description="The reason as a sentence, for people.")]
    policy: Annotated[PolicyAnswer | None, Meta(description="The policy that decided; null if none did.")]
    shadow: Annotated[
        ShadowAnswer | None,
        Meta(description="What policies on trial (mode monitor) would have said; null if none applies."),
    ]
    limit_state: Annotated[
        tuple[LimitState, ...], Meta(description="The limits that apply, after what this call holds.")
    ]
    retry_after: Annotated[
        int | None,
        Meta(
            description="Whole seconds until the same call may pass; null if it is allowed or waiting cannot help."
        ),
    ]
    estimated_cost_usd: Annotated[
        str | None,
        Meta(
            description="Decimal string in USD: the most that the tokens held or asked for can cost, at the dearest of "
            "the model's rates; null if it has no price."
        ),
    ]
    reserved: Annotated[
        ReservedAnswer | None,
        Meta(
            description="What is held until the usage report; null if nothing is: blocked, `dry_run` or degraded."
        ),
    ]
    expires_at: Annotated[
        datetime | None,
        Meta(
            description="When the hold ends if nothing is reported (RFC 3339, UTC); null if nothing is held."
        ),
    ]
    max_output_tokens: Annotated[
        int | None,
        Meta(
            description="Pass this to the provider: the answer must not be longer. Null: blocked, or the "
            "call named no cap and no policy in force counts its output."
        ),
    ]
    suggested_model: Annotated[
        str | None,
        Meta(
            description="If the call is blocked for its model or its cost: the first model named in full in the allow "
            "lists of policies in force that would be allowed now. Null: there is none."
        ),
    ]
    degraded: Annotated[
        bool,
        Meta(
            description="True if the counters could not be reached and the policy's `on_unavailable` decided."
        ),
    ]
    trace: Annotated[
        TraceAnswer | None, Meta(description="How the decision came about; null without `explain`.")
    ]


def answer(evaluated: Evaluated, *, explain: bool) -> EvaluateAnswer:
    assessed, verdict = evaluated.assessment, evaluated.decision.verdict
    held, amounts = evaluated.expires_at_ms is not None, evaluated.decision.amounts
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
        estimated_cost_usd=format_usd(amounts.cost_nano) if assessed.priced else None,
        reserved=_reserved(amounts) if held else None,
        expires_at=limit_state.instant(evaluated.expires_at_ms),
        max_output_tokens=amounts.output_tokens
        if verdict.allowed and assessed.max_output_tokens is not None
        else None,
        suggested_model=evaluated.suggested_model,
        degraded=evaluated.degraded,
        trace=_trace(evaluated) if explain else None,
    )


def limit_states(assessed: Assessment, decided: Decision, *, held: bool) -> tuple[LimitState, ...]:
    """As they stand after the call: with what it holds, if it holds anything."""
    amounts = decided.amounts if held else Amounts()
    return tuple(
        [
            limit_state.state(
                assessed,
                finding.limit,
                finding.used,
                finding.held + amounts.of(finding.limit.metric),
                exceeded=finding.exceeded,
            )
            for finding in decided.findings
        ]
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


def _reserved(amounts: Amounts) -> ReservedAnswer:
    return ReservedAnswer(**amounts.counts, cost_usd=format_usd(amounts.cost_nano))


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
        held_output_tokens=evaluated.decision.amounts.output_tokens,
    )
