"""Whom a limit in force may stop next: the subjects to look at, so few that their counters can be read at once.

Those that used most, by the ledger, and those that hold most, by the calls in flight.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import DatabaseError

from policies.models import Policy
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import Kind, LimitRule, PolicyRule, Scope
from policies.standing.holders import by_policy
from usage.amounts import Amounts, Models, Per, Subjects
from usage.counting import in_flight
from usage.counting.in_flight import InFlight
from usage.counting.tracked import TrackedPairs
from usage.instants import from_ms
from usage.ledger import leading, model_names, subject_sums
from usage.ledger.leading import Question, at_most
from usage.metrics import Metric
from usage.windows import Window

logger = logging.getLogger("tokvigil.standings")

# Subjects looked at of each limit that used most, as many that hold most, and of all together.
SUBJECTS_MAX = 50
COUNTERS_MAX = 3_000
# What the ledger may take for all questions together.
LEDGER_MS_MAX = 3_000
# Who has calls in flight, or may be near a limit without a window, made calls lately.
IN_FLIGHT_SINCE = timedelta(hours=1)
TOTAL_SINCE = timedelta(days=31)
_AHEAD = timedelta(days=1)
# Few enough to be read all.
_SHARED = {Per.ENVIRONMENT, Per.PLAN, Per.FEATURE}

# Features and plans that calls had together.
Kinds = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    row: Policy
    rule: PolicyRule
    limit: LimitRule


@dataclass(slots=True)
class Found:
    """The subjects to look at, with what the ledger says they used, if it says so."""

    subjects: list[tuple[Subjects, Amounts | None]]
    complete: bool


@dataclass(frozen=True, slots=True)
class _Period:
    start: datetime
    end: datetime
    # Whether it is the window itself, so that what the ledger has of it is what was used.
    is_window: bool


class Search:
    def __init__(
        self, tracked: TrackedPairs, policies: Iterable[StoredPolicy], asked: list[Asked], now_ms: int
    ) -> None:
        self._tracked = tracked
        self._asked = asked
        self._now_ms = now_ms
        self._environment_id = tracked.environment_id
        stored = list(policies)
        self._index = PolicyIndex(stored)
        self._on_their_own = sorted(filter(None, map(_only_user, stored)))
        self._ends_at = time.monotonic() + LEDGER_MS_MAX / 1000
        self._in_flight = self._calls_in_flight()
        ways = 2 if self._in_flight.calls else 1
        self._most = max(1, min(SUBJECTS_MAX, COUNTERS_MAX // (ways * len(asked))))

    def found(self) -> dict[Asked, Found]:
        found = self._by_ledger()
        self._add_holders(found)
        return found

    def _by_ledger(self) -> dict[Asked, Found]:
        kinds = self._kinds()
        found: dict[Asked, Found] = {}
        together: dict[tuple[Per, Models, _Period], list[Asked]] = defaultdict(list)
        for each in self._asked:
            named = _named(each.rule.scope, each.limit.per)
            if named is not None:
                found[each] = Found([(named, None)], complete=True)
            elif each.rule.scope.user and each.limit.per not in _SHARED:
                found[each] = _of_user(each, kinds)
            if named is None or each.limit.per in _SHARED:
                together[each.limit.per, each.limit.models, self._period(each.limit)].append(each)
        for (per, models, period), those in together.items():
            try:
                with at_most(self._ms_left()):
                    if per in _SHARED:
                        self._find_shared(per, models, period, those, kinds, found)
                    else:
                        self._find_leading(per, models, period, those, kinds, found)
            except DatabaseError as error:
                logger.warning("limits per %s of environment %s: %s", per, self._environment_id, error)
        return {each: found.get(each, Found([], complete=False)) for each in self._asked}

    def _calls_in_flight(self) -> InFlight:
        """None are read where each limit has one subject, that its scope names."""
        if all(_named(each.rule.scope, each.limit.per) is not None for each in self._asked):
            return InFlight([], complete=True)
        return in_flight.of_environment(self._environment_id)

    def _add_holders(self, found: dict[Asked, Found]) -> None:
        unnamed = [each for each in found if _named(each.rule.scope, each.limit.per) is None]
        limits: dict[str, list[LimitRule]] = defaultdict(list)
        for each in unnamed:
            limits[str(each.row.pk)].append(each.limit)
        holders = by_policy(self._in_flight.calls, self._index, limits, self._tracked.groups)
        for each in unnamed:
            of_limit, looked_at = found[each], {subject for subject, _ in found[each].subjects}
            holding = holders.get(str(each.row.pk), {}).get(each.limit, [])
            further = [subject for subject in holding if subject not in looked_at]
            # Whoever is not among all those that used anything used nothing.
            used = Amounts() if of_limit.complete and self._period(each.limit).is_window else None
            of_limit.subjects += [(subject, used) for subject in further[: self._most]]
            # Of calls at once nothing is ever used.
            of_limit.complete = (
                (of_limit.complete or each.limit.metric is Metric.CONCURRENCY)
                and self._in_flight.complete
                and len(further) <= self._most
            )

    def _kinds(self) -> dict[UUID, Kinds] | None:
        """Of each policy the features and plans of the calls that it applies to. None: not known."""
        start = min(self._period(each.limit).start for each in self._asked)
        try:
            with at_most(self._ms_left()):
                kinds = leading.kinds_of_call(self._environment_id, start, from_ms(self._now_ms) + _AHEAD)
        except DatabaseError as error:
            logger.warning("kinds of calls of environment %s: %s", self._environment_id, error)
            return None
        applying: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for feature, plan in kinds:
            for policy in self._index.resolve(user="", feature=feature, plan=plan).policies:
                applying[policy.ref.id].add((feature, plan))
        return {
            each.row.pk: frozenset(
                kind for kind in kinds if _matches(each.rule.scope, *kind)
            ) if each.rule.scope.user else frozenset(applying[str(each.row.pk)])
            for each in self._asked
        }  # fmt: skip

    def _find_shared(
        self,
        per: Per,
        models: Models,
        period: _Period,
        those: list[Asked],
        kinds: dict[UUID, Kinds] | None,
        found: dict[Asked, Found],
    ) -> None:
        counts = self._tracked.groups.counting(models)
        _, used = subject_sums.of_all(self._environment_id, per, period.start, period.end, counts)
        known = used if period.is_window else {}
        for each in those:
            if each in found:
                found[each].subjects = [
                    (subject, known.get(subject.name(per) or "", Amounts()) if period.is_window else None)
                    for subject, _ in found[each].subjects
                ]
            elif kinds is not None:
                names = {feature if per is Per.FEATURE else plan for feature, plan in kinds[each.row.pk]}
                first = sorted(names & used.keys(), key=lambda name: -used[name].of(each.limit.metric))
                found[each] = Found(
                    [(_subject(per, name), known.get(name)) for name in first[: self._most]],
                    complete=len(first) <= self._most,
                )

    def _find_leading(
        self,
        per: Per,
        models: Models,
        period: _Period,
        those: list[Asked],
        kinds: dict[UUID, Kinds] | None,
        found: dict[Asked, Found],
    ) -> None:
        unnamed = [each for each in those if each not in found]
        if kinds is None or not unnamed:
            return
        questions = {
            each: Question(
                metric=each.limit.metric,
                kinds=kinds[each.row.pk],
                leaves_out=each.rule.kind is Kind.OVERRIDE,
            )
            for each in unnamed
        }
        answers = leading.leading(
            self._environment_id,
            per,
            period.start,
            period.end,
            set(questions.values()),
            most=self._most + 1,
            left_out=self._on_their_own,
            models=model_names.counted(
                self._environment_id, period.start, period.end, models, self._tracked.groups
            ),
        )
        for each, question in questions.items():
            answer = answers[question]
            found[each] = Found(
                [(subject, used if period.is_window else None) for subject, used in answer[: self._most]],
                complete=len(answer) <= self._most and each.limit.window is not Window.TOTAL,
            )

    def _period(self, limit: LimitRule) -> _Period:
        now = from_ms(self._now_ms)
        if limit.metric is Metric.CONCURRENCY:
            return _Period(now - IN_FLIGHT_SINCE, now + _AHEAD, is_window=False)
        span = self._tracked.span(limit.window, self._now_ms)
        if span.end is None:
            return _Period(now - TOTAL_SINCE, now + _AHEAD, is_window=False)
        return _Period(from_ms(span.start), from_ms(span.end), is_window=True)

    def _ms_left(self) -> int:
        return int((self._ends_at - time.monotonic()) * 1000)


def _only_user(policy: StoredPolicy) -> str:
    """The user whom no other override meets."""
    scope = policy.rule.scope
    is_own = policy.rule.kind is Kind.OVERRIDE and scope == Scope(user=scope.user)
    return scope.user if is_own else ""


def _named(scope: Scope, per: Per) -> Subjects | None:
    """The one subject that the limit can have, if its policy's scope names it."""
    match per:
        case Per.ENVIRONMENT:
            return Subjects(user_id="")
        case Per.PLAN if scope.plan:
            return Subjects(user_id="", plan=scope.plan)
        case Per.FEATURE if scope.feature:
            return Subjects(user_id="", feature=scope.feature)
        case Per.USER if scope.user:
            return Subjects(user_id=scope.user)
        case Per.USER_FEATURE if scope.user and scope.feature:
            return Subjects(user_id=scope.user, feature=scope.feature)
    return None


def _of_user(each: Asked, kinds: dict[UUID, Kinds] | None) -> Found:
    """The subjects of one user's calls: one for each feature."""
    if kinds is None or each.limit.per is not Per.USER_FEATURE:
        return Found([], complete=False)
    features = sorted({feature for feature, _ in kinds[each.row.pk] if feature})[:SUBJECTS_MAX]
    user = each.rule.scope.user
    return Found([(Subjects(user_id=user, feature=feature), None) for feature in features], complete=True)


def _subject(per: Per, name: str) -> Subjects:
    return Subjects(user_id="", feature=name) if per is Per.FEATURE else Subjects(user_id="", plan=name)


def _matches(scope: Scope, feature: str, plan: str) -> bool:
    return scope.feature in ("", feature) and scope.plan in ("", plan)
