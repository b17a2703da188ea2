"""Counters from the ledger: completing a cold one, checking all, rebuilding all.

The ledger is the truth and the counters are a cache of it. A rebuild reads, in one statement, the sums and the snapshot
they were read at (which transactions it saw). The counter keeps the snapshot, so that a charge that arrives later is
taken if the snapshot had not seen its transaction and passed over if it had: nothing is lost and nothing counted twice,
however reports and rebuilds interleave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from django.conf import settings

from tenants.models import Environment
from usage.amounts import Amounts, Pair, Subjects, subject_digest
from usage.counting import inspection, rules
from usage.counting.distrust import distrust
from usage.counting.inspection import amounts, environment_fields
from usage.counting.reservations import open_count
from usage.counting.reserve import Cold
from usage.counting.rules import CountingRules
from usage.counting.seed import mark_cold, seed
from usage.counting.store import store
from usage.counting.tracked import Counter, PairWindow
from usage.instants import from_ms
from usage.ledger import subject_sums
from usage.ledger.subject_sums import Counts, Snapshot
from usage.timebox.background import Background

REBUILDS_AT_ONCE_MAX = 4
REBUILDS_OF_ONE_ENVIRONMENT_MAX = 2
REBUILDS_WAITING_MAX = 1000

_rebuilding = Background(
    "rebuild",
    threads=REBUILDS_AT_ONCE_MAX,
    threads_per_group=REBUILDS_OF_ONE_ENVIRONMENT_MAX,
    waiting_max=REBUILDS_WAITING_MAX,
    of_threads=settings.BACKGROUND_PATIENCE,
)


def complete(environment_id: int, subjects: Subjects, cold: Cold) -> None:
    """Has the cold counters of one call rebuilt; where many calls find the same one cold, once.

    Raises StoreUnavailable, DatabaseError; and TooSlow if it takes longer than the caller may wait. Then it goes on.
    """
    jobs = [
        _rebuilding.start(
            environment_id, counter.key, partial(_rebuild, environment_id, subjects, counter, cold.epoch)
        )
        for counter in cold.counters
    ]
    for job in jobs:
        job.result()


def _rebuild(environment_id: int, subjects: Subjects, counter: Counter, epoch: int) -> None:
    snapshot, used = _sum(environment_id, counter, subjects)
    seed(environment_id, counter, epoch, snapshot, used)


def in_ledger(environment_id: int, counter: Counter, subjects: Subjects) -> Amounts:
    """What the subjects used in its window, also where nothing is counted. Raises DatabaseError."""
    return _sum(environment_id, counter, subjects)[1]


def _sum(environment_id: int, counter: Counter, subjects: Subjects) -> tuple[Snapshot, Amounts]:
    window = counter.slot.span
    return subject_sums.of_subject(
        environment_id,
        counter.slot.pair.per,
        subjects,
        _at(window.start),
        _at(window.end),
        _counts(counter.slot),
    )


def _counts(slot: PairWindow) -> Counts | None:
    return None if slot.group is None else slot.group.counts


def _at(ms: int | None) -> datetime:
    return datetime.max.replace(tzinfo=UTC) if ms is None else from_ms(ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A counter that does not hold what the ledger says.

    `subject`: as `Subjects.name` says it; None if the ledger has no call of it. The key holds only its digest.
    """

    key: str
    pair: Pair
    subject: str | None
    counted: Amounts
    recorded: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    # Counters of open windows that are complete, and those that will be rebuilt before their next use.
    complete: int
    cold: int
    drifts: tuple[Drift, ...]
    # The largest amounts any one counter holds, and the reservations that are open.
    held: Amounts
    open_reservations: int


def check(environment: Environment) -> CheckReport:
    """Compares the counters of all open windows with the ledger, both ways.

    Exact while no call is reported; else a charge may be on its way from the one to the other. Raises StoreUnavailable.
    """
    known = rules.renew(environment.pk)
    epoch, tracked_since = _trust(environment.pk)
    complete, cold, drifts, held = 0, 0, [], Amounts()
    for slot, stored in _stored(known):
        recorded = _recorded(environment.pk, slot)
        for key in recorded.amounts.keys() | stored.keys():
            fields = stored.get(key)
            if fields is None:
                # A pair that is counted no more, by a change a moment ago, has no counters to trust.
                trusted = slot.span.start > max(epoch, tracked_since.get(slot.name, math.inf))
            else:
                trusted = b"cold" not in fields and int(fields.get(b"born", 0)) >= epoch
                held = _larger(held, amounts(fields, "h"))
            if not trusted:
                cold += 1
                continue
            complete += 1
            counted, expected = amounts(fields or {}, "u"), recorded.amounts.get(key, Amounts())
            if counted != expected:
                subject = recorded.subjects.get(key)
                drifts.append(
                    Drift(key=key, pair=slot.pair, subject=subject, counted=counted, recorded=expected)
                )
    return CheckReport(
        complete=complete,
        cold=cold,
        drifts=tuple(drifts),
        held=held,
        open_reservations=open_count(environment.pk),
    )


def rebuild(environment: Environment) -> int:
    """Makes every counter of the open windows hold what the ledger says; the number rebuilt. Safe under traffic."""
    distrust(environment.pk)
    known = rules.renew(environment.pk)
    epoch, _ = _trust(environment.pk)
    rebuilt = 0
    for slot, stored in _stored(known):
        # Marked before the ledger is read, so that charges that come between are kept for the seeding.
        mark_cold(stored)
        recorded = _recorded(environment.pk, slot)
        for key in stored:
            used = recorded.amounts.get(key, Amounts())
            rebuilt += seed(environment.pk, Counter(key, slot), epoch, recorded.snapshot, used)
    return rebuilt


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What the ledger holds of a pair's window, by the key of the counter that should hold it too."""

    snapshot: Snapshot
    amounts: dict[str, Amounts]
    subjects: dict[str, str]


def _recorded(environment_id: int, slot: PairWindow) -> _Recorded:
    snapshot, used = subject_sums.of_all(
        environment_id, slot.pair.per, _at(slot.span.start), _at(slot.span.end), _counts(slot)
    )
    keys = {subject: slot.key_prefix + subject_digest(subject) for subject in used}
    return _Recorded(
        snapshot,
        {keys[subject]: amounts for subject, amounts in used.items()},
        {key: subject for subject, key in keys.items()},
    )


def _stored(known: CountingRules) -> list[tuple[PairWindow, dict[str, dict[bytes, bytes]]]]:
    """The counters of the windows that are open now, as they stand in the store."""
    slots = known.tracked.at(store.now_ms()).slots
    found: dict[str, dict[str, dict[bytes, bytes]]] = {slot.key_prefix: {} for slot in slots}
    for key, fields in inspection.scan(known.environment_id):
        prefix = key.rpartition(":")[0] + ":"
        if prefix in found:
            found[prefix][key] = fields
    return [(slot, found[slot.key_prefix]) for slot in slots]


def _trust(environment_id: int) -> tuple[int, dict[str, int]]:
    """Since when the store is complete, and since when it tracks each pair, by its name (ms)."""
    fields = environment_fields(environment_id)
    since = {name[2:]: int(value) for name, value in fields.items() if name.startswith("t:")}
    return int(fields["epoch"]), since


def _larger(a: Amounts, b: Amounts) -> Amounts:
    return Amounts(*map(max, a, b))
