"""Try it: what would be decided of a call now. Nothing is held, nothing recorded.

A call goes the way of every evaluate, as a dry run; only that nobody presents a key. With other policies than those in
force, such as a draft's, it is prepared and decided by the same code; only that its counters are read, and no script
runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from django.db import transaction

from audit import log as audit_log
from policies import policy_rows
from policies.deciding import evaluation, snapshot, staff
from policies.deciding.evaluate_request import EvaluateRequest
from policies.deciding.evaluation import Evaluated, Prepared
from policies.deciding.snapshot import Snapshot
from policies.files.file_errors import refused
from policies.models import NamedCaller
from policies.resolution import StoredPolicy
from tenants.models import Environment
from usage.amounts import Amounts, Pair, Subjects
from usage.assessment import LimitRef, Reading
from usage.counting import inspection
from usage.counting.reserve import Done
from usage.counting.store import store
from usage.counting.tracked import Counter
from usage.settling import recount

# Of one environment; the page asks for each in every environment of the tenant.
CALLERS_MAX = 30


def ask(environment: Environment, caller: NamedCaller) -> Evaluated:
    """By the policies in force. Raises OperationalError if PostgreSQL is away."""
    return evaluation.evaluate(_request(caller), staff.admitted(environment.pk))


def suppose(evaluated: Evaluated, caller: NamedCaller, policies: Sequence[StoredPolicy]) -> Evaluated:
    """The same call, a moment later, if these policies were in force. Raises StoreUnavailable, DatabaseError.

    Of limits that are not counted yet (`uncounted`), what was used is what the ledger says; what calls in flight hold
    is not known, and taken for nothing.
    """
    known, now_ms = evaluated.snapshot, store.now_ms()
    admitted = staff.with_snapshot(snapshot.supposing(known, policies))
    attempt = msgspec.structs.replace(evaluation.first_attempt(_request(caller), admitted), now_ms=now_ms)
    if evaluated.degraded:
        return attempt.degraded()
    prepared = attempt.prepare()
    readings = tuple(_readings(known, prepared, now_ms))
    return prepared.done(Done(held=False, at_ms=now_ms, deadline_ms=now_ms, readings=readings))


def uncounted(evaluated: Evaluated, supposed: Evaluated) -> frozenset[int]:
    """The places of the limits that no policy in force has counted."""
    known = evaluated.snapshot
    return frozenset(
        place for place, limit in enumerate(supposed.assessment.limits) if not _counts(known, limit)
    )


def _counts(known: Snapshot, limit: LimitRef) -> bool:
    if limit.pair is None:
        return (limit.per, limit.models) in known.calls_at_once
    return limit.pair in known.counting.tracked.pairs


def _readings(known: Snapshot, prepared: Prepared, now_ms: int) -> Iterator[Reading]:
    """Of the limits in their order; each counter is read once."""
    subjects = prepared.call.subjects
    counters = {
        counter.slot.pair: counter for counter in prepared.present.counters(subjects, prepared.call.model)
    }
    read: dict[Pair, tuple[Amounts, Amounts]] = {}
    for limit, pair in zip(prepared.terms.limits, prepared.terms.pairs, strict=True):
        if pair is None:
            yield Reading(0, _in_flight(known, subjects, limit, now_ms))
            continue
        if pair not in read:
            read[pair] = _counted(known, subjects, counters[pair])
        used, held = read[pair]
        yield Reading(used.of(limit.metric), held.of(limit.metric))


def _in_flight(known: Snapshot, subjects: Subjects, limit: LimitRef, now_ms: int) -> int:
    if not _counts(known, limit):
        return 0
    key = known.counting.tracked.concurrency_key(limit.per, limit.models, subjects)
    return inspection.in_flight(key, now_ms) if key else 0


def _counted(known: Snapshot, subjects: Subjects, counter: Counter) -> tuple[Amounts, Amounts]:
    if counter.slot.pair in known.counting.tracked.pairs:
        return inspection.counted(counter.key)
    return recount.in_ledger(known.environment_id, counter, subjects), Amounts()


def policies_of(environment: Environment) -> list[StoredPolicy]:
    """All that are not archived, as they are now; two queries."""
    return policy_rows.in_force(environment.pk)


def _request(caller: NamedCaller) -> EvaluateRequest:
    return EvaluateRequest(
        user_id=caller.user_id,
        model=caller.model,
        feature=caller.feature or None,
        plan=caller.plan or None,
        run_id=caller.run_id or None,
        input_tokens=caller.input_tokens,
        max_output_tokens=caller.max_output_tokens,
        dry_run=True,
    )


def keep(caller: NamedCaller, *, actor: str) -> NamedCaller:
    """Saves a new one under its name. Raises PolicyFileError for a name that is taken, and for too many."""
    environment = caller.environment
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        kept = environment.named_callers
        if kept.filter(name=caller.name).exists():
            raise refused("name", f"another caller is named {caller.name!r}; choose another name")
        if kept.count() >= CALLERS_MAX:
            raise refused("name", f"an environment keeps at most {CALLERS_MAX} callers; drop one first")
        caller.save(force_insert=True)
        audit_log.log("caller.kept", caller, tenant_id=environment.tenant_id, **_said(caller))
    return caller


def drop(caller: NamedCaller, *, actor: str) -> None:
    """Again does nothing."""
    with audit_log.acting_as(actor), transaction.atomic():
        found = NamedCaller.objects.select_for_update().filter(pk=caller.pk).first()
        if found is not None:
            audit_log.log("caller.dropped", found, tenant_id=caller.environment.tenant_id, **_said(found))
            found.delete()


def _said(caller: NamedCaller) -> dict[str, object]:
    names = ("user_id", "feature", "plan", "model", "input_tokens", "max_output_tokens", "run_id")
    return {"environment": caller.environment.slug} | {name: getattr(caller, name) for name in names}
