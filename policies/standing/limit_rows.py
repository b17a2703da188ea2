"""A limit in force as pages show it: in words, with its bar, when it resets and when it runs out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.urls import reverse
from django.utils import timezone

from policies.standing import pace_wording, standing_wording
from policies.standing.pace import Ending, Outlook
from policies.standing.pace_wording import RunsOut
from policies.standing.standings import Standing, SubjectStanding, is_shared
from tenants.console.display import user_url
from tenants.console.parts import Bar
from tenants.models import Environment
from usage import wording
from usage.amounts import Per


class Group(StrEnum):
    """Of limits that are listed by when they run out, in this order; as its heading says it."""

    RUNS_OUT = "Runs out before it resets, the first at the top"
    USED_UP = "Used up already"
    NOT_BEFORE_RESET = "Does not run out before it resets"
    UNKNOWN = "Without a forecast"
    MONITORED = "Monitored: would not block"


# What the list of limits calls its filter.
NEAR, FULL = "near", "full"
_GROUPS = list(Group)
# After all that `Outlook.order` says.
_LAST = (len(Ending), 0.0)


@dataclass(frozen=True, slots=True)
class NextOut:
    """Whom a limit stops next, how that stands (`ana: 6 of 10 requests a day`), and when."""

    name: str
    says: str
    runs_out: RunsOut | None
    by_forecast: bool = False


@dataclass(frozen=True, slots=True)
class LimitRow:
    """Of the fullest subject. `left` is empty where it is not known."""

    standing: Standing
    zone: ZoneInfo

    @property
    def words(self) -> str:
        return words(self.standing)

    @property
    def policy(self) -> str:
        return self.standing.policy.name

    @property
    def policy_url(self) -> str:
        return reverse("admin:policies_policy_change", args=[self.standing.policy.pk])

    @property
    def url(self) -> str:
        """Of the page with its subjects."""
        limit = self.standing.limit
        named = [self.standing.policy.pk, limit.metric.value, limit.window.value, limit.per.value]
        query = urlencode([("models", models) for models in limit.models])
        return reverse("admin:limit_subjects", args=named) + (f"?{query}" if query else "")

    @property
    def bar(self) -> Bar | None:
        return self.standing.bar

    @property
    def says(self) -> str:
        return standing_wording.says(self.standing)

    @property
    def left(self) -> str:
        """Never below 0."""
        return "" if self.bar is None else wording.number(self.standing.limit.metric, max(0, self.bar.left))

    @property
    def crowd(self) -> str:
        return standing_wording.crowd(self.standing)

    @property
    def watched(self) -> bool:
        return self.standing.watched

    @property
    def group(self) -> Group:
        return group(self.standing)

    @property
    def resets_at(self) -> datetime | None:
        return self.standing.resets_at

    @property
    def resets(self) -> str:
        """`in 9 h 28 min`"""
        course = self.standing.course
        now = timezone.now() if course is None else course.now
        return standing_wording.resets(self.standing.limit.metric, self.resets_at, now)

    @property
    def runs_out(self) -> RunsOut | None:
        return _runs_out(self.standing, self.standing.outlook, self.zone)

    @property
    def next_out(self) -> NextOut | None:
        """Where the fullest is used up: whom it stops next."""
        found = self.standing.next_out
        if found is None or found[0] is self.standing.fullest:
            return None
        return next_out(self.standing, found[0], self.zone)


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """One subject of a limit."""

    standing: Standing
    found: SubjectStanding
    environment: Environment
    zone: ZoneInfo

    @property
    def name(self) -> str:
        return standing_wording.subject(self.found.subject, self.standing.limit.per)

    @property
    def url(self) -> str | None:
        """Of the user's page."""
        of_users = self.standing.limit.per in (Per.USER, Per.USER_FEATURE)
        return user_url(self.environment, self.found.subject.user_id) if of_users else None

    @property
    def bar(self) -> Bar | None:
        return self.found.bar(self.standing.limit, watched=self.standing.watched)

    @property
    def says(self) -> str:
        return f"{self.name}: {standing_wording.taken(self.standing, self.found)}"

    @property
    def boosted(self) -> str:
        """`$20.00 by boost`"""
        more = self.found.boosted
        return f"{wording.number(self.standing.limit.metric, more)} by boost" if more else ""

    @property
    def used(self) -> str:
        return self._number(self.found.used)

    @property
    def held(self) -> str:
        return self._number(self.found.held)

    @property
    def left(self) -> str:
        return self._number(None if self.bar is None else max(0, self.bar.left))

    @property
    def runs_out(self) -> RunsOut | None:
        return _runs_out(self.standing, self.standing.outlook_of(self.found), self.zone)

    def _number(self, amount: int | None) -> str:
        return "not known" if amount is None else wording.number(self.standing.limit.metric, amount)


def _runs_out(standing: Standing, outlook: Outlook | None, zone: ZoneInfo) -> RunsOut | None:
    if outlook is None:
        return None
    now = timezone.now() if standing.course is None else standing.course.now
    return pace_wording.of(outlook, now, zone)


def words(standing: Standing) -> str:
    """`50 requests a day, each user`"""
    limit = standing.limit
    return wording.limit_of(limit.kind, limit.amount)


def tightest_first(found: Iterable[Standing]) -> list[Standing]:
    """Those that block calls before those that are monitored only."""
    return sorted(found, key=lambda standing: (not standing.watched, standing.urgency), reverse=True)


def group(standing: Standing) -> Group:
    if standing.watched:
        return Group.MONITORED
    if standing.next_out is not None:
        return Group.RUNS_OUT
    if (outlook := standing.outlook) is None or outlook.ending is Ending.TOO_LITTLE:
        return Group.UNKNOWN
    return Group.USED_UP if outlook.ending is Ending.USED_UP else Group.NOT_BEFORE_RESET


def first_to_run_out_first(found: Iterable[Standing]) -> list[Standing]:
    """By group; in each, by whom it stops next, and the tightest before the others."""

    def order(standing: Standing) -> tuple[int, tuple[int, float]]:
        coming = standing.next_out
        return _GROUPS.index(group(standing)), _LAST if coming is None else coming[1].order

    return sorted(tightest_first(found), key=order)


def next_out(standing: Standing, subject: SubjectStanding, zone: ZoneInfo) -> NextOut:
    name = standing_wording.subject(subject.subject, standing.limit.per)
    says = f"{name}: {standing_wording.taken(standing, subject)}"
    outlook = standing.outlook_of(subject)
    by_forecast = outlook is not None and outlook.by_forecast
    return NextOut(name, says, _runs_out(standing, outlook, zone), by_forecast)


def next_to_run_out(found: Iterable[Standing]) -> tuple[Standing, SubjectStanding] | None:
    """The limit that blocks calls next, if all goes on as now, and whose; whom it blocks already is not asked.

    What many share comes before what is one user's or one run's own.
    """
    coming = [(each, *out) for each in found if not each.watched and (out := each.next_out)]
    if not coming:
        return None
    standing, subject, _ = min(coming, key=lambda each: (not is_shared(each[0].limit), each[2].order))
    return standing, subject
