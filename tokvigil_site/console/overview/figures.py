"""Today against yesterday until the same time, and this month against the last: spent, calls, blocked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from policies.models import BlockedDecision
from tenants.models import Environment
from usage import wording
from usage.instants import from_ms, to_ms
from usage.ledger import totals
from usage.ledger.totals import Group, SummaryQuery, Total
from usage.money import NANO
from usage.windows import Window, span

LEADING_MAX = 5
# A period has a length, also in the first moment of a day.
_MOMENT = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Figure:
    """`change`: against the same span before, in words; None: there was nothing before."""

    title: str
    value: str
    change: str | None
    before: str


@dataclass(frozen=True, slots=True)
class Leader:
    """Who spent most today. `share` of all that was spent."""

    name: str
    calls: str
    spent: str
    share: str


@dataclass(frozen=True, slots=True)
class Span:
    start: datetime
    end: datetime

    def total(self, environment: Environment) -> Total:
        return _summed(environment, self).total

    def blocked(self, environment: Environment) -> int:
        decided = BlockedDecision.objects.filter(
            environment=environment, decided_at__gte=self.start, decided_at__lt=self.end
        )
        return decided.count()


def figures(environment: Environment, now: datetime) -> tuple[Figure, ...]:
    today, yesterday = _until_now(Window.DAY, environment, now)
    month, last_month = _until_now(Window.MONTH, environment, now)
    spent, spent_before = today.total(environment), yesterday.total(environment)
    calls, calls_before = _calls(spent), _calls(spent_before)
    blocked, blocked_before = today.blocked(environment), yesterday.blocked(environment)
    of_month, of_last_month = month.total(environment), last_month.total(environment)
    return (
        _money("Spent today", spent, spent_before, "by this time yesterday"),
        _count("Calls today", calls, calls_before, "by this time yesterday"),
        _count("Blocked today", blocked, blocked_before, "by this time yesterday"),
        _money(
            f"Spent in {month.start.astimezone(_zone(environment)):%B}",
            of_month,
            of_last_month,
            "by this time last month",
        ),
    )


def leaders(environment: Environment, now: datetime, dimension: str) -> tuple[Leader, ...]:
    """Of today, by `user`, `feature` or `model`, the dearest first; what names none is left out."""
    today, _ = _until_now(Window.DAY, environment, now)
    found = _summed(environment, today, dimension)
    column = totals.DIMENSIONS[dimension]
    all_spent = _nano_of(found.total.cost_usd)
    named = [(name, group) for group in found.groups if (name := getattr(group, column))]
    return tuple(_leader(name, group, all_spent) for name, group in named[:LEADING_MAX])


def _leader(name: str, group: Group, all_spent: int) -> Leader:
    spent = _nano_of(group.cost_usd)
    return Leader(
        name, wording.count(_calls(group)), wording.money_rounded(spent), wording.share(spent, all_spent)
    )


def _summed(environment: Environment, asked: Span, dimension: str | None = None) -> totals.Summary:
    query = SummaryQuery(from_=asked.start, to=asked.end, group_by=dimension)
    return totals.summarize(environment.pk, query, asked.end, _zone(environment))


def _until_now(window: Window, environment: Environment, now: datetime) -> tuple[Span, Span]:
    """The window until now, and the one before it until as much of it had passed."""
    zone = _zone(environment)
    start = span(window, to_ms(now), zone).start
    before = span(window, start - 1, zone).start
    passed = max(now - from_ms(start), _MOMENT)
    return Span(from_ms(start), from_ms(start) + passed), Span(
        from_ms(before), min(from_ms(before) + passed, from_ms(start))
    )


def _zone(environment: Environment) -> ZoneInfo:
    return ZoneInfo(environment.tenant.timezone)


def _money(title: str, total: Total, before: Total, when: str) -> Figure:
    now_nano, then_nano = _nano_of(total.cost_usd), _nano_of(before.cost_usd)
    return Figure(
        title,
        wording.money_rounded(now_nano),
        wording.change(now_nano, then_nano),
        f"{wording.money_rounded(then_nano)} {when}",
    )


def _calls(total: Any) -> int:
    """One of the amounts that the metrics name (usage/amounts.py), so no type checker knows of it."""
    return int(total.requests)


def _nano_of(usd: str) -> int:
    """Below 0, if more was taken back than charged."""
    return int(Decimal(usd) * NANO)


def _count(title: str, now: int, then: int, when: str) -> Figure:
    return Figure(title, wording.count(now), wording.change(now, then), f"{wording.count(then)} {when}")
