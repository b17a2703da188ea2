"""Boosts as the API answers them."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan
from django.utils import timezone
from msgspec import Meta

from policies import boosts
from policies.models import Boost
from tenants.api import cursors, problems
from tenants.api.http import Name
from tenants.api.queries import PAGE_DEFAULT, CursorText, PageSize
from usage.amounts import Per
from usage.ledger.periods import Instant
from usage.limit_state import Amount
from usage.metrics import Metric
from usage.money import format_usd
from usage.windows import Window


class BoostQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`GET /v1/boosts`. All that is given must match."""

    ended: Annotated[bool, Meta(description="true: those that are over, instead of those that are not.")] = (
        False
    )
    per: Per | None = None
    subject: Name | None = None
    limit: PageSize = PAGE_DEFAULT
    cursor: CursorText | None = None


class BoostAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`extra` is a count; for cost_usd a decimal string in USD. `starts_at` null: since it was given."""

    boost_id: UUID
    per: Per
    subject: str
    metric: Metric
    window: Window
    extra: Amount
    starts_at: Instant | None
    ends_at: Instant
    reason: str
    state: Annotated[Literal["coming", "running", "ended"], Meta(description="By this server's clock.")]
    given_at: Instant
    given_by: str
    ended_at: Annotated[Instant | None, Meta(description="When it was ended before its time.")]
    ended_by: str | None


class BoostPage(msgspec.Struct, frozen=True, kw_only=True):
    boosts: tuple[BoostAnswer, ...]
    next_cursor: str | None


def page(environment_id: int, query: BoostQuery) -> BoostPage:
    """Those that end last first; one query. Raises Problem 422."""
    found = boosts.ended(environment_id) if query.ended else boosts.current(environment_id)
    filters = {"per": query.per, "subject": query.subject}
    found = found.filter(**{name: value for name, value in filters.items() if value is not None})
    if query.cursor is not None:
        found = found.filter(TupleLessThan(Tuple("ends_at", "id"), cursors.read(query.cursor)))
    page = cursors.page(
        found.order_by("-ends_at", "-id"), query.limit, lambda boost: (boost.ends_at, boost.pk)
    )
    return BoostPage(boosts=tuple(map(answer, page.rows)), next_cursor=page.next_cursor)


def one(environment_id: int, boost_id: str) -> Boost:
    """Raises Problem 404 for an id that is none, unknown or of another environment."""
    try:
        return Boost.objects.get(environment_id=environment_id, boost_id=UUID(boost_id))
    except (ValueError, Boost.DoesNotExist) as error:
        raise problems.not_found("boost") from error


def answer(boost: Boost) -> BoostAnswer:
    extra = boosts.ref_of(boost).extra
    return BoostAnswer(
        boost_id=boost.boost_id,
        per=Per(boost.per),
        subject=boost.subject,
        metric=Metric(boost.metric),
        window=Window(boost.window),
        extra=format_usd(extra) if boost.metric == Metric.COST_USD else extra,
        starts_at=boost.starts_at,
        ends_at=boost.ends_at,
        reason=boost.reason,
        state=_state(boost),
        given_at=boost.given_at,
        given_by=boost.given_by,
        ended_at=boost.ended_at,
        ended_by=boost.ended_by or None,
    )


def _state(boost: Boost) -> Literal["coming", "running", "ended"]:
    now = timezone.now()
    if boost.over_at <= now:
        return "ended"
    return "coming" if boost.started_at > now else "running"
