"""What an explanation of a blocked call consists of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from usage import wording
from usage.amounts import Models, Per
from usage.assessment import LimitKind
from usage.metrics import Metric
from usage.money import NANO
from usage.windows import Window

NANO_PER_CENT = NANO // 100
# The end of what a customer is told: amounts and times, and never policies, other users or prices.
NOTHING_CHARGED = "Nothing was charged for the request that was refused."


class Remedy(StrEnum):
    """What somebody can do about it; the console has a button for each."""

    WAIT = "wait"
    BOOST = "boost"
    POLICY = "policy"
    PLAN = "plan"
    UNFREEZE = "unfreeze"
    UNBLOCK = "unblock"
    PRICE = "price"
    CALLER = "caller"


@dataclass(frozen=True, slots=True)
class Way:
    """One thing that would have let the call pass."""

    remedy: Remedy
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoodLimit:
    """A limit as it stood. Money is nano-USD. `limit` has `boosted` in it. `needed`: what the call asked for; None: not
    known any more.
    """

    policy: str
    metric: Metric
    window: Window
    per: Per
    models: Models = ()
    limit: int
    boosted: int
    used: int
    held: int
    needed: int | None
    resets_at: datetime | None
    exceeded: bool

    @property
    def kind(self) -> LimitKind:
        return self.metric, self.window, self.per, self.models

    @property
    def left(self) -> int:
        return self.limit - self.used - self.held

    @property
    def missing(self) -> int | None:
        """How much more would have let the call pass, money to a whole cent; None: not known any more."""
        if self.needed is None:
            return None
        more = self.needed - self.left
        return -(-more // NANO_PER_CENT) * NANO_PER_CENT if self.metric is Metric.COST_USD else more

    @property
    def allowance(self) -> str:
        """`50 requests a day`"""
        return wording.allowance(self.kind, self.limit)

    @property
    def words(self) -> str:
        """`50 requests a day, each user`"""
        return wording.limit_of(self.kind, self.limit)

    @property
    def stood(self) -> str:
        used, held, left = (
            wording.number(self.metric, each) for each in (self.used, self.held, max(0, self.left))
        )
        return f"{used} used, {held} held by calls in flight, {left} left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    # Whose call it was, and the reason: `ana: Daily request limit exceeded`.
    headline: str
    # `All 10 requests of the day were used`; "" where the reason says it.
    how: str
    why: str
    # Those that stood against the call first.
    limits: tuple[StoodLimit, ...]
    # To send to the customer.
    tell: str
    ways: tuple[Way, ...]
    # What somebody may think of, and would not have helped.
    vain: tuple[str, ...]
