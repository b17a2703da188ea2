"""An environment, compiled for decisions: keys, policies, freeze state, prices and what is counted, at one revision.

Each process keeps the snapshots of the environments it serves. None expires: every evaluate has the counter store
compare the snapshot's revision with the one in force, and only a stale one is compiled again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from policies import policy_rows
from policies.assessing import EnvironmentState
from policies.call_terms import TermsCache
from policies.models import Policy
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import Mode
from tenants.api.authentication import Credential
from tenants.models import DefaultAction, Environment
from usage.amounts import Per
from usage.assessment import PolicyRef
from usage.counting import rules
from usage.counting.rules import RELOADS_MAX, CountingRules
from usage.counting.store import StoreUnavailable
from usage.metrics import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    environment_id: int
    revision: int
    counting: CountingRules
    policies: PolicyIndex
    # Concurrency limits name kinds of subject; every call takes its place in the sets of all of them.
    concurrency_pers: tuple[Per, ...]
    state: EnvironmentState
    terms: TermsCache

    @property
    def credentials(self) -> Mapping[str, Credential]:
        return self.counting.credentials


_snapshots: dict[int, Snapshot] = {}
_compiling = threading.Lock()


def of_key(key_id: str) -> Snapshot | None:
    """The snapshot of the environment that an API key belongs to; None if no such key exists."""
    environment_id = rules.environment_of(key_id)
    return None if environment_id is None else current(environment_id)


def current(environment_id: int) -> Snapshot:
    """As this process knows it."""
    return _snapshots.get(environment_id) or at_revision(environment_id, 0)


def at_revision(environment_id: int, revision: int) -> Snapshot:
    """As it is at a revision that was just read from PostgreSQL, or later."""
    # Many callers miss it at once; one compiles, the others take what it made.
    with _compiling:
        known = _snapshots.get(environment_id)
        if known is not None and known.revision >= revision:
            return known
        return _compile(environment_id, rules.reload(environment_id))


def latest(known: Snapshot) -> Snapshot:
    """As PostgreSQL knows the environment now; one query if that is what this process knows."""
    environments = Environment.objects.filter(pk=known.environment_id)
    return at_revision(known.environment_id, environments.values_list("revision", flat=True).get())


def renew(stale: Snapshot) -> Snapshot:
    """What is in force, told to the counter store; after the store called this one stale. Raises StoreUnavailable."""
    with _compiling:
        known = _snapshots.get(stale.environment_id)
        if known is not None and known is not stale:
            return known
        snapshot = stale
        for _ in range(RELOADS_MAX):
            # If nothing changed it is the store that forgot, and there is nothing to compile.
            if not rules.is_in_force(snapshot.counting):
                snapshot = _compile(stale.environment_id, rules.reload(stale.environment_id))
            if rules.introduce(snapshot.counting):
                return snapshot
    raise StoreUnavailable("the environment changes faster than it can be read")


def forget_all() -> None:
    """As in a new process."""
    _snapshots.clear()
    rules.forget_all()


def _compile(environment_id: int, known: CountingRules) -> Snapshot:
    """Raises StoreUnavailable if the environment does not come to rest."""
    for _ in range(RELOADS_MAX):
        snapshot = _read(environment_id, known)
        # A change in between would leave it half old and half new: limits whose counters it does not know.
        if rules.is_in_force(known):
            _snapshots[environment_id] = snapshot
            return snapshot
        known = rules.reload(environment_id)
    raise StoreUnavailable("the environment changes faster than it can be read")


def _read(environment_id: int, known: CountingRules) -> Snapshot:
    environment = Environment.objects.get(pk=environment_id)
    rows = Policy.objects.filter(environment_id=environment_id, archived_at=None).prefetch_related("limits")
    policies = [_stored_policy(row) for row in rows]
    return Snapshot(
        environment_id=environment_id,
        revision=known.revision,
        counting=known,
        policies=PolicyIndex(policies),
        concurrency_pers=_concurrency_pers(policies),
        state=EnvironmentState(
            frozen=environment.frozen,
            frozen_features=frozenset(environment.frozen_features),
            allow_without_policy=environment.default_action == DefaultAction.ALLOW,
        ),
        terms=TermsCache(),
    )


def _stored_policy(row: Policy) -> StoredPolicy:
    rule = policy_rows.rule_of(row)
    ref = PolicyRef(str(row.pk), row.name, row.version, rule.scope.label)
    return StoredPolicy(ref=ref, ordinal=row.ordinal, rule=rule)


def _concurrency_pers(policies: list[StoredPolicy]) -> tuple[Per, ...]:
    pers = {
        limit.per
        for policy in policies
        if policy.rule.mode is not Mode.OFF
        for limit in policy.rule.limits
        if limit.metric is Metric.CONCURRENCY
    }
    return tuple(sorted(pers))
