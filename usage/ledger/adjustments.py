"""Adjustments: by how much calls of the ledger were re-priced. Its rows never change, so each is a row of its own.

An adjustment belongs to one call. It has the call's request id, names and times, so it counts in the same windows, and
the difference of its cost; it is no request and has no tokens. `unpriced_quantities` says what of the call has no rate
still: `[]` that nothing is unpriced any more, null that nothing was. Why it was made stands in its metadata (`Why`).
What a call costs now is its own cost and that of all its adjustments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from django.db import connection

from usage.amounts import Subjects
from usage.ledger.models import Status, UsageEvent
from usage.ledger.rows import COLUMNS, NAMES, NEGATED, UNPRICED
from usage.prices.cost import Served, Use
from usage.quantities import OWN_COLUMNS

# Two runs in one environment take turns, batch by batch, and so does the closing of a month.
_LOCK_CLASS = 0x746B7661
_REPORTED = (Status.SUCCEEDED, Status.PARTIAL, Status.FAILED, Status.CANCELLED)
# What a statement adds up of metadata that is of no adjustment.
_WHY = f"(CASE WHEN status = '{Status.ADJUSTMENT}' THEN metadata END)"
_CALLS = f"coalesce(({_WHY}->>'requests')::bigint, 0)"
_WAS_UNPRICED = f"{_WHY}->>'cost_nano_before' IS NULL"
_WAS_PARTLY = f"NOT {_WAS_UNPRICED} AND jsonb_array_length({_WHY}->'unpriced_before') > 0"
# How many calls of a set of rows have no price, and how many are partly priced: sums to stand in a SELECT.
UNPRICED_REQUESTS = f"""(coalesce(sum(requests) FILTER (WHERE cost_nano IS NULL), 0)
    - coalesce(sum({_CALLS}) FILTER (WHERE status = '{Status.ADJUSTMENT}' AND {_WAS_UNPRICED}), 0))::bigint"""
PARTLY_PRICED_REQUESTS = f"""(
    coalesce(sum(requests) FILTER (WHERE cost_nano IS NOT NULL AND unpriced_quantities IS NOT NULL), 0)
    + coalesce(sum({_CALLS}) FILTER (WHERE status = '{Status.ADJUSTMENT}' AND unpriced_quantities <> '[]'), 0)
    - coalesce(sum({_CALLS}) FILTER (WHERE status = '{Status.ADJUSTMENT}' AND {_WAS_PARTLY}
        AND unpriced_quantities IS NOT NULL), 0))::bigint"""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What an adjustment says of itself. Costs are those of the call, before and after; None: it had no price."""

    cost_nano_before: int | None
    cost_nano: int
    unpriced_before: tuple[str, ...]
    price_id_before: int | None
    # Of the call: 0, if it failed and used nothing.
    requests: int
    by: str
    run: str


class RecordedCall(NamedTuple):
    """A call as the ledger has it, and what it costs with its adjustments. `at`: by which its price is found."""

    id: int
    charged_at: datetime
    at: datetime
    request_id: str
    status: str
    model: str
    provider: str
    requests: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    quantities: str | None
    service_tier: str
    region: str
    cost_nano: int | None
    price_id: int | None
    # Whether its provider is that of its price: maybe the report named none, and it was found by the model's name.
    provider_was_found: bool
    unpriced: tuple[str, ...]

    @property
    def is_estimate(self) -> bool:
        return self.status == Status.UNSETTLED

    @property
    def lacks_price(self) -> bool:
        """Whether it has no price, or not of all that it used."""
        return self.cost_nano is None or bool(self.unpriced)

    @property
    def use(self) -> Use:
        """Raises ValueError: a version before took what this one would not."""
        own = {name: getattr(self, name) for name in OWN_COLUMNS}
        return Use(**own, quantities=json.loads(self.quantities) if self.quantities else {})

    @property
    def served(self) -> Served:
        return Served.of(self.service_tier, self.region)


class Adjustment(msgspec.Struct, frozen=True, kw_only=True):
    """What a call costs from now on, by which price. `unpriced`: what of it has no rate still."""

    call: RecordedCall
    cost_nano: int
    unpriced: tuple[str, ...]
    price_id: int | None

    @property
    def difference_nano(self) -> int:
        return self.cost_nano - (self.call.cost_nano or 0)

    @property
    def said_unpriced(self) -> str | None:
        return json.dumps(self.unpriced) if self.call.lacks_price else None

    def why(self, by: str, run: str) -> str:
        call = self.call
        return msgspec.json.encode(
            Why(
                cost_nano_before=call.cost_nano,
                cost_nano=self.cost_nano,
                unpriced_before=call.unpriced,
                price_id_before=call.price_id,
                requests=call.requests,
                by=by,
                run=run,
            )
        ).decode()


class Written(NamedTuple):
    """A row that was written: where it counts, and the difference."""

    xid: int
    charged_at: datetime
    subjects: Subjects
    model: str
    difference_nano: int


def why_of(event: UsageEvent) -> Why | None:
    """Of an adjustment; None of every other row."""
    return msgspec.convert(event.metadata, Why) if event.status == Status.ADJUSTMENT else None


def lock(environment_id: int) -> None:
    """Until the transaction ends, nobody else adjusts calls of the environment or closes one of its months."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashint8(%s))", [_LOCK_CLASS, environment_id])


# The columns of RecordedCall but for `unpriced`, which adjustments say too. An estimate is there if it lacks a price.
_READ = ("id", "charged_at", "least(occurred_at, recorded_at)", "request_id", "status", "model", "provider",
         "requests", *OWN_COLUMNS, "quantities::text", "service_tier", "region", "cost_nano", "price_id",
         "coalesce(provider = (SELECT provider FROM usage_modelprice WHERE id = price_id), false)")  # fmt: skip
_BATCH = f"""
    SELECT {", ".join(_READ)}, unpriced_quantities::text FROM usage_event
    WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s AND (charged_at, id) > (%s, %s)
      AND (status = ANY(%s) OR status = '{Status.UNSETTLED}' AND {UNPRICED}) {{models}}
    ORDER BY charged_at, id LIMIT %s
"""  # noqa: S608 (our own names)
_LATER = f"""
    SELECT request_id, count(*) FILTER (WHERE status = '{Status.ADJUSTMENT}'),
           coalesce(sum(cost_nano) FILTER (WHERE status = '{Status.ADJUSTMENT}'), 0)::bigint,
           (array_agg(price_id ORDER BY id DESC) FILTER (WHERE status = '{Status.ADJUSTMENT}'))[1],
           (array_agg(unpriced_quantities ORDER BY id DESC)
                FILTER (WHERE status = '{Status.ADJUSTMENT}' AND unpriced_quantities IS NOT NULL))[1]::text,
           bool_or(status = '{Status.REVERSAL}')
    FROM usage_event
    WHERE environment_id = %s AND charged_at >= %s AND charged_at <= %s AND request_id = ANY(%s)
      AND status IN ('{Status.ADJUSTMENT}', '{Status.REVERSAL}')
    GROUP BY request_id
"""  # noqa: S608 (our own names)


class Place(NamedTuple):
    """In the order in which calls are read: after this one."""

    charged_at: datetime
    id: int


def calls(
    environment_id: int, end: datetime, after: Place, models: Sequence[str], most: int
) -> tuple[list[RecordedCall], Place | None]:
    """The next calls before `end`, and where to go on; None: there are no more. Of these models, or of all.

    Reported ones, and estimates that lack a price and were not taken back.
    """
    values: list[Any] = [environment_id, after.charged_at, end, *after, list(_REPORTED)]
    if models:
        values.append(list(models))
    with connection.cursor() as cursor:
        cursor.execute(_BATCH.format(models="AND model = ANY(%s)" if models else ""), [*values, most])
        rows = cursor.fetchall()
    if not rows:
        return [], None
    read = [RecordedCall._make((*row[:-1], tuple(json.loads(row[-1] or "[]")))) for row in rows]
    last = Place(read[-1].charged_at, read[-1].id) if len(read) == most else None
    return _as_adjusted(environment_id, read), last


class _Later(NamedTuple):
    """What other rows of the request say of a call."""

    adjustments: int
    difference_nano: int
    price_id: int | None
    unpriced: str | None
    taken_back: bool


def _as_adjusted(environment_id: int, read: Sequence[RecordedCall]) -> list[RecordedCall]:
    with connection.cursor() as cursor:
        first, last = read[0].charged_at, read[-1].charged_at
        cursor.execute(_LATER, [environment_id, first, last, [call.request_id for call in read]])
        later = {request_id: _Later._make(found) for request_id, *found in cursor.fetchall()}
    adjusted = (_with(call, later.get(call.request_id)) for call in read)
    return [call for call in adjusted if call is not None]


def _with(call: RecordedCall, later: _Later | None) -> RecordedCall | None:
    """None: an estimate that was taken back."""
    if later is not None and call.is_estimate and later.taken_back:
        return None
    if later is None or call.is_estimate or not later.adjustments:
        return call
    return call._replace(
        cost_nano=(call.cost_nano or 0) + later.difference_nano,
        price_id=later.price_id,
        unpriced=call.unpriced if later.unpriced is None else tuple(json.loads(later.unpriced)),
    )


_NOTHING = dict.fromkeys(("reported_cost_nano", "quantities", "latency_ms"), "NULL")
_NEW = {
    **{name: f"call.{name}" for name in COLUMNS},
    **dict.fromkeys(NEGATED, "0"),
    **_NOTHING,
    "status": f"'{Status.ADJUSTMENT}'",
    "cost_nano": "new.difference",
    "price_id": "new.price_id",
    "unpriced_quantities": "new.unpriced::jsonb",
    "metadata": "new.why::jsonb",
}
_WRITE = f"""
    INSERT INTO usage_event ({NAMES})
    SELECT {", ".join(_NEW[name] for name in COLUMNS)}
    FROM unnest(%s::bigint[], %s::timestamptz[], %s::bigint[], %s::bigint[], %s::text[], %s::text[])
        AS new (id, charged_at, difference, price_id, unpriced, why)
    JOIN usage_event AS call USING (id, charged_at)
    WHERE call.environment_id = %s AND call.charged_at >= %s AND call.charged_at <= %s
    RETURNING xid, charged_at, user_id, feature, plan, run_id, model, cost_nano
"""  # noqa: S608 (our own names)


def write(environment_id: int, adjustments: Sequence[Adjustment], by: str, run: str) -> list[Written]:
    """Under the lock, for calls that were read under it, in their order. Call in a transaction."""
    columns = zip(
        *(
            (
                each.call.id, each.call.charged_at, each.difference_nano, each.price_id, each.said_unpriced,
                each.why(by, run),
            )
            for each in adjustments
        ),
        strict=True,
    )  # fmt: skip
    first, last = adjustments[0].call.charged_at, adjustments[-1].call.charged_at
    with connection.cursor() as cursor:
        cursor.execute(_WRITE, [*map(list, columns), environment_id, first, last])
        return [
            Written(
                xid,
                charged_at,
                Subjects(user_id=user_id, feature=feature, plan=plan, run_id=run_id),
                model,
                cost,
            )
            for xid, charged_at, user_id, feature, plan, run_id, model, cost in cursor.fetchall()
        ]
