"""The ledger: what every call used, written once.

`record` claims the request ids and inserts the rows of the claimed ones, in one statement that is one transaction. A
claim that another transaction holds makes it wait for that one's outcome, and the ids are claimed in sorted order, so
that writers never deadlock. What was not new goes on to `estimates.py`, and is then read back. When `record` returns,
the rows are committed. Charging the counters comes after (usage/settling/charging.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec
from django.db import InterfaceError, OperationalError, transaction
from django.db.utils import IntegrityError

from usage.amounts import Movement
from usage.body_digests import said
from usage.ledger import estimates, partitions, request_ids
from usage.ledger.connections import OutcomeUnknown, ledger_connections
from usage.ledger.reading import Recorded, entries
from usage.ledger.rows import COLUMNS, NAMES, NewEvent, values
from usage.timebox import patience

# What the first version's reports said, whether sent or not. Never changes: it is in the digests of the ledger's rows.
FIRST_FIELDS = {
    "request_id": None,
    "user_id": None,
    "model": None,
    "input_tokens": None,
    "output_tokens": None,
    "cached_input_tokens": 0,
    "cache_write_tokens": 0,
    "reasoning_tokens": 0,
    "plan": None,
    "feature": None,
    "run_id": None,
    "provider": None,
    "status": "succeeded",
    "batch": False,
    "latency_ms": None,
    "reported_cost_usd": None,
    "occurred_at": None,
    "metadata": None,
}


class Conflicting(msgspec.Struct, frozen=True, kw_only=True):
    """The request_id is in the ledger with another body; nothing was changed."""

    request_id: str


Outcome = Recorded | Conflicting


def digest_of(body: msgspec.Struct) -> bytes:
    """The same for bodies that say the same, in whatever order and with whatever white space, over a deploy too."""
    return sha256(msgspec.json.encode(said(body, FIRST_FIELDS), order="sorted")).digest()


def record(events: Sequence[NewEvent]) -> list[Outcome]:
    """Writes events of one environment; one outcome each, in order. Request ids must differ from each other.

    Raises DatabaseError: nothing was written, unless it is OutcomeUnknown. Whose time is half over begins no more: a
    lock could outlast them, and they would go without knowing what becomes of it.
    """
    if patience.is_half_over():
        raise OperationalError("no time is left to wait for the ledger")
    try:
        return _record(events)
    except IntegrityError as error:
        if not partitions.is_missing(error):
            raise
    partitions.ensure({event.charged_at for event in events})
    return _record(events)


def _record(events: Sequence[NewEvent]) -> list[Outcome]:
    outcomes: dict[str, Outcome] = _write_new(events)
    known = [event for event in events if event.request_id not in outcomes]
    if known:
        with _unknown_after(outcomes):
            outcomes |= _record_known(known)
    return [outcomes[event.request_id] for event in events]


def _record_known(events: Sequence[NewEvent]) -> dict[str, Outcome]:
    """Of events whose ids are in the ledger: reports replace estimates; the others are duplicates, or conflict."""
    outcomes: dict[str, Outcome] = {}
    # Once there are outcomes, all but the commit was answered.
    with _unknown_after(outcomes), transaction.atomic():
        replaced = estimates.replace_estimates(events)
        found = entries(events[0].environment_id, [event.request_id for event in events])
        outcomes |= {event.request_id: _outcome(event, replaced, found[event.request_id]) for event in events}
    return outcomes


@contextmanager
def _unknown_after(outcomes: Mapping[str, Outcome]) -> Iterator[None]:
    """Failures in the block are OutcomeUnknown once there are outcomes, for these may be written."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        if outcomes:
            raise OutcomeUnknown(str(error)) from error
        raise


def _outcome(event: NewEvent, replaced: set[str], found: Recorded) -> Outcome:
    if event.request_id in replaced:
        return msgspec.structs.replace(found, duplicate=False)
    # An estimate of a call that was reported meanwhile is not written; what was reported stands for it.
    if event.body_digest is not None and found.body_digest != event.body_digest:
        return Conflicting(request_id=event.request_id)
    return found


def _statement(rows: str) -> str:
    return f"""
        WITH row AS ({rows}),
        claimed AS (
            INSERT INTO usage_request (environment_id, request_id, body_digest, charged_at, generation)
            SELECT environment_id, request_id, body_digest, charged_at, {request_ids.GENERATION}
            FROM row AS claim WHERE {request_ids.NOT_TAKEN}
            -- Said here, for the plan may take them as it likes; and the same for every writer.
            ORDER BY request_id COLLATE "C"
            ON CONFLICT DO NOTHING
            RETURNING request_id
        )
        INSERT INTO usage_event ({NAMES})
        SELECT {NAMES} FROM row JOIN claimed USING (request_id)
        RETURNING request_id, xid, recorded_at
    """  # noqa: S608 (the names of columns are the only input)


# Binary parameters: of a single event; and of many, a list for each column. The text of a jsonb is sent as text, and so
# is a list of integers, for psycopg packs one integer after the other.
_TYPES = {**COLUMNS, "body_digest": "bytea"}
_ONE = _statement(
    "SELECT "
    + ", ".join(
        f"%b::text::jsonb AS {name}" if kind == "jsonb" else f"%b::{kind} AS {name}"
        for name, kind in _TYPES.items()
    )
)
_INTEGERS = ("bigint", "int")
_AS_SENT = {"jsonb": "%b::text[]", **dict.fromkeys(_INTEGERS, "%b::text")}
_MANY = _statement(
    "SELECT * FROM unnest("  # noqa: S608
    + ", ".join(_AS_SENT.get(kind, "%b") + f"::{kind}[]" for kind in _TYPES.values())
    + f") AS row ({', '.join(_TYPES)})"
)


def _write_new(events: Sequence[NewEvent]) -> dict[str, Outcome]:
    """Those whose ids were not in the ledger, and are now."""
    ordered = sorted(events, key=lambda event: event.request_id)
    rows = [(*values(event), event.body_digest) for event in ordered]
    written = (
        ledger_connections.execute(_ONE, rows[0])
        if len(rows) == 1
        else ledger_connections.execute(
            _MANY,
            [
                _sent(kind, column)
                for kind, column in zip(_TYPES.values(), zip(*rows, strict=True), strict=True)
            ],
        )
    )
    by_id = {event.request_id: event for event in events}
    return {
        request_id: _recorded(by_id[request_id], xid, recorded_at) for request_id, xid, recorded_at in written
    }


def _sent(kind: str, column: Sequence[Any]) -> Any:
    if kind not in _INTEGERS:
        return list(column)
    # PostgreSQL writes a list as JSON does, but for the brackets.
    return f"{{{msgspec.json.encode(column)[1:-1].decode()}}}"


def _recorded(event: NewEvent, xid: int, recorded_at: datetime) -> Recorded:
    return Recorded(
        request_id=event.request_id,
        body_digest=event.body_digest,
        charged_at=event.charged_at,
        recorded_at=recorded_at,
        subjects=event.subjects,
        cost_nano=event.cost_nano,
        unpriced=event.unpriced_quantities,
        movements=(Movement(xid, event.amounts, event.model),),
        duplicate=False,
    )
