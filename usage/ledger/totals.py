"""Totals of the ledger over a period, by names and by windows of the tenant's zone.

`usage/analytics/answers.py` answers people; this answers programs, which ask for one period at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from django.db import connection
from msgspec import UNSET, UnsetType

from tenants.api.http import Name
from tenants.api.problems import invalid_field
from usage.amounts import COUNT_FIELDS
from usage.instants import from_ms
from usage.ledger import sums
from usage.ledger.periods import Instant, Period, period
from usage.ledger.sums import Used
from usage.metrics import COLUMNS, COUNTS, TOKEN_PARTS
from usage.money import format_usd
from usage.quantities import MAPPED
from usage.windows import Window

GROUPS_MAX = 10_000
# What can be grouped by, and the column it is.
NAMES = {"user": "user_id", "feature": "feature", "model": "model", "plan": "plan", "run": "run_id"}
_BY_COLUMN = {column: name for name, column in NAMES.items()}
WINDOWS = {"day": Window.DAY, "hour": Window.HOUR, "week": Window.WEEK, "month": Window.MONTH}
DIMENSIONS = {**NAMES, **{name: name for name in WINDOWS}}
RankBy = Literal["cost_usd", "requests", "input_tokens", "output_tokens", "unpriced"]


class SummaryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`GET /v1/usage/summary`. Without `group_by` only the total is answered. All filters that are given must match."""

    group_by: (
        Annotated[
            str,
            msgspec.Meta(
                max_length=100,
                description="Any of user, feature, model, plan, run and one of hour, day, week, month; separated by "
                "commas. user_id and run_id do as well, as the answer calls them.",
            ),
        ]
        | None
    ) = None
    from_: Instant | None = msgspec.field(name="from", default=None)
    to: Instant | None = None
    user_id: Name | None = None
    feature: Name | None = None
    model: Name | None = None
    plan: Name | None = None
    run_id: Name | None = None
    rank_by: RankBy = "cost_usd"
    top: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1, le=GROUPS_MAX, description="Only the first so many names; the rest are in `others`."
            ),
        ]
        | None
    ) = None
    token_parts: Annotated[
        bool, msgspec.Meta(description="Answer cached, written and reasoning tokens too.")
    ] = False


Quantified = Annotated[
    dict[str, int],
    msgspec.Meta(
        description="The other parts of the tokens, and what is billed beside them, by the names that a report has in "
        "`quantities`; what is not zero."
    ),
]


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """`unpriced`: how many rows of the ledger have no price; `cost_usd` is that of the others."""

    __annotations__.update(COUNT_FIELDS)
    cost_usd: str
    unpriced: int
    cached_input_tokens: int | UnsetType = UNSET
    cache_write_tokens: int | UnsetType = UNSET
    reasoning_tokens: int | UnsetType = UNSET
    quantities: Quantified


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The total of what has these in common: only those grouped by are named; null = belongs to none."""

    user_id: str | UnsetType = UNSET
    feature: str | UnsetType | None = UNSET
    model: str | UnsetType = UNSET
    plan: str | UnsetType | None = UNSET
    run_id: str | UnsetType | None = UNSET
    hour: Instant | UnsetType = UNSET
    day: date | UnsetType = UNSET
    week: date | UnsetType = UNSET
    month: date | UnsetType = UNSET
    __annotations__.update(COUNT_FIELDS)
    cost_usd: str
    unpriced: int
    cached_input_tokens: int | UnsetType = UNSET
    cache_write_tokens: int | UnsetType = UNSET
    reasoning_tokens: int | UnsetType = UNSET
    quantities: Quantified


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """From `from` up to but not including `to`. `groups`: dearest first; `truncated` if there are more than shown.

    With `top` it has `others`: what is in no group, by the same hours, days, weeks or months. A week is named by its
    first day, and so is a month.
    """

    from_: Instant = msgspec.field(name="from")
    to: Instant
    timezone: str
    group_by: tuple[str, ...]
    groups: tuple[Group, ...]
    truncated: bool
    total: Total
    others: tuple[Group, ...] | UnsetType = UNSET


def summarize(environment_id: int, query: SummaryQuery, now: datetime, zone: ZoneInfo) -> Summary:
    """One statement, two if there are more groups than GROUPS_MAX. Raises Problem 422, DatabaseError.

    Whether there are quantities to read is asked a moment before.
    """
    dimensions = _dimensions(query.group_by)
    if query.top is not None and not set(dimensions) & set(NAMES):
        raise invalid_field("top", f"needs names in group_by; give any of {', '.join(NAMES)}")
    asked = period(query.from_, query.to, now, zone)
    columns = [DIMENSIONS[name] for name in dimensions]
    starts = _starts(asked, columns, zone)
    filters = {column: value for column in NAMES.values() if (value := getattr(query, column)) is not None}
    bounds = [asked.start, *starts[1:], asked.end]
    names = [column for column in columns if column not in WINDOWS]
    mark = sums.mark_before(environment_id)
    used = _Read(
        sums.used(environment_id, bounds, names, filters, mark=mark),
        sums.quantities(environment_id, bounds, names, filters, mark=mark)
        if sums.has_quantities(environment_id, mark)
        else None,
    )
    found = _grouped(used, columns, starts, query) if columns else []
    truncated = len(found) > GROUPS_MAX
    shown = [_group(each, columns, starts, query, zone) for each in found[:GROUPS_MAX]]
    beyond = [bool(each["beyond"]) for each in found[:GROUPS_MAX]]
    return Summary(
        from_=asked.start,
        to=asked.end,
        timezone=zone.key,
        group_by=dimensions,
        groups=tuple(group for group, is_other in zip(shown, beyond, strict=True) if not is_other),
        truncated=truncated,
        total=_total(_sum(found) if columns and not truncated else _all(used), query),
        others=UNSET
        if query.top is None
        else tuple(group for group, is_other in zip(shown, beyond, strict=True) if is_other),
    )


def _dimensions(text: str | None) -> tuple[str, ...]:
    said = () if text is None else tuple(name.strip() for name in text.split(","))
    names = tuple(_BY_COLUMN.get(name, name) for name in said)
    for name in names:
        if name not in DIMENSIONS:
            raise invalid_field("group_by", f"{name!r} is unknown; give any of {', '.join(DIMENSIONS)}")
    if len(set(names)) < len(names):
        raise invalid_field("group_by", "names something twice; name it once")
    if len(set(names) & set(WINDOWS)) > 1:
        raise invalid_field("group_by", f"names more than one of {', '.join(WINDOWS)}; name one")
    return names


# Of nearly all groups, which may be GROUPS_MAX: one for all.
_NO_QUANTITIES: dict[str, int] = {}
_NAMES = (*COLUMNS, *TOKEN_PARTS, "unpriced")
_SUMS = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in _NAMES)


def _starts(asked: Period, columns: list[str], zone: ZoneInfo) -> list[datetime]:
    """When each window of the period begins; the first may begin before the period. Empty: none is asked for.

    They are those of the counters (usage/windows.py), so that a day's total is what a daily limit saw.
    """
    window = next((WINDOWS[column] for column in columns if column in WINDOWS), None)
    return [] if window is None else [from_ms(span.start) for span in asked.spans(window, zone)]


class _Read(NamedTuple):
    """Of the same bounds and names. `quantities`: None where there are none at all."""

    counts: Used
    quantities: Used | None


def _grouped(
    used: _Read, columns: list[str], starts: list[datetime], query: SummaryQuery
) -> list[dict[str, Any]]:
    """The dearest first; one more than GROUPS_MAX tells that there are more. `beyond`: of names beyond the top.

    Without `top` no name is, and the names need no place. With it those beyond are one, and have none.
    """
    rank = "cost_nano" if query.rank_by == "cost_usd" else query.rank_by
    grouped = ", ".join(columns)
    expressions = ", ".join(map(_expression, columns))
    summed, names = ", ".join(f"sum({name}) AS {name}" for name in _NAMES), ", ".join(_NAMES)
    named, total, measured = "", "SELECT *, false AS beyond FROM cell", "SELECT *, false AS beyond FROM part"
    if query.top is not None:
        named = _places(columns, rank)
        total, measured = (_placed(columns, query.top, rows) for rows in ("cell", "part"))
        total = f"SELECT {grouped}, beyond, {summed} FROM ({total}) AS placed GROUP BY {grouped}, beyond"  # noqa: S608
        measured = f"""
            SELECT {grouped}, beyond, quantity, sum(amount) AS amount FROM ({measured}) AS placed
            GROUP BY {grouped}, beyond, quantity
        """  # noqa: S608 (our own names)
    given: list[Any] = [starts] if starts else []
    cell = f"""
        cell AS (
            SELECT {expressions}, {_SUMS} FROM ({used.counts.sql}) AS used GROUP BY {grouped} HAVING sum(events) > 0
        )
    """  # noqa: S608 (our own names)
    total = f"total AS (SELECT * FROM ({total}) AS total ORDER BY {rank} DESC, {grouped} LIMIT %s)"  # noqa: S608
    found = [*columns, "beyond", *_NAMES, "quantities"]
    if used.quantities is None:
        sql = f"""
            WITH {cell}, {named} {total}
            SELECT {grouped}, beyond, {names}, NULL FROM total ORDER BY {rank} DESC, {grouped}
        """  # noqa: S608 (our own names)
        return _read(sql, [*given, *used.counts.values, GROUPS_MAX + 1], found)
    sql = f"""
        WITH {cell},
        part AS (
            SELECT {expressions}, quantity, sum(amount) AS amount FROM ({used.quantities.sql}) AS used
            GROUP BY {grouped}, quantity
        ),
        {named}
        {total},
        measured AS (
            SELECT {grouped}, beyond, jsonb_object_agg(quantity, amount) FILTER (WHERE amount <> 0) AS quantities
            FROM ({measured}) AS measured GROUP BY {grouped}, beyond
        )
        SELECT {grouped}, beyond, {names}, quantities
        FROM total LEFT JOIN measured USING ({grouped}, beyond) ORDER BY {rank} DESC, {grouped}
    """  # noqa: S608 (our own names)
    values = [*given, *used.counts.values, *given, *used.quantities.values, GROUPS_MAX + 1]
    return _read(sql, values, found)


def _places(columns: list[str], rank: str) -> str:
    named = ", ".join(column for column in columns if column not in WINDOWS)
    return f"""
        named AS (
            SELECT {named}, row_number() OVER (ORDER BY sum({rank}) DESC, {named}) AS place FROM cell GROUP BY {named}
        ),
    """  # noqa: S608 (our own names)


def _placed(columns: list[str], top: int, rows: str) -> str:
    named = ", ".join(column for column in columns if column not in WINDOWS)
    shown = ", ".join(
        column if column in WINDOWS else f"CASE WHEN place <= {top} THEN {column} ELSE '' END AS {column}"
        for column in columns
    )
    others = ", ".join(_NAMES) if rows == "cell" else "quantity, amount"
    return f"SELECT {shown}, place > {top} AS beyond, {others} FROM {rows} JOIN named USING ({named})"  # noqa: S608


def _expression(column: str) -> str:
    """A window by its number, from 1."""
    return f"width_bucket(at, %s::timestamptz[]) AS {column}" if column in WINDOWS else column


def _all(used: _Read) -> dict[str, Any]:
    if used.quantities is None:
        sql = f"SELECT {_SUMS}, NULL FROM ({used.counts.sql}) AS used"  # noqa: S608 (our own names)
        return _read(sql, used.counts.values, [*_NAMES, "quantities"])[0]
    sql = f"""
        SELECT {_SUMS}, (
            SELECT jsonb_object_agg(quantity, amount) FROM (
                SELECT quantity, sum(amount) AS amount FROM ({used.quantities.sql}) AS used
                GROUP BY quantity HAVING sum(amount) <> 0
            ) AS measured
        ) FROM ({used.counts.sql}) AS used
    """  # noqa: S608 (our own names)
    (found,) = _read(sql, [*used.quantities.values, *used.counts.values], [*_NAMES, "quantities"])
    return found


def _read(sql: str, values: list[Any], names: Iterable[str]) -> list[dict[str, Any]]:
    """`quantities` come as text; null, where there are none."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    for each in found:
        each["quantities"] = json.loads(each["quantities"]) if each["quantities"] else _NO_QUANTITIES
    return found


def _sum(groups: list[dict[str, Any]]) -> dict[str, Any]:
    quantities: Counter[str] = Counter()
    for group in groups:
        quantities.update(group["quantities"])
    return {
        **{name: sum(group[name] for group in groups) for name in _NAMES},
        "quantities": {name: amount for name, amount in quantities.items() if amount},
    }


def _total(found: dict[str, Any], query: SummaryQuery) -> Total:
    parts = {name: int(found[name]) for name in TOKEN_PARTS} if query.token_parts else {}
    return Total(
        **{name: int(found[name]) for name in COUNTS},
        cost_usd=format_usd(int(found["cost_nano"])),
        unpriced=int(found["unpriced"]),
        quantities=_in_order(found["quantities"]),
        **parts,
    )


def _in_order(quantities: dict[str, int]) -> dict[str, int]:
    """As the table has them."""
    return {name: quantities[name] for name in MAPPED if name in quantities} if quantities else quantities


def _group(
    found: dict[str, Any], columns: list[str], starts: list[datetime], query: SummaryQuery, zone: ZoneInfo
) -> Group:
    """One of names beyond the top says only when."""
    named: dict[str, Any] = {
        column: found[column] or None for column in columns if column not in WINDOWS and not found["beyond"]
    }
    for column in set(columns) & set(WINDOWS):
        start = starts[found[column] - 1].astimezone(zone)
        named[column] = start if column == Window.HOUR else start.date()
    return Group(**named, **msgspec.structs.asdict(_total(found, query)))
