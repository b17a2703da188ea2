"""The month-end report of a tenant: what a month cost, for whom, against the month before, and what budgets had left.

A month that is not over is compared with the same days of the month before, until the same time of day.

Its figures are the ledger's (usage/analytics/month_figures.py). A month has an end of its own: calls may be reported
until 36 days after it; then its budgets are closed and the report is final.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from heapq import nsmallest
from zoneinfo import ZoneInfo

from policies import budgets
from policies.budgets import SubjectBudget
from policies.models import ClosedMonth
from tenants.console.parts import WARN_PERCENT
from tenants.exporting import Row
from tenants.models import Environment, Tenant
from usage import wording
from usage.amounts import Per
from usage.analytics import month_figures
from usage.analytics.month_figures import Figures, Line, Month
from usage.ledger import periods, retention
from usage.ledger.periods import Period
from usage.wording import with_models

BUDGETS_MAX = 50
COLUMNS = (
    "section",
    "name",
    "model",
    "environment",
    "calls",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "cost_usd_month_before",
    "unpriced_calls",
    "budget_usd",
    "amount",
    "amount_month_before",
)


class State(StrEnum):
    """What is in the way of a month's last word."""

    SO_FAR = "so far"
    NOT_FINAL = "not final"
    FINAL = "final"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit on cost per month, and what one subject spent of it."""

    environment: str
    policy: str
    whose: str
    amount_nano: int
    spent_nano: int
    unpriced: int

    @property
    def exceeded(self) -> bool:
        return self.spent_nano > self.amount_nano

    @property
    def is_near(self) -> bool:
        """As a limit is."""
        return self.spent_nano * 100 >= self.amount_nano * WARN_PERCENT

    @property
    def share(self) -> str:
        return wording.share_of_limit(self.spent_nano, self.amount_nano)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """The first BUDGETS_MAX, those with most of their amount spent first. `unknown`: environments of too many users."""

    shown: tuple[Budget, ...]
    count: int
    exceeded: int
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthReport:
    tenant: Tenant
    environments: Sequence[Environment]
    month: date
    zone: ZoneInfo
    period: Period
    state: State
    final_from: datetime
    figures: Month
    # Of the month before: what the figures are compared with.
    compared: Period
    # The first call of these environments, to the day; None before it.
    first_call: datetime | None
    budgets: Budgets
    # Of the environments whose month is closed: when.
    closed: tuple[tuple[str, datetime], ...]
    # The months (UTC) in it whose rows have left the ledger; their sums have not.
    rows_gone: tuple[date, ...]

    @property
    def is_comparable(self) -> bool:
        """Whether calls were made from the beginning of the month before, or none before this one."""
        begun = self.first_call
        day = timedelta(days=1)
        return begun is None or not self.compared.start + day <= begun < self.period.start

    @property
    def about(self) -> dict[str, object]:
        """What a file says of itself."""
        return {
            "tenant": self.tenant.slug,
            "month": f"{self.month:%Y-%m}",
            "time_zone": self.zone.key,
            "state": self.state.value,
            "final_from": self.final_from.astimezone(self.zone).isoformat(timespec="seconds"),
            "compared_from": _said(self.compared.start, self.zone),
            "compared_until": _said(self.compared.end, self.zone),
            "sections": "each section but budget and quantity is a sum of its own of the same calls: sum up one,"
            " never several",
            "rows_gone": ", ".join(f"{month:%Y-%m}" for month in self.rows_gone),
        }


def _said(at: datetime, zone: ZoneInfo) -> str:
    return at.astimezone(zone).isoformat(timespec="seconds")


def month_before(month: date) -> date:
    return (month - timedelta(days=1)).replace(day=1)


def this_month(tenant: Tenant, now: datetime) -> date:
    return now.astimezone(ZoneInfo(tenant.timezone)).date().replace(day=1)


def state_of(tenant: Tenant, month: date, now: datetime) -> tuple[State, datetime]:
    """And from when on it is final."""
    zone = ZoneInfo(tenant.timezone)
    final_from = budgets.settled_from(month, zone)
    if now < periods.of_month(month, zone).end:
        return State.SO_FAR, final_from
    return (State.NOT_FINAL if now < final_from else State.FINAL), final_from


def first_call(environments: Sequence[Environment]) -> datetime | None:
    """Of any of them, to the day."""
    return min(filter(None, (budgets.first_call(each.pk) for each in environments)), default=None)


def compared_with(month: date, now: datetime, zone: ZoneInfo) -> Period:
    """The month before; of a month that is not over its same days, until the same time of day."""
    before = periods.of_month(month_before(month), zone)
    if now >= periods.of_month(month, zone).end:
        return before
    here, last = now.astimezone(zone), (month - timedelta(days=1)).day
    if here.day > last:
        return before
    first = month_before(month)
    return Period(before.start, here.replace(year=first.year, month=first.month, fold=0).astimezone(UTC))


def report(environments: Sequence[Environment], month: date, now: datetime) -> MonthReport:
    """Of environments of one tenant, usually all. Raises DatabaseError."""
    tenant = environments[0].tenant
    zone = ZoneInfo(tenant.timezone)
    period = periods.of_month(month, zone)
    state, final_from = state_of(tenant, month, now)
    compared = compared_with(month, now, zone)
    closed = ClosedMonth.objects.filter(environment__in=[each.pk for each in environments], month=month)
    closed_at = {each.environment_id: each for each in closed}
    return MonthReport(
        tenant=tenant,
        environments=environments,
        month=month,
        zone=zone,
        period=period,
        state=state,
        final_from=final_from,
        figures=month_figures.of_month(environments, period, compared),
        compared=compared,
        first_call=first_call(environments),
        budgets=_budgets(environments, month, closed_at),
        closed=tuple(
            (each.slug, closed_at[each.pk].closed_at) for each in environments if each.pk in closed_at
        ),
        rows_gone=tuple(retention.gone([each.pk for each in environments], period)),
    )


def _budgets(environments: Sequence[Environment], month: date, closed: dict[int, ClosedMonth]) -> Budgets:
    found: list[tuple[str, SubjectBudget]] = []
    unknown: list[str] = []
    for environment in environments:
        try:
            rows = (
                budgets.as_it_was(closed[environment.pk])
                if environment.pk in closed
                else budgets.as_it_stands(environment, month)
            )
        except budgets.TooMany:
            unknown.append(environment.slug)
            continue
        found += [(environment.slug, row) for row in rows]
    return Budgets(
        shown=tuple(_budget(*each) for each in nsmallest(BUDGETS_MAX, found, key=_fullest_first)),
        count=len(found),
        exceeded=sum(row.exceeded for _, row in found),
        unknown=tuple(unknown),
    )


def _budget(environment: str, row: SubjectBudget) -> Budget:
    return Budget(
        environment=environment,
        policy=row.policy_name,
        whose=f"{_whose(row)}{with_models(row.models)}",
        amount_nano=row.amount_nano,
        spent_nano=row.spent_nano,
        unpriced=row.unpriced,
    )


def _whose(row: SubjectBudget) -> str:
    match row.per:
        case Per.ENVIRONMENT:
            return "everybody together"
        case Per.USER_FEATURE:
            user, feature = row.names
            return f"user {user} in {feature}"
    (name,) = row.names
    return f"{row.per} {name}"


def _fullest_first(found: tuple[str, SubjectBudget]) -> tuple[Decimal, int, str, Per, tuple[str, ...]]:
    environment, row = found
    spent, amount = row.spent_nano, row.amount_nano
    share = Decimal(spent) / amount if amount else Decimal("Infinity")
    return (-share, -spent, environment, row.per, row.names)


def rows(found: MonthReport) -> Iterator[Row]:
    """As a table: each section sums up to the total."""
    yield _row("total", found.figures.total)
    for table in found.figures.tables:
        for line in table.lines:
            yield _row(table.kind.value, line)
        if table.others is not None:
            yield _row(table.kind.value, table.others)
    for name, (now, before) in found.figures.quantities.items():
        yield {
            **dict.fromkeys(COLUMNS),
            "section": "quantity",
            "name": name,
            "amount": now,
            "amount_month_before": before,
        }
    for budget in found.budgets.shown:
        yield {
            **dict.fromkeys(COLUMNS),
            "section": "budget",
            "name": f"{budget.policy}: {budget.whose}",
            "environment": budget.environment,
            "cost_usd": _usd(budget.spent_nano),
            "unpriced_calls": budget.unpriced,
            "budget_usd": _usd(budget.amount_nano),
        }


def _row(section: str, line: Line) -> Row:
    now: Figures = line.now
    return {
        **dict.fromkeys(COLUMNS),
        "section": section,
        "name": line.key.name,
        "model": line.key.model or None,
        "environment": line.key.environment or None,
        "calls": now.requests,
        "input_tokens": now.input_tokens,
        "output_tokens": now.output_tokens,
        "cost_usd": _usd(now.cost_nano),
        "cost_usd_month_before": _usd(line.before.cost_nano),
        "unpriced_calls": now.unpriced,
    }


def _usd(nano: int) -> Decimal:
    return Decimal(nano).scaleb(-9)
