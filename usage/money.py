"""Money: integers of nano-USD (10^-9 USD) inside, decimal strings at the edges, never float.

What does not fit a whole nano-USD is rounded up, so that a cost is never understated.
"""

import re
from decimal import Decimal

NANO = 10**9
# Sums of counters stay below 2^53, where the doubles of the counter store's Lua are still exact.
MAX_LIMIT_NANO = 9_000_000 * NANO

# Rates are nano-USD for so many tokens.
TOKENS_PER_RATE = 1_000_000

USD_TEXT_LENGTH_MAX = 40
# The position of a decimal's first and last digit: both far outside of any price, and small enough to compute
# with.
_FIRST_DIGIT_MAX = 12
_LAST_DIGIT_MIN = -60

_USD_TEXT = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")


def to_nano(value: Decimal) -> int:
    """USD as nano-USD, rounded up. Raises ValueError for NaN, infinity, a negative or overlong number."""
    if not value.is_finite():
        raise ValueError(f"{value} is no amount; give a finite number of USD.")
    if value < 0:
        raise ValueError(f"{value:.3g} USD is negative; give 0 or more.")
    if value == 0:
        return 0
    exponent = value.as_tuple().exponent
    if value.adjusted() > _FIRST_DIGIT_MAX or not isinstance(exponent, int) or exponent < _LAST_DIGIT_MIN:
        raise ValueError(
            f"{value:.3g} USD is out of range; give at most 9000000 USD and at most 60 decimals."
        )
    # Integers, because Decimal arithmetic would round to the context's precision first.
    numerator, denominator = value.as_integer_ratio()
    return -(-numerator * NANO // denominator)


def parse_usd(text: str) -> int:
    """The nano-USD that a decimal string such as "0.25" names, rounded up, at most MAX_LIMIT_NANO.

    Raises ValueError, with a message that says how to write it, for anything else: signs, NaN, infinity,
    spaces, separators, too much.
    """
    if len(text) > USD_TEXT_LENGTH_MAX or not _USD_TEXT.fullmatch(text):
        raise ValueError(
            f'{text[:USD_TEXT_LENGTH_MAX]!r} is not an amount in USD; write a decimal such as "0.25".'
        )
    nano = to_nano(Decimal(text))
    if nano > MAX_LIMIT_NANO:
        raise ValueError(f"{text} USD is too much; give at most {format_usd(MAX_LIMIT_NANO)}.")
    return nano


def format_usd_if_known(nano: int | None) -> str | None:
    """As `format_usd`; None for what has no price."""
    return None if nano is None else format_usd(nano)


def format_usd(nano: int) -> str:
    """Nano-USD as USD, exact: "0.000198", "5.00". At least 2 decimals, no exponent, no further zeros."""
    whole, fraction = divmod(abs(nano), NANO)
    cents, rest = divmod(fraction, NANO // 100)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{cents:02d}{f'{rest:07d}'.rstrip('0')}"
