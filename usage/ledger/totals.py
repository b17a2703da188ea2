"""Totals of the ledger over a period, by user, feature, model, plan and day."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
from django.db import connection
from msgspec import UNSET, UnsetType

from tenants.api.problems import invalid_field
from usage.amounts import COUNT_FIELDS
from usage.instants import from_ms
from usage.ledger import sums
from usage.ledger.periods import Instant, Period, period
from usage.ledger.sums import Used
from usage.metrics import COLUMNS, COUNTS
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

    __annotations__.update(COUNT_FIELDS)
    cost_usd: str
    unpriced: int


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The total of what has these in common: only those grouped by are named; null = belongs to none."""

    user_id: str | UnsetType = UNSET
    feature: str | UnsetType | None = UNSET
    model: str | UnsetType = UNSET
    plan: str | UnsetType | None = UNSET
    day: date | UnsetType = UNSET
    __annotations__.update(COUNT_FIELDS)
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
    """One statement, two if there are more groups than GROUPS_MAX. Raises Problem 422, DatabaseError."""
    dimensions = _dimensions(query.group_by)
    asked = period(query.from_, query.to, now, zone)
    columns = [DIMENSIONS[name] for name in dimensions]
    days = _days(asked, zone) if "day" in columns else {}
    used = sums.used(
        environment_id,
        [asked.start, *list(days)[1:], asked.end],
        (column for column in columns if column != "day"),
    )
    groups = _grouped(used, columns, days) if columns else []
    truncated = len(groups) > GROUPS_MAX
    return Summary(
        from_=asked.start,
        to=asked.end,
        timezone=zone.key,
        group_by=dimensions,
        groups=tuple(_group(group, columns) for group in groups[:GROUPS_MAX]),
        truncated=truncated,
        total=_total(_sum(groups) if columns and not truncated else _all(used)),
    )


def _dimensions(text: str | None) -> tuple[str, ...]:
    names = () if text is None else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in DIMENSIONS:
            raise invalid_field("group_by", f"{name!r} is unknown; give any of {', '.join(DIMENSIONS)}")
    if len(set(names)) < len(names):
        raise invalid_field("group_by", "names something twice; name it once")
    return names


_NAMES = (*COLUMNS, "unpriced")
_SUMS = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in _NAMES)


def _days(asked: Period, zone: ZoneInfo) -> dict[datetime, date]:
    """When each day of the period begins, and its date; the first may begin before the period.

    The days are those of the counters (usage/windows.py), so that a day's total is what a daily limit saw.
    """
    starts = [from_ms(span.start) for span in asked.spans(Window.DAY, zone)]
    return {start: start.astimezone(zone).date() for start in starts}


def _grouped(used: Used, columns: list[str], days: dict[datetime, date]) -> list[dict[str, Any]]:
    """The dearest first; one more than GROUPS_MAX tells that there are more."""
    found = _read(
        f"""
        SELECT {", ".join(map(_expression, columns))}, {_SUMS} FROM ({used.sql}) AS used
        GROUP BY {", ".join(columns)} ORDER BY sum(cost_nano) DESC, {", ".join(columns)} LIMIT %s
        """,  # noqa: S608 (our own names)
        [*([list(days)] if days else []), *used.values, GROUPS_MAX + 1],
        [*columns, *_NAMES],
    )
    dates = list(days.values())
    for group in found:
        if days:
            group["day"] = dates[group["day"] - 1]
    return found


def _expression(column: str) -> str:
    """A day by its number, from 1."""
    return "width_bucket(at, %s::timestamptz[]) AS day" if column == "day" else column


def _all(used: Used) -> dict[str, Any]:
    (found,) = _read(f"SELECT {_SUMS} FROM ({used.sql}) AS used", used.values, _NAMES)  # noqa: S608 (our own names)
    return found


def _read(sql: str, values: list[Any], names: Iterable[str]) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _sum(groups: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: sum(group[name] for group in groups) for name in _NAMES}


def _total(found: dict[str, Any]) -> Total:
    return Total(
        **{name: int(found[name]) for name in COUNTS},
        cost_usd=format_usd(int(found["cost_nano"])),
        unpriced=int(found["unpriced"]),
    )


def _group(group: dict[str, Any], columns: list[str]) -> Group:
    named: dict[str, Any] = {column: group[column] or None for column in columns}
    return Group(**named, **msgspec.structs.asdict(_total(group)))
