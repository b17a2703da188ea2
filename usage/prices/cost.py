"""What a call costs: what it used, rates and prices.

Pure values and functions. Rates are integers of nano-USD for so many of a quantity, costs integers of nano-USD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from usage.amounts import TOKENS_MAX
from usage.quantities import (
    AS_THEIR_TOTAL,
    CACHE_WRITE,
    CACHED,
    DENOMINATOR,
    DISCOUNTS,
    INPUT,
    OUTPUT,
    OWN_COLUMNS,
    QUANTITIES,
    REASONING,
    REQUESTS,
    ServiceTier,
    check_mapped,
    check_parts,
    disjoint,
    root,
)

# With this and TOKENS_MAX no call can cost more than the largest limit (money.MAX_LIMIT_NANO).
RATE_MAX_NANO = 10_000 * 10**9
ALIASES_MAX = 64
TIERS_MAX = 8
# The rates with a field of their own.
RATES_OF = {
    INPUT: "input",
    OUTPUT: "output",
    CACHED: "cached_input",
    CACHE_WRITE: "cache_write",
    REASONING: "reasoning",
}
# The quantities that tokens of the input, or of the output, can be billed as; and those that no call says beforehand.
_OF = {whole: tuple(name for name in QUANTITIES if root(name) == whole) for whole in (INPUT, OUTPUT)}
_COMMON = {whole: tuple(name for name in names if name in OWN_COLUMNS) for whole, names in _OF.items()}
# The start of a price that was always in force, as far as its source knows.
UNDATED = datetime(1970, 1, 1, tzinfo=UTC)


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What one call used: totals, their parts, and what is billed beside tokens (usage/quantities.py).

    Raises ValueError, naming the field, for an unknown quantity, a number out of range, and parts larger than their
    total.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    # By name, those that have no field of their own.
    quantities: Mapping[str, int] = {}

    def __post_init__(self) -> None:
        for name in OWN_COLUMNS:
            if not 0 <= getattr(self, name) <= TOKENS_MAX:
                raise ValueError(f"{name} must be from 0 to {TOKENS_MAX}.")
        if self.cached_input_tokens > self.input_tokens:
            raise ValueError("cached_input_tokens must not exceed input_tokens: they are a part of them.")
        if self.cached_input_tokens + self.cache_write_tokens > self.input_tokens:
            raise ValueError(
                "cache_write_tokens and cached_input_tokens together must not exceed input_tokens: "
                "they are separate parts of them."
            )
        if self.reasoning_tokens > self.output_tokens:
            raise ValueError("reasoning_tokens must not exceed output_tokens: they are a part of them.")
        if self.quantities:
            check_mapped(self.quantities)
            check_parts(self.all)

    @property
    def all(self) -> dict[str, int]:
        """All quantities by name, those with a field of their own first."""
        return {name: getattr(self, name) for name in OWN_COLUMNS} | dict(self.quantities)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Nano-USD, of tokens per million. Cached input, cache writes and reasoning without a rate cost that of their
    total. Raises ValueError.
    """

    # None: billed by something else than tokens.
    input: int | None
    output: int | None
    cached_input: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    # By quantity, each for as many as its row says, or the name of the total that it costs the same as. One that is
    # neither here nor above has no rate.
    others: Mapping[str, int | str] = field(default_factory=dict)
    # The dearest of the kinds that no call says beforehand, and of all kinds: input and output.
    dearest_common: tuple[int, int] = field(init=False, compare=False, repr=False)
    dearest: tuple[int, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in RATES_OF.values()} | dict(self.others)
        for name, rate in given.items():
            if isinstance(rate, int) and not 0 <= rate <= RATE_MAX_NANO:
                raise ValueError(
                    f"The {name} rate must be from 0 to {RATE_MAX_NANO} nano-USD per million tokens."
                )

        object.__setattr__(self, "dearest_common", self._dearest_of(_COMMON))
        object.__setattr__(self, "dearest", self._dearest_of(_OF))

    def _dearest_of(self, kinds: Mapping[str, tuple[str, ...]]) -> tuple[int, int]:
        inputs, outputs = (max(self.of(name) or 0 for name in kinds[whole]) for whole in (INPUT, OUTPUT))
        return inputs, outputs

    def of(self, quantity: str) -> int | None:
        """None: it has no rate, and is not priced."""
        own = RATES_OF.get(quantity)
        if own is None:
            other = self.others.get(quantity)
            return self.of(other) if isinstance(other, str) else other
        rate: int | None = getattr(self, own)
        total = AS_THEIR_TOTAL.get(quantity)
        return self.of(total) if rate is None and total is not None else rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """The rates of ALL tokens of a call whose total input, cached tokens included, is above the threshold."""

    above_input_tokens: int
    rates: Rates
    # The complete rates by the tier of service; the default's are above.
    service_tiers: Mapping[ServiceTier, Rates] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs from an instant on. Raises ValueError for a naive instant or unsorted tiers."""

    provider: str
    model: str
    rates: Rates
    aliases: tuple[str, ...] = ()
    effective_from: datetime = UNDATED
    service_tiers: Mapping[ServiceTier, Rates] = field(default_factory=dict)
    tiers: tuple[Tier, ...] = ()
    # By region the factor of what tokens cost there.
    regions: Mapping[str, Decimal] = field(default_factory=dict)
    source: str = ""
    source_version: str = ""
    price_id: int | None = None

    def __post_init__(self) -> None:
        if self.effective_from.tzinfo is None:
            raise ValueError("effective_from must carry a time zone.")
        thresholds = [tier.above_input_tokens for tier in self.tiers]
        if thresholds != sorted(set(thresholds)):
            raise ValueError("tiers must have rising thresholds.")

    @property
    def batch(self) -> Rates | None:
        return self.service_tiers.get(ServiceTier.BATCH)


class Served(msgspec.Struct, frozen=True):
    """How a call is served, which changes its rates. `region`: "" where it is not said."""

    tier: ServiceTier = ServiceTier.DEFAULT
    region: str = ""

    @classmethod
    def of(cls, tier: str | None, region: str | None) -> Served:
        """As it is said; None and "" say nothing. Regions are in lower case."""
        return cls(ServiceTier(tier or ServiceTier.DEFAULT), (region or "").lower())


AS_USUAL = Served()
IN_BATCH = Served(ServiceTier.BATCH)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one part of a call is billed at; the rate is in nano-USD. None: it has no rate."""

    quantity: str
    number: int
    rate: int | None

    @property
    def product(self) -> int:
        """Nano-USD times DENOMINATOR: exact."""
        return self.number * (self.rate or 0) * (DENOMINATOR // QUANTITIES[self.quantity].per)


class Cost(msgspec.Struct, frozen=True):
    """`nano`: nano-USD of all that has a rate. `unpriced`: what has none, by name."""

    nano: int
    unpriced: tuple[str, ...] = ()


def cost_of(price: Price, use: Use, served: Served = AS_USUAL) -> Cost:
    """The exact sum, rounded up once. 0 only for a free model or where nothing was used."""
    parts = charges(price, use, served)
    unpriced = [part.quantity for part in parts if part.rate is None]
    if _lacks_rates(price, served):
        unpriced.append("service_tier")
    return Cost(-(-sum(part.product for part in parts) // DENOMINATOR), tuple(unpriced))


def charges(price: Price, use: Use, served: Served = AS_USUAL) -> tuple[Charge, ...]:
    """The parts of a call that it has any of, each with its rate; the rest of a total comes where the total stands.

    Above a threshold of total input the tier's rates apply to every token of the call, as OpenAI, Anthropic and Google
    bill.
    """
    rates = rates_above(price, use.input_tokens, served.tier)
    factor = price.regions.get(served.region)
    used = {name: number for name, number in disjoint(use.all).items() if number}
    if used and REQUESTS not in use.quantities and rates.of(REQUESTS):
        # Each report is of one request.
        used[REQUESTS] = 1
    return tuple(
        Charge(name, number, _in_region(rates.of(name), name, factor)) for name, number in used.items()
    )


def rates_above(price: Price, input_tokens: int, tier: ServiceTier) -> Rates:
    """Of a call with so much input; those of the default where the book has none of this tier of service."""
    rates, service_tiers = price.rates, price.service_tiers
    for each in price.tiers:
        if input_tokens <= each.above_input_tokens:
            break
        rates, service_tiers = each.rates, each.service_tiers
    return service_tiers.get(tier, rates)


def _lacks_rates(price: Price, served: Served) -> bool:
    """Whether it may have cost more than the default's rates say."""
    tier = served.tier
    return tier is not ServiceTier.DEFAULT and tier not in DISCOUNTS and tier not in price.service_tiers


def _in_region(rate: int | None, quantity: str, factor: Decimal | None) -> int | None:
    """Regions make tokens dearer, not the fees beside them. Rounded up."""
    if rate is None or factor is None or QUANTITIES[quantity].unit != "tokens":
        return rate
    numerator, denominator = factor.as_integer_ratio()
    return -(-rate * numerator // denominator)


def completed(rates: Rates, given: Mapping[str, int]) -> Rates:
    """With these instead, by quantity: one that is not given keeps its own. Raises ValueError."""
    own: dict[str, Any] = {RATES_OF[name]: rate for name, rate in given.items() if name in RATES_OF}
    others = {name: rate for name, rate in given.items() if name not in RATES_OF}
    return replace(rates, **own, others={**rates.others, **others})


@dataclass(frozen=True, slots=True)
class HeldRates:
    """What a call is held at: nano-USD per million tokens; `fees`: nano-USD for what it has said it uses besides.

    `unpriced`: of that, what has no rate.
    """

    input: int
    output: int
    fees: int = 0
    unpriced: tuple[str, ...] = ()


def dearest_rates(
    price: Price,
    input_tokens: int,
    served: Served = AS_USUAL,
    said: Mapping[str, int] | None = None,
) -> HeldRates:
    """The dearest rates that a call of at most so many input tokens can be billed at, served like that.

    Nobody knows before the call what of its input is read from a cache or written to one, and what of its output is
    reasoning; nor, if it has less input than was said, which tier it falls in. `said`: the other quantities that it
    uses at most; what is not named there it does not use. None: not said, so that any kind of token may come.
    """
    below = [tier.above_input_tokens for tier in price.tiers if tier.above_input_tokens < input_tokens]
    known = [rates_above(price, tokens, served.tier) for tokens in (input_tokens, *below)]
    factor = price.regions.get(served.region)
    held = [rates.dearest if said is None else rates.dearest_common for rates in known]
    base = {
        INPUT: _in_region(max(rate for rate, _ in held), INPUT, factor) or 0,
        OUTPUT: _in_region(max(rate for _, rate in held), OUTPUT, factor) or 0,
    }
    product, unpriced = 0, list[str]()
    for name, number in _announced(known, said).items():
        rates = [rate for each in known if (rate := each.of(name)) is not None]
        if not rates:
            unpriced.append(name)
            continue
        # Its tokens are among those of their total already.
        more = max(0, (_in_region(max(rates), name, factor) or 0) - base.get(root(name), 0))
        product += number * more * (DENOMINATOR // QUANTITIES[name].per)
    if _lacks_rates(price, served):
        unpriced.append("service_tier")
    return HeldRates(base[INPUT], base[OUTPUT], -(-product // DENOMINATOR), tuple(unpriced))


def dearest_of(
    prices: Sequence[Price],
    input_tokens: int,
    served: Served = AS_USUAL,
    said: Mapping[str, int] | None = None,
) -> HeldRates:
    """The dearest rates by any of the prices, one at least. Unpriced is what has no rate in the first."""
    first, *others = (dearest_rates(price, input_tokens, served, said) for price in prices)
    if not others:
        return first
    held = [first, *others]
    return HeldRates(
        max(each.input for each in held),
        max(each.output for each in held),
        max(each.fees for each in held),
        first.unpriced,
    )


def _announced(known: Iterable[Rates], said: Mapping[str, int] | None) -> Mapping[str, int]:
    """What is said, and the request itself where that has a fee."""
    announced = said or {}
    if REQUESTS in announced or not any(REQUESTS in rates.others for rates in known):
        return announced
    return {**announced, REQUESTS: 1}
