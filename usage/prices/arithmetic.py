"""The arithmetic of a call's cost, line by line, for people: a page and a command show the same."""

from __future__ import annotations

from dataclasses import dataclass

from usage.money import format_usd
from usage.prices.cost import Charge, Price, Served, Use, charges, cost_of
from usage.quantities import DENOMINATOR, QUANTITIES, noun


@dataclass(frozen=True, slots=True)
class Line:
    """`rate`: USD for `per` of it; None: it has no rate. `costs` ends in "…" where it is no whole nano-USD."""

    what: str
    number: str
    per: str
    rate: str | None
    costs: str


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`unpriced`: what has no rate, by name; it is not in the sum."""

    lines: tuple[Line, ...]
    total: str
    unpriced: tuple[str, ...]


def of_call(price: Price, use: Use, served: Served) -> Arithmetic:
    cost = cost_of(price, use, served)
    return Arithmetic(tuple(map(_line, charges(price, use, served))), format_usd(cost.nano), cost.unpriced)


def _line(charge: Charge) -> Line:
    whole, rest = divmod(charge.product, DENOMINATOR)
    return Line(
        what=noun(charge.quantity),
        number=f"{charge.number:,}",
        per=f"{QUANTITIES[charge.quantity].per:,}",
        rate=None if charge.rate is None else format_usd(charge.rate),
        costs="" if charge.rate is None else format_usd(whole) + ("…" if rest else ""),
    )


def usd(rate: int | None) -> str:
    """A rate in USD."""
    return "none" if rate is None else format_usd(rate)
