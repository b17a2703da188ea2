"""Monthly budgets, closed: what was spent of each limit on a month's cost, once nothing can change it any more.

A month is settled SETTLED_AFTER its end, in the tenant's time zone: a report may be 35 days late. It is closed by the
policies that were in force when it ended: for each subject whose calls such a policy applied to, the budget and all
that the subject spent in the month, which is what its counter held. A closed month stays as it was closed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from audit import log as audit_log
from policies import policy_rows
from policies.models import ClosedMonth, MonthlyBudget
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import LimitRule
from tenants.models import Environment
from usage.amounts import Models, Per, digest
from usage.counting import rules
from usage.ledger import adjustments, periods, sums
from usage.ledger.first_call import first_call as first_call
from usage.ledger.months import next_month
from usage.ledger.partitions import REPORTED_WITHIN
from usage.metrics import Metric
from usage.money import NANO
from usage.windows import Window

SETTLED_AFTER = REPORTED_WITHIN
# In one run; the next one goes on.
MONTHS_MAX = 36
ROWS_BATCH = 1_000
# Users with their features, plans and runs: of more than these a month that is not closed is not worked out on a page.
GROUPS_MAX = 100_000
# So that they are put together in memory, not sorted on disk.
_GROUPS_MEMORY = "32MB"


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


# What names a subject, as sums.COLUMNS has it.
_Names = tuple[str, ...]
# What names subjects; and what a call is told apart by, in this order.
_COLUMNS = ("user_id", "feature", "plan", "run_id")
_TOLD_APART = (*_COLUMNS, "model")


@dataclass(slots=True)
class _Month:
    """What each subject spent, and whose budgets that concerns. A month has many of them: names are mere tuples."""

    spent: dict[tuple[Per, Models], dict[_Names, _Spent]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(_Spent))
    )
    concerned: set[tuple[_Budget, _Names]] = field(default_factory=set)


class SubjectBudget(NamedTuple):
    """A budget of a month and what was spent of it, of a closed month or not. `names`: as sums.COLUMNS has them."""

    policy_name: str
    per: Per
    models: Models
    names: tuple[str, ...]
    amount_nano: int
    spent_nano: int
    unpriced: int

    @property
    def exceeded(self) -> bool:
        return self.spent_nano > self.amount_nano


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


def as_it_stands(environment: Environment, month: date) -> list[SubjectBudget]:
    """Of a month that is not closed, by the policies in force at its end, or now. Raises TooMany."""
    period = periods.of_month(month, ZoneInfo(environment.tenant.timezone))
    found = _month(environment, period.start, period.end, groups_max=GROUPS_MAX)
    return [
        SubjectBudget(
            budget.policy.ref.name,
            budget.limit.per,
            budget.limit.models,
            names,
            budget.limit.amount,
            spent.cost_nano,
            spent.unpriced,
        )
        for budget, names, spent in _spent(found)
    ]


def as_it_was(closed: ClosedMonth) -> list[SubjectBudget]:
    return [
        SubjectBudget(
            row.policy_name,
            Per(row.per),
            tuple(row.models),
            tuple(getattr(row, column) for column in sums.COLUMNS[Per(row.per)]),
            int(row.budget_usd * NANO),
            int(row.spent_usd * NANO),
            row.unpriced,
        )
        for row in closed.budgets.all()
    ]


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
    groups = rules.model_groups(environment)
    index = PolicyIndex(policies)
    budgets = {
        policy.ref.id: [_Budget(policy, limit) for limit in _monthly_costs(policy)] for policy in policies
    }
    kinds = {(limit.per, limit.models) for policy in policies for limit in _monthly_costs(policy)}
    places = {kind: [_COLUMNS.index(column) for column in sums.COLUMNS[kind[0]]] for kind in kinds}
    found = _Month()
    most = None if groups_max is None else groups_max + 1
    rows = _rows(environment.pk, start, end, _names(policies, kinds), most) if kinds else ()
    for number, (call, spent) in enumerate(rows):
        if number == groups_max:
            raise TooMany
        user, feature, plan, _, model = call
        named = {
            kind: _subject(call, of_kind) for kind, of_kind in places.items() if groups.counts(kind[1], model)
        }
        for kind, names in named.items():
            if names is not None:
                _add(found.spent[kind][names], spent)
        for policy in index.resolve(user=user, feature=feature, plan=plan).policies:
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
    environment_id: int, start: datetime, end: datetime, columns: tuple[str, ...], most: int | None
) -> Iterator[tuple[_Names, _Spent]]:
    """At most so many. What calls are told apart by is empty in all other columns of _TOLD_APART."""
    used = sums.used(environment_id, [start, end], columns)
    named = ", ".join(name if name in columns else "''" for name in _TOLD_APART)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('work_mem', %s, true)", [_GROUPS_MEMORY])
        cursor.execute(
            f"""
            SELECT {named}, sum(cost_nano)::bigint, sum(requests)::bigint, sum(unpriced)::bigint
            FROM ({used.sql}) AS used GROUP BY {", ".join(columns) or "()"} HAVING sum(events) > 0 LIMIT %s
            """,  # noqa: S608 (our own names)
            [*used.values, most],
        )
        rows = cursor.fetchall()
    for user, feature, plan, run, model, *spent in rows:
        yield (user, feature, plan, run, model), _Spent(*spent)


def _subject(call: _Names, places: Sequence[int]) -> _Names | None:
    """Only what names the subject; None if the call has none of this kind. Each call has a user."""
    names = tuple([call[place] for place in places])
    return None if "" in names else names


def _add(known: _Spent, more: _Spent) -> None:
    known.cost_nano += more.cost_nano
    known.requests += more.requests
    known.unpriced += more.unpriced


def _spent(month: _Month) -> Iterator[tuple[_Budget, _Names, _Spent]]:
    for budget, names in month.concerned:
        yield budget, names, month.spent[budget.limit.per, budget.limit.models][names]


def _budgets(closed: ClosedMonth, month: _Month) -> Iterator[MonthlyBudget]:
    for budget, names, spent in _spent(month):
        ref, named = budget.policy.ref, dict(zip(sums.COLUMNS[budget.limit.per], names, strict=True))
        yield MonthlyBudget(
            closed_month=closed,
            policy_id=UUID(ref.id),
            policy_name=ref.name,
            policy_version=ref.version,
            per=budget.limit.per,
            models=list(budget.limit.models),
            models_digest=digest("\n".join(budget.limit.models)) if budget.limit.models else "",
            **{column: named.get(column, "") for column in _COLUMNS},
            budget_usd=Decimal(budget.limit.amount) / NANO,
            spent_usd=Decimal(spent.cost_nano) / NANO,
            requests=spent.requests,
            unpriced=spent.unpriced,
        )
