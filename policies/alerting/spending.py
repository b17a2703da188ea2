"""What each hour cost by feature and by key, kept for as long as hours are compared with it.

An hour is summed once it is over, and once more an hour later, for reports that come late; of those that come later
still it knows nothing. So each run reads two hours of the ledger, and after a pause some more, the newest first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from django.db import transaction
from django.db.models import Min

from policies.alerting import anomaly
from policies.alerting.conditions import SpendReading
from policies.models import HourlySpend
from tenants.models import ApiKey, Environment
from usage.ledger.hourly import HOUR, Spent, spent_in
from usage.ledger.leading import at_most
from usage.models import UsageEvent

# Its calls are mostly reported by then.
REPORTED_AFTER = timedelta(minutes=5)
KEPT = timedelta(days=anomaly.DAYS + 1)
# Of the past, in one run.
HOURS_AT_ONCE_MAX = 24
LEDGER_MS_MAX = 5_000
# Of those that spent most in the hour.
NAMES_MAX = 500
# An hour without a call has this one row, which says that it was summed.
_ALL = ""

Of = HourlySpend.Of


def readings(environment: Environment, now: datetime, minimum: int) -> list[SpendReading]:
    """Of the last full hour; none before it was summed. `minimum`: nano-USD."""
    hour = last_hour(now)
    compared = anomaly.compared_hours(hour)
    rows = HourlySpend.objects.filter(environment=environment, hour__in=[hour, *compared])
    spent: dict[tuple[str, str], dict[datetime, tuple[int, int]]] = defaultdict(dict)
    summed = set[datetime]()
    for of, name, at, cost, calls in rows.values_list("of", "name", "hour", "cost_nano", "calls"):
        summed.add(at)
        if name != _ALL:
            spent[of, name][at] = cost, calls
    known = [each for each in compared if each in summed]
    keys = _keys(environment, (name for of, name in spent if of == Of.KEY))
    return [
        SpendReading(
            of=of,
            name=name,
            words=keys.get(name, f"The key {name}") if of == Of.KEY else f"The feature {name}",
            hour=hour,
            calls=hours[hour][1],
            verdict=anomaly.judge(hours[hour][0], [hours.get(each, (0, 0))[0] for each in known], minimum),
        )
        for (of, name), hours in spent.items()
        if hour in hours
    ]


def last_hour(now: datetime) -> datetime:
    """The last one that is over and mostly reported."""
    return (now.astimezone(UTC) - REPORTED_AFTER).replace(minute=0, second=0, microsecond=0) - HOUR


def keep_up(environment: Environment, now: datetime) -> None:
    """Sums the hours that are missing. Raises DatabaseError."""
    last, kept_from = last_hour(now), last_hour(now) - KEPT
    rows = HourlySpend.objects.filter(environment=environment)
    rows.filter(hour__lt=kept_from).delete()
    summed = set(rows.filter(name=_ALL).values_list("hour", flat=True))
    first = _first_call(environment.pk)
    if first is None:
        return
    hours = (last - HOUR * back for back in range(int(KEPT / HOUR)))
    missing = [each for each in hours if each not in summed and each > first - HOUR]
    if last not in summed and last - HOUR in summed:
        # Reports of it may have come since.
        missing.insert(1, last - HOUR)
    for hour in missing[:HOURS_AT_ONCE_MAX]:
        _sum(environment, hour)


def _sum(environment: Environment, hour: datetime) -> None:
    with transaction.atomic(), at_most(LEDGER_MS_MAX):
        HourlySpend.objects.bulk_create(
            [
                HourlySpend(environment=environment, hour=hour, of=of, name=name, cost_nano=cost, calls=calls)
                for (of, name), (cost, calls) in _by_name(spent_in(environment.pk, hour)).items()
            ],
            update_conflicts=True,
            unique_fields=["environment", "of", "name", "hour"],
            update_fields=["cost_nano", "calls"],
        )


def _by_name(rows: Iterable[Spent]) -> dict[tuple[str, str], tuple[int, int]]:
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    total = 0
    for row in rows:
        total += row.cost_nano
        named = [(Of.FEATURE.value, row.feature)] if row.feature else []
        if row.api_key_id is not None:
            named.append((Of.KEY.value, str(row.api_key_id)))
        for each in named:
            sums[each][0] += row.cost_nano
            sums[each][1] += row.calls
    dearest = sorted(sums.items(), key=lambda each: each[1], reverse=True)[:NAMES_MAX]
    return {(Of.FEATURE.value, _ALL): (total, 0), **{name: (cost, calls) for name, (cost, calls) in dearest}}


def _keys(environment: Environment, ids: Iterable[str]) -> dict[str, str]:
    named = ApiKey.objects.filter(environment=environment, pk__in=[int(each) for each in ids])
    return {str(pk): f"The key {name}" for pk, name in named.values_list("pk", "name")}


def _first_call(environment_id: int) -> datetime | None:
    found: datetime | None = UsageEvent.objects.filter(environment_id=environment_id).aggregate(
        first=Min("charged_at")
    )["first"]
    return found
