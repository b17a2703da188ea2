"""Lists the rows of the ledger as they were recorded, newest first."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.db.models import QuerySet
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan

from tenants.api import cursors
from tenants.api.http import Name, RequestId
from tenants.api.queries import PAGE_DEFAULT, CursorText, PageSize
from usage.amounts import COUNT_FIELDS
from usage.ledger.adjustments import why_of
from usage.ledger.models import UsageEvent
from usage.ledger.periods import Instant, checked
from usage.money import format_usd, format_usd_if_known

StatusName = Literal["succeeded", "failed", "cancelled", "partial", "unsettled", "reversal", "adjustment"]


FormatName = Literal["json", "jsonl", "csv"]


class EventQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`GET /v1/usage`. All that is given must match; `from` is included, `to` is not."""

    user_id: Name | None = None
    feature: Name | None = None
    model: Name | None = None
    plan: Name | None = None
    status: StatusName | None = None
    run_id: Name | None = None
    request_id: RequestId | None = None
    from_: Instant | None = msgspec.field(name="from", default=None)
    to: Instant | None = None
    limit: PageSize = PAGE_DEFAULT
    cursor: CursorText | None = None
    format: (
        Annotated[
            FormatName,
            msgspec.Meta(
                description="json: pages. jsonl and csv: all rows of the period in one file, which `Accept:"
                " application/jsonl` and `text/csv` ask for too."
            ),
        ]
        | None
    ) = None


class AdjustmentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a call cost before and after it was re-priced; null: it had no price. `run` is the same of all of a run."""

    cost_usd_before: str | None
    cost_usd: str
    by: str
    run: str


class EventAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ledger. `charged_at` decides which windows it counts in; `cost_usd` is null without a price,
    and lacks what `unpriced` names. `quantities` are the other parts of the tokens, and what is billed beside them.

    `charged_at` is when the call was evaluated, if it was held when its report came; so it may come before
    `occurred_at`, when the call was made as the report says. Else it is `occurred_at` or, without one, `recorded_at`,
    when the report came.

    A request has one row, or three when its report came after its expired hold was charged: the estimate (`unsettled`),
    the `reversal` that takes it back with negative amounts, and the report. A call that was re-priced has an
    `adjustment` more each time, whose `cost_usd` is the difference. `requests` is what the row counts as: 1, 0 for an
    adjustment and for a failed or cancelled call without tokens, -1 for a reversal.
    """

    request_id: str
    charged_at: Instant
    occurred_at: Instant | None
    recorded_at: Instant
    user_id: str
    feature: str | None
    plan: str | None
    run_id: str | None
    model: str
    provider: str | None
    status: StatusName
    __annotations__.update(COUNT_FIELDS)
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    quantities: dict[str, int]
    unpriced: tuple[str, ...]
    requested_model: str | None
    service_tier: str
    region: str | None
    cost_usd: str | None
    reported_cost_usd: str | None
    latency_ms: int | None
    policy_id: UUID | None
    policy_version: int | None
    metadata: dict[str, Any] | None
    # Of an adjustment.
    adjustment: AdjustmentAnswer | None


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    events: tuple[EventAnswer, ...]
    next_cursor: str | None


def page(environment_id: int, query: EventQuery) -> EventPage:
    """Rows newest first, `query.limit` at most; one query. Raises Problem 422."""
    found = matching(environment_id, query).order_by("-charged_at", "-id")
    page = cursors.page(found, query.limit, lambda row: (row.charged_at, row.pk))
    return EventPage(events=tuple(map(answer, page.rows)), next_cursor=page.next_cursor)


def matching(environment_id: int, query: EventQuery) -> QuerySet[UsageEvent]:
    filters = {
        "user_id": query.user_id,
        "feature": query.feature,
        "model": query.model,
        "plan": query.plan,
        "status": query.status,
        "run_id": query.run_id,
        "request_id": query.request_id,
        "charged_at__gte": checked("from", query.from_),
        "charged_at__lt": checked("to", query.to),
    }
    given = {name: value for name, value in filters.items() if value is not None}
    found = UsageEvent.objects.filter(environment_id=environment_id, **given)
    if query.cursor is None:
        return found
    at, row_id = cursors.read(query.cursor)
    # The comparison of both finds the place in the index; that of the time alone leaves later months' partitions out.
    return found.filter(TupleLessThan(Tuple("charged_at", "id"), (at, row_id)), charged_at__lte=at)


def answer(row: UsageEvent) -> EventAnswer:
    why = why_of(row)
    return EventAnswer(
        request_id=row.request_id,
        charged_at=row.charged_at,
        occurred_at=row.occurred_at,
        recorded_at=row.recorded_at,
        user_id=row.user_id,
        feature=row.feature or None,
        plan=row.plan or None,
        run_id=row.run_id or None,
        model=row.model,
        provider=row.provider or None,
        status=row.status,  # type: ignore[arg-type]
        **row.amounts.counts,
        cached_input_tokens=row.cached_input_tokens,
        cache_write_tokens=row.cache_write_tokens,
        reasoning_tokens=row.reasoning_tokens,
        quantities=row.quantities or {},
        unpriced=tuple(row.unpriced_quantities or ()),
        requested_model=row.requested_model or None,
        service_tier=row.service_tier or "default",
        region=row.region or None,
        cost_usd=format_usd_if_known(row.cost_nano),
        reported_cost_usd=format_usd_if_known(row.reported_cost_nano),
        latency_ms=row.latency_ms,
        policy_id=row.policy_id,
        policy_version=row.policy_version,
        metadata=row.metadata if why is None else None,
        adjustment=None
        if why is None
        else AdjustmentAnswer(
            cost_usd_before=format_usd_if_known(why.cost_nano_before),
            cost_usd=format_usd(why.cost_nano),
            by=why.by,
            run=why.run,
        ),
    )
