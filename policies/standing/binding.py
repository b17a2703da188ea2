"""What binds an end user now: each limit that a call of theirs meets, shared ones too, and how it stands.

Asked as the usage meter asks (limits_in_force.py): by evaluations of calls that are never made, one without a feature
and one of each feature that the user has used lately.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

from django.db import InterfaceError, OperationalError

from policies.deciding import evaluation, staff
from policies.deciding.decision import LimitFinding
from policies.deciding.evaluation import Admitted, Evaluated
from policies.rules import Kind, PolicyRule
from policies.standing import budget_days, limits_in_force
from policies.standing.budget_forecast import Spent
from policies.standing.limits_in_force import Blocked, MeterQuery
from usage.amounts import Per, Subjects
from usage.assessment import LimitRef, PolicyRef
from usage.counting import rules
from usage.counting.store import store
from usage.counting.stored_user import StoredUser
from usage.instants import from_ms

# Each costs an evaluation.
FEATURES_MAX = 5
_OWN = {Per.USER, Per.USER_FEATURE}
_OF_A_FEATURE = {Per.FEATURE, Per.USER_FEATURE}


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingLimit:
    """`feature`: the limit meets calls of it alone; "": calls of no feature too.

    `spent`: by day, of a budget, where `with_days` found it.
    """

    policy: PolicyRef
    is_guardrail: bool
    limit: LimitRef
    boosted_by: int
    used: int
    held: int
    feature: str
    subject: Subjects
    spent: Spent | None = None

    @property
    def is_shared(self) -> bool:
        """Others use it up too."""
        return self.limit.per not in _OWN

    @property
    def fullness(self) -> float:
        return (self.used + self.held) / self.limit.amount if self.limit.amount else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """`limits`, the tightest first; None: the counters cannot be read. `blocked`: why no call is allowed at all."""

    plan: str
    blocked: Blocked | None
    limits: tuple[BindingLimit, ...] | None
    policies: tuple[PolicyRef, ...]
    stored: StoredUser


def of_user(
    environment_id: int, user_id: str, *, plan: str = "", features: Sequence[str] = ()
) -> Binding | None:
    """`plan` is that of the calls, if none is stored. None: not even what is stored can be read in time."""
    try:
        admitted = staff.admitted(environment_id)
        asked = [feature for feature in dict.fromkeys(features) if feature][:FEATURES_MAX]
        found = [
            _evaluated(admitted, Subjects(user_id=user_id, plan=plan, feature=feature))
            for feature in ("", *asked)
        ]
    except (OperationalError, InterfaceError):
        return None
    return _bound(found)


def of_call(environment_id: int, subjects: Subjects, model: str) -> Binding | None:
    """What would bind such a call now. `subjects.plan`: as above. None: as above."""
    try:
        return _bound([_evaluated(staff.admitted(environment_id), subjects, model)])
    except (OperationalError, InterfaceError):
        return None


def with_days(
    limits: Sequence[BindingLimit], environment_id: int, zone: ZoneInfo
) -> tuple[BindingLimit, ...]:
    """The same, with what was spent by day of those that are budgets."""
    asked = [
        (each.limit.per, each.limit.models, each.subject)
        for each in limits
        if budget_days.is_budget(each.limit.metric, each.limit.window)
    ]
    groups = rules.current(environment_id).tracked.groups
    spent = budget_days.spent(environment_id, zone, from_ms(store.now_ms()), asked, groups)

    def known(each: BindingLimit) -> BindingLimit:
        is_budget = budget_days.is_budget(each.limit.metric, each.limit.window)
        name = each.subject.name(each.limit.per) or ""
        return (
            replace(each, spent=spent.get((each.limit.per, each.limit.models, name))) if is_budget else each
        )

    return tuple(map(known, limits))


def _bound(found: Sequence[Evaluated]) -> Binding:
    first = found[0]
    counted = not any(evaluated.degraded for evaluated in found)
    return Binding(
        plan=first.assessment.plan,
        blocked=limits_in_force.blocked(first.assessment, names_model=False),
        limits=_limits(found) if counted else None,
        policies=first.assessment.policies,
        stored=first.user,
    )


def _evaluated(admitted: Admitted, subjects: Subjects, model: str | None = None) -> Evaluated:
    query = MeterQuery(
        user_id=subjects.user_id,
        plan=subjects.plan or None,
        feature=subjects.feature or None,
        run_id=subjects.run_id or None,
        model=model,
    )
    return evaluation.evaluate(limits_in_force.call(query), admitted)


def _limits(found: Iterable[Evaluated]) -> tuple[BindingLimit, ...]:
    limits: dict[tuple[object, ...], BindingLimit] = {}
    for evaluated in found:
        rules = {policy.ref.id: policy.rule for policy in limits_in_force.policies(evaluated)}
        for finding in evaluated.decision.findings:
            limit = _binding(evaluated, finding, rules)
            own_feature = limit.feature if limit.limit.per in _OF_A_FEATURE else ""
            # Met by calls of several features it is one limit, and the first one met is without a feature.
            limits.setdefault((limit.policy.id, *limit.limit.kind, own_feature), limit)
    return tuple(sorted(limits.values(), key=lambda limit: -limit.fullness))


def _binding(evaluated: Evaluated, finding: LimitFinding, rules: dict[str, PolicyRule]) -> BindingLimit:
    assessed, limit = evaluated.assessment, finding.limit
    policy = assessed.policies[limit.policy]
    return BindingLimit(
        policy=policy,
        is_guardrail=rules[policy.id].kind is Kind.GUARDRAIL,
        limit=limit,
        boosted_by=assessed.boosted_by(limit),
        used=finding.used,
        held=finding.held,
        feature=assessed.feature,
        subject=assessed.subjects,
    )
