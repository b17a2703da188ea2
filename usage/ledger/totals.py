"""Totals of the ledger over a period, by user, feature, model, plan and day."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
from django.contrib.postgres.fields import ArrayField
from django.db.models import (
    BigIntegerField,
    Count,
    DateTimeField,
    F,
    Func,
    IntegerField,
    Q,
    QuerySet,
    Sum,
    Value,
)
from django.db.models.functions import Coalesce
from msgspec import UNSET, UnsetType

from tenants.api.problems import invalid_field
from usage.ledger.models import Status, UsageEvent
from usage.ledger.periods import Instant, Period, period
from usage.money import format_usd
from usage.windows import Window

GROUPS_MAX = 10_000
# What can be grouped by, and the column it is.
DIMENSIONS = {"user": "user_id", "feature": "feature", "model": "model", "plan": "plan", "day": "day"}


class SummaryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`GET /v1/usage/summary`. Without `group_by` only the total is answered."""

    group_by: (
        Annotated[
            str,
            msgspec.Meta(
                max_length=100, description="Any of user, feature, model, plan, day; separated by commas."
            ),
        ]
        | None
    ) = None
    from_: Instant | None = msgspec.field(name="from", default=None)
    to: Instant | None = None


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """`unpriced`: how many rows of the ledger have no price; `cost_usd` is that of the others."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: str
    unpriced: int


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The total of what has these in common: only those grouped by are named; null = belongs to none."""

    user_id: str | UnsetType = UNSET
    feature: str | UnsetType | None = UNSET
    model: str | UnsetType = UNSET
    plan: str | UnsetType | None = UNSET
    day: date | UnsetType = UNSET
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: str
    unpriced: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """From `from` up to but not including `to`. `groups`: dearest first; `truncated` if there are more than shown."""

    from_: Instant = msgspec.field(name="from")
    to: Instant
    timezone: str
    group_by: tuple[str, ...]
    groups: tuple[Group, ...]
    truncated: bool
    total: Total


def summarize(environment_id: int, query: SummaryQuery, now: datetime, zone: ZoneInfo) -> Summary:
    """Reads every row of the period once, twice if there are more groups than GROUPS_MAX. Raises Problem 422."""
    dimensions = _dimensions(query.group_by)
    asked = period(query.from_, query.to, now, zone)
    rows = UsageEvent.objects.filter(
        environment_id=environment_id, charged_at__gte=asked.start, charged_at__lt=asked.end
    )
    groups: list[dict[str, Any]] = _grouped(rows, dimensions, asked, zone) if dimensions else []
    truncated = len(groups) > GROUPS_MAX
    known_all = dimensions and not truncated
    return Summary(
        from_=asked.start,
        to=asked.end,
        timezone=zone.key,
        group_by=dimensions,
        groups=tuple(_group(group) for group in groups[:GROUPS_MAX]),
        truncated=truncated,
        total=_total(_sum(groups) if known_all else rows.aggregate(**_SUMS)),
    )


def _dimensions(text: str | None) -> tuple[str, ...]:
    names = () if text is None else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in DIMENSIONS:
            raise invalid_field("group_by", f"{name!r} is unknown; give any of {', '.join(DIMENSIONS)}")
    if len(set(names)) < len(names):
        raise invalid_field("group_by", "names something twice; name it once")
    return names


def _sum_of(column: str) -> Coalesce:
    return Coalesce(Sum(column, output_field=BigIntegerField()), 0, output_field=BigIntegerField())


_SUMS: dict[str, Any] = {
    "sum_requests": _sum_of("requests"),
    "sum_input_tokens": _sum_of("input_tokens"),
    "sum_output_tokens": _sum_of("output_tokens"),
    "sum_cost_nano": _sum_of("cost_nano"),
    # An estimate that was taken back is not there any more.
    "count_unpriced": Count("pk", filter=Q(cost_nano=None) & ~Q(status=Status.REVERSAL))
    - Count("pk", filter=Q(cost_nano=None, status=Status.REVERSAL)),
}


def _grouped(
    rows: QuerySet[UsageEvent], dimensions: tuple[str, ...], asked: Period, zone: ZoneInfo
) -> list[dict[str, Any]]:
    columns = [DIMENSIONS[name] for name in dimensions]
    starts = [span.start for span in asked.spans(Window.DAY, zone)]
    if "day" in dimensions:
        rows = rows.annotate(day=_number_of_day(starts))
    totals = rows.values(*columns).annotate(**_SUMS).order_by("-sum_cost_nano", *columns)[: GROUPS_MAX + 1]
    groups: list[dict[str, Any]] = list(totals)
    if "day" in dimensions:
        dates = [datetime.fromtimestamp(start / 1000, zone).date() for start in starts]
        for group in groups:
            group["day"] = dates[group["day"] - 1]
    return groups


class _WidthBucket(Func):
    """Which of the rising lower bounds a value is in, from 1."""

    function = "width_bucket"
    output_field = IntegerField()


def _number_of_day(starts: Iterable[int]) -> Func:
    """The days of the counters (usage/windows.py), so that a day's total is what a daily limit saw."""
    bounds = [datetime.fromtimestamp(start / 1000, UTC) for start in starts]
    return _WidthBucket(F("charged_at"), Value(bounds, output_field=ArrayField(DateTimeField())))


def _sum(groups: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(group[name] for group in groups) for name in _SUMS}


def _total(sums: dict[str, int]) -> Total:
    return Total(
        requests=sums["sum_requests"],
        input_tokens=sums["sum_input_tokens"],
        output_tokens=sums["sum_output_tokens"],
        cost_usd=format_usd(sums["sum_cost_nano"]),
        unpriced=sums["count_unpriced"],
    )


def _group(group: dict[str, Any]) -> Group:
    named: dict[str, Any] = {
        column: group[column] or None for column in DIMENSIONS.values() if column in group
    }
    return Group(**named, **msgspec.structs.asdict(_total(group)))
