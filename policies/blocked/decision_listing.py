"""Lists blocked decisions, newest first, including those made a moment ago."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from django.db.models import QuerySet

from policies.blocked import decision_log
from policies.models import BlockedDecision
from policies.reasons import ALL_CODES
from tenants.api import cursors
from tenants.api.http import Name
from tenants.api.problems import invalid_field
from tenants.api.queries import PAGE_DEFAULT, CursorText, PageSize
from tenants.models import ApiKey, Environment
from usage.counting.store import StoreUnavailable
from usage.ledger.periods import Instant
from usage.ledger.reading import recorded
from usage.limit_state import LimitState
from usage.money import format_usd_if_known

logger = logging.getLogger("tokvigil.decisions")

# What a reader stores of the stream at most; the rest is the beat's work.
DRAINED_BATCHES_MAX = 4


class DecisionQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`GET /v1/decisions`. Only blocked calls are kept as decisions; `allowed` is always false."""

    allowed: bool = False
    reason_code: Name | None = None
    user_id: Name | None = None
    key_id: Name | None = None
    limit: PageSize = PAGE_DEFAULT
    cursor: CursorText | None = None


class DecisionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A blocked call and the limits as they stood. `policy` is the version that blocked it, if a policy did.

    `passed_later`: it was asked for again with the same request id, was allowed, and is in the ledger. The SDKs ask
    again if calls in flight stood in the way and their own reports of these were still to come.

    `key_id`: of the API key that asked; null if an older version of TokVigil stored the decision.
    """

    decided_at: Instant
    request_id: str
    user_id: str
    feature: str | None
    plan: str | None
    run_id: str | None
    model: str
    allowed: bool
    reason_code: str
    reason_class: str
    message: str
    policy: BlockingPolicy | None
    limit_state: tuple[LimitState, ...]
    estimated_cost_usd: str | None
    passed_later: bool
    key_id: str | None


class BlockingPolicy(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    version: int


class DecisionPage(msgspec.Struct, frozen=True, kw_only=True):
    decisions: tuple[DecisionAnswer, ...]
    next_cursor: str | None


def page(environment_id: int, query: DecisionQuery) -> DecisionPage:
    """Raises Problem 422. If the counter store is away, what is stored is answered."""
    found = _matching(environment_id, query)
    store_newest(environment_id)
    page = cursors.page(found.order_by("-id"), query.limit, lambda row: (row.decided_at, row.pk))
    passed = recorded(environment_id, [row.request_id for row in page.rows]) if page.rows else set()
    key_ids = _key_ids(page.rows)
    return DecisionPage(
        decisions=tuple(
            _answer(row, passed_later=row.request_id in passed, key_id=key_ids.get(row.api_key_id))
            for row in page.rows
        ),
        next_cursor=page.next_cursor,
    )


def store_newest(environment_id: int) -> None:
    """Has the decisions of just now be found too. If the counter store is away, what is stored is found."""
    try:
        decision_log.drain(Environment(pk=environment_id), batches_max=DRAINED_BATCHES_MAX)
    except StoreUnavailable as error:
        logger.warning("the newest decisions of environment %s are not stored yet: %s", environment_id, error)


def _matching(environment_id: int, query: DecisionQuery) -> QuerySet[BlockedDecision]:
    if query.allowed:
        raise invalid_field(
            "allowed", "only blocked calls are listed here; allowed ones are at GET /v1/usage"
        )
    if query.reason_code is not None and query.reason_code not in ALL_CODES:
        raise invalid_field("reason_code", f"unknown; give one of {', '.join(ALL_CODES)}")
    filters: dict[str, Any] = {"reason_code": query.reason_code, "user_id": query.user_id}
    given = {name: value for name, value in filters.items() if value is not None}
    if query.key_id is not None:
        given["api_key_id__in"] = ApiKey.objects.filter(
            environment_id=environment_id, key_id=query.key_id
        ).values("pk")
    if query.cursor is not None:
        _, given["id__lt"] = cursors.read(query.cursor)
    return BlockedDecision.objects.filter(environment_id=environment_id, **given)


def _key_ids(rows: Sequence[BlockedDecision]) -> dict[int | None, str]:
    """By the rows of the keys; one query."""
    keys = {row.api_key_id for row in rows if row.api_key_id is not None}
    return dict(ApiKey.objects.filter(pk__in=keys).values_list("pk", "key_id")) if keys else {}


def _answer(row: BlockedDecision, *, passed_later: bool, key_id: str | None) -> DecisionAnswer:
    policy = None
    if row.policy_id is not None and row.policy_version is not None:
        policy = BlockingPolicy(id=str(row.policy_id), name=row.policy_name, version=row.policy_version)
    return DecisionAnswer(
        decided_at=row.decided_at,
        request_id=row.request_id,
        user_id=row.user_id,
        feature=row.feature or None,
        plan=row.plan or None,
        run_id=row.run_id or None,
        model=row.model,
        allowed=False,
        reason_code=row.reason_code,
        reason_class=row.reason_class,
        message=row.message,
        policy=policy,
        limit_state=_limit_states(row),
        estimated_cost_usd=format_usd_if_known(row.estimated_cost_nano),
        passed_later=passed_later,
        key_id=key_id,
    )


def _limit_states(row: BlockedDecision) -> tuple[LimitState, ...]:
    """None of a row that another version wrote and this one cannot read."""
    try:
        return msgspec.convert(row.limit_state, tuple[LimitState, ...])
    except msgspec.ValidationError as error:
        logger.error("the limit states of decision %s cannot be read: %s", row.pk, error)
        return ()
