"""The tables of the page of health: each row in words for the page, and with its exact numbers for a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from usage import wording
from usage.admin.price_list import Unpriced
from usage.amounts import Amounts, Per
from usage.analytics.counter_checks import KeptDrift
from usage.analytics.holds import KindOfCall
from usage.analytics.reported_costs import ModelCost
from usage.metrics import Metric
from usage.money import NANO
from usage.windows import Window

# Of a call's average, which may be far below a cent.
COST_PLACES = 6

Cells = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class DriftRow:
    found: KeptDrift

    @property
    def whose(self) -> str:
        """`ana`, `ana in chat`, `everybody together`; a counter that the ledger has no call of has no name."""
        drift = self.found
        if drift.subject is None:
            return "nobody that the ledger has calls of"
        if drift.per is Per.ENVIRONMENT:
            return wording.subject(Per.ENVIRONMENT)
        if drift.per is Per.USER_FEATURE:
            length, _, names = drift.subject.partition(":")
            return f"{names[: int(length)]} in {names[int(length) :]}"
        return drift.subject

    @property
    def counts(self) -> str:
        """`each user, a day`"""
        window = wording.window(Metric.REQUESTS, Window(self.found.window))
        return f"{wording.subject(self.found.per)}, {window}{wording.with_models(self.found.models)}"

    @property
    def counted(self) -> str:
        return amounts(self.found.counted)

    @property
    def recorded(self) -> str:
        return amounts(self.found.recorded)


@dataclass(frozen=True, slots=True)
class KindRow:
    """Averages of a hold and of a call, for each kind of call."""

    kind: KindOfCall

    @property
    def holds(self) -> str:
        return wording.count(self.kind.holds)

    @property
    def held_in_all(self) -> str:
        return amounts(self.kind.held)

    @property
    def held_each(self) -> str:
        return _each(self.kind.held, self.kind.holds)

    @property
    def used_each(self) -> str:
        used = self.kind.used
        return "no calls" if used is None or used.requests <= 0 else _each(used, used.requests)

    @property
    def calls(self) -> str:
        return "0" if self.kind.used is None else wording.count(self.kind.used.requests)

    @property
    def ratio(self) -> str:
        """`2.4 times`"""
        return "not known" if self.kind.ratio is None else f"{self.kind.ratio:,.1f} times"


@dataclass(frozen=True, slots=True)
class CostRow:
    cost: ModelCost

    @property
    def calls(self) -> str:
        return wording.count(self.cost.calls)

    @property
    def reported(self) -> str:
        return wording.money_rounded(self.cost.reported_nano, places=COST_PLACES)

    @property
    def charged(self) -> str:
        return wording.money_rounded(self.cost.charged_nano, places=COST_PLACES)

    @property
    def difference(self) -> str:
        sign = "+" if self.cost.difference_nano > 0 else ""
        return sign + wording.money_rounded(self.cost.difference_nano, places=COST_PLACES)

    @property
    def share(self) -> str:
        """Of what was reported: `+3.2 %`"""
        if not self.cost.reported_nano:
            return "none was reported" if self.cost.calls else ""
        return wording.change(self.cost.charged_nano, self.cost.reported_nano) or ""


@dataclass(frozen=True, slots=True)
class UnpricedRow:
    found: Unpriced

    @property
    def uses(self) -> list[str]:
        """`1,200 calls of chat`, `3 blocked calls without a feature`"""
        return [
            f"{wording.counted(use.calls, 'blocked call' if use.blocked else 'call')} "
            + (f"of {use.feature}" if use.feature else "without a feature")
            for use in self.found.uses
        ]


def amounts(of: Amounts) -> str:
    """`3 requests, 1,412 tokens, $0.0021`"""
    tokens = of.input_tokens + of.output_tokens
    return ", ".join(
        [
            wording.amount(Metric.REQUESTS, of.requests),
            wording.amount(Metric.TOKENS, tokens),
            wording.money(of.cost_nano),
        ]
    )


def _each(of: Amounts, calls: int) -> str:
    tokens = round((of.input_tokens + of.output_tokens) / calls)
    cost = wording.money_rounded(round(of.cost_nano / calls), places=COST_PLACES)
    return f"{wording.amount(Metric.TOKENS, tokens)}, {cost}"


def usd(nano: int) -> Decimal:
    return Decimal(nano) / NANO


def drift_cells(found: Iterable[KeptDrift]) -> Iterable[Cells]:
    for drift in found:
        row = DriftRow(drift)
        yield {
            "counter": row.whose,
            "per": drift.per.value,
            "window": drift.window.value,
            "models": ", ".join(drift.models),
            "key": drift.key,
            **_cells("counted", drift.counted),
            **_cells("ledger", drift.recorded),
        }


def kind_cells(found: Iterable[KindOfCall]) -> Iterable[Cells]:
    for kind in found:
        used = kind.used or Amounts()
        yield {
            "feature": kind.feature,
            "model": kind.model,
            "open_holds": kind.holds,
            **_cells("held", kind.held),
            **_cells("used", used),
            "held_times_used": None if kind.ratio is None else Decimal(f"{kind.ratio:.3f}"),
        }


def cost_cells(found: Iterable[ModelCost]) -> Iterable[Cells]:
    for cost in found:
        yield {
            "model": cost.model,
            "calls": cost.calls,
            "reported_usd": usd(cost.reported_nano),
            "charged_usd": usd(cost.charged_nano),
            "difference_usd": usd(cost.difference_nano),
            "unpriced_calls": cost.unpriced,
        }


def unpriced_cells(found: Iterable[Unpriced]) -> Iterable[Cells]:
    for each in found:
        for use in each.uses:
            yield {
                "model": each.model,
                "feature": use.feature,
                "calls": use.calls,
                "blocked": "yes" if use.blocked else "no",
                "first_at": use.first_at.isoformat(),
                "no_rate_for": " ".join((*each.lacking, *each.tiers)),
            }


def _cells(name: str, of: Amounts) -> Cells:
    return {
        f"{name}_requests": of.requests,
        f"{name}_input_tokens": of.input_tokens,
        f"{name}_output_tokens": of.output_tokens,
        f"{name}_usd": usd(of.cost_nano),
    }


COLUMNS: Mapping[str, tuple[str, ...]] = {
    "drifts": (
        "counter",
        "per",
        "window",
        "models",
        "key",
        *_cells("counted", Amounts()),
        *_cells("ledger", Amounts()),
    ),
    "holds": (
        "feature",
        "model",
        "open_holds",
        *_cells("held", Amounts()),
        *_cells("used", Amounts()),
        "held_times_used",
    ),
    "costs": ("model", "calls", "reported_usd", "charged_usd", "difference_usd", "unpriced_calls"),
    "unpriced": ("model", "feature", "calls", "blocked", "first_at", "no_rate_for"),
}
