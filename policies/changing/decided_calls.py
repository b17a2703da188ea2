"""Which calls of the ledger a policy would decide, as a condition of SQL, and policies that would decide none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import connection

from policies.changing.publishing import Change, PolicyChange
from policies.describing.overlaps import going_before
from policies.resolution import StoredPolicy
from policies.rules import Mode, Scope
from tenants.models import Environment
from usage.counting.store import store
from usage.instants import from_ms
from usage.ledger import sums

# Of the calls since then it is said whether a policy would decide any.
LOOKED_BACK = timedelta(days=7)
# One query each.
POLICIES_MAX = 20
_COLUMNS = {"user": "user_id", "feature": "feature", "plan": "plan"}


@dataclass(frozen=True, slots=True)
class Condition:
    """On the rows of `usage.ledger.sums`, which must have the columns."""

    sql: str = "true"
    values: list[Any] = field(default_factory=list)
    columns: frozenset[str] = frozenset()

    def and_also(self, other: Condition) -> Condition:
        return Condition(
            f"{self.sql} AND {other.sql}", self.values + other.values, self.columns | other.columns
        )


def matched(scope: Scope) -> Condition:
    """The calls that the scope matches."""
    found = Condition()
    for name in _named(scope):
        column = _COLUMNS[name]
        found = found.and_also(Condition(f"{column} = %s", [getattr(scope, name)], frozenset({column})))
    return found


def decided(policy: StoredPolicy, policies: Iterable[StoredPolicy]) -> Condition:
    """Of those the ones that no other override decides instead. `policies`: all that would be in force."""
    by_kind: dict[tuple[str, ...], list[Scope]] = defaultdict(list)
    for other in going_before(policy, policies):
        by_kind[_named(other.rule.scope)].append(other.rule.scope)
    found = matched(policy.rule.scope)
    for names, scopes in by_kind.items():
        found = found.and_also(_by_none_of(names, scopes))
    return found


def _named(scope: Scope) -> tuple[str, ...]:
    return tuple(name for name in _COLUMNS if getattr(scope, name))


def _by_none_of(names: tuple[str, ...], scopes: Sequence[Scope]) -> Condition:
    """One comparison, however many there are."""
    if not names:
        return Condition("false")
    columns = [_COLUMNS[name] for name in names]
    texts = ", ".join(["%s::text[]"] * len(names))
    return Condition(
        f"({', '.join(columns)}) NOT IN (SELECT * FROM unnest({texts}))",  # noqa: S608 (our own names)
        [[getattr(scope, name) for scope in scopes] for name in names],
        frozenset(columns),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidesNothing:
    """A policy that is for calls of the last days, all of which others would decide."""

    policy: str
    instead: tuple[str, ...]


def deciding_nothing(
    environment: Environment, changes: Iterable[Change], policies: Sequence[StoredPolicy]
) -> tuple[DecidesNothing, ...]:
    """Of those that are new or changed. `policies`: all that would be in force. Raises DatabaseError."""
    changed = {
        change.name
        for change in changes
        if isinstance(change, PolicyChange) and change.after and change.after.mode is not Mode.OFF
    }
    found = [policy for policy in policies if policy.ref.name in changed and going_before(policy, policies)]
    return tuple(
        DecidesNothing(
            policy=policy.ref.name,
            instead=tuple(other.ref.name for other in going_before(policy, policies)),
        )
        for policy in found[:POLICIES_MAX]
        if _decides_nothing(environment, policy, policies)
    )


def _decides_nothing(
    environment: Environment, policy: StoredPolicy, policies: Sequence[StoredPolicy]
) -> bool:
    its_own, all_of_it = decided(policy, policies), matched(policy.rule.scope)
    now = from_ms(store.now_ms() + 1)
    used = sums.used(environment.pk, [now - LOOKED_BACK, now], its_own.columns | all_of_it.columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT coalesce(sum(events) FILTER (WHERE {all_of_it.sql}), 0),
                   coalesce(sum(events) FILTER (WHERE {its_own.sql}), 0)
            FROM ({used.sql}) AS used
            """,  # noqa: S608 (our own names)
            [*all_of_it.values, *its_own.values, *used.values],
        )
        meant, its = cursor.fetchone() or (0, 0)
    return bool(meant and not its)
