"""Who is over a limit already, before it is published: those whom it would block on their next call.

By the ledger, in the window of now; what calls in flight hold is left out. Who made no call in the window that the
policy would have decided is not counted: another one decides theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from django.db import connection

from policies import boosts
from policies.changing import decided_calls
from policies.changing.decided_calls import Condition
from policies.changing.publishing import Change, PolicyChange
from policies.resolution import StoredPolicy
from policies.rules import LimitRule, Mode, PolicyRule
from tenants.models import Environment
from usage import wording
from usage.boosts import raised
from usage.counting import rules
from usage.counting.store import store
from usage.instants import from_ms
from usage.ledger import model_names, sums
from usage.metrics import METRICS, Metric
from usage.windows import span

NAMED_MAX = 100
# One query each.
LIMITS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    policy: str
    says: str
    # `ana`, `ana, chat`, or nothing where everybody is counted together; at most NAMED_MAX.
    who: tuple[str, ...]
    more: bool

    @property
    def count(self) -> str:
        return f"more than {NAMED_MAX}" if self.more else str(len(self.who))


def of(
    environment: Environment, changes: Iterable[Change], policies: Sequence[StoredPolicy]
) -> tuple[Over, ...]:
    """Of limits that are new, or lower than now, and enforced. `policies`: all that would be in force.

    Raises DatabaseError.
    """
    by_name = {policy.ref.name: policy for policy in policies}
    found = [
        _over(environment, limit, rule, decided_calls.decided(by_name[rule.name], policies))
        for rule, limit in _tighter(changes)
    ]
    return tuple(over for over in found if over.who)


def _tighter(changes: Iterable[Change]) -> list[tuple[PolicyRule, LimitRule]]:
    found = [
        (change.after, limit)
        for change in changes
        if isinstance(change, PolicyChange) and change.after and change.after.mode is Mode.ENFORCE
        for limit in _lowered(change.before, change.after)
    ]
    return found[:LIMITS_MAX]


def _lowered(before: PolicyRule | None, after: PolicyRule) -> Iterator[LimitRule]:
    applied = before is not None and before.mode is Mode.ENFORCE and before.scope == after.scope
    known = {limit.kind: limit.amount for limit in (before.limits if before and applied else ())}
    for limit in after.limits:
        amount = known.get(limit.kind)
        if limit.metric is not Metric.CONCURRENCY and (amount is None or limit.amount < amount):
            yield limit


def _over(environment: Environment, limit: LimitRule, rule: PolicyRule, decided: Condition) -> Over:
    found = _subjects(environment, limit, decided)
    return Over(
        policy=rule.name,
        says=wording.limit_of(limit.kind, limit.amount),
        who=tuple(", ".join(names) or "everybody together" for names in found[:NAMED_MAX]),
        more=len(found) > NAMED_MAX,
    )


def _subjects(environment: Environment, limit: LimitRule, decided: Condition) -> list[tuple[str, ...]]:
    """Those who used as much, the most first, of those who made such a call in the window."""
    zone = ZoneInfo(environment.tenant.timezone)
    window = span(limit.window, store.now_ms(), zone)
    now = from_ms(store.now_ms() + 1)
    columns = sums.COLUMNS[limit.per]
    start = from_ms(window.start)
    groups = rules.model_groups(environment)
    models = model_names.counted(environment.pk, start, now, limit.models, groups)
    filters = {} if models is None else {"model": models}
    used = sums.used(environment.pk, [start, now], {*columns, *decided.columns}, filters)
    total = " + ".join(f"coalesce(sum({column}), 0)" for column in METRICS[limit.metric].columns)
    belongs = " AND ".join(["true", *(f"{column} <> ''" for column in columns)])
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {total}, {", ".join(columns) or "1"} FROM ({used.sql}) AS used WHERE {belongs}
            GROUP BY {", ".join(columns) or "()"}
            HAVING {total} >= %s AND sum(events) FILTER (WHERE {decided.sql}) > 0
            ORDER BY {total} DESC, 2 LIMIT %s
            """,  # noqa: S608 (our own names)
            [*used.values, limit.amount, *decided.values, NAMED_MAX + 1],
        )
        rows = cursor.fetchall()
    extras = boosts.extras(environment.pk, store.now_ms())
    kind = raised(limit.per, limit.metric, limit.window)
    found = [(int(taken), tuple(map(str, names)) if columns else ()) for taken, *names in rows]
    return [
        names for taken, names in found if taken >= limit.amount + extras.get((kind, "".join(names[:1])), 0)
    ]
