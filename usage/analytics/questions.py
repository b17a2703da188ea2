"""What can be asked about usage: which figure, by which names, ranked and cut how, in which steps. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from usage.ledger.buckets import Range
from usage.quantities import MAPPED
from usage.windows import Window

# What calls can be told apart by, and the column of the ledger.
DIMENSIONS = {"user": "user_id", "feature": "feature", "plan": "plan", "model": "model", "run": "run_id"}
# Windows of the zone that a period can be cut into.
STEPS = (Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH)
# Each of a period and of the one before it; so that an answer has a size.
STEPS_MAX = 400
TOP_MAX = 100
# Of the parts of a group.
PARTS_MAX = 5
Sums = Mapping[str, int]
# A mean of fewer calls says little: of many calls a thousandth is asked for, of few a twentieth.
_MEAN_OF_MIN, _MEAN_OF_MAX = 10, 1_000


def calls_for_a_mean(calls: int) -> int:
    """Of how many a name needs to be ranked by its mean, of so many calls in all."""
    return max(1, min(calls // 20, max(_MEAN_OF_MIN, calls // 1_000), _MEAN_OF_MAX))


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure. `value`: in addresses. `columns`: of the sums of the ledger, those that make it up.

    `quantity`: it is one of the map (usage/quantities.py), whose `amount` is summed up beside what all calls have.
    """

    value: str
    columns: tuple[str, ...]
    quantity: str | None = None

    COST: ClassVar[Measure]
    CALLS: ClassVar[Measure]
    TOKENS: ClassVar[Measure]
    INPUT_TOKENS: ClassVar[Measure]
    OUTPUT_TOKENS: ClassVar[Measure]
    CACHED_TOKENS: ClassVar[Measure]
    CACHE_WRITE_TOKENS: ClassVar[Measure]
    REASONING_TOKENS: ClassVar[Measure]
    UNPRICED: ClassVar[Measure]

    def of(self, sums: Sums) -> int:
        """Costs are in nano-USD."""
        return sum(sums.get(column, 0) for column in self.columns)


Measure.COST = Measure("cost", ("cost_nano",))
Measure.CALLS = Measure("calls", ("requests",))
Measure.TOKENS = Measure("tokens", ("input_tokens", "output_tokens"))
Measure.INPUT_TOKENS = Measure("input-tokens", ("input_tokens",))
Measure.OUTPUT_TOKENS = Measure("output-tokens", ("output_tokens",))
Measure.CACHED_TOKENS = Measure("cached-tokens", ("cached_input_tokens",))
Measure.CACHE_WRITE_TOKENS = Measure("cache-write-tokens", ("cache_write_tokens",))
Measure.REASONING_TOKENS = Measure("reasoning-tokens", ("reasoning_tokens",))
Measure.UNPRICED = Measure("unpriced", ("unpriced",))
# Of all calls; then by the names of quantities.
OF_CALLS = (
    Measure.COST,
    Measure.CALLS,
    Measure.TOKENS,
    Measure.INPUT_TOKENS,
    Measure.OUTPUT_TOKENS,
    Measure.CACHED_TOKENS,
    Measure.CACHE_WRITE_TOKENS,
    Measure.REASONING_TOKENS,
    Measure.UNPRICED,
)
OF_QUANTITIES = {name: Measure(name, ("amount",), name) for name in MAPPED}
MEASURES = {measure.value: measure for measure in (*OF_CALLS, *OF_QUANTITIES.values())}


class Rank(StrEnum):
    """What comes first: the largest amount, the largest rise against the period before, the dearest call."""

    AMOUNT = "amount"
    RISE = "rise"
    CALLS = "calls"
    PER_CALL = "per-call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`group` and `part` name DIMENSIONS; a part is told apart inside its group. None: all together.

    `filters`: columns, and what they must be. `before`: the period to compare with. Without a `step` there is one.
    `calls_min`: names with fewer calls come after all others where the dearest call comes first.
    """

    measure: Measure = Measure.COST
    period: Range
    before: Range
    group: str | None = None
    part: str | None = None
    filters: Mapping[str, str] = field(default_factory=dict)
    top: int = 10
    rank: Rank = Rank.AMOUNT
    step: Window | None = None
    calls_min: int = 1

    @property
    def quantity(self) -> str | None:
        """The one of the map that is summed up beside the sums of all calls; None: none is."""
        return self.measure.quantity

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the ledger that it needs."""
        named = [DIMENSIONS[name] for name in (self.group, self.part) if name is not None]
        return tuple(dict.fromkeys([*named, *self.filters]))
