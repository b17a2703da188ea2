"""What publishing would do, as the console shows it before anything is published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from policies.changing.publishing import Change, ChangeKind, PolicyChange
from policies.describing import differences
from policies.describing.differences import Line

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


def shown(changes: Iterable[Change]) -> list[Shown]:
    return [_shown(change) for change in changes]


def _shown(change: Change) -> Shown:
    if isinstance(change, PolicyChange):
        lines = differences.compare(change.before, change.after)
        return Shown("policy", change.name, _SAYS[change.kind], lines)
    return Shown("plan", change.name, _SAYS[change.kind], ())
