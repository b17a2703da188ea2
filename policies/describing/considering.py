"""What each policy has to do with a call, and why: it decides, always applies, stands back, does not match. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from policies.resolution import Candidate, PolicyIndex, StoredPolicy
from policies.rules import Kind, Mode, Scope


class Part(StrEnum):
    """What a policy has to do with a call."""

    DECIDES = "decides"
    ALWAYS = "always"
    MONITORS = "monitors"
    STANDS_BACK = "stands back"
    NO_MATCH = "no match"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Considered:
    """A policy, and why it has this part. `id` is "" for one that a draft adds or changes."""

    name: str
    version: int
    id: str
    part: Part
    why: str


def considered(
    policies: Iterable[StoredPolicy], index: PolicyIndex, *, user: str, feature: str, plan: str
) -> Iterator[Considered]:
    """Every policy: those that match first, in the order of the contest, then the others with what does not match."""
    called = {"user": user, "feature": feature, "plan": plan}
    found = index.explain(user=user, feature=feature, plan=plan)
    matching = {candidate.policy.ref.name for candidate in found}
    for candidate in found:
        part = _part(candidate)
        yield _considered(candidate.policy, part, _why(candidate, part))
    for policy in policies:
        if policy.ref.name not in matching:
            off = policy.rule.mode is Mode.OFF
            why = "it is switched off" if off else _mismatch(policy.rule.scope, called)
            yield _considered(policy, Part.OFF if off else Part.NO_MATCH, why)


def _considered(policy: StoredPolicy, part: Part, why: str) -> Considered:
    return Considered(policy.ref.name, policy.ref.version, policy.ref.id, part, why)


def _part(candidate: Candidate) -> Part:
    rule = candidate.policy.rule
    if candidate.outcome.startswith("loses"):
        return Part.STANDS_BACK
    if rule.mode is Mode.MONITOR:
        return Part.MONITORS
    return Part.ALWAYS if rule.kind is Kind.GUARDRAIL else Part.DECIDES


def _why(candidate: Candidate, part: Part) -> str:
    scope = candidate.policy.rule.scope
    if part is Part.STANDS_BACK:
        return candidate.outcome.removeprefix("loses: ")
    whom = f"names {_named(scope)}" if any(scope.rank) else "is for everybody"
    if candidate.policy.rule.kind is Kind.GUARDRAIL:
        return f"a guardrail; it {whom}"
    return whom if part is Part.MONITORS else f"{whom}; nothing more specific matches"


def _named(scope: Scope) -> str:
    return " and ".join(f"the {name} {text}" for name, text in _parts(scope))


def _parts(scope: Scope) -> list[tuple[str, str]]:
    named = (("user", scope.user), ("feature", scope.feature), ("plan", scope.plan))
    return [(name, text) for name, text in named if text]


def _mismatch(scope: Scope, called: dict[str, str]) -> str:
    differing = [
        f"the {name} {text}, not {called[name]}" if called[name] else f"the {name} {text}; the call has none"
        for name, text in _parts(scope)
        if called[name] != text
    ]
    return "names " + " and ".join(differing)
