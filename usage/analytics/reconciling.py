"""The ledger beside a provider's export, by UTC day and model: where they differ, and what explains it.

A model has one row, whatever it is called on either side: names are resolved by the price book. A difference is ours
less theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum

from usage.analytics.charged_days import Charged
from usage.analytics.provider_exports.lines import Export, Line
from usage.money import NANO
from usage.prices.book import PriceBook
from usage.prices.names import canonical_provider

# A row differs by more than this, and by more than the tolerance.
USD_MIN = Decimal("0.01")
# It passes calls on with one's own key: the bill is the provider's.
OWN_PROXY = "litellm_proxy"
# How many calls there were does not decide: providers count failed ones otherwise.
NOT_DECIDING = frozenset({"requests"})


class Why(StrEnum):
    """What explains a difference."""

    UNPRICED = "unpriced"
    PARTLY_PRICED = "partly_priced"
    ESTIMATED = "estimated"
    NOT_REPORTED = "not_reported"
    NOT_THEIRS = "not_theirs"
    OTHER_TIER = "other_tier"
    OTHER_NAME = "other_name"
    NO_MODEL = "no_model"
    OTHER_TOKENS = "other_tokens"
    OTHER_RATES = "other_rates"


@dataclass(frozen=True, slots=True)
class Reason:
    why: Why
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Of a model on a day. `cost` is None where the file has no costs; `tiers`: input tokens of each."""

    cost: Decimal | None
    used: Mapping[str, int]
    tiers: Mapping[str, int]
    names: tuple[str, ...] = ()
    unpriced: int = 0
    partly_priced: int = 0
    estimated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`model` is "" for what names none, or all models together where the file names none at all."""

    day: date
    provider: str
    model: str
    ours: Side | None
    theirs: Side | None
    difference: Decimal | None
    differs: bool
    # The quantities that the file says of anything.
    compared: frozenset[str]
    reasons: tuple[Reason, ...] = ()

    def used_difference(self, name: str) -> int | None:
        """Of a quantity; None: the file does not say it."""
        said = self.compared if self.theirs is None else self.theirs.used
        if name not in said:
            return None
        return _used(self.ours, name) - _used(self.theirs, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """`rows`: those that differ most first. Calls of ours at other providers are not compared, but counted."""

    rows: tuple[Row, ...]
    elsewhere_calls: int
    elsewhere_cost: Decimal

    @property
    def differing(self) -> list[Row]:
        return [row for row in self.rows if row.differs]


@dataclass(frozen=True, slots=True)
class Key:
    day: date
    provider: str
    model: str


def reconcile(
    export: Export,
    charged: Sequence[Charged],
    book: PriceBook,
    tolerance: Decimal,
    called: Mapping[str, str] | None = None,
) -> Reconciliation:
    """`tolerance` is a share, such as 0.005. `called`: our names for models by theirs, in lower case."""
    theirs = _theirs(export, charged, book, called or {})
    ours, elsewhere = _ours(export, charged, book, {(key.provider, key.model) for key in theirs})
    # Of a bill without a line everything cost nothing.
    has_costs = not export.lines or any(line.cost is not None for line in export.lines)
    compared = frozenset(name for line in export.lines for name in line.used)
    sides_of_theirs = {key: _their_side(lines) for key, lines in theirs.items()}
    sides_of_ours = {key: _our_side(rows) for key, rows in ours.items()}
    rows = [
        _row(key, sides_of_ours.get(key), sides_of_theirs.get(key), compared, tolerance, has_costs=has_costs)
        for key in {**sides_of_theirs, **sides_of_ours}
    ]
    explained = [replace(row, reasons=tuple(_reasons(row, rows, tolerance))) for row in rows if row.differs]
    return Reconciliation(
        rows=tuple(sorted([*explained, *(row for row in rows if not row.differs)], key=_order)),
        elsewhere_calls=sum(each.used["requests"] for each in elsewhere),
        elsewhere_cost=_usd(elsewhere),
    )


def _order(row: Row) -> tuple[bool, Decimal, int, date, str, str]:
    tokens = sum(abs(row.used_difference(name) or 0) for name in ("input_tokens", "output_tokens"))
    return not row.differs, -abs(row.difference or Decimal(0)), -tokens, row.day, row.provider, row.model


def _theirs(
    export: Export, charged: Sequence[Charged], book: PriceBook, called: Mapping[str, str]
) -> dict[Key, list[Line]]:
    our_names = {each.model.strip().lower() for each in charged}
    found: dict[Key, list[Line]] = defaultdict(list)
    for line in export.lines:
        given = next((called[name.lower()] for name in line.names if name.lower() in called), None)
        names = line.names if given is None else (given,)
        found[Key(line.day, line.provider, _their_model(line, names, book, our_names))].append(line)
    return found


def _their_model(line: Line, names: Sequence[str], book: PriceBook, our_names: set[str]) -> str:
    listed = (_listed(name, line.day, line.provider, book) for name in names)
    lower = [name.lower() for name in names]
    same = (name for name in lower if name in our_names)
    return next((name for name in listed if name), None) or next(same, None) or next(iter(lower), "")


def _listed(name: str, day: date, provider: str | None, book: PriceBook) -> str | None:
    """The model's own name in the book."""
    found = book.find(name, _end(day), provider)
    return None if found is None else found.price.model


def _ours(
    export: Export, charged: Sequence[Charged], book: PriceBook, named: set[tuple[str, str]]
) -> tuple[dict[Key, list[Charged]], list[Charged]]:
    """By the same keys; and those of other providers."""
    providers = sorted(export.providers)
    names_models = any(line.names for line in export.lines)
    found: dict[Key, list[Charged]] = defaultdict(list)
    elsewhere = []
    for each in charged:
        provider, model = _sold(each, book, providers, named)
        if provider not in providers:
            elsewhere.append(each)
        else:
            found[Key(each.day, provider, model if names_models else "")].append(each)
    return found, elsewhere


def _sold(
    each: Charged, book: PriceBook, providers: Sequence[str], named: set[tuple[str, str]]
) -> tuple[str, str]:
    """Who sold it, and the model. Where the call does not say who: who has it in the file, else its maker."""
    name = each.model.strip().lower()
    said = canonical_provider(each.provider)
    if said and said != OWN_PROXY:
        return said, _listed(each.model, each.day, said, book) or name
    for provider in providers:
        sold = provider, _listed(each.model, each.day, provider, book) or name
        if sold in named:
            return sold
    made = book.find(each.model, _end(each.day))
    return ("", name) if made is None else (made.price.provider, made.price.model)


def _end(day: date) -> datetime:
    return datetime.combine(day, time(), UTC) + timedelta(days=1)


def _their_side(lines: Sequence[Line]) -> Side:
    costs = [line.cost for line in lines if line.cost is not None]
    return Side(
        cost=sum(costs, Decimal(0)) if costs else None,
        used=_summed(line.used for line in lines),
        tiers=_tiers((line.tier, line.used) for line in lines),
        names=tuple(dict.fromkeys(line.names[0] for line in lines if line.names)),
    )


def _our_side(rows: Sequence[Charged]) -> Side:
    return Side(
        cost=_usd(rows),
        used=_summed(row.used for row in rows),
        tiers=_tiers((row.tier, row.used) for row in rows if any(row.used.values())),
        names=tuple(dict.fromkeys(row.model for row in rows)),
        unpriced=sum(row.unpriced for row in rows),
        partly_priced=sum(row.partly_priced for row in rows),
        estimated=sum(row.estimated for row in rows),
    )


def _usd(rows: Iterable[Charged]) -> Decimal:
    return Decimal(sum(row.cost_nano for row in rows)) / NANO


def _summed(all_used: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for used in all_used:
        for name, number in used.items():
            sums[name] += number
    return dict(sums)


def _tiers(all_used: Iterable[tuple[str, Mapping[str, int]]]) -> dict[str, int]:
    tiers: dict[str, int] = defaultdict(int)
    for tier, used in all_used:
        tiers[tier] += used.get("input_tokens", 0)
    return dict(tiers)


def _used(side: Side | None, name: str) -> int:
    return 0 if side is None else side.used.get(name, 0)


def _row(
    key: Key,
    ours: Side | None,
    theirs: Side | None,
    compared: frozenset[str],
    tolerance: Decimal,
    *,
    has_costs: bool,
) -> Row:
    """Where the file has costs they decide; else what was used, and at which tier."""
    our_cost, their_cost = _cost(ours), _cost(theirs)
    if has_costs:
        differs = abs(our_cost - their_cost) > max(USD_MIN, _most(our_cost, their_cost) * tolerance)
    else:
        differs = any(
            _is_far(_used(ours, name), _used(theirs, name), tolerance) for name in compared - NOT_DECIDING
        ) or (ours is not None and theirs is not None and _other_tiers(ours, theirs, tolerance))
    return Row(
        day=key.day,
        provider=key.provider,
        model=key.model,
        ours=ours,
        theirs=theirs,
        difference=our_cost - their_cost if has_costs else None,
        differs=differs,
        compared=compared,
    )


def _cost(side: Side | None) -> Decimal:
    return Decimal(0) if side is None or side.cost is None else side.cost


def _most(one: Decimal, other: Decimal) -> Decimal:
    return max(abs(one), abs(other))


def _is_far(one: int, other: int, tolerance: Decimal) -> bool:
    return abs(one - other) > max(abs(one), abs(other)) * tolerance


def _reasons(row: Row, rows: Iterable[Row], tolerance: Decimal) -> Iterator[Reason]:
    ours, theirs = row.ours, row.theirs
    if ours is not None:
        yield from _of_our_calls(ours)
    if theirs is not None and not row.model:
        yield Reason(Why.NO_MODEL, "the file names no model")
    if ours is None:
        yield Reason(Why.NOT_REPORTED, "not reported: theirs, and none of ours")
    if theirs is None:
        yield Reason(Why.NOT_THEIRS, "not theirs: ours, and none of theirs")
    if ours is None or theirs is None:
        yield from _of_names(row, rows, tolerance)
        return
    if _other_tiers(ours, theirs, tolerance):
        said = f"theirs {', '.join(sorted(theirs.tiers))}, ours {', '.join(sorted(ours.tiers))}"
        yield Reason(Why.OTHER_TIER, f"other tier: {said}")
    yield from _of_tokens(ours, theirs, tolerance)


def _of_our_calls(ours: Side) -> Iterator[Reason]:
    for number, why, text in (
        (ours.unpriced, Why.UNPRICED, "without a price"),
        (ours.partly_priced, Why.PARTLY_PRICED, "partly priced"),
        (ours.estimated, Why.ESTIMATED, "never reported, charged at the estimate"),
    ):
        if number > 0:
            yield Reason(why, f"{number} {'call' if number == 1 else 'calls'} of ours {text}")


def _of_names(row: Row, rows: Iterable[Row], tolerance: Decimal) -> Iterator[Reason]:
    """What stands on the other side alone, on the same day and of the same amount, may be the same model."""
    for other in rows:
        if other.day == row.day and other.provider == row.provider and _may_be(row, other, tolerance):
            name = other.model or "what names no model"
            yield Reason(Why.OTHER_NAME, f"other model name: may be {name}")


def _may_be(row: Row, other: Row, tolerance: Decimal) -> bool:
    mine, its = (row.ours, other.theirs) if row.theirs is None else (row.theirs, other.ours)
    is_alone = (other.ours is None) if row.theirs is None else (other.theirs is None)
    if mine is None or its is None or not is_alone:
        return False
    tokens = [name for name in ("input_tokens", "output_tokens") if name in mine.used and name in its.used]
    if tokens:
        return not any(_is_far(mine.used[name], its.used[name], tolerance) for name in tokens)
    if mine.cost is None or its.cost is None:
        return False
    return abs(mine.cost - its.cost) <= _most(mine.cost, its.cost) * tolerance


def _other_tiers(ours: Side, theirs: Side, tolerance: Decimal) -> bool:
    if "" in theirs.tiers:
        return False
    if ours.tiers.keys() != theirs.tiers.keys():
        return True
    return "input_tokens" in theirs.used and any(
        _is_far(ours.tiers[tier], theirs.tiers[tier], tolerance) for tier in theirs.tiers
    )


def _of_tokens(ours: Side, theirs: Side, tolerance: Decimal) -> Iterator[Reason]:
    far = [
        name
        for name in theirs.used
        if name not in NOT_DECIDING and _is_far(_used(ours, name), theirs.used[name], tolerance)
    ]
    for name in far:
        yield Reason(Why.OTHER_TOKENS, f"{name}: ours {_used(ours, name)}, theirs {theirs.used[name]}")
    if not far and theirs.used and theirs.cost is not None and not ours.unpriced + ours.partly_priced:
        yield Reason(Why.OTHER_RATES, "the same tokens at other rates")
