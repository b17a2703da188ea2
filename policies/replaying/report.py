"""What a replay found, as one document. Its names are those of openapi.yaml."""

from __future__ import annotations

from datetime import date, datetime

import msgspec

# Of each kind, the first ones: a report has a bounded size, its counts have all.
DIFFERENCES_MAX = 10_000
FIRST_HITS_MAX = 1_000
FEATURES_MAX = 100

ASSUMPTIONS = (
    "What a blocked caller would have tried again, or not, is unknown: each call of the period is asked once.",
    "A call that was made is taken to have named no cap on its output: one that named a higher cap than it used may be "
    "blocked earlier.",
    "A newly allowed call is taken to use the output that it asked for; without a cap, what calls of its feature and "
    "model produced on average.",
    "What calls in flight held is known of a call that was blocked, and stands against it again; of a call that was "
    "made it is what they used in the end.",
    "Freezes, blocked users and outages of the counter store stay as they were.",
    "Limits whose window began before the period start from what the ledger has, which may be more than they allow.",
)


class SimulatedCalls(msgspec.Struct, frozen=True, kw_only=True):
    """`replayed` is the sum of the other four."""

    replayed: int
    unchanged: int
    newly_blocked: int
    newly_allowed: int
    undecidable: int


class SimulatedPeriod(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """As asked for, and the first and last call that were found in it."""

    from_: datetime
    to: datetime
    timezone: str
    first_call_at: datetime | None
    last_call_at: datetime | None


class SimulatedUsers(msgspec.Struct, frozen=True, kw_only=True):
    """How many different users were affected at least once."""

    newly_blocked: int
    newly_allowed: int


class SimulatedCost(msgspec.Struct, frozen=True, kw_only=True):
    """In USD: of the calls that were made, of those that would be blocked, and at most of those newly allowed.

    `unpriced`: how many of those made have no price of all or part of what they used; that is in none of these.
    """

    made: str
    newly_blocked: str
    newly_allowed_at_most: str
    # Reports of earlier versions do not say it.
    unpriced: int = 0


class _SimulatedPart(msgspec.Struct, frozen=True, kw_only=True):
    replayed: int
    blocked_before: int
    newly_blocked: int
    newly_allowed: int
    newly_blocked_users: int
    newly_blocked_cost_usd: str


class SimulatedDay(_SimulatedPart, frozen=True, kw_only=True):
    date: date


class SimulatedFeature(_SimulatedPart, frozen=True, kw_only=True):
    """`feature` is null for calls that belong to none."""

    feature: str | None


class SimulatedDecision(msgspec.Struct, frozen=True, kw_only=True):
    """A decision in words. `policy_version` is null of one that no version says."""

    allowed: bool
    reason_code: str
    policy: str | None
    policy_version: int | None
    message: str


class SimulatedDifference(msgspec.Struct, frozen=True, kw_only=True):
    at: datetime
    request_id: str
    user_id: str
    feature: str | None
    model: str
    cost_usd: str | None
    before: SimulatedDecision
    after: SimulatedDecision


class SimulatedFirstHit(msgspec.Struct, frozen=True, kw_only=True):
    """When a user would have been blocked first, and how often in all."""

    user_id: str
    at: datetime
    policy: str | None
    message: str
    calls: int


class SimulationSelfCheck(msgspec.Struct, frozen=True, kw_only=True):
    """How far a replay of the policies that were in force agrees with what was decided, and why it does not."""

    compared: int
    same: int
    differing: int
    why: dict[str, int]


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What other policies would have changed.

    `reasons`: of the newly blocked, how many by reason and policy. `other_reason`: of the unchanged, those that are
    blocked for another reason than before; `cut_short`: those that are allowed and left less output than they produced.
    `retries_left_out`: repeats of newly allowed calls.
    """

    calls: SimulatedCalls
    period: SimulatedPeriod
    users: SimulatedUsers
    cost_usd: SimulatedCost
    days: tuple[SimulatedDay, ...]
    # Those with changed calls, the most newly blocked first. Reports of earlier versions do not have them.
    features: tuple[SimulatedFeature, ...] = ()
    reasons: tuple[SimulatedReasonCount, ...]
    other_reason: int
    # Reports of earlier versions do not say it.
    cut_short: int = 0
    retries_left_out: int
    undecidable: dict[str, int]
    first_hits: tuple[SimulatedFirstHit, ...]
    differences: tuple[SimulatedDifference, ...]
    # Null if it was not asked for.
    self_check: SimulationSelfCheck | None = None
    assumptions: tuple[str, ...] = ASSUMPTIONS


class SimulatedReasonCount(msgspec.Struct, frozen=True, kw_only=True):
    reason_code: str
    policy: str | None
    calls: int
