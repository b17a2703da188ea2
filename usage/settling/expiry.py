"""What becomes of holds whose call was never reported.

Released ones free themselves: reserve sweeps a few on each call, so that no worker is needed. Those whose policy
charges them stay held until `settle_expired` (a beat task) has written the estimate to the ledger as `unsettled`; a
late report replaces it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from tenants.models import Environment
from usage.assessment import Assessment
from usage.counting import rules
from usage.counting.release import AlreadyCharged, NotOpen, end, end_unread
from usage.counting.reservations import OpenHold, due_charges, put_off, readable
from usage.counting.store import store
from usage.counting.sweep import sweep
from usage.instants import from_ms
from usage.ledger.models import Status
from usage.ledger.reading import Recorded
from usage.ledger.rows import NewEvent
from usage.ledger.writing import record
from usage.settling import charging

logger = logging.getLogger("tokvigil.holds")

BATCH_MAX = 200
BATCHES_MAX = 50
SWEEP_MAX = 500
# Looks at holds within 9 minutes of their expiry: of the default of 10 minutes, those open for at least 1.
LOOKED_AFTER_MS = 9 * 60_000
# A hold that this version cannot read may have been made by a later one, whose worker will charge it.
UNREAD_AGAIN_MS = 60_000
UNREAD_KEPT_MS = 3600 * 1000


def settle_expired(environment: Environment) -> tuple[int, int]:
    """Frees and charges expired holds; how many of each. Raises StoreUnavailable, DatabaseError."""
    charging.settle_reported(environment.pk, store.now_ms() + LOOKED_AFTER_MS)
    freed = charged = 0
    for _ in range(BATCHES_MAX):
        freed_now = sweep(environment.pk, SWEEP_MAX)
        charged_now = _charge(environment.pk)
        freed, charged = freed + freed_now, charged + charged_now
        if freed_now < SWEEP_MAX and charged_now < BATCH_MAX:
            break
    return freed, charged


def _charge(environment_id: int) -> int:
    due = due_charges(environment_id, BATCH_MAX)
    if not due:
        return 0
    read = readable(environment_id, due)
    _set_aside(environment_id, due, {hold.key for hold, _ in read})
    if read:
        _charge_estimates(environment_id, [_estimate(environment_id, hold, held) for hold, held in read])
    return len(due)


def _set_aside(environment_id: int, due: Sequence[OpenHold], read: set[str]) -> None:
    """What cannot be read must not stand before what can: it comes again later, and is given up in the end."""
    unread = [hold for hold in due if hold.key not in read]
    now_ms = store.now_ms()
    put_off(
        environment_id,
        [hold for hold in unread if now_ms < hold.deadline_ms + UNREAD_KEPT_MS],
        now_ms + UNREAD_AGAIN_MS,
    )
    for hold in unread:
        if now_ms >= hold.deadline_ms + UNREAD_KEPT_MS:
            logger.error("hold %s of environment %s ends without a charge", hold.key, environment_id)
            end_unread(environment_id, hold.key)


def _charge_estimates(environment_id: int, estimates: Sequence[NewEvent]) -> None:
    outcomes = record(estimates)
    # An estimate never conflicts: of a call that was reported meanwhile it is the report that is charged.
    recorded = [outcome for outcome in outcomes if isinstance(outcome, Recorded)]
    charging.charge(recorded, rules.reload(environment_id))
    for outcome in recorded:
        if not charging.is_fresh(outcome):
            # Reported and charged long ago, and its id used again since.
            with suppress(NotOpen, AlreadyCharged):
                end(environment_id, outcome.request_id)


def _estimate(environment_id: int, hold: OpenHold, held: Assessment) -> NewEvent:
    override = held.override
    return NewEvent(
        environment_id=environment_id,
        request_id=held.request_id,
        body_digest=None,
        charged_at=from_ms(hold.at_ms),
        occurred_at=None,
        subjects=held.subjects,
        model=held.model,
        provider="",
        status=Status.UNSETTLED,
        used=hold.amounts,
        priced=held.priced,
        policy_id=None if override is None else UUID(override.id),
        policy_version=None if override is None else override.version,
        api_key_id=held.api_key_id,
    )
