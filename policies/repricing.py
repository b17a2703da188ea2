"""Re-pricing calls of months that are open: which months those are, and the audit entry of each run.

The entry says what was found to be changed and is written before the first adjustment, so none stands without one; a
run that finds nothing to change leaves none.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import transaction

from audit import log as audit_log
from policies import budgets
from policies.models import ClosedMonth, HourlySpend
from tenants.models import Environment
from usage.instants import from_ms, to_ms
from usage.ledger.months import months_from
from usage.ledger.periods import Period
from usage.money import format_usd
from usage.prices import stored_book
from usage.settling import repricing
from usage.settling.repricing import Asked, Repriced
from usage.windows import Window, span

# Open months that are named, and that can be chosen; a month is closed 36 days after its end.
MONTHS_MAX = 36


class NotOpen(Exception):
    """Calls of a month that is closed, or has not begun. Says which months are open."""


class Differs(Exception):
    """Prices or calls changed since somebody looked at what re-pricing would do."""


class Seen(NamedTuple):
    """What a preview said: how many calls would change, and by how much in all, in nano-USD."""

    changed: int
    difference_nano: int

    @classmethod
    def of(cls, found: Repriced) -> Seen:
        total = found.total
        return cls(total.changed, total.difference_nano)


@dataclass(frozen=True, slots=True)
class Days:
    """In the tenant's time zone, the first and the last included."""

    first: date
    last: date

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"


def of_month(month: date) -> Days:
    return Days(month, months_from(month, 2)[1] - timedelta(days=1))


def open_months(environment: Environment, now: datetime) -> list[date]:
    """Oldest first, the one of now last; the latest MONTHS_MAX."""
    this = now.astimezone(_zone(environment)).date().replace(day=1)
    first = min(budgets.first_open(environment, _zone(environment)) or this, this)
    count = (this.year - first.year) * 12 + this.month - first.month + 1
    return months_from(first, count)[-MONTHS_MAX:]


def asked(
    environment: Environment,
    days: Days,
    models: Sequence[str] = (),
    *,
    now: datetime | None = None,
    calls_max: int | None = None,
) -> Asked:
    """By the price book as it is now. Raises NotOpen."""
    _require_begun(environment, days, now or datetime.now(UTC))
    require_open(environment, days)
    return Asked(
        environment_id=environment.pk,
        period=_period(days, _zone(environment)),
        book=stored_book.of_environment(environment),
        models=models,
        require_open=lambda: require_open(environment, days),
        calls_max=calls_max,
    )


def apply(
    environment: Environment, days: Days, question: Asked, *, actor: str, seen: Seen | None = None
) -> Repriced:
    """Adjusts what a preview finds; what it did, by model. `seen`: what it must be, where somebody looked at it before.

    Raises NotOpen, TooMany, Differs, DatabaseError.
    """
    found = repricing.preview(question)
    if seen not in (None, Seen.of(found)):
        raise Differs
    try:
        if not found.total.changed:
            return found
        run = uuid.uuid4().hex
        with audit_log.acting_as(actor):
            _log(environment, days, question, found, run)
        return repricing.apply(question, by=actor, run=run)
    finally:
        # Also where nothing changed: an earlier run may have been killed before it came to this.
        _forget_hours(environment, question.period)


def _forget_hours(environment: Environment, period: Period) -> None:
    """What hours cost is summed anew: alerts compare with it (alerting/spending.py)."""
    begun = HourlySpend.objects.filter(environment=environment, hour__gt=period.start - timedelta(hours=1))
    begun.filter(hour__lt=period.end).delete()


@transaction.atomic
def _log(environment: Environment, days: Days, question: Asked, found: Repriced, run: str) -> None:
    total = found.total
    audit_log.log(
        "usage.repriced",
        environment,
        tenant_id=environment.tenant_id,
        days=str(days),
        models=list(question.models),
        calls=total.changed,
        difference_usd=format_usd(total.difference_nano),
        run=run,
    )


def require_open(environment: Environment, days: Days) -> None:
    """Raises NotOpen. Under `adjustments.lock` it stays so until the transaction ends."""
    closed = ClosedMonth.objects.filter(environment=environment, month__gte=days.first.replace(day=1))
    found = closed.filter(month__lte=days.last).order_by("month").first()
    if found is not None:
        raise NotOpen(f"{found} is closed and stays as it is. {_open(environment)}")


def _require_begun(environment: Environment, days: Days, now: datetime) -> None:
    if days.last < days.first:
        raise NotOpen(f"{days.last} comes before {days.first}: give the first day first.")
    if days.first > now.astimezone(_zone(environment)).date():
        raise NotOpen(f"{days.first} lies ahead. {_open(environment)}")


def _open(environment: Environment) -> str:
    months = [f"{month:%Y-%m}" for month in open_months(environment, datetime.now(UTC))]
    return f"Open {'is' if len(months) == 1 else 'are'} {', '.join(months)}."


def _period(days: Days, zone: ZoneInfo) -> Period:
    """By the windows of the counters, so that a month holds what a monthly limit saw."""
    first, last = (
        span(Window.DAY, to_ms(datetime.combine(day, time(12), zone)), zone)
        for day in (days.first, days.last)
    )
    assert last.end is not None
    return Period(from_ms(first.start), from_ms(last.end))


def _zone(environment: Environment) -> ZoneInfo:
    return ZoneInfo(environment.tenant.timezone)
