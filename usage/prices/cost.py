"""What a call costs: token counts, rates and prices.

Pure values and functions. Rates are integers of nano-USD per million tokens, costs integers of nano-USD.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from usage.amounts import TOKENS_MAX
from usage.metrics import TOKEN_PARTS
from usage.money import TOKENS_PER_RATE

# With this and TOKENS_MAX no call can cost more than the largest limit (money.MAX_LIMIT_NANO).
RATE_MAX_NANO = 10_000 * 10**9
ALIASES_MAX = 64
TIERS_MAX = 8
# The start of a price that was always in force, as far as its source knows.
UNDATED = datetime(1970, 1, 1, tzinfo=UTC)


class TokenUse(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one call. Cached and cache-write tokens are parts of the input, reasoning of the output.

    Raises ValueError, naming the field, for a count below 0 or above TOKENS_MAX and for parts larger than
    their total.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", *TOKEN_PARTS):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Nano-USD per million tokens. A part without a rate costs the rate of input or output. Raises ValueError."""

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached_input", "cache_write", "reasoning"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate <= RATE_MAX_NANO:
                raise ValueError(
                    f"The {name} rate must be from 0 to {RATE_MAX_NANO} nano-USD per million tokens."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """The rates of ALL tokens of a call whose total input, cached tokens included, is above the threshold."""

    above_input_tokens: int
    rates: Rates
    batch: Rates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs from an instant on. Raises ValueError for a naive instant or unsorted tiers."""

    provider: str
    model: str
    rates: Rates
    aliases: tuple[str, ...] = ()
    effective_from: datetime = UNDATED
    # The complete rates of a batch call; none: a batch call costs what any other costs.
    batch: Rates | None = None
    tiers: tuple[Tier, ...] = ()
    source: str = ""
    source_version: str = ""
    price_id: int | None = None

    def __post_init__(self) -> None:
        if self.effective_from.tzinfo is None:
            raise ValueError("effective_from must carry a time zone.")
        thresholds = [tier.above_input_tokens for tier in self.tiers]
        if thresholds != sorted(set(thresholds)):
            raise ValueError("tiers must have rising thresholds.")


@dataclass(frozen=True, slots=True)
class Charge:
    """What one part of a call is billed at; the rate is in nano-USD per million tokens."""

    part: str
    tokens: int
    rate: int

    @property
    def product(self) -> int:
        """Nano-USD times TOKENS_PER_RATE: exact."""
        return self.tokens * self.rate


def cost_nano(price: Price, use: TokenUse, *, batch: bool = False) -> int:
    """The nano-USD of one call: the exact sum, rounded up once. 0 only for a free model or no tokens."""
    return -(-sum(charge.product for charge in charges(price, use, batch=batch)) // TOKENS_PER_RATE)


def charges(price: Price, use: TokenUse, *, batch: bool = False) -> tuple[Charge, ...]:
    """The parts of a call, each with its rate: uncached input, cached input, cache writes, visible output, reasoning.

    Above a threshold of total input the tier's rates apply to every token of the call, as OpenAI, Anthropic and Google
    bill.
    """
    rates, batch_rates = price.rates, price.batch
    for tier in price.tiers:
        if use.input_tokens <= tier.above_input_tokens:
            break
        rates, batch_rates = tier.rates, tier.batch
    if batch and batch_rates is not None:
        rates = batch_rates

    cached_rate = rates.input if rates.cached_input is None else rates.cached_input
    cache_write_rate = rates.input if rates.cache_write is None else rates.cache_write
    reasoning_rate = rates.output if rates.reasoning is None else rates.reasoning
    uncached = use.input_tokens - use.cached_input_tokens - use.cache_write_tokens
    return (
        Charge("input", uncached, rates.input),
        Charge("cached input", use.cached_input_tokens, cached_rate),
        Charge("cache writes", use.cache_write_tokens, cache_write_rate),
        Charge("output", use.output_tokens - use.reasoning_tokens, rates.output),
        Charge("reasoning", use.reasoning_tokens, reasoning_rate),
    )


@dataclass(frozen=True, slots=True)
class HeldRates:
    """What a call's tokens are held at; nano-USD per million tokens."""

    input: int
    output: int


def dearest_rates(price: Price, input_tokens: int) -> HeldRates:
    """The dearest rates that a call of at most so many input tokens can be billed at.

    Nobody knows before the call what of its input is read from a cache or written to one, what of its output is
    reasoning, and whether it is a batch call; nor, if it has less input than was said, which tier it falls in.
    """
    reachable = [tier for tier in price.tiers if tier.above_input_tokens < input_tokens]
    rates = [price.rates, price.batch, *(each for tier in reachable for each in (tier.rates, tier.batch))]
    known = [each for each in rates if each is not None]
    return HeldRates(
        input=max(max(each.input, each.cached_input or 0, each.cache_write or 0) for each in known),
        output=max(max(each.output, each.reasoning or 0) for each in known),
    )


def discounted(rates: Rates, **batch: int | None) -> Rates | None:
    """The complete batch rates, from those that differ: a part without one keeps its own rate. None if none
    differs.

    Raises ValueError for a rate out of range.
    """
    given = {name: rate for name, rate in batch.items() if rate is not None}
    return replace(rates, **given) if given else None
