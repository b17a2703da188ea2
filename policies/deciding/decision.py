"""From an assessment and the counters' readings to a decision. Pure: the same in, the same out.

The reserve script applies the same rules, to know whether to hold (`exceeded` there, `exceeds` here) and how much
output (`output_left` there, `fitting_output` here); a test holds the two together. This module finds which limits were
exceeded, which of them speaks, and what a caller can do about it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from policies.reasons import (
    WINDOW_ADJECTIVES,
    WINDOW_CODES,
    Reason,
    ReasonClass,
    class_of,
    without_policy,
)
from usage.amounts import Amounts, Per, Subjects
from usage.assessment import Assessment, LimitRef, PolicyRef, Reading, affordable_output
from usage.limit_state import present
from usage.metrics import METRICS, ORDER, Metric
from usage.wording import with_models

_NEVER = float("inf")
# Until when a caller may find room that calls in flight take now; nobody knows, so try soon.
TRANSIENT_RETRY_S = 1


class LimitFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A limit and how it stood before this call."""

    limit: LimitRef
    used: int
    held: int
    exceeded: bool


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether, why, by which policy, and after how many seconds a retry makes sense (None: never by waiting)."""

    allowed: bool
    reason_code: str
    reason_class: ReasonClass
    message: str
    policy: PolicyRef | None
    retry_after_s: int | None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    verdict: Verdict
    # What monitored policies would have said, if they would have blocked.
    shadow: Verdict | None
    findings: tuple[LimitFinding, ...]
    # What the call may take; of a blocked one, what it asked for.
    amounts: Amounts


def exceeds(limit: int, needed: int, used: int, held: int) -> bool:
    """0 means none. A call that takes nothing of the metric (a free model of a budget) is never the one too many."""
    return limit == 0 or (needed > 0 and used + held + needed > limit)


def decide(assessment: Assessment, readings: Sequence[Reading], now_ms: int) -> Decision:
    """`readings` are of the assessment's limits, in their order."""
    least = assessment.least
    findings = tuple(
        [
            _finding(limit, least.of(limit.metric), reading)
            for limit, reading in zip(assessment.limits, readings, strict=True)
        ]
    )
    blocked = _verdict(assessment, findings, now_ms, enforced=True)
    return Decision(
        verdict=blocked or _allowed(assessment),
        shadow=_verdict(assessment, findings, now_ms, enforced=False),
        findings=findings,
        amounts=assessment.amounts
        if blocked
        else assessment.with_output(fitting_output(assessment, findings)),
    )


def fitting_output(assessment: Assessment, findings: Sequence[LimitFinding]) -> int:
    """The output tokens of an allowed call: what it asks for, or what its limits leave of that if it named no cap."""
    output, least = assessment.output_tokens, assessment.least_output_tokens
    if least is None:
        return output
    left = [_output_left(assessment, finding) for finding in findings if finding.limit.enforce]
    return max(least, min([output, *left]))


def _output_left(assessment: Assessment, finding: LimitFinding) -> int:
    limit, output = finding.limit, assessment.output_tokens
    left = limit.amount - finding.used - finding.held
    if limit.metric is Metric.COST_USD and assessment.output_rate > 0:
        return affordable_output(left, assessment.input_tokens, assessment.input_rate, assessment.output_rate)
    if "output_tokens" in METRICS[limit.metric].columns:
        return left - (assessment.amounts.of(limit.metric) - output)
    return output


def _finding(limit: LimitRef, needed: int, reading: Reading) -> LimitFinding:
    used, held = reading.used, reading.held
    exceeded = exceeds(limit.amount, needed, used, held)
    return LimitFinding(limit=limit, used=used, held=held, exceeded=exceeded)


def degraded(assessment: Assessment, *, allowed: bool) -> Decision:
    """Without counters: reasons that need none still decide, else the policies' `on_unavailable` does."""
    refused = _refused(assessment, enforced=True)
    reason = Reason.DEGRADED_ALLOWED if allowed else Reason.DEGRADED_BLOCKED
    says = "lets the call pass" if allowed else "blocks the call"
    verdict = refused or Verdict(
        allowed=allowed,
        reason_code=reason.value,
        reason_class=ReasonClass.DEGRADED,
        message=f"The counters cannot be read in time; the policy {says} meanwhile.",
        policy=assessment.override,
        retry_after_s=None if allowed else TRANSIENT_RETRY_S,
    )
    return Decision(verdict=verdict, shadow=None, findings=(), amounts=assessment.amounts)


def _allowed(assessment: Assessment) -> Verdict:
    override = assessment.override
    if override is None:
        guardrails = ", ".join(policy.name for policy in assessment.policies)
        within = f" within its guardrails ({guardrails})" if guardrails else ""
        message = f"{without_policy(assessment.plan)}; the environment allows such calls{within}."
        reason = Reason.NO_POLICY
    else:
        message, reason = f"Allowed by policy {override.name}.", Reason.ALLOWED
    return Verdict(
        allowed=True,
        reason_code=reason.value,
        reason_class=ReasonClass.ALLOWED,
        message=message,
        policy=override,
        retry_after_s=None,
    )


def _verdict(
    assessment: Assessment, findings: Sequence[LimitFinding], now_ms: int, *, enforced: bool
) -> Verdict | None:
    """The block, if there is one: what needs no counter comes first, then concurrency, then the windows."""
    refused = _refused(assessment, enforced=enforced)
    if refused is not None:
        return refused
    exceeded = [finding for finding in findings if finding.exceeded and finding.limit.enforce is enforced]
    if not exceeded:
        return None
    speaking = min(exceeded, key=_order)
    return _limit_verdict(assessment, speaking, now_ms)


def _refused(assessment: Assessment, *, enforced: bool) -> Verdict | None:
    refusal = assessment.refusal if enforced else assessment.shadow_refusal
    if refusal is None:
        return None
    return Verdict(
        allowed=False,
        reason_code=refusal.reason_code,
        reason_class=class_of(refusal.reason_code),
        message=refusal.message,
        policy=assessment.override if refusal.policy is None else assessment.policies[refusal.policy],
        retry_after_s=None,
    )


def _order(finding: LimitFinding) -> tuple[bool, float, int]:
    """Concurrency first; then the window that resets last, for retrying before it is useless; then the metric."""
    limit = finding.limit
    if limit.metric is Metric.CONCURRENCY:
        return False, 0.0, 0
    resets = _NEVER if limit.resets_at_ms is None else float(limit.resets_at_ms)
    return True, -resets, ORDER[limit.metric]


def _limit_verdict(assessment: Assessment, finding: LimitFinding, now_ms: int) -> Verdict:
    limit = finding.limit
    needed = assessment.least.of(limit.metric)
    reason_class = _limit_class(finding, needed)
    if limit.metric is Metric.CONCURRENCY:
        code = Reason.CONCURRENCY_LIMIT_EXCEEDED.value
    else:
        code = WINDOW_CODES[limit.window, limit.metric]
    return Verdict(
        allowed=False,
        reason_code=code,
        reason_class=reason_class,
        message=_message(finding, subject_name(assessment.subjects, limit.per), needed, reason_class),
        policy=assessment.policies[limit.policy],
        retry_after_s=_retry_after_s(limit, reason_class, now_ms),
    )


def _limit_class(finding: LimitFinding, needed: int) -> ReasonClass:
    limit = finding.limit
    if limit.metric is Metric.CONCURRENCY:
        return ReasonClass.TRANSIENT
    if limit.amount == 0 or needed > limit.amount:
        return ReasonClass.TOO_LARGE
    return ReasonClass.TRANSIENT if finding.used + needed <= limit.amount else ReasonClass.EXHAUSTED


def _retry_after_s(limit: LimitRef, reason_class: ReasonClass, now_ms: int) -> int | None:
    if reason_class is ReasonClass.TRANSIENT:
        # With a limit of 0 no call is ever in flight, so waiting cannot help.
        return TRANSIENT_RETRY_S if limit.amount > 0 else None
    if reason_class is ReasonClass.EXHAUSTED and limit.resets_at_ms is not None:
        return max(1, -(-(limit.resets_at_ms - now_ms) // 1000))
    return None


def _message(finding: LimitFinding, subject: str, needed: int, reason_class: ReasonClass) -> str:
    limit = finding.limit
    subject += with_models(limit.models)
    if limit.metric is Metric.CONCURRENCY:
        return f"{finding.held} calls of {subject} are in flight; the limit is {limit.amount} at a time."
    row = METRICS[limit.metric]

    def amount(value: int) -> str:
        return f"{present(limit.metric, value)}{row.unit}"

    what = f"{WINDOW_ADJECTIVES[limit.window]} {row.noun} of {amount(limit.amount)}"
    if reason_class is ReasonClass.TOO_LARGE:
        return f"{what} for {subject} is less than this call may take ({amount(needed)})."
    if reason_class is ReasonClass.TRANSIENT:
        return f"{what} for {subject} is taken up by calls in flight ({amount(finding.held)} held)."
    return (
        f"{what} reached for {subject}: {amount(finding.used)} used, {amount(finding.held)} held, "
        f"{amount(needed)} needed."
    )


def subject_name(subjects: Subjects, per: Per) -> str:
    """Whose limit it is, for people."""
    match per:
        case Per.USER:
            return f"user {subjects.user_id}"
        case Per.USER_FEATURE:
            return f"user {subjects.user_id} in feature {subjects.feature}"
        case Per.FEATURE:
            return f"feature {subjects.feature}"
        case Per.PLAN:
            return f"plan {subjects.plan}"
        case Per.RUN:
            return f"run {subjects.run_id}"
        case Per.ENVIRONMENT:
            return "the environment"
