"""The trace of a stored decision: what was recorded with it, and which policies were considered, resolved once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policies import policy_rows
from policies.blocked.explanation import StoodLimit
from policies.describing import reason_words
from policies.describing.considering import considered
from policies.describing.trace import Explanation, Question, Stood, decided_by
from policies.reasons import Reason, rank
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import Mode

if TYPE_CHECKING:
    from policies.models import BlockedDecision

_NOT_RECORDED = "Not recorded: the call was blocked for another reason first."
_RANKS = {reason.value: rank(reason) for reason in Reason}


@dataclass(frozen=True, slots=True)
class Trace:
    """`differs`: how the policies that were resolved once more disagree with what was recorded; "" if they do not."""

    explained: Explanation
    differs: str


def trace(decision: BlockedDecision, limits: Sequence[StoodLimit]) -> Trace:
    """`limits` are those that were recorded with it. One query."""
    policies = policy_rows.in_force_before(decision.environment_id, decision.decided_at)
    parts = considered(
        policies, PolicyIndex(policies), user=decision.user_id, feature=decision.feature, plan=decision.plan
    )
    monitored = {policy.ref.name for policy in policies if policy.rule.mode is Mode.MONITOR}
    return Trace(
        Explanation(
            allowed=False,
            title=reason_words.of_code(decision.reason_code),
            message=decision.message,
            reason_code=decision.reason_code,
            retry_after_s=None,
            stops=decided_by(decision.reason_code),
            frozen=_frozen(decision),
            user=_user(decision),
            plan=decision.plan,
            plan_stored=None,
            policies=tuple(parts),
            call=_call(decision),
            limits=tuple(_stood(limit, enforced=limit.policy not in monitored) for limit in limits),
            degraded=False,
            suggested_model=None,
            shadow=None,
        ),
        _differs(decision, policies),
    )


def _was_asked(decision: BlockedDecision, reason: Reason) -> bool:
    """Whether the answer is known to be no: a reason that comes later decided."""
    return _RANKS.get(decision.reason_code, len(_RANKS)) > rank(reason)


def _frozen(decision: BlockedDecision) -> str:
    if decision.reason_code == Reason.ENVIRONMENT_FROZEN:
        return "Yes: the environment was frozen."
    if decision.reason_code == Reason.FEATURE_FROZEN:
        return f"Yes: the feature {decision.feature} was frozen."
    if not _was_asked(decision, Reason.FEATURE_FROZEN):
        return _NOT_RECORDED
    of_feature = f"neither the environment nor {decision.feature} was frozen." if decision.feature else ""
    return f"No: {of_feature}" if of_feature else "No."


def _user(decision: BlockedDecision) -> str:
    named = f"{decision.user_id} had the plan {decision.plan}."
    had = named if decision.plan else "The call named no plan, and none was stored for this user."
    if decision.reason_code == Reason.USER_BLOCKED:
        return f"Yes: {decision.user_id} was blocked. {had}"
    return f"No. {had}" if _was_asked(decision, Reason.USER_BLOCKED) else f"{_NOT_RECORDED} {had}"


def _call(decision: BlockedDecision) -> str:
    stops = decided_by(decision.reason_code)
    if stops is Question.CALL:
        return decision.message
    return "Yes." if stops is Question.LIMITS else _NOT_RECORDED


def _stood(limit: StoodLimit, *, enforced: bool) -> Stood:
    return Stood(
        policy=limit.policy,
        metric=limit.metric,
        says=limit.words,
        limit=limit.limit,
        boosted=limit.boosted,
        used=limit.used,
        held=limit.held,
        needed=limit.needed,
        exceeded=limit.exceeded,
        enforced=enforced,
        resets_at=limit.resets_at,
        counted=True,
    )


def _differs(decision: BlockedDecision, policies: Sequence[StoredPolicy]) -> str:
    if decision.policy_id is None or decision.policy_version is None:
        return ""
    versions = {policy.ref.id: policy.ref.version for policy in policies}
    now = versions.get(str(decision.policy_id))
    if now == decision.policy_version:
        return ""
    said = f"The call was decided by version {decision.policy_version} of {decision.policy_name}"
    if now is None:
        return f"{said}, of which no version is kept as in force at that time."
    return f"{said}; version {now} had just been published and did not bind it yet."
