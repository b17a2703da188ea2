"""Counts what a replay finds, call by call, for its report. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from policies.deciding.decision import Verdict
from policies.replaying.past_calls import PastCall
from policies.replaying.report import (
    DIFFERENCES_MAX,
    FEATURES_MAX,
    FIRST_HITS_MAX,
    SimulatedCalls,
    SimulatedCost,
    SimulatedDay,
    SimulatedDecision,
    SimulatedDifference,
    SimulatedFeature,
    SimulatedFirstHit,
    SimulatedPeriod,
    SimulatedReasonCount,
    SimulatedUsers,
    SimulationReport,
    SimulationSelfCheck,
)
from usage.instants import from_ms
from usage.money import format_usd


@dataclass(slots=True)
class _Part:
    """What became of the calls of a day, or of a feature."""

    replayed: int = 0
    blocked_before: int = 0
    newly_blocked: int = 0
    newly_allowed: int = 0
    users: set[str] = field(default_factory=set)
    cost_nano: int = 0


@dataclass(slots=True)
class _Hit:
    at_ms: int
    verdict: Verdict
    calls: int = 0


class Tally:
    """Counts a replay, call by call."""

    def __init__(self, start: datetime, end: datetime, zone: ZoneInfo) -> None:
        self._period = (start, end)
        self._zone = zone
        self._first_ms: int | None = None
        self._last_ms: int | None = None
        self._days: dict[date, _Part] = defaultdict(_Part)
        self._today: tuple[int, _Part] = (-1, _Part())
        self._features: dict[str, _Part] = defaultdict(_Part)
        self._unchanged = self._other_reason = self._cut_short = self._retries = 0
        self._made_nano = self._allowed_nano = self._unpriced = 0
        self._allowed_users: set[str] = set()
        self._hits: dict[str, _Hit] = {}
        self._reasons: Counter[tuple[str, str | None]] = Counter()
        self._undecidable: Counter[str] = Counter()
        self._differences: list[SimulatedDifference] = []

    def unchanged(self, call: PastCall, *, other_reason: bool = False, cut_short: bool = False) -> None:
        self._parts(call)
        self._unchanged += 1
        self._other_reason += other_reason
        self._cut_short += cut_short

    def undecidable(self, call: PastCall, why: str) -> None:
        self._parts(call)
        self._undecidable[why] += 1

    def retry(self) -> None:
        """A repeat of a call that would have been allowed at first, so that nobody would have repeated it."""
        self._retries += 1

    def newly_blocked(self, call: PastCall, verdict: Verdict) -> None:
        for part in self._parts(call):
            part.newly_blocked += 1
            part.users.add(call.user_id)
            part.cost_nano += call.amounts.cost_nano if call.amounts else 0
        hit = self._hits.get(call.user_id)
        if hit is None:
            hit = self._hits[call.user_id] = _Hit(call.at_ms, verdict)
        hit.calls += 1
        self._reasons[verdict.reason_code, None if verdict.policy is None else verdict.policy.name] += 1
        self._differ(call, verdict)

    def newly_allowed(self, call: PastCall, verdict: Verdict) -> None:
        for part in self._parts(call):
            part.newly_allowed += 1
        self._allowed_users.add(call.user_id)
        self._allowed_nano += call.amounts.cost_nano if call.amounts else 0
        self._differ(call, verdict)

    def _parts(self, call: PastCall) -> tuple[_Part, _Part]:
        """The day and the feature that it is of, with it counted."""
        if self._first_ms is None:
            self._first_ms = call.at_ms
        self._last_ms = call.at_ms
        minute, day = self._today
        if call.at_ms // 60_000 != minute:
            # No zone's day begins within a minute.
            day = self._days[from_ms(call.at_ms).astimezone(self._zone).date()]
            self._today = (call.at_ms // 60_000, day)
        parts = day, self._features[call.feature]
        for part in parts:
            part.replayed += 1
            part.blocked_before += call.blocked is not None
        if call.blocked is None and call.amounts is not None:
            self._made_nano += call.amounts.cost_nano
        self._unpriced += call.unpriced
        return parts

    def _differ(self, call: PastCall, verdict: Verdict) -> None:
        if len(self._differences) < DIFFERENCES_MAX:
            self._differences.append(
                SimulatedDifference(
                    at=from_ms(call.at_ms),
                    request_id=call.request_id,
                    user_id=call.user_id,
                    feature=call.feature or None,
                    model=call.model,
                    cost_usd=format_usd(call.amounts.cost_nano) if call.amounts and call.priced else None,
                    before=_before(call),
                    after=_after(verdict),
                )
            )

    def report(self, self_check: SimulationSelfCheck | None = None) -> SimulationReport:
        days = [(day, self._days[day]) for day in sorted(self._days)]
        blocked = sum(day.newly_blocked for _, day in days)
        allowed = sum(day.newly_allowed for _, day in days)
        undecidable = sum(self._undecidable.values())
        start, end = self._period
        return SimulationReport(
            calls=SimulatedCalls(
                replayed=sum(day.replayed for _, day in days),
                unchanged=self._unchanged,
                newly_blocked=blocked,
                newly_allowed=allowed,
                undecidable=undecidable,
            ),
            period=SimulatedPeriod(
                from_=start,
                to=end,
                timezone=self._zone.key,
                first_call_at=None if self._first_ms is None else from_ms(self._first_ms),
                last_call_at=None if self._last_ms is None else from_ms(self._last_ms),
            ),
            users=SimulatedUsers(newly_blocked=len(self._hits), newly_allowed=len(self._allowed_users)),
            cost_usd=SimulatedCost(
                made=format_usd(self._made_nano),
                newly_blocked=format_usd(sum(day.cost_nano for _, day in days)),
                newly_allowed_at_most=format_usd(self._allowed_nano),
                unpriced=self._unpriced,
            ),
            days=tuple(SimulatedDay(date=when, **_said(day)) for when, day in days),
            features=tuple(
                SimulatedFeature(feature=feature or None, **_said(part))
                for feature, part in _most_changed(self._features)
            ),
            reasons=tuple(
                SimulatedReasonCount(reason_code=code, policy=policy, calls=calls)
                for (code, policy), calls in sorted(
                    self._reasons.items(), key=lambda each: (-each[1], each[0][0], each[0][1] or "")
                )
            ),
            other_reason=self._other_reason,
            cut_short=self._cut_short,
            retries_left_out=self._retries,
            undecidable=dict(sorted(self._undecidable.items())),
            first_hits=tuple(_first_hits(self._hits)),
            differences=tuple(self._differences),
            self_check=self_check,
        )


def _before(call: PastCall) -> SimulatedDecision:
    block = call.blocked
    if block is None:
        return SimulatedDecision(
            allowed=True,
            reason_code="ALLOWED",
            policy=call.policy or None,
            policy_version=call.policy_version if call.policy else None,
            message="The call was made.",
        )
    return SimulatedDecision(
        allowed=False,
        reason_code=block.reason_code,
        policy=block.policy or None,
        policy_version=block.policy_version,
        message=block.message,
    )


def _after(verdict: Verdict) -> SimulatedDecision:
    policy = verdict.policy
    return SimulatedDecision(
        allowed=verdict.allowed,
        reason_code=verdict.reason_code,
        policy=None if policy is None else policy.name,
        policy_version=policy.version if policy is not None and policy.id else None,
        message=verdict.message,
    )


def _said(part: _Part) -> dict[str, Any]:
    return {
        "replayed": part.replayed,
        "blocked_before": part.blocked_before,
        "newly_blocked": part.newly_blocked,
        "newly_allowed": part.newly_allowed,
        "newly_blocked_users": len(part.users),
        "newly_blocked_cost_usd": format_usd(part.cost_nano),
    }


def _most_changed(features: dict[str, _Part]) -> list[tuple[str, _Part]]:
    """Those with changed calls, the most newly blocked first."""
    changed = [each for each in features.items() if each[1].newly_blocked or each[1].newly_allowed]
    changed.sort(key=lambda each: (-each[1].newly_blocked, -each[1].newly_allowed, each[0]))
    return changed[:FEATURES_MAX]


def _first_hits(hits: dict[str, _Hit]) -> list[SimulatedFirstHit]:
    """The earliest first."""
    earliest = sorted(hits.items(), key=lambda each: (each[1].at_ms, each[0]))[:FIRST_HITS_MAX]
    return [
        SimulatedFirstHit(
            user_id=user_id,
            at=from_ms(hit.at_ms),
            policy=None if hit.verdict.policy is None else hit.verdict.policy.name,
            message=hit.verdict.message,
            calls=hit.calls,
        )
        for user_id, hit in earliest
    ]
