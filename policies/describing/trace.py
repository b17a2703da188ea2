"""Why a call is allowed or blocked, as questions answered in order: `console/parts/trace.html` shows it. Pure.

Frozen? Is the user blocked? Which policies, and why each does or does not match? May such a call be made at all? And
each limit, as it stood. `stops` is the one that decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from policies.describing.considering import Considered, Part
from policies.reasons import Reason
from usage import wording
from usage.metrics import Metric


class Question(StrEnum):
    FROZEN = "frozen"
    USER = "user"
    POLICIES = "policies"
    CALL = "call"
    LIMITS = "limits"


_DECIDED_BY = {
    Reason.NO_POLICY: Question.POLICIES,
    Reason.ENVIRONMENT_FROZEN: Question.FROZEN,
    Reason.FEATURE_FROZEN: Question.FROZEN,
    Reason.USER_BLOCKED: Question.USER,
    Reason.MODEL_NOT_ALLOWED: Question.CALL,
    Reason.MODEL_DENIED: Question.CALL,
    Reason.PRICE_UNKNOWN: Question.CALL,
    Reason.REQUEST_TOKENS_EXCEEDED: Question.CALL,
    Reason.REQUEST_COST_EXCEEDED: Question.CALL,
}
# By code: a later version may know more of them.
_decided_by = {reason.value: question for reason, question in _DECIDED_BY.items()}


def decided_by(reason_code: str) -> Question:
    """Of a block; limits have codes of their own."""
    return _decided_by.get(reason_code, Question.LIMITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stood:
    """A limit before this call. Amounts are those of its metric; costs in nano-USD."""

    policy: str
    metric: Metric
    says: str
    # With what boosts add to it.
    limit: int
    boosted: int
    used: int
    held: int
    # None: not known any more.
    needed: int | None
    exceeded: bool
    enforced: bool
    resets_at: datetime | None
    # False: no policy in force has counted it, so that what calls in flight hold is not known.
    counted: bool

    @property
    def amount(self) -> str:
        return wording.amount(self.metric, self.limit)

    @property
    def left(self) -> int:
        """Never below 0."""
        return max(0, self.limit - self.used - self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    allowed: bool
    # The reason in a few words, and in a sentence.
    title: str
    message: str
    reason_code: str
    retry_after_s: int | None
    # None: nothing stood against the call.
    stops: Question | None
    frozen: str
    user: str
    # That the call was decided by, "" for none; and whether it was stored for the user (None: not known any more).
    plan: str
    plan_stored: bool | None
    policies: tuple[Considered, ...]
    call: str
    limits: tuple[Stood, ...]
    degraded: bool
    suggested_model: str | None
    # What policies in mode monitor would have said.
    shadow: str | None

    @property
    def again(self) -> str:
        """`in 15 h 36 min`; empty if it is not known when."""
        return "" if not self.retry_after_s else f"in {wording.duration(self.retry_after_s)}"

    @property
    def any_uncounted(self) -> bool:
        return any(not limit.counted for limit in self.limits)

    @property
    def any_of_its_length(self) -> bool:
        """Whether any limit counts what a longer call takes more of."""
        return any(limit.metric not in (Metric.REQUESTS, Metric.CONCURRENCY) for limit in self.limits)

    @property
    def matching(self) -> tuple[Considered, ...]:
        return tuple(each for each in self.policies if each.part not in (Part.NO_MATCH, Part.OFF))

    @property
    def others(self) -> tuple[Considered, ...]:
        return tuple(each for each in self.policies if each.part in (Part.NO_MATCH, Part.OFF))

    @property
    def brief(self) -> str:
        """A few words beside the title."""
        limit = self.tightest
        if self.suggested_model:
            return f"would be: {self.suggested_model}"
        if limit is None or self.stops not in (None, Question.LIMITS):
            return "" if self.stops else "no policy" if self.reason_code == Reason.NO_POLICY else "no limit"
        if self.stops:
            held = f", {wording.number(limit.metric, limit.held)} held" if limit.held else ""
            return f"{wording.number(limit.metric, limit.used)} used{held} of {limit.amount}"
        return f"{wording.number(limit.metric, limit.left)} left of {limit.amount}"

    @property
    def tightest(self) -> Stood | None:
        """Of the limits in force the one that spoke, else the fullest."""
        in_force = [limit for limit in self.limits if limit.enforced]
        return max(in_force, key=_fullness, default=None)


def _fullness(limit: Stood) -> tuple[bool, float]:
    return limit.exceeded, (limit.used + limit.held) / limit.limit if limit.limit else 1.0
