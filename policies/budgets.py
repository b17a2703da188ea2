"""Monthly budgets, closed: what was spent of each limit on a month's cost, once nothing can change it any more.

A month is settled SETTLED_AFTER its end, in the tenant's time zone: a report may be 35 days late. It is closed by the
policies that were in force when it ended: for each subject whose calls such a policy applied to, the budget and all
that the subject spent in the month, which is what its counter held. A closed month stays as it was closed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from audit import log as audit_log
from policies import policy_rows
from policies.models import ClosedMonth, MonthlyBudget
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import LimitRule
from tenants.models import Environment
from usage.amounts import Models, Per, Subjects
from usage.ledger import adjustments, periods, sums
from usage.ledger.first_call import first_call as first_call
from usage.ledger.months import next_month
from usage.ledger.partitions import REPORTED_WITHIN
from usage.metrics import Metric
from usage.money import NANO
from usage.prices import stored_book
from usage.prices.model_groups import ModelGroups
from usage.windows import Window

SETTLED_AFTER = REPORTED_WITHIN
# In one run; the next one goes on.
MONTHS_MAX = 36
ROWS_BATCH = 1_000
# Users with their features, plans and runs: of more than these a month that is not closed is not worked out on a page.
GROUPS_MAX = 100_000


class TooMany(Exception):
    """So many subjects called that their budgets are worked out only when the month is closed."""


@dataclass(slots=True)
class _Spent:
    cost_nano: int = 0
    requests: int = 0
    unpriced: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Budget:
    policy: StoredPolicy
    limit: LimitRule


@dataclass(slots=True)
class _Month:
    """What each subject spent, and whose budgets that concerns."""

    spent: dict[tuple[Per, Models], dict[Subjects, _Spent]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(_Spent))
    )
    concerned: set[tuple[_Budget, Subjects]] = field(default_factory=set)


def close_over(environment: Environment, now: datetime | None = None) -> list[ClosedMonth]:
    """Closes the settled months that are not closed yet, oldest first; those closed. Raises DatabaseError."""
    return [
        closed
        for month in _to_close(environment, now or datetime.now(UTC))
        if (closed := _close(environment, month))
    ]


def settled_from(month: date, zone: ZoneInfo) -> datetime:
    return periods.of_month(month, zone).end + SETTLED_AFTER


def _to_close(environment: Environment, now: datetime) -> Iterator[date]:
    zone = ZoneInfo(environment.tenant.timezone)
    first = first_open(environment, zone)
    for _ in range(MONTHS_MAX):
        if first is None or settled_from(first, zone) > now:
            return
        yield first
        first = next_month(first)


def next_closing(environment: Environment, now: datetime) -> tuple[date, datetime]:
    """The month that is closed next, and from when on; of an environment without calls, the month of now."""
    zone = ZoneInfo(environment.tenant.timezone)
    month = first_open(environment, zone) or now.astimezone(zone).date().replace(day=1)
    return month, settled_from(month, zone)


def first_open(environment: Environment, zone: ZoneInfo) -> date | None:
    """None: there were no calls yet."""
    last = ClosedMonth.objects.filter(environment=environment).order_by("-month").first()
    if last is not None:
        return next_month(last.month)
    start = first_call(environment.pk)
    return None if start is None else start.astimezone(zone).date().replace(day=1)


def as_it_stands(environment: Environment, month: date) -> list[MonthlyBudget]:
    """Of a month that is not closed, by the policies in force at its end, or now: not stored. Raises TooMany."""
    period = periods.of_month(month, ZoneInfo(environment.tenant.timezone))
    found = _month(environment, period.start, period.end, groups_max=GROUPS_MAX)
    return list(_budgets(ClosedMonth(environment=environment, month=month), found))


@transaction.atomic
def _close(environment: Environment, month: date) -> ClosedMonth | None:
    """None if another process closed it meanwhile."""
    # Calls of a month that is being closed are not re-priced, and the other way round.
    adjustments.lock(environment.pk)
    closed, made = ClosedMonth.objects.get_or_create(environment=environment, month=month)
    if not made:
        return None
    period = periods.of_month(month, ZoneInfo(environment.tenant.timezone))
    budgets = list(_budgets(closed, _month(environment, period.start, period.end)))
    MonthlyBudget.objects.bulk_create(budgets, batch_size=ROWS_BATCH)
    audit_log.log(
        "month.closed",
        environment,
        tenant_id=environment.tenant_id,
        month=f"{month:%Y-%m}",
        budgets=len(budgets),
        exceeded=sum(budget.exceeded for budget in budgets),
    )
    return closed


def _month(
    environment: Environment, start: datetime, end: datetime, *, groups_max: int | None = None
) -> _Month:
    policies = policy_rows.in_force_before(environment.pk, end)
    groups = ModelGroups(lambda: stored_book.of_environment(environment))
    index = PolicyIndex(policies)
    budgets = {
        policy.ref.id: [_Budget(policy, limit) for limit in _monthly_costs(policy)] for policy in policies
    }
    kinds = {(limit.per, limit.models) for policy in policies for limit in _monthly_costs(policy)}
    found = _Month()
    rows = _rows(environment.pk, start, end, _names(policies, kinds)) if kinds else ()
    for number, (subjects, model, spent) in enumerate(rows):
        if number == groups_max:
            raise TooMany
        named = {
            (per, models): _subject(subjects, per) for per, models in kinds if groups.counts(models, model)
        }
        for kind, subject in named.items():
            _add(found.spent[kind], subject, spent)
        matched = index.resolve(user=subjects.user_id, feature=subjects.feature, plan=subjects.plan)
        for policy in matched.policies:
            for budget in budgets[policy.ref.id]:
                subject = named.get((budget.limit.per, budget.limit.models))
                if subject is not None:
                    found.concerned.add((budget, subject))
    return found


def _monthly_costs(policy: StoredPolicy) -> list[LimitRule]:
    return [
        limit
        for limit in policy.rule.limits
        if limit.metric is Metric.COST_USD and limit.window is Window.MONTH
    ]


def _names(policies: Iterable[StoredPolicy], kinds: Set[tuple[Per, Models]]) -> tuple[str, ...]:
    """By what calls must be told apart, so that their policies and subjects are known: rows are many otherwise."""
    scopes = [policy.rule.scope for policy in policies]
    needed = {column for per, _ in kinds for column in sums.COLUMNS[per]}
    named = {
        "user_id": any(scope.user for scope in scopes),
        "feature": any(scope.feature for scope in scopes),
        "plan": any(scope.plan for scope in scopes),
        "run_id": False,
        "model": any(models for _, models in kinds),
    }
    return tuple(column for column, is_named in named.items() if is_named or column in needed)


def _rows(
    environment_id: int, start: datetime, end: datetime, columns: tuple[str, ...]
) -> Iterator[tuple[Subjects, str, _Spent]]:
    """With the model, where calls are told apart by it; else with none."""
    used = sums.used(environment_id, [start, end], columns)
    names = "".join(f"{name}, " for name in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {names}sum(cost_nano), sum(requests), sum(unpriced) FROM ({used.sql}) AS used
            GROUP BY {", ".join(columns) or "()"} HAVING sum(events) > 0
            """,  # noqa: S608 (our own names)
            used.values,
        )
        for *named, cost_nano, requests, unpriced in cursor:
            by_name = {"user_id": "", "model": "", **dict(zip(columns, named, strict=True))}
            model = by_name.pop("model")
            subjects = Subjects(**by_name)
            yield subjects, model, _Spent(int(cost_nano), int(requests), int(unpriced))


def _subject(subjects: Subjects, per: Per) -> Subjects | None:
    """Only what names the subject; None if the call has none of this kind."""
    if subjects.name(per) is None:
        return None
    named: dict[str, Any] = {column: getattr(subjects, column) for column in sums.COLUMNS[per]}
    return Subjects(**{"user_id": "", **named})


def _add(spent: dict[Subjects, _Spent], subject: Subjects | None, more: _Spent) -> None:
    if subject is not None:
        known = spent[subject]
        known.cost_nano += more.cost_nano
        known.requests += more.requests
        known.unpriced += more.unpriced


def _budgets(closed: ClosedMonth, month: _Month) -> Iterator[MonthlyBudget]:
    for budget, subject in month.concerned:
        spent, ref = month.spent[budget.limit.per, budget.limit.models][subject], budget.policy.ref
        yield MonthlyBudget(
            closed_month=closed,
            policy_id=UUID(ref.id),
            policy_name=ref.name,
            policy_version=ref.version,
            per=budget.limit.per,
            models=list(budget.limit.models),
            user_id=subject.user_id,
            feature=subject.feature,
            plan=subject.plan,
            run_id=subject.run_id,
            budget_usd=Decimal(budget.limit.amount) / NANO,
            spent_usd=Decimal(spent.cost_nano) / NANO,
            requests=spent.requests,
            unpriced=spent.unpriced,
        )
