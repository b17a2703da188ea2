"""An environment, compiled for decisions: keys, policies, freeze state, prices and what is counted, at one edition.

Each process keeps the snapshots of the environments it serves. None expires: every evaluate has the counter store
compare the snapshot's edition with the one in force, and only a stale one is compiled again; of it, policies only if
they changed. One caller compiles an environment; the others wait for it a moment, and no other environment's do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from policies import policy_rows
from policies.assessing import EnvironmentState
from policies.call_terms import TermsCache
from policies.models import Policy
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import Mode
from tenants import revisions
from tenants.api import problems
from tenants.api.authentication import Credential
from tenants.models import DefaultAction, Environment
from usage.amounts import Per
from usage.assessment import PolicyRef
from usage.counting import rules
from usage.counting.rules import CountingRules
from usage.counting.sync import JUST_READ, ask
from usage.metrics import Metric

# How long a caller waits while another compiles the same environment: with a snapshot to go on from, and without.
COMPILING_AWAITED_S = 0.15
FIRST_COMPILING_AWAITED_S = 5.0
ROWS_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The policies in force, compiled."""

    # Environment.policies_token when they were read.
    token: str
    index: PolicyIndex
    # Concurrency limits name kinds of subject; every call takes its place in the sets of all of them.
    concurrency_pers: tuple[Per, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    environment_id: int
    counting: CountingRules
    compiled: Policies
    state: EnvironmentState
    terms: TermsCache

    @property
    def revision(self) -> int:
        return self.counting.revision

    @property
    def edition(self) -> str:
        return self.counting.edition

    @property
    def policies(self) -> PolicyIndex:
        return self.compiled.index

    @property
    def concurrency_pers(self) -> tuple[Per, ...]:
        return self.compiled.concurrency_pers

    @property
    def credentials(self) -> Mapping[str, Credential]:
        return self.counting.credentials


_snapshots: dict[int, Snapshot] = {}
_compiling: dict[int, threading.Lock] = {}


def of_key(key_id: str) -> Snapshot | None:
    """The snapshot of the environment that an API key belongs to; None if no such key exists."""
    environment_id = rules.environment_of(key_id)
    return None if environment_id is None else current(environment_id)


def known(environment_id: int) -> Snapshot | None:
    return _snapshots.get(environment_id)


def current(environment_id: int) -> Snapshot:
    """As this process knows it. Raises Problem 503 if others take long to compile it."""
    known = _snapshots.get(environment_id)
    if known is not None:
        return known
    with _turn(environment_id, FIRST_COMPILING_AWAITED_S) as mine:
        known = _snapshots.get(environment_id)
        if known is None and not mine:
            raise problems.unavailable("The environment's policies, which are being read,")
        return known or _compile(environment_id, None)


def latest(known: Snapshot) -> Snapshot:
    """As PostgreSQL knows the environment now; one query if that is what this process knows.

    Where another caller is long at compiling its policies, those of before with all else as it is now.
    """
    edition = rules.edition_in_force(known.environment_id)
    if known.edition == edition:
        return known
    with _turn(known.environment_id, COMPILING_AWAITED_S) as mine:
        newer = _snapshots.get(known.environment_id, known)
        if newer.edition == edition:
            return newer
        return _compile(known.environment_id, newer) if mine else all_but_policies(newer)


def renew(stale: Snapshot) -> tuple[Snapshot, str]:
    """What is in force, told to the counter store, after that called this one stale; and the edition to go on with.

    Raises StoreUnavailable; Compiling if another caller is long at it.
    """
    environment_id = stale.environment_id
    with _turn(environment_id, COMPILING_AWAITED_S) as mine:
        known = _snapshots.get(environment_id)
        if known is not None and known is not stale:
            return known, known.edition
        if not mine:
            raise Compiling
        asked = ask(environment_id)
        under_way = revisions.under_way(asked.changing)
        # If nothing changed there is nothing to compile: the store forgot, or the change did not come about.
        if rules.edition_in_force(environment_id) != stale.edition:
            known = _compile(environment_id, stale)
        known = known or stale
        rules.introduce(known.counting, asked, under_way)
        return known, JUST_READ


class Compiling(Exception):
    """Another caller compiles this environment's policies, and takes long."""


@contextmanager
def _turn(environment_id: int, awaited_s: float) -> Iterator[bool]:
    """Whether it is this caller's turn; False after so long: another one is still compiling."""
    lock = _compiling.setdefault(environment_id, threading.Lock())
    mine = lock.acquire(timeout=awaited_s)
    try:
        yield mine
    finally:
        if mine:
            lock.release()


def forget_outdated() -> None:
    """Forgets what PostgreSQL does not know as in force; one query. Raises DatabaseError."""
    for environment_id, edition in rules.forget_outdated({*_snapshots}).items():
        snapshot = _snapshots.get(environment_id)
        if snapshot is not None and snapshot.edition != edition:
            # If it was just compiled anew it is once more.
            _snapshots.pop(environment_id, None)


def forget_all() -> None:
    """As in a new process."""
    _snapshots.clear()
    rules.forget_all()


def _compile(environment_id: int, before: Snapshot | None) -> Snapshot:
    snapshot = _read(environment_id, before, policies_of_before=False)
    _snapshots[environment_id] = snapshot
    return snapshot


def all_but_policies(before: Snapshot) -> Snapshot:
    return _read(before.environment_id, before, policies_of_before=True)


def _read(environment_id: int, before: Snapshot | None, *, policies_of_before: bool) -> Snapshot:
    with rules.at_one_moment():
        counting = rules.read(environment_id)
        environment = Environment.objects.get(pk=environment_id)
        if before is not None and (policies_of_before or before.compiled.token == environment.policies_token):
            compiled = before.compiled
        else:
            compiled = _compiled_policies(environment)
    return Snapshot(
        environment_id=environment_id,
        counting=counting,
        compiled=compiled,
        state=EnvironmentState(
            frozen=environment.frozen,
            frozen_features=frozenset(environment.frozen_features),
            allow_without_policy=environment.default_action == DefaultAction.ALLOW,
        ),
        terms=TermsCache(),
    )


def _compiled_policies(environment: Environment) -> Policies:
    rows = Policy.objects.in_force(environment.pk).prefetch_related("limits")
    # In parts: one large answer would keep the interpreter from all other threads while it is taken in.
    policies = [_stored_policy(row) for row in rows.iterator(chunk_size=ROWS_AT_ONCE)]
    return Policies(
        token=environment.policies_token,
        index=PolicyIndex(policies),
        concurrency_pers=_concurrency_pers(policies),
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
