"""How a limit stands, in words: beside each bar, and in place of one where there is none. Pure."""

from __future__ import annotations

from datetime import datetime

from policies.standing.standings import Standing, SubjectStanding
from usage import wording
from usage.amounts import Per, Subjects
from usage.metrics import Metric


def subject(named: Subjects, per: Per) -> str:
    """Whose calls are counted: `ann`, `ann in chat`, `the plan free`."""
    match per:
        case Per.USER:
            return named.user_id
        case Per.USER_FEATURE:
            return f"{named.user_id} in {named.feature}"
        case Per.FEATURE:
            return f"the feature {named.feature}"
        case Per.PLAN:
            return f"the plan {named.plan}"
        case Per.RUN:
            return f"the run {named.run_id}"
    return "everybody"


def taken(standing: Standing, of: SubjectStanding) -> str:
    """`48 of 50 requests a day, 1 more held`."""
    limit = standing.limit
    allowed = wording.allowance(limit.kind, of.allowed(limit))
    if of.boosted:
        allowed += f" ({_number(limit.metric, of.boosted)} by boost)"
    if of.used is None:
        return f"not known how much of {allowed}"
    if limit.metric is Metric.CONCURRENCY:
        return f"{wording.count(of.held or 0)} of {allowed}"
    words = f"{wording.number(limit.metric, of.used)} of {allowed}"
    if of.held is None:
        return f"{words}; what calls in flight hold is not known yet"
    return f"{words}, {wording.number(limit.metric, of.held)} more held" if of.held else words


def _number(metric: Metric, amount: int) -> str:
    return wording.money(amount) if metric is Metric.COST_USD else wording.count(amount)


def resets(metric: Metric, ends_at: datetime | None, now: datetime) -> str:
    """`in 9 h 28 min`"""
    if metric is Metric.CONCURRENCY:
        return "as calls end"
    if ends_at is None:
        return "never"
    return f"in {wording.duration(max(0, int((ends_at - now).total_seconds())))}"


def says(standing: Standing) -> str:
    """Of the fullest: `ann: 48 of 50 requests a day`."""
    if standing.fullest is None:
        if not standing.complete:
            return "not known who used most"
        at_once = standing.limit.metric is Metric.CONCURRENCY
        return "no calls in flight" if at_once else "nothing used yet"
    return f"{subject(standing.fullest.subject, standing.limit.per)}: {taken(standing, standing.fullest)}"


def crowd(standing: Standing) -> str:
    """How many are at the limit and near it; empty for a limit with one subject, or where nobody is."""
    if len(standing.subjects) < 2 and standing.complete:
        return ""
    least = "" if standing.complete else "at least "
    parts = [
        f"{least}{count} {word}"
        for count, word in (
            (standing.full, "over" if standing.watched else "at limit"),
            (standing.near, "near"),
        )
        if count
    ]
    return ", ".join(parts)
