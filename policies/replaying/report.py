"""What a replay found: counted while it runs, and said as one document. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

import msgspec

from policies.deciding.decision import Verdict
from policies.replaying.past_calls import PastCall
from usage.instants import from_ms
from usage.money import format_usd

# Of each kind, the first ones: a report has a bounded size, its counts have all.
DIFFERENCES_MAX = 1_000
FIRST_HITS_MAX = 1_000

ASSUMPTIONS = (
    "What a blocked caller would have tried again, or not, is unknown: each call of the period is asked once.",
    "A call that was made is taken to have named no cap on its output: one that named a higher cap than it used may be "
    "blocked earlier.",
    "A newly allowed call is taken to use the output that it asked for; without a cap, what calls of its feature and "
    "model produced on average.",
    "Freezes, blocked users and outages of the counter store stay as they were.",
    "Limits that began before the period start from what the ledger has.",
)


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """`replayed` is the sum of the other four."""

    replayed: int
    unchanged: int
    newly_blocked: int
    newly_allowed: int
    undecidable: int


class Covered(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """As asked for, and the first and last call that were found in it."""

    from_: datetime
    to: datetime
    timezone: str
    first_call_at: datetime | None
    last_call_at: datetime | None


class Users(msgspec.Struct, frozen=True, kw_only=True):
    """How many different users were affected at least once."""

    newly_blocked: int
    newly_allowed: int


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """In USD: of the calls that were made, of those that would be blocked, and at most of those newly allowed."""

    made: str
    newly_blocked: str
    newly_allowed_at_most: str


class Day(msgspec.Struct, frozen=True, kw_only=True):
    date: date
    replayed: int
    blocked_before: int
    newly_blocked: int
    newly_allowed: int
    newly_blocked_users: int
    newly_blocked_cost_usd: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A decision in words. `policy_version` is null of one that no version says."""

    allowed: bool
    reason_code: str
    policy: str | None
    policy_version: int | None
    message: str


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    at: datetime
    request_id: str
    user_id: str
    feature: str | None
    model: str
    cost_usd: str | None
    before: Said
    after: Said


class FirstHit(msgspec.Struct, frozen=True, kw_only=True):
    """When a user would have been blocked first, and how often in all."""

    user_id: str
    at: datetime
    policy: str | None
    message: str
    calls: int


class SelfCheck(msgspec.Struct, frozen=True, kw_only=True):
    """How far a replay of the policies that were in force agrees with what was decided, and why it does not."""

    compared: int
    same: int
    differing: int
    why: dict[str, int]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What other policies would have changed.

    `reasons`: of the newly blocked, how many by reason and policy. `other_reason`: of the unchanged, those that are
    blocked for another reason than before; `cut_short`: those that are allowed and left less output than they produced.
    `retries_left_out`: repeats of newly allowed calls.
    """

    calls: Calls
    period: Covered
    users: Users
    cost_usd: Cost
    days: tuple[Day, ...]
    reasons: tuple[ReasonCount, ...]
    other_reason: int
    # Reports of earlier versions do not say it.
    cut_short: int = 0
    retries_left_out: int
    undecidable: dict[str, int]
    first_hits: tuple[FirstHit, ...]
    differences: tuple[Difference, ...]
    # Null if it was not asked for.
    self_check: SelfCheck | None = None
    assumptions: tuple[str, ...] = ASSUMPTIONS


class ReasonCount(msgspec.Struct, frozen=True, kw_only=True):
    reason_code: str
    policy: str | None
    calls: int


@dataclass(slots=True)
class _Day:
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
        self._days: dict[date, _Day] = defaultdict(_Day)
        self._today: tuple[int, _Day] = (-1, _Day())
        self._unchanged = self._other_reason = self._cut_short = self._retries = 0
        self._made_nano = self._allowed_nano = 0
        self._allowed_users: set[str] = set()
        self._hits: dict[str, _Hit] = {}
        self._reasons: Counter[tuple[str, str | None]] = Counter()
        self._undecidable: Counter[str] = Counter()
        self._differences: list[Difference] = []

    def unchanged(self, call: PastCall, *, other_reason: bool = False, cut_short: bool = False) -> None:
        self._day(call)
        self._unchanged += 1
        self._other_reason += other_reason
        self._cut_short += cut_short

    def undecidable(self, call: PastCall, why: str) -> None:
        self._day(call)
        self._undecidable[why] += 1

    def retry(self) -> None:
        """A repeat of a call that would have been allowed at first, so that nobody would have repeated it."""
        self._retries += 1

    def newly_blocked(self, call: PastCall, verdict: Verdict) -> None:
        day = self._day(call)
        day.newly_blocked += 1
        day.users.add(call.user_id)
        day.cost_nano += call.amounts.cost_nano if call.amounts else 0
        hit = self._hits.get(call.user_id)
        if hit is None:
            hit = self._hits[call.user_id] = _Hit(call.at_ms, verdict)
        hit.calls += 1
        self._reasons[verdict.reason_code, None if verdict.policy is None else verdict.policy.name] += 1
        self._differ(call, verdict)

    def newly_allowed(self, call: PastCall, verdict: Verdict) -> None:
        self._day(call).newly_allowed += 1
        self._allowed_users.add(call.user_id)
        self._allowed_nano += call.amounts.cost_nano if call.amounts else 0
        self._differ(call, verdict)

    def _day(self, call: PastCall) -> _Day:
        if self._first_ms is None:
            self._first_ms = call.at_ms
        self._last_ms = call.at_ms
        minute, day = self._today
        if call.at_ms // 60_000 != minute:
            # No zone's day begins within a minute.
            day = self._days[from_ms(call.at_ms).astimezone(self._zone).date()]
            self._today = (call.at_ms // 60_000, day)
        day.replayed += 1
        if call.blocked is not None:
            day.blocked_before += 1
        elif call.amounts is not None:
            self._made_nano += call.amounts.cost_nano
        return day

    def _differ(self, call: PastCall, verdict: Verdict) -> None:
        if len(self._differences) < DIFFERENCES_MAX:
            self._differences.append(
                Difference(
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

    def report(self, self_check: SelfCheck | None = None) -> Report:
        days = [(day, self._days[day]) for day in sorted(self._days)]
        blocked = sum(day.newly_blocked for _, day in days)
        allowed = sum(day.newly_allowed for _, day in days)
        undecidable = sum(self._undecidable.values())
        start, end = self._period
        return Report(
            calls=Calls(
                replayed=sum(day.replayed for _, day in days),
                unchanged=self._unchanged,
                newly_blocked=blocked,
                newly_allowed=allowed,
                undecidable=undecidable,
            ),
            period=Covered(
                from_=start,
                to=end,
                timezone=self._zone.key,
                first_call_at=None if self._first_ms is None else from_ms(self._first_ms),
                last_call_at=None if self._last_ms is None else from_ms(self._last_ms),
            ),
            users=Users(newly_blocked=len(self._hits), newly_allowed=len(self._allowed_users)),
            cost_usd=Cost(
                made=format_usd(self._made_nano),
                newly_blocked=format_usd(sum(day.cost_nano for _, day in days)),
                newly_allowed_at_most=format_usd(self._allowed_nano),
            ),
            days=tuple(_said(when, day) for when, day in days),
            reasons=tuple(
                ReasonCount(reason_code=code, policy=policy, calls=calls)
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


def _before(call: PastCall) -> Said:
    block = call.blocked
    if block is None:
        return Said(
            allowed=True,
            reason_code="ALLOWED",
            policy=None,
            policy_version=None,
            message="The call was made.",
        )
    return Said(
        allowed=False,
        reason_code=block.reason_code,
        policy=block.policy or None,
        policy_version=block.policy_version,
        message=block.message,
    )


def _after(verdict: Verdict) -> Said:
    policy = verdict.policy
    return Said(
        allowed=verdict.allowed,
        reason_code=verdict.reason_code,
        policy=None if policy is None else policy.name,
        policy_version=policy.version if policy is not None and policy.id else None,
        message=verdict.message,
    )


def _said(when: date, day: _Day) -> Day:
    return Day(
        date=when,
        replayed=day.replayed,
        blocked_before=day.blocked_before,
        newly_blocked=day.newly_blocked,
        newly_allowed=day.newly_allowed,
        newly_blocked_users=len(day.users),
        newly_blocked_cost_usd=format_usd(day.cost_nano),
    )


def _first_hits(hits: dict[str, _Hit]) -> list[FirstHit]:
    """The earliest first."""
    earliest = sorted(hits.items(), key=lambda each: (each[1].at_ms, each[0]))[:FIRST_HITS_MAX]
    return [
        FirstHit(
            user_id=user_id,
            at=from_ms(hit.at_ms),
            policy=None if hit.verdict.policy is None else hit.verdict.policy.name,
            message=hit.verdict.message,
            calls=hit.calls,
        )
        for user_id, hit in earliest
    ]
