"""How full the limits in force are: of each the fullest subject, and how many are near it or at it.

What a limit's scope names (the environment, a plan, a feature, a user) is read exactly. Of users whom no policy names
those are looked at that used most in the window, by the ledger, and those that hold most, by the calls in flight. How
they stand is read from their counters, all in one round trip. A policy is counted only for callers that it applies to:
who has an override of their own is not among those of another.

What is not known is None, never 0. Where counters cannot be read, what was used is known from the ledger, and what is
held is not known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import zip_longest
from uuid import UUID

from policies import boosts, policy_rows
from policies.models import Policy
from policies.rules import LimitRule, Mode
from policies.standing import budget_days, runs_out
from policies.standing.budget_forecast import Spent
from policies.standing.limit_subjects import COUNTERS_MAX, Asked, Found, Search
from policies.standing.pace import Course, Ending, Outlook
from tenants.console.parts import Bar, State
from tenants.models import Environment
from usage.amounts import Amounts, Per, Subjects, subject_digest
from usage.boosts import raised
from usage.counting import readings
from usage.counting import rules as counting_rules
from usage.counting.readings import Readings
from usage.counting.store import StoreUnavailable, store
from usage.counting.tracked import Counter, TrackedPairs
from usage.instants import from_ms
from usage.metrics import Metric

logger = logging.getLogger("tokvigil.standings")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectStanding:
    """Of one subject. Counts, costs in nano-USD. None: not known. `boosted`: what boosts add to its limit now.

    `spent`: by day, of a budget; None: it is of no budget, or not known.
    """

    subject: Subjects
    used: int | None
    held: int | None
    boosted: int = 0
    spent: Spent | None = None

    def allowed(self, limit: LimitRule) -> int:
        return limit.amount + self.boosted

    def bar(self, limit: LimitRule, *, watched: bool) -> Bar | None:
        """None: it is not known what was used."""
        if self.used is None:
            return None
        return Bar(
            used=self.used,
            held=self.held or 0,
            limit=self.allowed(limit),
            standing=limit.amount if self.boosted else None,
            watched=watched,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of one limit. `subjects`: those looked at, the fullest first; none if nobody used anything of it.

    Not `complete`: there may be more subjects, so `near` and `full` are at least so many; without any subject it is
    not known who used anything.
    """

    policy: Policy
    limit: LimitRule
    # When the window ends; None: it never does.
    resets_at: datetime | None
    subjects: tuple[SubjectStanding, ...]
    complete: bool
    # Of the window under way; None: there is none, or it never ends.
    course: Course | None = None

    @property
    def is_budget(self) -> bool:
        return budget_days.is_budget(self.limit.metric, self.limit.window)

    @property
    def watched(self) -> bool:
        return self.policy.mode == Mode.MONITOR

    @property
    def fullest(self) -> SubjectStanding | None:
        return self.subjects[0] if self.subjects else None

    @property
    def bar(self) -> Bar | None:
        """Of the fullest."""
        return None if self.fullest is None else self.fullest.bar(self.limit, watched=self.watched)

    @property
    def barless(self) -> str:
        """In place of a bar: whether nobody used anything of it, or it is not known."""
        return "Not used" if self.complete and not self.subjects else "Not known"

    @property
    def outlook(self) -> Outlook | None:
        """Of the fullest, which was the first to run out: all began at the same time. None: it is not known."""
        return None if self.fullest is None else self.outlook_of(self.fullest)

    @property
    def next_out(self) -> tuple[SubjectStanding, Outlook] | None:
        """Whom it stops next, of those whom it does not stop yet; None: nobody before it resets."""
        for each in self.subjects:
            outlook = self.outlook_of(each)
            if outlook is not None and outlook.ending is Ending.RUNS_OUT:
                return each, outlook
        return None

    def outlook_of(self, of: SubjectStanding) -> Outlook | None:
        if of.used is None or self.limit.metric is Metric.CONCURRENCY:
            return None
        return runs_out.outlook(self.course, of.spent, of.used + (of.held or 0), of.allowed(self.limit))

    @property
    def near(self) -> int:
        return self._count(State.NEAR)

    @property
    def full(self) -> int:
        return self._count(State.FULL, State.OVER)

    @property
    def urgency(self) -> tuple[float, bool]:
        """The greater, the fuller; of equals what is enforced before what is watched."""
        bar = self.bar
        fullness = -1.0 if bar is None else _fullness(bar.used + bar.held, bar.limit)
        return fullness, not self.watched

    def _count(self, *states: State) -> int:
        bars = (each.bar(self.limit, watched=self.watched) for each in self.subjects)
        return sum(bar is not None and bar.state in states for bar in bars)


def is_shared(limit: LimitRule) -> bool:
    """Calls of many users use it up."""
    return limit.per in (Per.ENVIRONMENT, Per.PLAN, Per.FEATURE)


def _any(limit: LimitRule) -> bool:
    return True


def standings(
    environment: Environment,
    only: Collection[UUID] | None = None,
    of: Callable[[LimitRule], bool] = _any,
    days_of: int = 0,
) -> list[Standing]:
    """Of all limits in force, or of those of these policies and of this kind: by policy, the oldest first.

    Of budgets the days are read of the fullest of each, and of `days_of` subjects at least; others go by their pace.

    The number of queries depends on the kinds of limits alone, the counters are read in one round trip, the
    calls in flight in another, and the ledger is asked for LEDGER_MS_MAX at most, and once more for the days of
    budgets.
    """
    rows = list(Policy.objects.in_force(environment.pk).exclude(mode=Mode.OFF).prefetch_related("limits"))
    rules = {row.pk: policy_rows.rule_of(row) for row in rows}
    asked = [
        Asked(row, rules[row.pk], limit)
        for row in rows
        if only is None or row.pk in only
        for limit in rules[row.pk].limits
        if of(limit)
    ]
    if not asked:
        return []
    pairs = frozenset(pair for each in asked if (pair := each.limit.pair))
    tracked = counting_rules.tracked(environment, pairs)
    now_ms = store.now_ms()
    found = Search(tracked, (policy_rows.stored(row, rules[row.pk]) for row in rows), asked, now_ms).found()
    reader = Reader(tracked, now_ms, found, boosts.extras(environment.pk, now_ms))
    return _with_days(tracked, now_ms, reader.standings(), days_of)


def _with_days(tracked: TrackedPairs, now_ms: int, found: list[Standing], days_of: int) -> list[Standing]:
    """What the subjects of budgets spent by day; the fullest of each limit are asked for before the others."""
    budgets = [each for each in found if each.is_budget]
    of_each = [
        [(standing.limit.per, standing.limit.models, each.subject) for each in standing.subjects]
        for standing in budgets
    ]
    fullest_first = [each for place in zip_longest(*of_each) for each in place if each is not None]
    asked = fullest_first[: max(len(budgets), days_of)]
    spent = budget_days.spent(tracked.environment_id, tracked.zone, from_ms(now_ms), asked, tracked.groups)

    def known(standing: Standing) -> Standing:
        per, models = standing.limit.per, standing.limit.models
        subjects = (
            replace(each, spent=spent.get((per, models, each.subject.name(per) or "")))
            for each in standing.subjects
        )
        return replace(standing, subjects=tuple(subjects))

    return [known(each) if each.is_budget else each for each in found]


class Reader:
    """Reads the counters of what was found."""

    def __init__(
        self,
        tracked: TrackedPairs,
        now_ms: int,
        found: dict[Asked, Found],
        extras: Mapping[tuple[str, str], int],
    ) -> None:
        self._extras = extras
        self._tracked = tracked
        self._now_ms = now_ms
        self._found = found

    def standings(self) -> list[Standing]:
        counted = self._counted()
        return [self._standing(each, those, counted) for each, those in self._found.items()]

    def _counted(self) -> Readings | None:
        """None: the counters cannot be read."""
        counters: dict[str, Counter] = {}
        in_flight: set[str] = set()
        for each, those in self._found.items():
            for subject, _ in those.subjects:
                if len(counters) + len(in_flight) >= COUNTERS_MAX:
                    break
                counter = self._counter(each.limit, subject)
                if counter is not None:
                    counters[counter.key] = counter
                elif key := self._tracked.concurrency_key(each.limit.per, each.limit.models, subject):
                    in_flight.add(key)
        try:
            return readings.read(
                self._tracked.environment_id,
                self._tracked.zone.key,
                list(counters.values()),
                sorted(in_flight),
            )
        except StoreUnavailable as error:
            logger.info("limits without counters: %s", error)
            return None

    def _counter(self, limit: LimitRule, subject: Subjects) -> Counter | None:
        name, pair = subject.name(limit.per), limit.pair
        if name is None or pair is None:
            return None
        slot = self._tracked.slot(pair, self._tracked.span(pair.window, self._now_ms))
        return Counter(slot.key_prefix + subject_digest(name), slot)

    def _standing(self, each: Asked, found: Found, counted: Readings | None) -> Standing:
        limit = each.limit
        subjects = [self._of_subject(limit, *one, counted) for one in found.subjects]
        course = self._course(limit)
        return Standing(
            policy=each.row,
            limit=limit,
            resets_at=None if course is None else course.ends_at,
            course=course,
            subjects=tuple(sorted(subjects, key=lambda one: rank(one, limit), reverse=True)),
            complete=found.complete,
        )

    def _course(self, limit: LimitRule) -> Course | None:
        if limit.pair is None:
            return None
        span = self._tracked.span(limit.window, self._now_ms)
        return (
            None
            if span.end is None
            else Course(from_ms(span.start), from_ms(span.end), from_ms(self._now_ms))
        )

    def _of_subject(
        self, limit: LimitRule, subject: Subjects, recorded: Amounts | None, counted: Readings | None
    ) -> SubjectStanding:
        boosted = self._extras.get(
            (raised(limit.per, limit.metric, limit.window), subject.name(limit.per) or ""), 0
        )
        counter = self._counter(limit, subject)
        if counter is None:
            key = self._tracked.concurrency_key(limit.per, limit.models, subject)
            held = None if counted is None or key is None else counted.in_flight.get(key)
            used = None if held is None else 0
            return SubjectStanding(subject=subject, used=used, held=held, boosted=boosted)
        reading = None if counted is None else counted.counters.get(counter.key)
        if reading is not None:
            used, held = reading.used.of(limit.metric), reading.held.of(limit.metric)
            return SubjectStanding(subject=subject, used=used, held=held, boosted=boosted)
        used_of_ledger = None if recorded is None else recorded.of(limit.metric)
        return SubjectStanding(subject=subject, used=used_of_ledger, held=None, boosted=boosted)


def rank(standing: SubjectStanding, limit: LimitRule) -> float:
    """The greater, the fuller."""
    if standing.used is None:
        return -1.0
    return _fullness(standing.used + (standing.held or 0), standing.allowed(limit))


def _fullness(taken: int, limit: int) -> float:
    return taken / limit if limit > 0 else float("inf")
