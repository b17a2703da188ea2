"""A limit that binds an end user, as pages show it: in words, with its bar, when it resets and when it runs out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from policies.standing import pace_wording, runs_out, standing_wording
from policies.standing.binding import BindingLimit
from policies.standing.pace import Course
from policies.standing.pace_wording import RunsOut
from tenants.console.parts import Bar
from usage import wording
from usage.amounts import Per
from usage.boosts import BOOSTED_PERS
from usage.counting.store import store
from usage.instants import from_ms, to_ms
from usage.metrics import Metric
from usage.windows import span

_SHARED_BY = {
    Per.ENVIRONMENT: "shared by all",
    Per.PLAN: "shared by all of the plan",
    Per.FEATURE: "shared by all who use the feature",
}


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit in words."""

    found: BindingLimit
    zone: ZoneInfo
    # Of the form that raises it; None: a boost of the user does not.
    boost_url: str | None = None

    @property
    def title(self) -> str:
        limit = self.found.limit
        return wording.limit_of(limit.kind, limit.amount)

    @property
    def boosted(self) -> str:
        """`$5.00 of the policy, $20.00 by boost`; empty without a boost."""
        more, limit = self.found.boosted_by, self.found.limit
        if not more:
            return ""
        standing = wording.number(limit.metric, limit.amount - more)
        return f"{standing} of the policy, {wording.number(limit.metric, more)} by boost"

    @property
    def notes(self) -> str:
        found = self.found
        whose = _SHARED_BY.get(found.limit.per, "")
        parts = [
            "guardrail" if found.is_guardrail else "",
            f"when calling {found.feature}" if found.feature else "",
            whose,
            "" if found.limit.enforce else "monitored, blocks nothing",
            "" if found.limit.per in BOOSTED_PERS else "no boost raises it",
        ]
        return " · ".join(part for part in parts if part)

    @property
    def bar(self) -> Bar:
        found = self.found
        amount = found.limit.amount
        standing = amount - found.boosted_by if found.boosted_by else None
        return Bar(found.used, found.held, amount, standing=standing, watched=not found.limit.enforce)

    @property
    def used(self) -> str:
        return self._number(self.found.used)

    @property
    def held(self) -> str:
        return self._number(self.found.held)

    @property
    def left(self) -> str:
        return self._number(max(0, self.bar.left))

    @property
    def says(self) -> str:
        of = self._number(self.found.limit.amount)
        return f"{self.title}: {self.used} used, {self.held} held, {self.left} left of {of}"

    @property
    def resets_at(self) -> datetime | None:
        ms = self.found.limit.resets_at_ms
        return None if ms is None else from_ms(ms)

    @property
    def runs_out(self) -> RunsOut | None:
        """None: it has no window that ends."""
        limit, ends_at = self.found.limit, self.resets_at
        if limit.metric is Metric.CONCURRENCY or ends_at is None:
            return None
        now = _now()
        begun_at = from_ms(span(limit.window, to_ms(now), self.zone).start)
        course, taken = Course(begun_at, ends_at, now), self.found.used + self.found.held
        outlook = runs_out.outlook(course, self.found.spent, taken, limit.amount)
        return None if outlook is None else pace_wording.of(outlook, now, self.zone)

    @property
    def resets(self) -> str:
        """`in 9 h 28 min`"""
        return standing_wording.resets(self.found.limit.metric, self.resets_at, _now())

    def _number(self, amount: int) -> str:
        return wording.number(self.found.limit.metric, amount)


def _now() -> datetime:
    """Of the clock that limits go by."""
    return from_ms(store.now_ms())
