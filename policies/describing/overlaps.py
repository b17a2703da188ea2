"""How a policy stands to the others in force that meet the same callers. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from policies.resolution import StoredPolicy
from policies.rules import Kind, Mode, Scope


class Relation(StrEnum):
    GOES_BEFORE = "goes before it"
    STANDS_BACK = "stands back for it"
    AS_WELL = "applies as well"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    policy: StoredPolicy
    relation: Relation


def overlaps(policy: StoredPolicy, others: Iterable[StoredPolicy]) -> list[Overlap]:
    """Of those whose scopes a call can meet together: what goes before it, then guardrails, then what stands back."""
    found = [
        Overlap(policy=other, relation=_relation(policy, other))
        for other in others
        if other.ref.id != policy.ref.id
        and other.rule.mode is not Mode.OFF
        and _can_meet(policy.rule.scope, other.rule.scope)
    ]
    order = [Relation.GOES_BEFORE, Relation.AS_WELL, Relation.STANDS_BACK]
    return sorted(found, key=lambda each: (order.index(each.relation), each.policy.ref.name))


def going_before(policy: StoredPolicy, policies: Iterable[StoredPolicy]) -> list[StoredPolicy]:
    """Those that decide instead of it where their scopes match too. By name: what is drafted has no id."""
    if policy.rule.kind is Kind.GUARDRAIL:
        return []
    return [
        other
        for other in policies
        if other.ref.name != policy.ref.name
        and other.rule.mode is not Mode.OFF
        and _can_meet(policy.rule.scope, other.rule.scope)
        and _relation(policy, other) is Relation.GOES_BEFORE
    ]


def _can_meet(one: Scope, other: Scope) -> bool:
    pairs = ((one.user, other.user), (one.feature, other.feature), (one.plan, other.plan))
    return all(not a or not b or a == b for a, b in pairs)


def _relation(policy: StoredPolicy, other: StoredPolicy) -> Relation:
    if Kind.GUARDRAIL in (policy.rule.kind, other.rule.kind):
        return Relation.AS_WELL
    return Relation.GOES_BEFORE if _precedence(other) > _precedence(policy) else Relation.STANDS_BACK


def _precedence(policy: StoredPolicy) -> tuple[tuple[bool, bool, bool], int, int]:
    """As resolution.py has it."""
    return policy.rule.scope.rank, policy.rule.priority, -policy.ordinal
