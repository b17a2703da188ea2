"""The rates that a row of the book holds as JSON, to values: other quantities, tiers of service, regions.

    other_rates     {"input_audio_tokens": "32", "web_searches": "10", "input_image_tokens": "input_tokens"}
    service_tiers   {"priority": {"input_tokens": "0.45", "output_tokens": "3.6"}}
    regions         {"us": "1.1"}

Rates are decimal strings, USD for as many as usage/quantities.py says, or the name of a total: then it costs the same
as that, however the call is served. What a tier of service does not name costs there
what it costs by default; the region's factor is of what tokens cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal

from django.core.exceptions import ValidationError

from tenants.lengths import NAME_LENGTH_MAX
from usage.money import USD_TEXT_LENGTH_MAX, to_nano
from usage.prices.cost import RATE_MAX_NANO, RATES_OF, Rates, completed
from usage.quantities import MAPPED, QUANTITIES, ServiceTier, root

REGIONS_MAX = 32
FACTOR_MAX = 10
# Of a batch call these have fields of their own.
BATCH_FIELDS = {
    quantity: f"batch_{own}_per_million" for quantity, own in RATES_OF.items() if own != "reasoning"
}


def parse_other_rates(stored: object) -> dict[str, int | str]:
    """Nano-USD by quantity, or the total whose rate it has. Raises ValueError, naming the quantity and the mend."""
    if not isinstance(stored, dict):
        raise ValueError('The other rates must be an object such as {"web_searches": "10"}.')
    same = _same_as(stored)
    numbers = {name: rate for name, rate in stored.items() if name not in same}
    rates: dict[str, int | str] = {**_rates(numbers, "The other rates"), **same}
    for name in rates:
        if name not in MAPPED:
            raise ValueError(f"{name} has a field of its own: write its rate there.")
    return rates


def parse_service_tiers(stored: object) -> dict[ServiceTier, dict[str, int]]:
    """By tier the rates that are other than the default's. Raises ValueError, naming the tier and the mend."""
    if not isinstance(stored, dict):
        raise ValueError('Tiers of service must be an object such as {"priority": {"input_tokens": "0.45"}}.')
    known = [tier.value for tier in ServiceTier if tier is not ServiceTier.DEFAULT]
    for name, rates in stored.items():
        if name not in known:
            raise ValueError(
                f"{name} is no tier of service with rates of its own. Known are {', '.join(known)}."
            )
        if name == ServiceTier.BATCH and isinstance(rates, dict):
            for quantity in BATCH_FIELDS.keys() & rates.keys():
                raise ValueError(
                    f"The batch rate of {quantity} has a field of its own: {BATCH_FIELDS[quantity]}."
                )
    return {ServiceTier(name): _rates(rates, f"The rates of {name}") for name, rates in stored.items()}


def parse_regions(stored: object) -> dict[str, Decimal]:
    """By region the factor of what tokens cost. Raises ValueError, naming the region and the mend."""
    if not isinstance(stored, dict) or len(stored) > REGIONS_MAX:
        raise ValueError(f'Regions must be an object of at most {REGIONS_MAX} such as {{"us": "1.1"}}.')
    return {_region(name): _factor(name, factor) for name, factor in stored.items()}


def rates_of(
    own: Mapping[str, int],
    others: Mapping[str, int | str],
    service_tiers: Mapping[ServiceTier, Mapping[str, int]],
) -> tuple[Rates, dict[ServiceTier, Rates]]:
    """The default's rates and the complete ones of each other tier. `own`: nano-USD by the names in TIER_RATES."""
    default = {name: rate for name, rate in own.items() if not name.startswith("batch_")}
    standard = Rates(**{"input": None, "output": None} | default, others=dict(others))
    quantities = {own_name: quantity for quantity, own_name in RATES_OF.items()}
    batch = {
        quantities[name.removeprefix("batch_")]: rate
        for name, rate in own.items()
        if name.startswith("batch_")
    }
    given = {ServiceTier.BATCH: batch, **service_tiers} if batch else dict(service_tiers)
    if ServiceTier.BATCH in given:
        given[ServiceTier.BATCH] = batch | dict(service_tiers.get(ServiceTier.BATCH, {}))
    return standard, {tier: completed(standard, rates) for tier, rates in given.items()}


def validate_other_rates(stored: object) -> None:
    """Raises ValidationError with the words of the parser; so the others."""
    validate(parse_other_rates, stored)


def validate_service_tiers(stored: object) -> None:
    validate(parse_service_tiers, stored)


def validate_regions(stored: object) -> None:
    validate(parse_regions, stored)


def validate(parse: Callable[[object], object], stored: object) -> None:
    try:
        parse(stored)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def parse_rate(value: object) -> int:
    """Nano-USD. Raises ValueError, whose text follows what the rate is of."""
    try:
        if not isinstance(value, str) or len(value) > USD_TEXT_LENGTH_MAX:
            raise ValueError
        rate = to_nano(Decimal(value))
    except (ArithmeticError, ValueError) as error:
        raise ValueError('must be a decimal string such as "0.25", 0 or more.') from error
    if rate > RATE_MAX_NANO:
        raise ValueError(f"must be at most {RATE_MAX_NANO // 10**9} USD.")
    return rate


def _same_as(stored: dict[str, object]) -> dict[str, str]:
    """Those that cost the same as a total of theirs."""
    return {
        name: rate
        for name, rate in stored.items()
        if name in MAPPED
        and isinstance(rate, str)
        and rate in {root(name), *QUANTITIES[name].parts_of} - {name}
    }


def _rates(stored: object, which: str) -> dict[str, int]:
    if not isinstance(stored, dict):
        raise ValueError(f'{which} must be an object such as {{"web_searches": "10"}}.')
    found = {}
    for name, rate in stored.items():
        if name not in QUANTITIES:
            raise ValueError(f"{which}: {name} is not known. Known are {', '.join(QUANTITIES)}.")
        try:
            found[name] = parse_rate(rate)
        except ValueError as error:
            raise ValueError(f"{which}: {name} {error}") from error
    return found


def _region(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH_MAX or name != name.strip().lower():
        raise ValueError(f"{name!r} is no region: write it in lower case, such as us.")
    return name


def _factor(name: str, value: object) -> Decimal:
    try:
        factor = (
            Decimal(value) if isinstance(value, str) and len(value) <= USD_TEXT_LENGTH_MAX else Decimal("NaN")
        )
        if factor.is_finite() and 0 < factor <= FACTOR_MAX:
            return factor
    except ArithmeticError:
        pass
    raise ValueError(
        f'The factor of region {name} must be a decimal string such as "1.1", above 0, {FACTOR_MAX} at most.'
    )
