"""Try it: what would be decided of a call now. Nothing is held, nothing recorded.

A call goes the way of every evaluate, as a dry run; only that nobody presents a key. With other policies than those in
force, such as a draft's, it is decided by the same rules from the same counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
from django.db import transaction

from audit import log as audit_log
from policies import policy_rows
from policies.deciding import decision, evaluation, staff
from policies.deciding.assessing import Call, assess
from policies.deciding.call_terms import terms_of
from policies.deciding.evaluate_request import EvaluateRequest
from policies.deciding.evaluation import Evaluated
from policies.deciding.snapshot import Snapshot
from policies.files.file_errors import refused
from policies.models import NamedCaller, Policy
from policies.resolution import PolicyIndex, StoredPolicy
from tenants.models import Environment
from usage.amounts import Amounts, Pair, Subjects, subject_digest
from usage.assessment import LimitRef, Reading
from usage.counting import inspection
from usage.counting.store import store
from usage.counting.tracked import Counter
from usage.metrics import Metric
from usage.settling import recount
from usage.windows import Window

# Of one environment; the page asks for each in every environment of the tenant.
CALLERS_MAX = 30


def ask(environment: Environment, caller: NamedCaller) -> Evaluated:
    """By the policies in force. Raises OperationalError if PostgreSQL is away."""
    return evaluation.evaluate(_request(caller), staff.admitted(environment.pk))


def suppose(evaluated: Evaluated, caller: NamedCaller, policies: Sequence[StoredPolicy]) -> Evaluated:
    """The same call, a moment later, if these policies were in force. Raises StoreUnavailable, DatabaseError.

    What calls in flight hold of a limit that is not counted yet is not known, and taken for nothing.
    """
    known, first = evaluated.snapshot, evaluated.assessment
    index, now_ms, subjects = PolicyIndex(policies), store.now_ms(), first.subjects
    matched = index.resolve(user=subjects.user_id, feature=subjects.feature, plan=subjects.plan)
    tracked = known.counting.tracked
    terms = terms_of(matched, subjects, {window: tracked.span(window, now_ms) for window in Window})
    call = Call(
        request_id=first.request_id,
        subjects=subjects,
        model=first.model,
        asked=Amounts(requests=1, input_tokens=first.input_tokens),
        max_output_tokens=caller.max_output_tokens,
        user_blocked=evaluated.user.blocked,
    )
    price = None if evaluated.match is None else evaluated.match.price
    output = evaluation.output_tokens(call, terms, known.environment_id)
    assessed = assess(call, terms, known.state, price, output)
    if evaluated.degraded:
        decided = decision.degraded(assessed, allowed=evaluation.passes_uncounted(terms, known.state))
    else:
        readings = [_reading(known, subjects, limit, now_ms) for limit in terms.limits]
        decided = decision.decide(assessed, readings, now_ms)
    return msgspec.structs.replace(
        evaluated,
        assessment=assessed,
        decision=decided,
        suggested_model=None,
        snapshot=replace(known, compiled=replace(known.compiled, index=index)),
    )


def _reading(known: Snapshot, subjects: Subjects, limit: LimitRef, now_ms: int) -> Reading:
    tracked = known.counting.tracked
    if limit.metric is Metric.CONCURRENCY:
        key = tracked.concurrency_key(limit.per, subjects) if limit.per in known.concurrency_pers else None
        return Reading(0, inspection.in_flight(key, now_ms) if key else 0)
    pair, subject = Pair(limit.per, limit.window), subjects.name(limit.per) or ""
    slot = tracked.slot(pair, tracked.span(limit.window, now_ms))
    counter = Counter(slot.key_prefix + subject_digest(subject), slot)
    if pair in tracked.pairs:
        used, held = inspection.counted(counter.key)
    else:
        used, held = recount.in_ledger(known.environment_id, counter, subjects), Amounts()
    return Reading(used.of(limit.metric), held.of(limit.metric))


def policies_of(environment: Environment) -> list[StoredPolicy]:
    """All that are not archived, as they are now; two queries."""
    rows = Policy.objects.in_force(environment.pk).prefetch_related("limits")
    return [policy_rows.stored(row, policy_rows.rule_of(row)) for row in rows]


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
