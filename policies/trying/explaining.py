"""From an evaluation to the trace of it (policies/describing/trace.py), which Try it shows.

All questions are answered, also after one that blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from policies.deciding.decision import Decision, LimitFinding, Verdict
from policies.deciding.evaluation import Evaluated
from policies.describing import reason_words
from policies.describing.considering import considered
from policies.describing.trace import Explanation, Question, Stood, decided_by
from policies.reasons import Reason
from policies.resolution import StoredPolicy
from usage import wording
from usage.assessment import Assessment
from usage.instants import from_ms


def explain(
    evaluated: Evaluated, policies: Iterable[StoredPolicy], uncounted: Collection[int] = ()
) -> Explanation:
    """`policies` are all of the environment, those that are off too; `uncounted` as of `try_it.uncounted`."""
    assessed, decided = evaluated.assessment, evaluated.decision
    verdict = decided.verdict
    return Explanation(
        allowed=verdict.allowed,
        title=_title(verdict),
        message=verdict.message,
        reason_code=verdict.reason_code,
        retry_after_s=verdict.retry_after_s,
        stops=_stops(verdict),
        frozen=_frozen(evaluated),
        user=_user(evaluated),
        plan=assessed.plan,
        plan_stored=_plan_stored(evaluated),
        policies=tuple(
            considered(
                policies,
                evaluated.snapshot.policies,
                user=assessed.user_id,
                feature=assessed.feature,
                plan=assessed.plan,
            )
        ),
        call=_call(evaluated),
        limits=tuple(
            _stood(assessed, finding, counted=place not in uncounted)
            for place, finding in enumerate(decided.findings)
        ),
        degraded=evaluated.degraded,
        suggested_model=evaluated.suggested_model,
        shadow=_shadow(decided),
    )


def _title(verdict: Verdict) -> str:
    # A call without a policy is allowed or blocked under the same code.
    code = (
        Reason.ALLOWED if verdict.allowed and verdict.reason_code == Reason.NO_POLICY else verdict.reason_code
    )
    return reason_words.of_code(code)


def _stops(verdict: Verdict) -> Question | None:
    if verdict.allowed:
        return None
    return decided_by(verdict.reason_code)


def _shadow(decided: Decision) -> str | None:
    return None if decided.shadow is None else decided.shadow.message


def _frozen(evaluated: Evaluated) -> str:
    state, feature = evaluated.snapshot.state, evaluated.assessment.feature
    if state.frozen:
        return "Yes: the environment is frozen."
    if feature in state.frozen_features:
        return f"Yes: the feature {feature} is frozen."
    return f"No: neither the environment nor {feature} is frozen." if feature else "No."


def _plan_stored(evaluated: Evaluated) -> bool:
    return bool(evaluated.user.known and evaluated.user.plan)


def _user(evaluated: Evaluated) -> str:
    assessed = evaluated.assessment
    if evaluated.user.blocked:
        return f"Yes: {assessed.user_id} is blocked."
    if not assessed.plan:
        return f"No. {assessed.user_id} has no plan."
    stored = _plan_stored(evaluated)
    source = "which is stored for the user" if stored else "as the call says; none is stored for the user"
    return f"No. {assessed.user_id} has the plan {assessed.plan}, {source}."


def _call(evaluated: Evaluated) -> str:
    assessed = evaluated.assessment
    refusal = assessed.refusal
    if refusal is not None and decided_by(refusal.reason_code) is Question.CALL:
        return refusal.message
    amounts = evaluated.decision.amounts
    tokens = wording.tokens(amounts)
    if not assessed.priced:
        return f"Yes. {assessed.model} has no price; {tokens}."
    return f"Yes. {assessed.model} costs at most {wording.money(amounts.cost_nano)} for {tokens}."


def _stood(assessed: Assessment, finding: LimitFinding, *, counted: bool) -> Stood:
    limit = finding.limit
    words = wording.limit_of(limit.kind, limit.amount)
    return Stood(
        policy=assessed.policies[limit.policy].name,
        metric=limit.metric,
        says=words,
        limit=limit.amount,
        boosted=assessed.boosted_by(limit),
        used=finding.used,
        held=finding.held,
        needed=assessed.least.of(limit.metric),
        exceeded=finding.exceeded,
        enforced=limit.enforce,
        resets_at=None if limit.resets_at_ms is None else from_ms(limit.resets_at_ms),
        counted=counted,
    )
