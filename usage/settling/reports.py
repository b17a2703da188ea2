"""From a usage report as sent to the ledger and the counters, and back to an answer.

Look up the holds -> complete, place in time and price the reports -> ledger (committed) -> counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from tenants.api.http import Metadata, Name, RequestId, TokenCount
from tenants.api.problems import Problem, idempotency_conflict, invalid_field
from usage import assessment, limit_state
from usage.amounts import Subjects
from usage.assessment import Assessment
from usage.counting.reservations import Reservation, open_reservations
from usage.counting.rules import CountingRules
from usage.counting.settle import Settled
from usage.counting.store import StoreUnavailable
from usage.ledger.models import Status
from usage.ledger.writing import Conflicting, Recorded, Report, digest_of, record
from usage.limit_state import LimitState
from usage.money import format_usd, parse_usd
from usage.prices.book import Match
from usage.prices.cost import TokenUse, cost_nano
from usage.settling import charging

# A report may come late (a spool that was offline) or from a clock that runs ahead.
OCCURRED_AGE_MAX = timedelta(days=35)
OCCURRED_AHEAD_MAX = timedelta(minutes=5)
LATENCY_MS_MAX = 24 * 3600 * 1000


class UsageReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/usage`. Token counts are totals; cached, cache-write and reasoning tokens are parts of them."""

    request_id: Annotated[
        RequestId,
        Meta(description="That of the evaluate, whose hold this settles, or a new one. Recorded once only."),
    ]
    user_id: Annotated[Name, Meta(description="Your end user, by your own id: limits per user count for it.")]
    model: Annotated[Name, Meta(description="The model as the provider calls it, such as gpt-4o-mini.")]
    input_tokens: Annotated[TokenCount, Meta(description="All tokens of the prompt, cached ones too.")]
    output_tokens: Annotated[TokenCount, Meta(description="All tokens of the answer, reasoning too.")]
    cached_input_tokens: Annotated[
        TokenCount, Meta(description="Part of `input_tokens` read from the provider's cache. Left out: 0.")
    ] = 0
    cache_write_tokens: Annotated[
        TokenCount, Meta(description="Part of `input_tokens` written to the provider's cache. Left out: 0.")
    ] = 0
    reasoning_tokens: Annotated[
        TokenCount, Meta(description="Part of `output_tokens` spent on reasoning. Left out: 0.")
    ] = 0
    plan: Annotated[
        Name | None, Meta(description="The end user's plan. While a hold is open, what was evaluated counts.")
    ] = None
    feature: Annotated[
        Name | None,
        Meta(
            description="The part of your product that called. While a hold is open, what was evaluated counts."
        ),
    ] = None
    run_id: Annotated[
        Name | None,
        Meta(description="The agent run or job. While a hold is open, what was evaluated counts."),
    ] = None
    provider: Annotated[
        Name | None,
        Meta(
            description="Whose price to take, where several offer the model. Left out: found by the model's name."
        ),
    ] = None
    status: Annotated[
        Literal["succeeded", "failed", "cancelled", "partial"],
        Meta(
            description="failed and cancelled with 0 tokens release the hold and take nothing of the limits."
        ),
    ] = "succeeded"
    batch: Annotated[
        bool, Meta(description="True for a call of the provider's batch API, which has prices of its own.")
    ] = False
    latency_ms: Annotated[
        Annotated[int, Meta(ge=0, le=LATENCY_MS_MAX)] | None,
        Meta(description="How long the provider took, in milliseconds."),
    ] = None
    reported_cost_usd: Annotated[
        Annotated[str, Meta(max_length=40)] | None,
        Meta(description="What the provider says it cost, as a decimal string in USD; kept for comparison."),
    ] = None
    occurred_at: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(
            description="When the call was made (RFC 3339 with a zone), in the last 35 days. Left out: now."
        ),
    ] = None
    metadata: Annotated[
        Metadata | None, Meta(description="What else you know about the call: at most 16 flat pairs.")
    ] = None


class UsageReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded. `limit_state`: the limits the call was held against, after the charge."""

    request_id: Annotated[str, Meta(description="As sent.")]
    duplicate: Annotated[
        bool, Meta(description="True if the same report was recorded before; nothing was charged again.")
    ]
    cost_usd: Annotated[
        str | None, Meta(description="Decimal string in USD; null if the model has no price.")
    ]
    priced: Annotated[bool, Meta(description="Whether a price was found.")]
    limit_state: Annotated[
        tuple[LimitState, ...],
        Meta(
            description="The limits the call was held against, after the charge; empty without an open hold."
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Placed:
    report: Report
    assessment: Assessment | None


def record_usage(
    reports: Sequence[UsageReport], known: CountingRules, api_key_id: int
) -> list[UsageReceipt | Problem]:
    """Records reports of one environment, one outcome each, in order. Request ids must differ from each other.

    Raises DatabaseError if the ledger cannot be reached; then nothing was recorded.
    """
    holds = _holds(known.environment_id, reports)
    outcomes: list[UsageReceipt | Problem | _Placed] = []
    for report, hold in zip(reports, holds, strict=True):
        try:
            outcomes.append(_place(report, hold, known, api_key_id))
        except Problem as problem:
            outcomes.append(problem)
    placed = [outcome for outcome in outcomes if isinstance(outcome, _Placed)]
    receipts = iter(_write(placed, known))
    return [next(receipts) if isinstance(outcome, _Placed) else outcome for outcome in outcomes]


def _holds(environment_id: int, reports: Sequence[UsageReport]) -> list[Reservation | None]:
    try:
        return open_reservations(environment_id, [report.request_id for report in reports])
    except StoreUnavailable:
        # Without the holds a report is placed by its own time; the recount that follows makes the counters agree.
        charging.note_missed(environment_id)
        return [None] * len(reports)


def _place(body: UsageReport, hold: Reservation | None, known: CountingRules, api_key_id: int) -> _Placed:
    now = datetime.now(UTC)
    allowed = None if hold is None else assessment.unpack(hold.assessment)
    if allowed is not None:
        _require_same_user(body, allowed)
    if (
        body.occurred_at is not None
        and not now - OCCURRED_AGE_MAX <= body.occurred_at <= now + OCCURRED_AHEAD_MAX
    ):
        raise invalid_field(
            "occurred_at", f"must lie in the last {OCCURRED_AGE_MAX.days} days and not in the future"
        )
    tokens = _tokens(body)
    at = now if body.occurred_at is None else min(body.occurred_at, now)
    match = known.prices.find(body.model, at, body.provider)
    override = None if allowed is None else allowed.override
    report = Report(
        environment_id=known.environment_id,
        request_id=body.request_id,
        body_digest=digest_of(_in_utc(body)),
        charged_at=at if hold is None else datetime.fromtimestamp(hold.at_ms / 1000, UTC),
        occurred_at=body.occurred_at,
        subjects=_subjects(body, allowed),
        model=body.model,
        provider=body.provider or (match.price.provider if match else ""),
        status=Status(body.status),
        tokens=tokens,
        cost_nano=None if match is None else cost_nano(match.price, tokens, batch=body.batch),
        price_id=_price_id(match),
        reported_cost_nano=_reported_cost(body.reported_cost_usd),
        latency_ms=body.latency_ms,
        policy_id=None if override is None else UUID(override.id),
        policy_version=None if override is None else override.version,
        api_key_id=api_key_id,
        metadata=body.metadata,
    )
    return _Placed(report, allowed)


def _tokens(body: UsageReport) -> TokenUse:
    try:
        return TokenUse(
            input_tokens=body.input_tokens,
            output_tokens=body.output_tokens,
            cached_input_tokens=body.cached_input_tokens,
            cache_write_tokens=body.cache_write_tokens,
            reasoning_tokens=body.reasoning_tokens,
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


def _subjects(body: UsageReport, allowed: Assessment | None) -> Subjects:
    """As evaluated, if the hold is open: against the limits of these it was held. Else as the report says."""
    if allowed is not None:
        return allowed.subjects
    return Subjects(
        user_id=body.user_id, feature=body.feature or "", plan=body.plan or "", run_id=body.run_id or ""
    )


def _price_id(match: Match | None) -> int | None:
    return None if match is None else match.price.price_id


def _reported_cost(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_usd(text)
    except ValueError as error:
        raise invalid_field("reported_cost_usd", str(error)) from error


def _write(placed: Sequence[_Placed], known: CountingRules) -> list[UsageReceipt | Problem]:
    if not placed:
        return []
    outcomes = record([item.report for item in placed])
    recorded = [outcome for outcome in outcomes if isinstance(outcome, Recorded)]
    settled = iter(charging.charge(recorded, known))
    return [
        idempotency_conflict(outcome.report.request_id)
        if isinstance(outcome, Conflicting)
        else _receipt(outcome, item.assessment, next(settled), known)
        for item, outcome in zip(placed, outcomes, strict=True)
    ]


def _receipt(
    outcome: Recorded, allowed: Assessment | None, settled: Settled | None, known: CountingRules
) -> UsageReceipt:
    report = outcome.report
    return UsageReceipt(
        request_id=report.request_id,
        duplicate=outcome.duplicate,
        cost_usd=None if report.cost_nano is None else format_usd(report.cost_nano),
        priced=report.cost_nano is not None,
        limit_state=()
        if allowed is None or settled is None
        else _limit_states(report, allowed, settled, known),
    )


def _limit_states(
    report: Report, allowed: Assessment, settled: Settled, known: CountingRules
) -> tuple[LimitState, ...]:
    charged = known.tracked.at(int(report.charged_at.timestamp() * 1000)).counters(report.subjects)
    states = {
        (counter.slot.pair.per, counter.slot.pair.window): state
        for counter, state in zip(charged, settled.states, strict=False)
    }
    found = []
    for limit in allowed.limits:
        state = states.get((limit.per, limit.window))
        if state is not None and limit.metric != "concurrency":
            used, held = state.used.of(limit.metric), state.held.of(limit.metric)
            found.append(limit_state.state(allowed, limit, used, held, exceeded=used + held > limit.amount))
    return tuple(found)
