"""Which policies apply to a call. Pure.

One override policy is in force: the most specific whose scope matches (user > feature > plan > default, compared
lexicographically), among equals the one of higher priority, then the older one. Guardrails apply in addition, whenever
their scope matches.

Policies are indexed by scope. A call can match eight scopes, each of user, feature and plan named or not, so resolving
looks eight times into a dict, however many policies there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import msgspec

from policies.rules import Kind, Mode, PolicyRule, Scope
from usage.amounts import Models
from usage.assessment import PolicyRef


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPolicy:
    """A rule as it is stored: which policy, which version of it, and how old (`ordinal`, older is smaller)."""

    ref: PolicyRef
    ordinal: int
    rule: PolicyRule


class Matched(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What applies to a call. The index answers equal scopes with the same object, so it can be a key."""

    override: StoredPolicy | None
    guardrails: tuple[StoredPolicy, ...]
    # What limits name as the models that they count.
    models_of_limits: tuple[Models, ...] = ()

    @property
    def policies(self) -> tuple[StoredPolicy, ...]:
        """All that apply, the override first."""
        return self.guardrails if self.override is None else (self.override, *self.guardrails)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A policy whose scope matches, and what became of it; for `explain`."""

    policy: StoredPolicy
    outcome: str


ScopeKey = tuple[str, str, str]

RESOLVED_MAX = 10_000

# Which parts of a call's scope a policy may name, most specific first: (user, feature, plan).
_SPECIFICITY = tuple(sorted(product((True, False), repeat=3), reverse=True))


class PolicyIndex:
    """The policies of an environment, by scope."""

    def __init__(self, policies: Iterable[StoredPolicy]) -> None:
        self._overrides: dict[ScopeKey, tuple[StoredPolicy, ...]] = {}
        self._guardrails: dict[ScopeKey, tuple[StoredPolicy, ...]] = {}
        self._users_named: set[str] = set()
        self._resolved: dict[ScopeKey, Matched] = {}
        for policy in sorted(policies, key=lambda policy: (-policy.rule.priority, policy.ordinal)):
            if policy.rule.mode is Mode.OFF:
                continue
            index = self._overrides if policy.rule.kind is Kind.OVERRIDE else self._guardrails
            key = _key(policy.rule.scope)
            index[key] = (*index.get(key, ()), policy)
            self._users_named.add(policy.rule.scope.user)

    def resolve(self, *, user: str, feature: str, plan: str) -> Matched:
        # A user that no policy names matches as any other such user does.
        key = (user if user in self._users_named else "", feature, plan)
        matched = self._resolved.get(key)
        if matched is None:
            # Callers choose the names, so what is remembered is bounded.
            if len(self._resolved) >= RESOLVED_MAX:
                self._resolved.clear()
            matched = self._resolved[key] = self._resolve(*key)
        return matched

    def _resolve(self, user: str, feature: str, plan: str) -> Matched:
        override: StoredPolicy | None = None
        guardrails: tuple[StoredPolicy, ...] = ()
        for key in _matching_keys(user, feature, plan):
            if override is None and key in self._overrides:
                override = self._overrides[key][0]
            if key in self._guardrails:
                guardrails += self._guardrails[key]
        applying = guardrails if override is None else (override, *guardrails)
        named = dict.fromkeys(limit.models for policy in applying for limit in policy.rule.limits)
        return Matched(override=override, guardrails=guardrails, models_of_limits=tuple(filter(None, named)))

    def explain(self, *, user: str, feature: str, plan: str) -> tuple[Candidate, ...]:
        """Every policy whose scope matches, in the order of the contest, and why it won or lost."""
        candidates: list[Candidate] = []
        winner: StoredPolicy | None = None
        for key in _matching_keys(user, feature, plan):
            for policy in self._overrides.get(key, ()):
                candidates.append(Candidate(policy=policy, outcome=_outcome(policy, winner)))
                winner = winner or policy
            candidates += [
                Candidate(policy=policy, outcome="applies: guardrails always do")
                for policy in self._guardrails.get(key, ())
            ]
        return tuple(candidates)


def _matching_keys(user: str, feature: str, plan: str) -> Iterable[ScopeKey]:
    seen = set()
    for names_user, names_feature, names_plan in _SPECIFICITY:
        key = (user if names_user else "", feature if names_feature else "", plan if names_plan else "")
        # A call without a feature or plan meets the same key more than once.
        if key not in seen:
            seen.add(key)
            yield key


def _key(scope: Scope) -> ScopeKey:
    return scope.user, scope.feature, scope.plan


def _outcome(policy: StoredPolicy, winner: StoredPolicy | None) -> str:
    if winner is None:
        return "wins: the most specific override"
    if policy.rule.scope.rank != winner.rule.scope.rank:
        return f"loses: {winner.ref.name} is more specific"
    if policy.rule.priority != winner.rule.priority:
        return f"loses: {winner.ref.name} has the higher priority"
    return f"loses: {winner.ref.name} is older"
