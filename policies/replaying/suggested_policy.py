"""A suggested amount beside the limits in force of its kind, and the policy that would say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from policies import policy_rows
from policies.describing.overlaps import going_before
from policies.replaying.suggesting import Asked
from policies.resolution import StoredPolicy
from policies.rules import LIMITS_MAX, Kind, LimitRule, Mode, PolicyRule, Scope, UnknownPrice
from tenants.lengths import TITLE_LENGTH_MAX
from tenants.models import Environment
from usage import wording


@dataclass(frozen=True, slots=True)
class InForce:
    """A limit of the kind that was asked about, and the policy that has it."""

    policy: PolicyRule
    limit: LimitRule


def in_force(environment: Environment, asked: Asked) -> list[InForce]:
    """Those that bind calls of the plan and the feature that were asked about; not those of single users."""
    return [
        InForce(policy, limit)
        for policy in policy_rows.policy_set(environment).policies
        if policy.mode is not Mode.OFF and _binds(policy.scope, asked)
        for limit in policy.limits
        if _is_of_the_kind(limit, asked)
    ]


def policy(asked: Asked, amount: int, policies: Sequence[StoredPolicy]) -> tuple[PolicyRule, str | None]:
    """With the amount, and the name of the policy in force that it takes the place of. `policies`: those in force.

    The limit goes into the policy of the same plan and feature, in the place of the one of its kind or beside the
    others. Where none decides these calls, it is a guardrail of its own, which says nothing but the limit.
    """
    limit = LimitRule(metric=asked.metric, window=asked.window, amount=amount, per=asked.per)
    taking = goes_into(asked, policies)
    if taking is None:
        return _guardrail(asked, limit), None
    kept = [other for other in taking.limits if not _is_of_the_kind(other, asked)]
    if len(kept) == len(taking.limits):
        return replace(taking, limits=(*taking.limits, limit)), taking.name
    limits = (limit if _is_of_the_kind(other, asked) else other for other in taking.limits)
    return replace(taking, limits=tuple(dict.fromkeys(limits))), taking.name


def goes_into(asked: Asked, policies: Sequence[StoredPolicy]) -> PolicyRule | None:
    """The policy in force that takes the limit: rather one that has such a limit, else an override with room for it.

    None: it becomes a guardrail.
    """
    found = [policy.rule for policy in policies if _decides(policy, asked, policies)]
    for rule in found:
        if any(_is_of_the_kind(limit, asked) for limit in rule.limits):
            return rule
    return next(
        (rule for rule in found if rule.kind is Kind.OVERRIDE and len(rule.limits) < LIMITS_MAX),
        None,
    )


def _decides(policy: StoredPolicy, asked: Asked, policies: Sequence[StoredPolicy]) -> bool:
    """Whether it blocks all calls that were asked about, but for those of users who have a policy of their own."""
    rule = policy.rule
    return (
        rule.mode is Mode.ENFORCE
        and rule.scope == Scope(plan=asked.plan, feature=asked.feature)
        and all(other.rule.scope.user for other in going_before(policy, policies))
    )


def _guardrail(asked: Asked, limit: LimitRule) -> PolicyRule:
    of = ", ".join(filter(None, (asked.plan, asked.feature)))
    name = wording.limit_name(asked.kind)
    return PolicyRule(
        name=f"Suggested: {name}{of and f', {of}'}"[:TITLE_LENGTH_MAX],
        scope=Scope(plan=asked.plan, feature=asked.feature),
        kind=Kind.GUARDRAIL,
        limits=(limit,),
        # Whether models without a price are blocked, the other policies say.
        unknown_price=UnknownPrice.ALLOW,
    )


def _binds(scope: Scope, asked: Asked) -> bool:
    of_plan = not asked.plan or scope.plan in ("", asked.plan)
    of_feature = not asked.feature or scope.feature in ("", asked.feature)
    return not scope.user and of_plan and of_feature


def _is_of_the_kind(limit: LimitRule, asked: Asked) -> bool:
    return limit.kind == asked.kind
