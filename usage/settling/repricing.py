"""Re-pricing: what calls of a period would cost by the price book as it is now, and adjustments where that differs.

A call is priced as its report was: by the price in force when it was made, at the provider that its row names. Where
that is the one of the price it was charged by, nobody may have named it: if that one sells it no more, whoever does is
asked. What has no price now, or no rate that it had before, stays as it is. Estimates of calls that were never reported
stay too: they were charged what was held. Calls are read in batches, each of them in a transaction of its own: it can
be ended at any time, and what is done again finds nothing to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from django.db import transaction

from usage.ledger import adjustments
from usage.ledger.adjustments import Adjustment, Place, RecordedCall
from usage.ledger.periods import LATEST, Period
from usage.prices.book import PriceBook
from usage.prices.cost import cost_of
from usage.quantities import noun
from usage.settling import adjusting

BATCH = 2_000
# Callers choose the names: what are more is told together.
MODELS_MAX = 500
REASONS_MAX = 20
OTHERS = "(other models)"
NO_PRICE = "no price in the book for this name at its provider"
SEVERAL = "several sell it, and its report did not say who"
ESTIMATE = "never reported: charged what was held"


class TooMany(Exception):
    """There are more calls than the caller wants to be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`models`: as the ledger names them; none given means all. `require_open`: raises for a month that is closed."""

    environment_id: int
    period: Period
    book: PriceBook
    models: Sequence[str] = ()
    require_open: Callable[[], None] = lambda: None
    calls_max: int | None = None


@dataclass(slots=True)
class OfModel:
    """Costs are those of all calls that were looked at, in nano-USD; what has no price costs nothing.

    `left`: calls that are not, or not wholly, priced now either, by why. `kept`: those that were priced and would not
    be any more, which stay as they are.
    """

    model: str
    calls: int = 0
    changed: int = 0
    before_nano: int = 0
    after_nano: int = 0
    kept: int = 0
    left: Counter[str] = field(default_factory=Counter)

    @property
    def difference_nano(self) -> int:
        return self.after_nano - self.before_nano

    def add(self, other: OfModel) -> None:
        for name in ("calls", "changed", "before_nano", "after_nano", "kept"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.left += other.left


@dataclass(slots=True)
class Repriced:
    """What was looked at, by model, the largest difference first once it is done."""

    models: dict[str, OfModel] = field(default_factory=dict)

    @property
    def total(self) -> OfModel:
        total = OfModel("")
        for each in self.models.values():
            total.add(each)
        return total

    @property
    def listed(self) -> list[OfModel]:
        """Those with something to say of: changed, left without a price, or kept."""
        said = [each for each in self.models.values() if each.changed or each.left or each.kept]
        return sorted(said, key=lambda each: (-abs(each.difference_nano), -each.changed, each.model))

    def of(self, model: str) -> OfModel:
        name = model if model in self.models or len(self.models) < MODELS_MAX else OTHERS
        return self.models.setdefault(name, OfModel(name))


def preview(asked: Asked) -> Repriced:
    """Changes nothing. Raises TooMany, DatabaseError."""
    found = Repriced()
    after: Place | None = Place(asked.period.start, 0)
    while after is not None:
        calls, after = _read(asked, after)
        _assess(asked, calls, found)
        _require_few(asked, found, more=after is not None)
    return found


def apply(asked: Asked, *, by: str, run: str) -> Repriced:
    """Raises what `require_open` does, and DatabaseError; all batches before are done then."""
    found = Repriced()
    after: Place | None = Place(asked.period.start, 0)
    while after is not None:
        with transaction.atomic():
            adjustments.lock(asked.environment_id)
            asked.require_open()
            calls, after = _read(asked, after)
            changes = _assess(asked, calls, found)
            written = adjustments.write(asked.environment_id, changes, by, run) if changes else []
            noted = adjusting.note(asked.environment_id) if changes else None
        if noted is not None:
            adjusting.charge(asked.environment_id, written, noted)
    return found


def _read(asked: Asked, after: Place) -> tuple[list[RecordedCall], Place | None]:
    return adjustments.calls(asked.environment_id, asked.period.end, after, asked.models, BATCH)


def _require_few(asked: Asked, found: Repriced, *, more: bool) -> None:
    if asked.calls_max is not None and found.total.calls + more > asked.calls_max:
        raise TooMany


def _assess(asked: Asked, calls: Sequence[RecordedCall], found: Repriced) -> list[Adjustment]:
    """Adds the calls to what was found; what is to be adjusted, in their order."""
    return [change for call in calls for change in _assessed(asked.book, call, found.of(call.model))]


def _assessed(book: PriceBook, call: RecordedCall, figures: OfModel) -> Iterator[Adjustment]:
    figures.calls += 1
    cost = call.cost_nano or 0
    figures.before_nano += cost
    change, why = (None, ESTIMATE) if call.is_estimate else _priced(book, call)
    if change is not None:
        cost = change.cost_nano
        figures.changed += 1
        yield change
    figures.after_nano += cost
    if why and (call.lacks_price or change is not None):
        figures.left[why if why in figures.left or len(figures.left) < REASONS_MAX else "other reasons"] += 1
    elif why:
        figures.kept += 1


def _priced(book: PriceBook, call: RecordedCall) -> tuple[Adjustment | None, str]:
    """What changes, if anything; and why it is not, or not wholly, priced: empty if it is."""
    match = book.find(call.model, call.at, call.provider or None)
    if match is None and call.provider_was_found:
        # What the name stands for may be sold by another now: a deployment that was corrected.
        match = book.find(call.model, call.at)
    if match is None:
        return None, _why_none(book, call)
    try:
        cost = cost_of(match.price, call.use, call.served)
    except ValueError as error:
        return None, f"what it used cannot be priced: {error}"
    why = f"no rate for {', '.join(map(noun, cost.unpriced))}" if cost.unpriced else ""
    lost = call.cost_nano is not None and not set(cost.unpriced) <= set(call.unpriced)
    same = (cost.nano, sorted(cost.unpriced)) == (call.cost_nano, sorted(call.unpriced))
    if lost or same:
        return None, why
    return Adjustment(
        call=call, cost_nano=cost.nano, unpriced=cost.unpriced, price_id=match.price.price_id
    ), why


def _why_none(book: PriceBook, call: RecordedCall) -> str:
    later, elsewhere = book.candidates(call.model, LATEST, call.provider or None)
    if later is None:
        return SEVERAL if elsewhere else NO_PRICE
    return f"its first price is in force from {later.price.effective_from:%Y-%m-%d %H:%M} UTC only"
