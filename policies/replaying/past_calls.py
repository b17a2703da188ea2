"""The calls of a past period as they were made, in the order of time: those of the ledger and those that were blocked.

A call whose estimate was charged and then taken back by its late report is one call: the report. Read in batches, so
that a period of any length takes little memory. What is recorded after the reading began is left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection

from policies.models import BlockedDecision, Policy
from policies.reasons import Reason
from tenants.models import Environment
from usage.amounts import Amounts, Per
from usage.assessment import LimitKind
from usage.instants import from_ms, to_ms
from usage.ledger import sums
from usage.ledger.rows import UNPRICED
from usage.limit_state import counted
from usage.metrics import Metric
from usage.prices import stored_book
from usage.prices.book import PriceBook
from usage.prices.cost import Price
from usage.prices.models import ModelPrice
from usage.windows import Window

BATCH = 5_000
Progress = Callable[[int], None]
# What a call needs in any case that names no cap on its output (policies/deciding/assessing.py).
LEAST_OUTPUT = 1

# Times as integers: a million of them are made datetimes slowly.
_MICROSECONDS = "(extract(epoch FROM {}) * 1000000)::bigint"
_AFTER = "(timestamptz 'epoch' + %s * interval '1 microsecond', %s)"
# An estimate that was taken back is looked up by its request id. By NOT EXISTS the planner would read the whole ledger
# first, for each batch anew.
_EVENTS = f"""
    SELECT {_MICROSECONDS.format("charged_at")}, id, {_MICROSECONDS.format("recorded_at")}, request_id,
           user_id, feature, plan, run_id, model, policy_id, policy_version,
           requests, input_tokens, output_tokens, cost_nano, price_id, status = 'adjustment',
           CASE WHEN status = 'adjustment' THEN coalesce(unpriced_quantities <> '[]', false) ELSE {UNPRICED} END
    FROM usage_event AS event
    WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s AND (charged_at, id) > {_AFTER}
      AND id <= %s AND status <> 'reversal' AND (status <> 'unsettled' OR (
          SELECT true FROM usage_event AS taken_back
          WHERE taken_back.environment_id = event.environment_id AND taken_back.request_id = event.request_id
            AND taken_back.status = 'reversal' LIMIT 1
      ) IS NULL)
    ORDER BY charged_at, id LIMIT %s
"""  # noqa: S608 (our own names)
_DECISIONS = f"""
    SELECT {_MICROSECONDS.format("decided_at")}, id, request_id, user_id, feature, plan, run_id, model,
           needed_input_tokens, needed_output_tokens, estimated_cost_nano, limit_state,
           reason_code, reason_class, message, policy_name, policy_version
    FROM blocked_decision
    WHERE environment_id = %s AND decided_at >= %s AND decided_at < %s AND (decided_at, id) > {_AFTER}
      AND id <= %s
    ORDER BY decided_at, id LIMIT %s
"""  # noqa: S608 (our own names)


class Block(msgspec.Struct, frozen=True):
    """Why a call was blocked, as it was said then."""

    reason_code: str
    reason_class: str
    message: str
    policy: str
    policy_version: int | None


class PastCall(msgspec.Struct, frozen=True, kw_only=True):
    """`blocked`: None of a call that was made. `amounts` are what it used; of a blocked one what it would have used.

    They are None where that was not kept.
    """

    at_ms: int
    # When its report came, which ended its hold.
    ended_ms: int
    request_id: str
    user_id: str
    feature: str
    plan: str
    run_id: str
    model: str
    amounts: Amounts | None
    priced: bool
    # What it was charged by, or would have been.
    price: Price | None
    # Of its output, if that is known.
    cap: int | None
    # Whether a policy allowed it: not, if none was for it, or if it was reported without having been asked.
    by_policy: bool
    blocked: Block | None
    # Of a call that was made: what it cost is not known, or not of all that it used.
    unpriced: bool = False
    # Of a call that was made: the policy that allowed it, by its name now; "": none, or it is not known.
    policy: str = ""
    policy_version: int | None = None
    # Of a blocked call: what calls in flight held then of each limit that it met, if anything.
    held: Mapping[LimitKind, int] = {}


def read(environment: Environment, start: datetime, end: datetime) -> Iterator[PastCall]:
    """Raises DatabaseError."""
    made = _made(environment, start, end)
    blocked = _blocked(environment, start, end)
    # At the same instant a call that was made comes first: what was blocked then had met it.
    return heapq.merge(made, blocked, key=lambda call: call.at_ms)


def count(environment_id: int, start: datetime, end: datetime) -> int:
    """How many there are, about: a call with an estimate that was taken back counts more than once."""
    events = sums.used(environment_id, [start, end], [])
    decisions = BlockedDecision.objects.filter(
        environment_id=environment_id, decided_at__gte=start, decided_at__lt=end
    )
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT coalesce(sum(events), 0) FROM ({events.sql}) AS used", events.values)  # noqa: S608
        (found,) = cursor.fetchone()
    return int(found) + decisions.count()


class _Event(NamedTuple):
    at_us: int
    id: int
    recorded_us: int
    request_id: str
    user_id: str
    feature: str
    plan: str
    run_id: str
    model: str
    policy_id: UUID | None
    policy_version: int | None
    requests: int
    input_tokens: int
    output_tokens: int
    cost_nano: int | None
    price_id: int | None
    adjusts: bool
    unpriced: bool


class _Decision(NamedTuple):
    at_us: int
    id: int
    request_id: str
    user_id: str
    feature: str
    plan: str
    run_id: str
    model: str
    input_tokens: int | None
    output_tokens: int | None
    cost_nano: int | None
    limit_state: str
    reason_code: str
    reason_class: str
    message: str
    policy: str
    policy_version: int | None


def _made(environment: Environment, start: datetime, end: datetime) -> Iterator[PastCall]:
    prices = _Prices()
    names: dict[UUID | None, str] = dict(
        Policy.objects.filter(environment=environment).values_list("pk", "name")
    )
    rows = map(_Event._make, _rows(_EVENTS, "usage_event", environment.pk, start, end))
    for event in _as_adjusted(rows):
        at_ms = event.at_us // 1000
        yield PastCall(
            at_ms=at_ms,
            ended_ms=max(at_ms, event.recorded_us // 1000),
            request_id=event.request_id,
            user_id=event.user_id,
            feature=event.feature,
            plan=event.plan,
            run_id=event.run_id,
            model=event.model,
            amounts=Amounts(event.requests, event.input_tokens, event.output_tokens, event.cost_nano or 0),
            priced=event.cost_nano is not None,
            price=None if event.cost_nano is None else prices.of(event.price_id),
            cap=None,
            by_policy=event.policy_id is not None,
            policy=names.get(event.policy_id, ""),
            policy_version=event.policy_version,
            blocked=None,
            unpriced=event.unpriced,
        )


def _as_adjusted(rows: Iterator[_Event]) -> Iterator[_Event]:
    """Calls with what they cost since they were re-priced: an adjustment follows its call, at the same instant."""
    of_instant: dict[str, _Event] = {}
    at_us = 0
    for row in rows:
        if row.at_us != at_us:
            yield from of_instant.values()
            of_instant, at_us = {}, row.at_us
        if not row.adjusts:
            of_instant[row.request_id] = row
        elif (call := of_instant.get(row.request_id)) is not None:
            cost_nano = (call.cost_nano or 0) + (row.cost_nano or 0)
            of_instant[row.request_id] = call._replace(
                cost_nano=cost_nano, price_id=row.price_id, unpriced=row.unpriced
            )
    yield from of_instant.values()


def _blocked(environment: Environment, start: datetime, end: datetime) -> Iterator[PastCall]:
    book = stored_book.of_environment(environment)
    usual = _usual_output(environment.pk, start, end)
    for decision in map(_Decision._make, _rows(_DECISIONS, "blocked_decision", environment.pk, start, end)):
        at_ms, output = decision.at_us // 1000, decision.output_tokens
        cap = None if output is None or output <= LEAST_OUTPUT else output
        amounts = None
        if decision.input_tokens is not None:
            produced = usual.get((decision.feature, decision.model), LEAST_OUTPUT) if cap is None else cap
            amounts = Amounts(1, decision.input_tokens, produced, decision.cost_nano or 0)
        yield PastCall(
            at_ms=at_ms,
            ended_ms=at_ms,
            request_id=decision.request_id,
            user_id=decision.user_id,
            feature=decision.feature,
            plan=decision.plan,
            run_id=decision.run_id,
            model=decision.model,
            amounts=amounts,
            priced=decision.cost_nano is not None,
            price=None if decision.cost_nano is None else _price(book, decision.model, from_ms(at_ms)),
            cap=cap,
            by_policy=False,
            blocked=Block(*decision[-5:]),
            held=_held(decision.limit_state),
        )


def _held(limit_state: str) -> dict[LimitKind, int]:
    """Of limits as this version knows them."""
    found: dict[LimitKind, int] = {}
    for state in msgspec.json.decode(limit_state):
        try:
            kind = (
                Metric(state["metric"]),
                Window(state["window"]),
                Per(state["per"]),
                tuple(state.get("models", ())),
            )
            amount = counted(kind[0], state["held"])
        except (KeyError, TypeError, ValueError):
            continue
        if amount:
            found[kind] = max(amount, found.get(kind, 0))
    return found


def _price(book: PriceBook, model: str, at: datetime) -> Price | None:
    match = book.find(model, at)
    return None if match is None else match.price


def _rows(
    sql: str, table: str, environment_id: int, start: datetime, end: datetime
) -> Iterator[tuple[Any, ...]]:
    """In batches, each from where the one before ended."""
    last_id = _last_id(table)
    after = (to_ms(start) * 1000, -1)
    while True:
        with connection.cursor() as cursor:
            cursor.execute(sql, [environment_id, start, end, *after, last_id, BATCH])
            batch = cursor.fetchall()
        yield from batch
        if len(batch) < BATCH:
            return
        after = (batch[-1][0], batch[-1][1])


def _last_id(table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(last_value, 0) FROM pg_sequences WHERE sequencename = %s", [f"{table}_id_seq"]
        )
        found = cursor.fetchone()
    assert found is not None
    return int(found[0])


def _usual_output(environment_id: int, start: datetime, end: datetime) -> dict[tuple[str, str], int]:
    """By feature and model, what a call of the period produced on average."""
    used = sums.used(environment_id, [start, end], ["feature", "model"])
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT feature, model, ceil(sum(output_tokens) / sum(requests))::bigint FROM ({used.sql}) AS used
            GROUP BY feature, model HAVING sum(requests) > 0
            """,  # noqa: S608 (our own names)
            used.values,
        )
        return {(feature, model): average for feature, model, average in cursor.fetchall()}


class _Prices:
    """The prices that rows of the ledger name, each read once."""

    def __init__(self) -> None:
        self._known: dict[int, Price | None] = {}

    def of(self, price_id: int | None) -> Price | None:
        if price_id is None:
            return None
        if price_id not in self._known:
            row = ModelPrice.objects.filter(pk=price_id).first()
            self._known[price_id] = None if row is None else row.to_price()
        return self._known[price_id]


# Blocks that no policy decided: of the staff, and of an outage.
BY_STAFF = frozenset({Reason.ENVIRONMENT_FROZEN, Reason.FEATURE_FROZEN, Reason.USER_BLOCKED})
BY_OUTAGE = frozenset({Reason.DEGRADED_BLOCKED})
