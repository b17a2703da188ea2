"""Whom policies would have hit on the last day, for the pages that ask before these are published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policies.admin import replay_shown
from policies.admin.replay_shown import Part
from policies.reasons import BY_MODEL
from policies.replaying import at_once
from policies.replaying.at_once import LastDay
from policies.replaying.report import SimulatedFirstHit, SimulationReport
from policies.resolution import StoredPolicy
from tenants.models import Environment
from usage import wording

USERS_SHOWN = 8
AT_ONCE_MAX = wording.count(at_once.AT_ONCE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Felt:
    """`parts`: of the calls that are decided otherwise, or of which nothing can be said. Empty without a report."""

    day: LastDay
    headline: str = ""
    parts: tuple[Part, ...] = ()
    # How many calls are left less output than they produced; "" for none.
    cut_short: str = ""
    reasons: Sequence[tuple[str, str | None, str]] = ()
    # Those with the most newly blocked calls, of those that the report names.
    users: Sequence[SimulatedFirstHit] = ()
    more_users: int = 0
    # Models that are refused, with how many calls, and users whose calls are let through; of the differences it names.
    models: Sequence[tuple[str, int]] = ()
    let_through: Sequence[tuple[str, int]] = ()

    @property
    def calls(self) -> str:
        """`31,204 calls`; "" if they were not counted."""
        return "" if self.day.calls is None else wording.counted(self.day.calls, "call")

    @property
    def at_once_max(self) -> str:
        return AT_ONCE_MAX

    @property
    def wait(self) -> str:
        return f"{at_once.WAIT_S} s"


def felt(environment: Environment, policies: Sequence[StoredPolicy]) -> Felt:
    day = at_once.last_day(environment, policies)
    return Felt(day=day) if day.report is None else _told(day, day.report)


def _told(day: LastDay, report: SimulationReport) -> Felt:
    shown = sorted(report.first_hits, key=lambda hit: -hit.calls)[:USERS_SHOWN]
    return Felt(
        day=day,
        headline=replay_shown.headline(report),
        parts=tuple(part for part in replay_shown.parts(report) if part.kind != "unchanged" and part.calls),
        cut_short=wording.counted(report.cut_short, "call") if report.cut_short else "",
        reasons=replay_shown.reasons(report),
        users=shown,
        more_users=report.users.newly_blocked - len(shown),
        models=_most(
            each.model
            for each in report.differences
            if not each.after.allowed and each.after.reason_code in BY_MODEL
        ),
        let_through=_most(each.user_id for each in report.differences if each.after.allowed),
    )


def _most(names: Iterable[str]) -> list[tuple[str, int]]:
    """The most frequent, with how often."""
    return Counter(names).most_common(USERS_SHOWN)
