"""From a usage report as sent to the ledger and the counters, and back to an answer.

Admit the caller and look up the holds -> place in time and price the reports -> ledger (committed) -> counters.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from tenants.api.callers import Caller
from tenants.api.problems import Problem, idempotency_conflict, invalid_field, rate_limited
from usage import limit_state
from usage.amounts import Subjects
from usage.assessment import Assessment
from usage.counting import rules
from usage.counting.look_up import Found, look_up
from usage.counting.reservations import Reservation, readable
from usage.counting.reserve import RateLimited, Stale
from usage.counting.rules import CountingRules
from usage.counting.settle import Settled
from usage.counting.store import StoreUnavailable
from usage.counting.sync import JUST_READ
from usage.instants import from_ms
from usage.ledger.models import Status
from usage.ledger.rows import NewEvent
from usage.ledger.writing import Conflicting, digest_of
from usage.limit_state import LimitState
from usage.money import format_usd_if_known, parse_usd
from usage.prices.cost import Cost, Served, Use, cost_of
from usage.quantities import ServiceTier
from usage.settling import charging, recording
from usage.settling.recording import Written
from usage.settling.stored_plans import stored_plans
from usage.settling.usage_report import UsageReceipt, UsageReport

logger = logging.getLogger("tokvigil.reports")

# A report may come late (a spool that was offline) or from a clock that runs ahead.
OCCURRED_AGE_MAX = timedelta(days=35)
OCCURRED_AHEAD_MAX = timedelta(minutes=5)


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """Whose reports may be written, by rules that are in force, and what the counter store knows of their calls."""

    known: CountingRules
    api_key_id: int
    found: Sequence[Found]


def admit(caller: Caller, known: CountingRules, reports: Sequence[UsageReport]) -> Admitted:
    """Verifies what the process knows of the environment, and with it the key; one round trip to the counter store.

    Without the store PostgreSQL says what is in force, and reports are placed by their own time: the recount that
    follows makes the counters agree. Raises Problem 401, 403, 429; OperationalError.
    """
    requests = [(report.request_id, report.user_id) for report in reports]
    try:
        edition = known.edition
        for _ in range(charging.TRIES_MAX):
            credential = caller.credential(known)
            found = look_up(
                known.environment_id,
                edition,
                requests,
                api_key_id=credential.id,
                requests_per_minute=credential.requests_per_minute,
            )
            match found:
                case Stale():
                    known, edition = rules.renew(known.environment_id), JUST_READ
                case RateLimited(wait_ms):
                    raise rate_limited(-(-wait_ms // 1000))
                case _:
                    return Admitted(known=known, api_key_id=credential.id, found=found)
    except StoreUnavailable as error:
        logger.info("reports are written without their holds: %s", error)
    known = rules.latest(known)
    charging.note_missed(known.environment_id)
    return Admitted(known=known, api_key_id=caller.credential(known).id, found=[Found()] * len(requests))


def record_report(report: UsageReport, admitted: Admitted) -> UsageReceipt:
    """Records a single report. Raises Problem; DatabaseError if the ledger cannot be reached: nothing was recorded."""
    [call] = _calls([report], admitted)
    outcome = _outcome(call, recording.write_one(_event(call, admitted), admitted.known))
    if isinstance(outcome, Problem):
        raise outcome
    return outcome


def record_batch(reports: Sequence[UsageReport], admitted: Admitted) -> list[UsageReceipt | Problem]:
    """Records reports of one environment, one outcome each, in order. Request ids must differ from each other.

    The receipts do not say how the limits stand. Raises DatabaseError if the ledger cannot be reached; then nothing was
    recorded.
    """
    outcomes: dict[str, UsageReceipt | Problem] = {}
    events: list[NewEvent] = []
    calls = {call.body.request_id: call for call in _calls(reports, admitted)}
    for request_id, call in calls.items():
        try:
            events.append(_event(call, admitted))
        except Problem as problem:
            outcomes[request_id] = problem
    for written in recording.write(events, admitted.known):
        request_id = written.outcome.request_id
        outcomes[request_id] = _outcome(calls[request_id], written)
    return [outcomes[report.request_id] for report in reports]


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    """A report, and what is known of its call from before."""

    body: UsageReport
    # Its hold, if that is open still.
    held: Reservation | None
    # What was evaluated, as far as that can be read; also of a hold that expired an hour ago at most.
    allowed: Assessment | None
    stored_plan: str | None = None

    @property
    def subjects(self) -> Subjects:
        """As evaluated: against the limits of these it was held. Else as the report says; a stored plan wins."""
        if self.allowed is not None:
            return self.allowed.subjects
        body = self.body
        return Subjects(
            user_id=body.user_id,
            feature=body.feature or "",
            plan=self.stored_plan or body.plan or "",
            run_id=body.run_id or "",
        )


def _calls(reports: Sequence[UsageReport], admitted: Admitted) -> list[_Call]:
    environment_id = admitted.known.environment_id
    reservations = [found.reservation for found in admitted.found if found.reservation is not None]
    evaluated = dict(readable(environment_id, reservations))
    both = list(zip(reports, admitted.found, strict=True))
    allowed = [_allowed(body, found.reservation, evaluated) for body, found in both]
    unknown = {
        body.user_id
        for (body, found), known in zip(both, allowed, strict=True)
        if known is None and found.user is None
    }
    plans = stored_plans(environment_id, sorted(unknown))
    return [
        _Call(
            body=body,
            held=found.reservation if found.reservation is not None and found.reservation.is_open else None,
            allowed=known,
            stored_plan=plans.get(body.user_id) if found.user is None else found.user.plan,
        )
        for (body, found), known in zip(both, allowed, strict=True)
    ]


def _allowed(
    body: UsageReport, reservation: Reservation | None, evaluated: Mapping[Reservation, Assessment]
) -> Assessment | None:
    if reservation is None:
        return None
    allowed = evaluated.get(reservation)
    if not reservation.is_open and allowed is not None and allowed.user_id != body.user_id:
        # Of a hold that expired nothing is held for anybody any more: it tells nothing of another user's call.
        return None
    return allowed


def _event(call: _Call, admitted: Admitted) -> NewEvent:
    now = datetime.now(UTC)
    body, held, allowed = call.body, call.held, call.allowed
    if allowed is not None:
        _require_same_user(body, allowed)
    _require_recent(body, now)
    use = _use(body)
    at = now if body.occurred_at is None else min(body.occurred_at, now)
    provider = body.provider or ("" if allowed is None else allowed.provider)
    match = admitted.known.prices.find(body.model, at, provider or None)
    served = _served(body, allowed)
    cost = Cost(0) if match is None else cost_of(match.price, use, served)
    override = None if allowed is None else allowed.override
    return NewEvent(
        environment_id=admitted.known.environment_id,
        request_id=body.request_id,
        body_digest=digest_of(_in_utc(body)),
        # In the windows it is held in; once it is held no more, in those of its own time.
        charged_at=from_ms(held.at_ms) if held is not None else at,
        occurred_at=body.occurred_at,
        subjects=call.subjects,
        model=body.model,
        provider=provider or (match.price.provider if match else ""),
        status=Status(body.status),
        used=body.used(cost.nano),
        priced=match is not None,
        cached_input_tokens=body.cached_input_tokens,
        cache_write_tokens=body.cache_write_tokens,
        reasoning_tokens=body.reasoning_tokens,
        quantities=use.quantities,
        unpriced_quantities=cost.unpriced,
        requested_model=body.requested_model or "",
        service_tier="" if served.tier is ServiceTier.DEFAULT else served.tier.value,
        region=served.region,
        price_id=None if match is None else match.price.price_id,
        reported_cost_nano=_reported_cost(body.reported_cost_usd),
        latency_ms=body.latency_ms,
        policy_id=None if override is None else UUID(override.id),
        policy_version=None if override is None else override.version,
        api_key_id=admitted.api_key_id,
        metadata=body.metadata,
    )


def require_sound(body: UsageReport) -> None:
    """What can be said of a report without asking anybody. Raises Problem 422 naming the field."""
    _require_recent(body, datetime.now(UTC))
    _use(body)
    _require_one_tier(body)
    _reported_cost(body.reported_cost_usd)


def _require_recent(body: UsageReport, now: datetime) -> None:
    at = body.occurred_at
    if at is not None and not now - OCCURRED_AGE_MAX <= at <= now + OCCURRED_AHEAD_MAX:
        raise invalid_field(
            "occurred_at", f"must lie in the last {OCCURRED_AGE_MAX.days} days and not in the future"
        )


def _served(body: UsageReport, allowed: Assessment | None) -> Served:
    """As the report says, else as was evaluated."""
    _require_one_tier(body)
    tier = body.service_tier or (ServiceTier.BATCH if body.batch else None)
    region = body.region
    if allowed is not None:
        return Served.of(tier or allowed.service_tier, region or allowed.region)
    return Served.of(tier, region)


def _require_one_tier(body: UsageReport) -> None:
    if body.batch and body.service_tier not in (None, ServiceTier.BATCH):
        raise invalid_field("service_tier", f"is {body.service_tier}, and `batch` is true; send one of them")


def _use(body: UsageReport) -> Use:
    try:
        return Use(
            input_tokens=body.input_tokens,
            output_tokens=body.output_tokens,
            cached_input_tokens=body.cached_input_tokens,
            cache_write_tokens=body.cache_write_tokens,
            reasoning_tokens=body.reasoning_tokens,
            quantities=body.quantities.used,
        )
    except ValueError as error:
        field, _, message = str(error).partition(" ")
        raise invalid_field(field, message) from error


def _in_utc(body: UsageReport) -> UsageReport:
    """The same instant said in another zone is the same report."""
    if body.occurred_at is None:
        return body
    return msgspec.structs.replace(body, occurred_at=body.occurred_at.astimezone(UTC))


def _require_same_user(body: UsageReport, allowed: Assessment) -> None:
    """What was held for one user must not be charged to another, against whose limits it was not held."""
    if body.user_id != allowed.user_id:
        raise invalid_field(
            "user_id", "the call was evaluated for another user; report the one it was evaluated for"
        )


def _reported_cost(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_usd(text)
    except ValueError as error:
        raise invalid_field("reported_cost_usd", str(error)) from error


def _outcome(call: _Call, written: Written) -> UsageReceipt | Problem:
    row, settled = written.outcome, written.settled
    if isinstance(row, Conflicting):
        return idempotency_conflict(row.request_id)
    held_against = call.allowed if call.held else None
    return UsageReceipt(
        request_id=row.request_id,
        duplicate=row.duplicate,
        cost_usd=format_usd_if_known(row.cost_nano),
        priced=row.cost_nano is not None and not row.unpriced,
        unpriced=row.unpriced,
        limit_state=() if held_against is None or settled is None else _limit_states(held_against, settled),
    )


def _limit_states(allowed: Assessment, settled: Settled) -> tuple[LimitState, ...]:
    found = []
    for limit in allowed.limits:
        state = None if limit.pair is None else settled.states.get(limit.pair)
        # Of a limit on other models than the one that answered there is none.
        if state is not None:
            used, held = state.used.of(limit.metric), state.held.of(limit.metric)
            exceeded = limit_state.nothing_remains(limit, used, held)
            found.append(limit_state.state(allowed, limit, used, held, exceeded=exceeded))
    return tuple(found)
