"""A suggested amount beside the limits in force of its kind, and the policy that would say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from policies import policy_rows
from policies.replaying.suggesting import Asked
from policies.rules import LimitRule, Mode, PolicyRule, Scope
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


def policy(asked: Asked, amount: int, known: Sequence[InForce]) -> tuple[PolicyRule, str | None]:
    """With the amount, and the name of the policy in force that it takes the place of.

    That is the one of the same plan and feature that has such a limit; without one the policy is new.
    """
    scope = Scope(plan=asked.plan, feature=asked.feature)
    limit = LimitRule(metric=asked.metric, window=asked.window, amount=amount, per=asked.per)
    for each in known:
        if each.policy.scope == scope:
            limits = tuple(limit if other == each.limit else other for other in each.policy.limits)
            return replace(each.policy, limits=limits), each.policy.name
    of = ", ".join(filter(None, (asked.plan, asked.feature)))
    name = wording.limit_name(asked.metric, asked.window, asked.per)
    return PolicyRule(
        name=f"Suggested: {name}{of and f', {of}'}"[:TITLE_LENGTH_MAX], scope=scope, limits=(limit,)
    ), None


def _binds(scope: Scope, asked: Asked) -> bool:
    of_plan = not asked.plan or scope.plan in ("", asked.plan)
    of_feature = not asked.feature or scope.feature in ("", asked.feature)
    return not scope.user and of_plan and of_feature


def _is_of_the_kind(limit: LimitRule, asked: Asked) -> bool:
    return (limit.metric, limit.window, limit.per) == (asked.metric, asked.window, asked.per)
