"""Calls that limits stood against."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from policies.blocked.explanation import NOTHING_CHARGED, Explanation, Remedy, StoodLimit, Way
from policies.reasons import WINDOW_CODES, Reason, ReasonClass
from usage import wording
from usage.amounts import Per
from usage.boosts import BOOSTED_PERS
from usage.metrics import Metric
from usage.windows import Window

if TYPE_CHECKING:
    from policies.models import BlockedDecision

_PERIODS = {
    Window.MINUTE: "the minute",
    Window.HOUR: "the hour",
    Window.DAY: "the day",
    Window.WEEK: "the week",
    Window.MONTH: "the month",
    Window.TOTAL: "all time",
}
_OF_A_FEATURE = {Per.FEATURE, Per.USER_FEATURE}
# What another plan changes: the others are the same whatever plan a user has.
_OF_A_PLAN = {Per.USER, Per.USER_FEATURE, Per.PLAN}


def explain(
    decision: BlockedDecision,
    headline: str,
    limits: tuple[StoodLimit, ...],
    exceeded: list[StoodLimit],
    zone: ZoneInfo,
    now: datetime,
) -> Explanation:
    speaking = _speaking(decision, exceeded)
    others = [limit for limit in exceeded if limit is not speaking]
    return Explanation(
        headline=headline,
        how=_how(decision, speaking),
        why=" ".join(_why(decision, speaking, others, zone)),
        limits=(speaking, *(limit for limit in limits if limit is not speaking)),
        tell=_tell(decision, speaking, zone),
        ways=tuple(_ways(decision, speaking, zone, now)),
        vain=tuple(_vain(decision, speaking)),
    )


def _speaking(decision: BlockedDecision, exceeded: list[StoodLimit]) -> StoodLimit:
    """The limit that gave the reason."""

    def speaks(limit: StoodLimit) -> tuple[bool, bool]:
        if limit.metric is Metric.CONCURRENCY:
            code = Reason.CONCURRENCY_LIMIT_EXCEEDED.value
        else:
            code = WINDOW_CODES[limit.window, limit.metric]
        return code == decision.reason_code, limit.policy == decision.policy_name

    return max(exceeded, key=speaks)


def _how(decision: BlockedDecision, limit: StoodLimit) -> str:
    """`All 10 requests of the day were used`"""
    amount, period = wording.amount(limit.metric, limit.limit), _PERIODS[limit.window]
    # Of a limit that counts all features the feature would be said to be what it is about.
    where = f" in {decision.feature}" if limit.per in _OF_A_FEATURE and decision.feature else ""
    where += wording.with_models(limit.models)
    if limit.limit == 0:
        return f"{_unit(limit).capitalize()}{wording.with_models(limit.models)} are not allowed at all"
    if limit.metric is Metric.CONCURRENCY:
        return f"All {amount} were running" if limit.limit > 1 else f"The {amount} was running"
    if decision.reason_class == ReasonClass.TOO_LARGE.value:
        return f"The call may take more than the {amount} of {period}"
    if decision.reason_class == ReasonClass.TRANSIENT.value:
        return f"What is left of the {amount} of {period} was held by calls in flight"
    if limit.left > 0:
        return f"Too little was left of the {amount} of {period}{where}"
    if limit.limit > 1:
        return f"All {amount} of {period}{where} were used"
    return f"The {amount} of {period}{where} was used"


def _unit(limit: StoodLimit) -> str:
    return "paid calls" if limit.metric is Metric.COST_USD else wording.amount(limit.metric, 2)[2:]


def _why(
    decision: BlockedDecision, limit: StoodLimit, others: list[StoodLimit], zone: ZoneInfo
) -> Iterator[str]:
    needed = (
        "" if limit.needed is None else f"; this call needed {wording.amount(limit.metric, limit.needed)}"
    )
    yield f"{limit.policy} allows {limit.words}. There were {limit.stood}{needed}."
    if limit.resets_at is not None and limit.metric is not Metric.CONCURRENCY:
        yield f"{_PERIODS[limit.window].capitalize()} ends on {_at(limit.resets_at, zone)} ({zone.key})."
    if others:
        also = "; ".join(f"{other.words} ({other.policy})" for other in others)
        yield f"Also against it: {also}."


def _tell(decision: BlockedDecision, limit: StoodLimit, zone: ZoneInfo) -> str:
    if decision.reason_class == ReasonClass.TRANSIENT.value and limit.limit > 0:
        again = (
            "it works as soon as one of them is done"
            if _frees(limit)
            else "it works if one of them ends early"
        )
        return (
            "Requests that were still being answered took up what is included. Please try again; "
            f"{again}. {NOTHING_CHARGED}"
        )
    if decision.reason_class == ReasonClass.TOO_LARGE.value:
        return (
            f"That request was larger than what is included. A shorter text, or a shorter answer, may work. "
            f"{NOTHING_CHARGED}"
        )
    if limit.left > 0 and limit.metric not in (Metric.REQUESTS, Metric.CONCURRENCY):
        fresh = (
            ""
            if limit.resets_at is None
            else f" From {_at(limit.resets_at, zone)}, {_city(zone)} time, there is room again."
        )
        return (
            "What is left of what is included for now was not enough for that request. A shorter text, or a shorter "
            f"answer, may work.{fresh} {NOTHING_CHARGED}"
        )
    again = (
        "."
        if limit.resets_at is None
        else f". You can go on from {_at(limit.resets_at, zone)}, {_city(zone)} time."
    )
    if limit.per in (Per.USER, Per.USER_FEATURE) and limit.metric is not Metric.COST_USD:
        where = f" in {decision.feature}" if limit.per is Per.USER_FEATURE else ""
        verb = "is" if limit.limit == 1 else "are"
        used = f"You have used the {limit.allowance} that {verb} included for you{where}"
        return f"{used}{again} {NOTHING_CHARGED}"
    return f"What is included for now has been used up{again} {NOTHING_CHARGED}"


def _ways(decision: BlockedDecision, limit: StoodLimit, zone: ZoneInfo, now: datetime) -> Iterator[Way]:
    transient = decision.reason_class == ReasonClass.TRANSIENT.value
    if transient and limit.limit > 0:
        yield Way(
            Remedy.WAIT,
            "Trying again once a call in flight had ended"
            if _frees(limit)
            else "Trying again, if a call in flight failed, or used less than it held",
        )
    elif decision.reason_class == ReasonClass.EXHAUSTED.value and limit.resets_at is not None:
        over = limit.resets_at <= now
        when = _at(limit.resets_at, zone)
        yield Way(Remedy.WAIT, f"Waiting: it passes since {when}" if over else f"Waiting until {when}")
    missing = limit.missing
    if missing is not None:
        if limit.per in BOOSTED_PERS:
            more = wording.amount(limit.metric, missing)
            yield Way(Remedy.BOOST, f"At least {more} more: a boost for {_whom(decision, limit)}")
        raised = wording.allowance(limit.kind, limit.limit + missing)
        yield Way(
            Remedy.POLICY, f"A higher limit: at least {raised} in {limit.policy}, for all whom it is for"
        )
    if limit.models:
        yield Way(Remedy.CALLER, f"Another model: only calls{wording.with_models(limit.models)} are counted")
    if decision.plan and limit.per in _OF_A_PLAN:
        yield Way(Remedy.PLAN, f"Another plan than {decision.plan}, with a higher limit")
    if limit.metric not in (Metric.REQUESTS, Metric.CONCURRENCY):
        cheaper = ", or a cheaper model" if limit.metric is Metric.COST_USD else ""
        yield Way(Remedy.CALLER, f"A shorter prompt or a lower max_output_tokens{cheaper}")


def _vain(decision: BlockedDecision, limit: StoodLimit) -> Iterator[str]:
    if limit.per not in BOOSTED_PERS:
        yield f"A boost: none raises a limit that is for {wording.subject(limit.per)}"
    if limit.metric in (Metric.REQUESTS, Metric.CONCURRENCY):
        yield "A shorter prompt or a cheaper model: calls are counted, not tokens or cost"
    elif limit.metric is not Metric.COST_USD:
        yield "A cheaper model: tokens are counted, not cost"
    if decision.reason_class == ReasonClass.TOO_LARGE.value:
        yield "Waiting: this call alone is more than the limit allows"


def _frees(limit: StoodLimit) -> bool:
    """Whether a call that ends makes room for another. What is counted in a window stays used."""
    return limit.metric is Metric.CONCURRENCY


def _whom(decision: BlockedDecision, limit: StoodLimit) -> str:
    match limit.per:
        case Per.USER | Per.USER_FEATURE:
            return decision.user_id
        case Per.FEATURE:
            return f"the feature {decision.feature}"
        case Per.PLAN:
            return f"the plan {decision.plan}"
    return "the environment"


def _at(instant: datetime, zone: ZoneInfo) -> str:
    here = instant.astimezone(zone)
    return f"{here:%a} {here.day} {here:%b}, {here:%H:%M}"


def _city(zone: ZoneInfo) -> str:
    return zone.key.rsplit("/", 1)[-1].replace("_", " ")
