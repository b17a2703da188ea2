"""The tiers of a price, from the JSON that a row of the book holds to values."""

from __future__ import annotations

from decimal import Decimal

from django.core.exceptions import ValidationError

from usage.amounts import TOKENS_MAX
from usage.money import USD_TEXT_LENGTH_MAX, to_nano
from usage.prices.cost import TIERS_MAX, Rates, Tier, discounted

RATE_FIELDS = (
    "input_per_million",
    "output_per_million",
    "cached_input_per_million",
    "cache_write_per_million",
    "reasoning_per_million",
    "batch_input_per_million",
    "batch_output_per_million",
    "batch_cached_input_per_million",
    "batch_cache_write_per_million",
)

# The keys of a tier, with `above_input_tokens`; the first two are required.
TIER_RATES = tuple(name.removesuffix("_per_million") for name in RATE_FIELDS)


def validate_tiers(tiers: object) -> None:
    """Raises ValidationError unless it is what `ModelPrice.tiers` holds."""
    try:
        parse_tiers(tiers)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def parse_tiers(tiers: object) -> tuple[Tier, ...]:
    """The tiers that a list of {"above_input_tokens": 200000, "input": "6", "output": "22.5", ...} describes.

    Rates are decimal strings, USD per million tokens. Raises ValueError, naming the tier and the fix.
    """
    if not isinstance(tiers, list) or len(tiers) > TIERS_MAX:
        raise ValueError(f"Tiers must be a list of at most {TIERS_MAX} objects.")
    parsed = tuple(_parse_tier(tier, number) for number, tier in enumerate(tiers, start=1))
    thresholds = [tier.above_input_tokens for tier in parsed]
    if thresholds != sorted(set(thresholds)):
        raise ValueError("Tiers must be in the order of rising above_input_tokens.")
    return parsed


def _parse_tier(tier: object, number: int) -> Tier:
    if not isinstance(tier, dict):
        raise ValueError(f"Tier {number} must be an object.")
    unknown = sorted(str(key) for key in tier.keys() - {"above_input_tokens", *TIER_RATES})
    if unknown:
        raise ValueError(
            f"Tier {number} has unknown keys: {', '.join(unknown)}. "
            f"Known are above_input_tokens, {', '.join(TIER_RATES)}."
        )
    threshold = tier.get("above_input_tokens")
    if type(threshold) is not int or not 0 < threshold <= TOKENS_MAX:
        raise ValueError(f"Tier {number} needs above_input_tokens, a whole number from 1 to {TOKENS_MAX}.")
    rates = {name: _parse_rate(tier[name], name, number) for name in TIER_RATES if tier.get(name) is not None}
    if "input" not in rates or "output" not in rates:
        raise ValueError(f"Tier {number} needs an input and an output rate.")
    standard, batch = rates_of(rates)
    return Tier(above_input_tokens=threshold, rates=standard, batch=batch)


def _parse_rate(value: object, name: str, number: int) -> int:
    try:
        if not isinstance(value, str) or len(value) > USD_TEXT_LENGTH_MAX:
            raise ValueError
        return to_nano(Decimal(value))
    except (ArithmeticError, ValueError) as error:
        raise ValueError(
            f'Tier {number}: {name} must be a decimal string such as "0.25", 0 or more.'
        ) from error


def rates_of(rates: dict[str, int]) -> tuple[Rates, Rates | None]:
    """The rates of a call and of a batch call, from nano-USD by the names in TIER_RATES."""
    standard = Rates(**{name: rate for name, rate in rates.items() if not name.startswith("batch_")})
    batch = {name.removeprefix("batch_"): rate for name, rate in rates.items() if name.startswith("batch_")}
    return standard, discounted(standard, **batch)
