"""Of many users at once the tightest limit of their own: for a list of users."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from django.db import DatabaseError

from policies import boosts, policy_rows
from policies.models import Policy
from policies.resolution import PolicyIndex
from policies.rules import LimitRule, Mode
from policies.standing.limit_subjects import Asked, Found
from policies.standing.standings import Reader, Standing, SubjectStanding, rank
from tenants.models import Environment
from usage.amounts import Amounts, Models, Per, Subjects
from usage.counting import rules
from usage.counting.store import store
from usage.counting.tracked import TrackedPairs
from usage.instants import from_ms
from usage.ledger import model_names, subject_sums
from usage.ledger.leading import at_most
from usage.windows import Window

logger = logging.getLogger("tokvigil.standings")

LEDGER_MS_MAX = 800

Tightest = tuple[Standing, SubjectStanding]


def tightest(environment: Environment, plans: Mapping[str, str]) -> dict[str, Tightest]:
    """By user, of those named with their plans: the fullest limit of their own that calls of no feature meet.

    One round trip to the counters; what they do not know is read from the ledger, by window. Users without such a
    limit are left out.
    """
    found = _found(environment, plans)
    if not found:
        return {}
    pairs = frozenset(pair for each in found if (pair := each.limit.pair))
    tracked = rules.tracked(environment, pairs)
    now_ms = store.now_ms()
    reader = Reader(tracked, now_ms, found, boosts.extras(environment.pk, now_ms))
    standings = reader.standings()
    unknown = _unknown(standings)
    if unknown:
        _ask_ledger(tracked, now_ms, found, unknown)
        standings = reader.standings()
    return _fullest(standings)


def _found(environment: Environment, plans: Mapping[str, str]) -> dict[Asked, Found]:
    rows = Policy.objects.in_force(environment.pk).exclude(mode=Mode.OFF).prefetch_related("limits")
    by_id = {str(row.pk): row for row in rows}
    index = PolicyIndex(policy_rows.stored(row, policy_rows.rule_of(row)) for row in by_id.values())
    asked: dict[tuple[str, LimitRule], Asked] = {}
    found: dict[Asked, Found] = {}
    for user, plan in plans.items():
        for policy in index.resolve(user=user, feature="", plan=plan).policies:
            for limit in policy.rule.limits:
                if limit.per is Per.USER:
                    row = by_id[policy.ref.id]
                    each = asked.setdefault((policy.ref.id, limit), Asked(row, policy.rule, limit))
                    subjects = found.setdefault(each, Found([], complete=False)).subjects
                    subjects.append((Subjects(user_id=user), None))
    return found


def _unknown(standings: Iterable[Standing]) -> dict[tuple[Window, Models], set[str]]:
    """Users of whom no counter says what they used in this window, of these models."""
    users: dict[tuple[Window, Models], set[str]] = {}
    for standing in standings:
        for of in standing.subjects:
            if of.used is None and standing.course is not None:
                kind = (standing.limit.window, standing.limit.models)
                users.setdefault(kind, set()).add(of.subject.user_id)
    return users


def _ask_ledger(
    tracked: TrackedPairs,
    now_ms: int,
    found: dict[Asked, Found],
    unknown: dict[tuple[Window, Models], set[str]],
) -> None:
    environment_id = tracked.environment_id
    for (window, models), users in unknown.items():
        span = tracked.span(window, now_ms)
        if span.end is None:
            continue
        start, end = from_ms(span.start), from_ms(span.end)
        try:
            with at_most(LEDGER_MS_MAX):
                counted = model_names.counted(environment_id, start, end, models, tracked.groups)
                used = subject_sums.of_users(environment_id, users, start, end, counted)
        except DatabaseError as error:
            logger.warning("users of environment %s: %s", environment_id, error)
            continue
        for each, those in found.items():
            if each.limit.window is window and each.limit.models == models:
                those.subjects = [
                    (subject, used.get(subject.user_id, Amounts())) for subject, _ in those.subjects
                ]


def _fullest(standings: Iterable[Standing]) -> dict[str, Tightest]:
    fullest: dict[str, Tightest] = {}
    for standing in standings:
        for of in standing.subjects:
            before = fullest.get(of.subject.user_id)
            if before is None or rank(of, standing.limit) > rank(before[1], before[0].limit):
                fullest[of.subject.user_id] = standing, of
    return fullest
