"""All rows of the ledger in a period as one file, JSON Lines or CSV, read a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.db.models import Max
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan

from tenants import exporting
from tenants.api.problems import invalid_field
from tenants.exporting import Format, Row
from tenants.models import Environment
from usage.ledger import listing, retention
from usage.ledger.listing import EventAnswer, EventQuery
from usage.ledger.models import UsageEvent
from usage.ledger.periods import Period, period

BATCH = 2_000
COLUMNS = EventAnswer.__struct_fields__
# Numbers in a spreadsheet, also those below zero.
_AMOUNTS = ("cost_usd", "reported_cost_usd")
_PAGING = ("cursor", "limit")


def name(asked: Period) -> str:
    return f"usage-{asked.start:%Y-%m-%d}-{asked.end:%Y-%m-%d}"


def asked_for(query: EventQuery, given: set[str], now: datetime, zone: ZoneInfo) -> Period:
    """By default of this month, as summaries are. Raises Problem 422, also for what only pages have."""
    for field in _PAGING:
        if field in given:
            raise invalid_field(field, "belongs to pages; leave it out, the file has all rows of the period")
    return period(query.from_, query.to, now, zone)


def lines(
    environment_id: int, query: EventQuery, asked: Period, kind: Format, now: datetime
) -> Iterator[str]:
    """Newest first; what is recorded meanwhile is not in it. The first rows are read at once. Raises DatabaseError."""
    newest = UsageEvent.objects.filter(environment_id=environment_id).aggregate(id=Max("id"))["id"] or 0
    whole = msgspec.structs.replace(query, from_=asked.start, to=asked.end)
    rows = _rows(environment_id, whole, newest)
    first = next(rows, None)
    return exporting.written(
        kind,
        _about(environment_id, query, asked, newest, now),
        COLUMNS,
        rows if first is None else chain([first], rows),
    )


def _about(
    environment_id: int, query: EventQuery, asked: Period, newest: int, now: datetime
) -> dict[str, object]:
    environment = Environment.objects.select_related("tenant").get(pk=environment_id)
    paging = {*_PAGING, "from_", "to", "format"}
    filters = {
        field: value
        for field, value in msgspec.structs.asdict(query).items()
        if value and field not in paging
    }
    gone = retention.gone([environment_id], asked)
    return {
        "environment": str(environment),
        "from": asked.start.isoformat(),
        "to": asked.end.isoformat(),
        "filters": filters,
        "time_zone": environment.tenant.timezone,
        "rows_up_to_id": newest,
        "rows_gone": ", ".join(f"{month:%Y-%m}" for month in gone),
        "exported_at": now.isoformat(timespec="seconds"),
    }


def _rows(environment_id: int, query: EventQuery, newest: int) -> Iterator[Row]:
    found = listing.matching(environment_id, query).filter(pk__lte=newest).order_by("-charged_at", "-id")
    rest = found
    while batch := list(rest[:BATCH]):
        for row in batch:
            yield _row(row)
        at, last = batch[-1].charged_at, batch[-1].pk
        rest = found.filter(TupleLessThan(Tuple("charged_at", "id"), (at, last)), charged_at__lte=at)


def _row(event: UsageEvent) -> Row:
    row: dict[str, Any] = msgspec.to_builtins(listing.answer(event))
    return row | {field: None if row[field] is None else Decimal(row[field]) for field in _AMOUNTS}
