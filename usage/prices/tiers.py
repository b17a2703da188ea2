"""The tiers of a price, from the JSON that a row of the book holds to values."""

from __future__ import annotations

from usage.amounts import TOKENS_MAX
from usage.prices.cost import TIERS_MAX, Tier
from usage.prices.rates import parse_other_rates, parse_rate, parse_service_tiers, rates_of, validate
from usage.quantities import MAPPED

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

# The keys of a tier, with `above_input_tokens`, other quantities and `service_tiers`; the first two are required.
TIER_RATES = tuple(name.removesuffix("_per_million") for name in RATE_FIELDS)
_KEYS = ("above_input_tokens", *TIER_RATES, *MAPPED, "service_tiers")


def validate_tiers(stored: object) -> None:
    """Raises ValidationError unless it is what `ModelPrice.tiers` holds."""
    validate(parse_tiers, stored)


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
    unknown = sorted(str(key) for key in tier.keys() - set(_KEYS))
    if unknown:
        raise ValueError(
            f"Tier {number} has unknown keys: {', '.join(unknown)}. Known are {', '.join(_KEYS)}."
        )
    threshold = tier.get("above_input_tokens")
    if type(threshold) is not int or not 0 < threshold <= TOKENS_MAX:
        raise ValueError(f"Tier {number} needs above_input_tokens, a whole number from 1 to {TOKENS_MAX}.")
    own = {name: _parse_rate(tier[name], name, number) for name in TIER_RATES if tier.get(name) is not None}
    if "input" not in own or "output" not in own:
        raise ValueError(f"Tier {number} needs an input and an output rate.")
    try:
        others = parse_other_rates({name: tier[name] for name in MAPPED if name in tier})
        service_tiers = parse_service_tiers(tier.get("service_tiers") or {})
    except ValueError as error:
        raise ValueError(f"Tier {number}: {error}") from error
    standard, by_service = rates_of(own, others, service_tiers)
    return Tier(above_input_tokens=threshold, rates=standard, service_tiers=by_service)


def _parse_rate(value: object, name: str, number: int) -> int:
    try:
        return parse_rate(value)
    except ValueError as error:
        raise ValueError(f"Tier {number}: {name} {error}") from error
