"""The usage meter: which policies are in force for a subject, and how their limits stand.

It is an evaluation of a call that is never made: it holds nothing and is recorded nowhere.
"""

from __future__ import annotations

import msgspec

from policies.deciding import evaluation
from policies.deciding.decision import LimitFinding
from policies.deciding.evaluate_request import EvaluateRequest
from policies.deciding.evaluation import Admitted, Evaluated
from policies.reasons import BY_MODEL, CLASSES, Reason
from policies.resolution import StoredPolicy
from tenants.api import problems
from tenants.api.http import Name
from usage import limit_state
from usage.amounts import Per
from usage.assessment import Assessment
from usage.limit_state import LimitState
from usage.prices.model_groups import ANY_MODEL

# What blocks every call whatever it asks for; with a model, also what blocks every call of that model.
_ALWAYS = {Reason.NO_POLICY, Reason.ENVIRONMENT_FROZEN, Reason.FEATURE_FROZEN, Reason.USER_BLOCKED}
_PER_USER = {Per.USER, Per.USER_FEATURE}
# Placeholders for an evaluation without user or model; they never appear in the answer.
_NO_USER, _NO_MODEL = "", ANY_MODEL


class MeterQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`GET /v1/limits`. Without `user_id` the limits per user are left out; so with the other subjects.

    With `model` limits that count only other models are left out.
    """

    user_id: Name | None = None
    plan: Name | None = None
    feature: Name | None = None
    model: Name | None = None
    run_id: Name | None = None


class PolicyInForce(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    version: int
    scope: str
    kind: str
    mode: str


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    reason_code: str
    reason_class: str
    message: str


class MeterAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The override in force comes first, then the guardrails. `plan` is the stored one if the end user has one.

    `exceeded`: nothing remains, so no further call fits that takes anything of the metric, however small. A call of
    some size may be refused though no limit is exceeded; evaluate it with `dry_run` to know. `blocked` is why no call
    would be allowed whatever the limits say; as for models, only if one was named.
    """

    user_id: str | None
    plan: str | None
    policies: tuple[PolicyInForce, ...]
    limit_state: tuple[LimitState, ...]
    blocked: Blocked | None


def read(query: MeterQuery, admitted: Admitted) -> MeterAnswer:
    """Raises Problem; 503 if the counters cannot be read."""
    evaluated = evaluation.evaluate(call(query), admitted)
    if evaluated.degraded:
        raise problems.unavailable("The counter store")
    assessed = evaluated.assessment
    return MeterAnswer(
        user_id=query.user_id,
        plan=assessed.plan or None,
        policies=tuple(_policy(policy) for policy in policies(evaluated)),
        limit_state=tuple(
            _state(assessed, finding)
            for finding in evaluated.decision.findings
            if query.user_id is not None or finding.limit.per not in _PER_USER
        ),
        blocked=blocked(assessed, names_model=query.model is not None),
    )


def call(query: MeterQuery) -> EvaluateRequest:
    return EvaluateRequest(
        user_id=query.user_id or _NO_USER,
        model=query.model or _NO_MODEL,
        plan=query.plan,
        feature=query.feature,
        run_id=query.run_id,
        # Given, so that the usual output of such calls is not looked up.
        input_tokens=0,
        max_output_tokens=0,
        dry_run=True,
    )


def policies(evaluated: Evaluated) -> tuple[StoredPolicy, ...]:
    assessed = evaluated.assessment
    index = evaluated.snapshot.policies
    return index.resolve(user=assessed.user_id, feature=assessed.feature, plan=assessed.plan).policies


def _policy(policy: StoredPolicy) -> PolicyInForce:
    ref, rule = policy.ref, policy.rule
    return PolicyInForce(
        id=ref.id,
        name=ref.name,
        version=ref.version,
        scope=ref.scope,
        kind=rule.kind.value,
        mode=rule.mode.value,
    )


def _state(assessed: Assessment, finding: LimitFinding) -> LimitState:
    limit, used, held = finding.limit, finding.used, finding.held
    exceeded = limit_state.nothing_remains(limit, used, held)
    return limit_state.state(assessed, limit, used, held, exceeded=exceeded)


def blocked(assessed: Assessment, *, names_model: bool) -> Blocked | None:
    refusal = assessed.refusal
    told = _ALWAYS | BY_MODEL if names_model else _ALWAYS
    if refusal is None or refusal.reason_code not in told:
        return None
    reason = Reason(refusal.reason_code)
    return Blocked(reason_code=reason.value, reason_class=CLASSES[reason].value, message=refusal.message)
