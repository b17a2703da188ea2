"""The months behind: what all calls of each cost, and how closed months stood against their budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection
from django.db.models import Count, F, Max, Q, Sum

from policies.budgets import settled_from
from policies.models import ClosedMonth, MonthlyBudget
from tenants.models import Environment
from usage.amounts import Models, Per
from usage.instants import from_ms, to_ms
from usage.ledger import sums
from usage.ledger.months import months_from
from usage.windows import Window, span

MONTHS_SHOWN = 12
# Cost, calls and unpriced rows.
_NOTHING = (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentMonth:
    """Of all calls of the environment, nano-USD. `closed_at` is None until it is closed, `closes_at` says from when."""

    month: date
    spent: int
    requests: int
    unpriced: int
    closed_at: datetime | None
    closes_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedBudget:
    """A limit in a closed month, all subjects together. `fullest`: what that one spent that spent most, in USD."""

    month: date
    policy_id: UUID
    policy: str
    per: Per
    models: Models
    budget: Decimal
    subjects: int
    exceeded: int
    spent: Decimal
    fullest: Decimal
    requests: int
    unpriced: int


def spent_months(environment: Environment, now: datetime) -> list[SpentMonth]:
    """The newest first, that of now with it, until the first with a call. Raises DatabaseError."""
    zone = ZoneInfo(environment.tenant.timezone)
    months = _months(now, zone)
    found = _sums(environment.pk, _bounds(months, zone))
    while len(found) > 1 and found[0] == _NOTHING:
        months, found = months[1:], found[1:]
    closed = dict(
        ClosedMonth.objects.filter(environment=environment, month__in=months).values_list(
            "month", "closed_at"
        )
    )
    return [
        SpentMonth(
            month=month,
            spent=spent,
            requests=requests,
            unpriced=unpriced,
            closed_at=closed.get(month),
            closes_at=settled_from(month, zone),
        )
        for month, (spent, requests, unpriced) in zip(reversed(months), reversed(found), strict=True)
    ]


def _months(now: datetime, zone: ZoneInfo) -> list[date]:
    """The oldest first; by the windows of the counters."""
    this = from_ms(span(Window.MONTH, to_ms(now), zone).start).astimezone(zone).date()
    number = this.year * 12 + this.month - MONTHS_SHOWN
    return months_from(date(number // 12, number % 12 + 1, 1), MONTHS_SHOWN)


def _bounds(months: Sequence[date], zone: ZoneInfo) -> list[datetime]:
    middles = [datetime(month.year, month.month, 15, tzinfo=zone) for month in months]
    spans = [span(Window.MONTH, to_ms(middle), zone) for middle in middles]
    end = spans[-1].end
    assert end is not None
    return [*(from_ms(each.start) for each in spans), from_ms(end)]


def _sums(environment_id: int, bounds: Sequence[datetime]) -> list[tuple[int, int, int]]:
    """Cost, calls and unpriced rows of each month."""
    used = sums.used(environment_id, bounds, ())
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT width_bucket(at, %s::timestamptz[]), sum(cost_nano)::bigint, sum(requests)::bigint,
                sum(unpriced)::bigint
            FROM ({used.sql}) AS used GROUP BY 1
            """,  # noqa: S608 (our own names)
            [list(bounds[:-1]), *used.values],
        )
        found = {place: (spent, requests, unpriced) for place, spent, requests, unpriced in cursor.fetchall()}
    return [found.get(place + 1, _NOTHING) for place in range(len(bounds) - 1)]


def closed_budgets(environment: Environment) -> list[ClosedBudget]:
    """Of the newest MONTHS_SHOWN closed months, the newest first, what was exceeded most often first."""
    months = ClosedMonth.objects.filter(environment=environment).order_by("-month")[:MONTHS_SHOWN]
    rows = (
        MonthlyBudget.objects.filter(closed_month__in=list(months))
        .values("closed_month__month", "policy_id", "policy_name", "per", "models", "budget_usd")
        .annotate(
            subjects=Count("pk"),
            over=Count("pk", filter=Q(spent_usd__gt=F("budget_usd"))),
            spent=Sum("spent_usd"),
            fullest=Max("spent_usd"),
            calls=Sum("requests"),
            without_price=Sum("unpriced"),
        )
        .order_by("-closed_month__month", "-over", "policy_name", "per", "models")
    )
    return [
        ClosedBudget(
            month=row["closed_month__month"],
            policy_id=row["policy_id"],
            policy=row["policy_name"],
            per=Per(row["per"]),
            models=tuple(row["models"]),
            budget=row["budget_usd"],
            subjects=row["subjects"],
            exceeded=row["over"],
            spent=row["spent"],
            fullest=row["fullest"],
            requests=row["calls"],
            unpriced=row["without_price"],
        )
        for row in rows
    ]
