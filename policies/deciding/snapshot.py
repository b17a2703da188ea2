"""An environment, compiled for decisions: keys, policies, freezes, boosts, prices and what is counted, at one edition.

Each process keeps the snapshots of the environments it serves. None expires: every evaluate has the counter store
compare the snapshot's edition with the one in force, and only a stale one is compiled again; of it, policies only if
they changed. Callers come through compiling.py, which has one at a time compile an environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from policies import boosts, policy_rows
from policies.deciding.assessing import EnvironmentState
from policies.deciding.call_terms import TermsCache
from policies.models import Policy
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import Mode
from tenants import revisions
from tenants.api.authentication import Credential
from tenants.models import DefaultAction, Environment
from usage.amounts import Models, Per
from usage.counting import rules
from usage.counting.rules import CountingRules
from usage.counting.sync import JUST_READ, ask
from usage.counting.tracked import TrackedPairs
from usage.metrics import Metric

ROWS_AT_ONCE = 200
# What a limit on calls at once counts: a kind of subject, and some models or all.
CallsAtOnce = tuple[Per, Models]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The policies in force, compiled."""

    # Environment.policies_token when they were read.
    token: str
    index: PolicyIndex
    # Of the concurrency limits; every call takes its place in the sets of all that count it.
    calls_at_once: tuple[CallsAtOnce, ...]


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
    def calls_at_once(self) -> tuple[CallsAtOnce, ...]:
        return self.compiled.calls_at_once

    @property
    def credentials(self) -> Mapping[str, Credential]:
        return self.counting.credentials


_snapshots: dict[int, Snapshot] = {}
# Editions of snapshots that PostgreSQL does not know as in force, and nobody was told of.
_outdated: dict[int, str] = {}
# All but the policies of environments, as it was read while these were being compiled.
_meanwhile: dict[int, tuple[EnvironmentState, CountingRules]] = {}


def known(environment_id: int) -> Snapshot | None:
    return _snapshots.get(environment_id)


def is_outdated(known: Snapshot) -> bool:
    """Whether it was found not to be in force, by whomever."""
    return _outdated.get(known.environment_id) == known.edition


def current(environment_id: int) -> Snapshot:
    """As this process knows it."""
    return _snapshots.get(environment_id) or _compile(environment_id, None)


def at_edition(edition: str, known: Snapshot) -> Snapshot:
    """As it is at an edition that was just read from PostgreSQL, or later."""
    newer = _snapshots.get(known.environment_id, known)
    return newer if newer.edition == edition else _compile(known.environment_id, newer)


def renew(stale: Snapshot) -> tuple[Snapshot, str]:
    """What is in force, told to the counter store, after that called this one stale; and the edition to go on with.

    Raises StoreUnavailable, DatabaseError.
    """
    environment_id = stale.environment_id
    known = _snapshots.get(environment_id)
    if known is not None and known is not stale:
        return known, known.edition
    asked = ask(environment_id)
    under_way = revisions.under_way(asked.changing)
    # If nothing changed there is nothing to compile: the store forgot, or the change did not come about.
    if rules.edition_in_force(environment_id) != stale.edition:
        known = _compile(environment_id, stale)
    known = known or stale
    rules.introduce(known.counting, asked, under_way)
    return known, JUST_READ


def find_outdated() -> None:
    """Finds what PostgreSQL does not know as in force; one query. Raises DatabaseError."""
    for environment_id, edition in rules.forget_outdated({*_snapshots}).items():
        snapshot = _snapshots.get(environment_id)
        if snapshot is not None and snapshot.edition != edition:
            _outdated[environment_id] = snapshot.edition
        else:
            _outdated.pop(environment_id, None)


def forget_all() -> None:
    """As in a new process."""
    for remembered in (_snapshots, _outdated, _meanwhile):
        remembered.clear()
    rules.forget_all()


def all_but_policies(before: Snapshot) -> Snapshot:
    """Keys, freezes and prices as they are now, with the policies of before; so its edition stays that of before.

    One query if nothing changed since another caller asked. Raises DatabaseError.
    """
    environment_id = before.environment_id
    found = _meanwhile.get(environment_id)
    if found is None or found[1].edition != rules.edition_in_force(environment_id):
        with rules.at_one_moment():
            found = _state(Environment.objects.get(pk=environment_id)), rules.read(environment_id)
        _meanwhile[environment_id] = found
    state, counting = found
    # With what those policies count too: other windows would not be known.
    as_before = replace(
        counting, revision=before.revision, edition=before.edition, tracked=before.counting.tracked
    )
    return _snapshot(state, as_before, before.compiled)


def supposing(known: Snapshot, policies: Sequence[StoredPolicy]) -> Snapshot:
    """As if these policies were in force, with windows for all pairs that their limits read. Not remembered."""
    tracked = known.counting.tracked
    read = {limit.pair for policy in policies for limit in policy.rule.limits if limit.pair is not None}
    pairs = TrackedPairs(known.environment_id, tracked.zone, tracked.pairs | read, tracked.groups)
    compiled = Policies(
        token=known.compiled.token,
        index=PolicyIndex(policies),
        calls_at_once=_calls_at_once(policies),
    )
    return _snapshot(known.state, replace(known.counting, tracked=pairs), compiled)


def _compile(environment_id: int, before: Snapshot | None) -> Snapshot:
    with rules.at_one_moment():
        counting = rules.read(environment_id)
        environment = Environment.objects.get(pk=environment_id)
        if before is not None and before.compiled.token == environment.policies_token:
            compiled = before.compiled
        else:
            compiled = _compiled_policies(environment)
        state = _state(environment)
    snapshot = _snapshots[environment_id] = _snapshot(state, counting, compiled)
    _meanwhile.pop(environment_id, None)
    return snapshot


def _snapshot(state: EnvironmentState, counting: CountingRules, compiled: Policies) -> Snapshot:
    return Snapshot(
        environment_id=counting.environment_id,
        counting=counting,
        compiled=compiled,
        state=state,
        terms=TermsCache(),
    )


def _state(environment: Environment) -> EnvironmentState:
    return EnvironmentState(
        frozen=environment.frozen,
        frozen_features=frozenset(environment.frozen_features),
        allow_without_policy=environment.default_action == DefaultAction.ALLOW,
        boosts=boosts.shared(environment.pk),
    )


def _compiled_policies(environment: Environment) -> Policies:
    rows = Policy.objects.in_force(environment.pk).prefetch_related("limits")
    # In parts: one large answer would keep the interpreter from all other threads while it is taken in.
    policies = [
        policy_rows.stored(row, policy_rows.rule_of(row)) for row in rows.iterator(chunk_size=ROWS_AT_ONCE)
    ]
    return Policies(
        token=environment.policies_token,
        index=PolicyIndex(policies),
        calls_at_once=_calls_at_once(policies),
    )


def _calls_at_once(policies: Sequence[StoredPolicy]) -> tuple[CallsAtOnce, ...]:
    found = {
        (limit.per, limit.models)
        for policy in policies
        if policy.rule.mode is not Mode.OFF
        for limit in policy.rule.limits
        if limit.metric is Metric.CONCURRENCY
    }
    return tuple(sorted(found))
