"""Counters compared with the ledger on demand, and what the last comparison found.

It reads every counter, so a page shows what was found last, with its time. That is kept in the counter store: a store
that lost its counters has lost what was said of them too.
"""

from __future__ import annotations

import logging
import time

import msgspec
from django.db import transaction

from audit import log as audit_log
from tenants.models import Environment
from usage.amounts import Amounts, Models, Per
from usage.counting.distrust import distrust
from usage.counting.keys import check_key
from usage.counting.store import store
from usage.settling import recount
from usage.settling.recount import Drift
from usage.windows import Window

logger = logging.getLogger("tokvigil.counters")

# Of those found; how many there were is kept too.
DRIFTS_KEPT_MAX = 1_000


class KeptDrift(msgspec.Struct, frozen=True, kw_only=True):
    """A counter that differed. `subject` is None if the ledger has no call of it."""

    per: Per
    window: Window
    subject: str | None
    key: str
    counted: Amounts
    recorded: Amounts
    # Patterns of those that it counts; none: all.
    models: Models = ()


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """`compared` counters, of which `differing` did not hold what the ledger says. `cold` ones were not compared.

    Each `cold` one is rebuilt from the ledger before its next use.
    """

    at_ms: int
    took_ms: int
    compared: int
    cold: int
    differing: int
    drifts: tuple[KeptDrift, ...]


_decoder = msgspec.json.Decoder(Checked)


def last(environment_id: int) -> Checked | None:
    """None: there was none since the store was emptied. Raises StoreUnavailable."""
    kept = store.call(lambda client: client.get(check_key(environment_id)))
    if kept is None:
        return None
    try:
        return _decoder.decode(kept)
    except msgspec.DecodeError as error:
        logger.warning("the last check of environment %s cannot be read: %s", environment_id, error)
        return None


def check(environment: Environment) -> Checked:
    """Compares now and keeps what it found. Raises StoreUnavailable, DatabaseError: then nothing is kept."""
    begun = time.monotonic()
    report = recount.check(environment)
    found = Checked(
        at_ms=store.now_ms(),
        took_ms=int(1000 * (time.monotonic() - begun)),
        compared=report.complete,
        cold=report.cold,
        differing=len(report.drifts),
        drifts=tuple(map(_kept, report.drifts[:DRIFTS_KEPT_MAX])),
    )
    packed = msgspec.json.encode(found)
    store.call(lambda client: client.set(check_key(environment.pk), packed))
    return found


def _kept(drift: Drift) -> KeptDrift:
    return KeptDrift(
        per=drift.pair.per,
        window=drift.pair.window,
        subject=drift.subject,
        key=drift.key,
        counted=drift.counted,
        recorded=drift.recorded,
        models=drift.pair.models,
    )


def rebuild(environment: Environment) -> int:
    """Makes every counter hold what the ledger says; how many were rebuilt. One entry in the audit log.

    Raises StoreUnavailable, DatabaseError. If it stops half-way, the rest is rebuilt counter by counter, each before
    its next use.
    """
    with transaction.atomic():
        audit_log.log("counters.rebuilt", environment, tenant_id=environment.tenant_id)
        # In the transaction: there is no entry if the store could not be told.
        distrust(environment.pk)
    return recount.rebuild(environment)
