"""Measures in people's words, and their amounts. Pure."""

from __future__ import annotations

from usage import wording
from usage.analytics.questions import OF_QUANTITIES, Measure, Rank, Sums
from usage.money import NANO
from usage.quantities import amount_of

TITLES = {
    Measure.COST: "Spend",
    Measure.CALLS: "Calls",
    Measure.TOKENS: "Tokens",
    Measure.INPUT_TOKENS: "Input tokens",
    Measure.OUTPUT_TOKENS: "Output tokens",
    Measure.CACHED_TOKENS: "Cached tokens",
    Measure.CACHE_WRITE_TOKENS: "Cache-write tokens",
    Measure.REASONING_TOKENS: "Reasoning tokens",
    Measure.UNPRICED: "Calls without a price",
    **{measure: amount_of(name) for name, measure in OF_QUANTITIES.items()},
}
RANKS = {
    Rank.AMOUNT: "Largest first",
    Rank.RISE: "Largest rise first",
    Rank.CALLS: "Most calls first",
    Rank.PER_CALL: "Most per call first",
}
_PLACES_OF_A_CALL = 6
_CENT_PLACES = 2
_CENT = NANO // 100


def amount(measure: Measure, number: int) -> str:
    """Alone: `$5.00`, `1,412`; what cents cannot say in full, `$0.000186`."""
    if measure is not Measure.COST:
        return wording.count(number)
    return wording.money(number) if 0 < number < _CENT else wording.money_rounded(number)


def in_column(measure: Measure, number: int, whole: int) -> str:
    """With the places of all others of the column, of which `whole` is the largest: cents, if that has some."""
    if measure is not Measure.COST:
        return wording.count(number)
    return wording.money_rounded(number, places=_CENT_PLACES if whole >= 10 * _CENT else _PLACES_OF_A_CALL)


def in_full(measure: Measure, number: int) -> str:
    """To the nano-dollar."""
    return wording.money(number) if measure is Measure.COST else wording.count(number)


def change_of_a_call(measure: Measure, now: Sums, before: Sums) -> str | None:
    """Of its mean, in percent; None: there is nothing to compare."""
    calls, calls_before = now["requests"], before["requests"]
    if calls <= 0 or calls_before <= 0:
        return None
    return wording.change(measure.of(now) * calls_before, measure.of(before) * calls)


def per_call(measure: Measure, sums: Sums) -> str:
    """The mean of a call; empty where there was none."""
    calls = sums["requests"]
    if calls <= 0:
        return ""
    whole = measure.of(sums)
    if measure is Measure.COST:
        return wording.money_rounded(round(whole / calls), places=_PLACES_OF_A_CALL)
    return f"{whole / calls:,.1f}".replace("-", "−")
