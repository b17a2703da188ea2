"""Which models a call could have named instead that was blocked for its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies import policy_rows
from policies.reasons import Reason
from policies.resolution import PolicyIndex
from policies.rules import Mode
from usage.prices.same_model import names_of

if TYPE_CHECKING:
    from policies.models import BlockedDecision

_REASONS = {Reason.MODEL_NOT_ALLOWED.value, Reason.MODEL_DENIED.value}


def allowed_models(decision: BlockedDecision) -> tuple[str, ...]:
    """Those that the policies in force then list and none of them denies, patterns as they are written.

    Empty if they list none, or if it was blocked for another reason. One query.
    """
    if decision.reason_code not in _REASONS:
        return ()
    policies = policy_rows.in_force_before(decision.environment_id, decision.decided_at)
    applying = PolicyIndex(policies).resolve(
        user=decision.user_id, feature=decision.feature, plan=decision.plan
    )
    rules = [policy.rule.models for policy in applying.policies if policy.rule.mode is Mode.ENFORCE]
    listed = {name: names_of(name, None) for rule in rules for name in rule.allow}
    return tuple(
        name
        for name, names in listed.items()
        if all(rule.allows(names) and not rule.denies(names) for rule in rules)
    )
