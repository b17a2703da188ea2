"""What publishing would do, as the console shows it before anything is published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from django.db import DatabaseError, transaction
from django.urls import reverse

from policies.changing import decided_calls, over_now
from policies.changing.decided_calls import DecidesNothing
from policies.changing.over_now import Over
from policies.changing.publishing import Change, ChangeKind, DeploymentChange, PolicyChange
from policies.describing import differences
from policies.describing.differences import Line
from policies.resolution import StoredPolicy
from tenants.models import Environment

_SAYS = {
    ChangeKind.ADDED: "New",
    ChangeKind.CHANGED: "Changed",
    ChangeKind.ARCHIVED: "Archived",
    ChangeKind.REMOVED: "Removed",
    ChangeKind.ROLLED_BACK: "Rolled back",
}


@dataclass(frozen=True, slots=True)
class Shown:
    noun: str
    name: str
    says: str
    lines: tuple[Line, ...]
    # Of what is published already: the version that it made, and where that stands.
    version: int = 0
    url: str = ""


def shown(changes: Iterable[Change]) -> list[Shown]:
    return [_shown(change) for change in changes]


def published(changes: Iterable[PolicyChange]) -> list[Shown]:
    """Changes that were made."""
    return [replace(_shown(change), version=change.version, url=_version_url(change)) for change in changes]


def _version_url(change: PolicyChange) -> str:
    versions = reverse("admin:policy_versions", args=[change.policy_id])
    return f"{versions}?to={change.version}#compared"


@dataclass(frozen=True, slots=True)
class Affected:
    """Who is over a limit that is new or lower, and which of the policies decide nothing."""

    over: tuple[Over, ...]
    idle: tuple[DecidesNothing, ...]


def affected(
    environment: Environment, changes: Iterable[Change], policies: Sequence[StoredPolicy]
) -> Affected | None:
    """`policies`: all that would be in force. None: the ledger does not say it in time."""
    made = tuple(changes)
    try:
        with transaction.atomic():
            return Affected(
                over_now.of(environment, made, policies),
                decided_calls.deciding_nothing(environment, made, policies),
            )
    except DatabaseError:
        return None


def _shown(change: Change) -> Shown:
    if isinstance(change, PolicyChange):
        lines = differences.compare(change.before, change.after)
        return Shown("policy", change.name, _SAYS[change.kind], lines)
    if isinstance(change, DeploymentChange):
        return Shown(
            "deployment", change.name, _SAYS[change.kind], (Line("Model", change.before, change.after),)
        )
    return Shown("plan", change.name, _SAYS[change.kind], ())
