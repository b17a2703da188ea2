"""From a stored decision to its explanation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from policies.blocked import by_limit
from policies.blocked.by_reason import ANSWERS, other_models
from policies.blocked.explanation import NOTHING_CHARGED, Explanation, StoodLimit
from policies.describing import reason_words
from policies.reasons import ReasonClass
from usage.amounts import Per
from usage.limit_state import counted
from usage.metrics import METRICS, Metric
from usage.windows import Window

if TYPE_CHECKING:
    from policies.models import BlockedDecision

_OF_LIMITS = {ReasonClass.EXHAUSTED.value, ReasonClass.TRANSIENT.value, ReasonClass.TOO_LARGE.value}


def explain(
    decision: BlockedDecision, zone: ZoneInfo, now: datetime, models: Sequence[str] = ()
) -> Explanation:
    """`zone` is the tenant's, in which its days and months begin; `models` those that the customer is told instead."""
    limits = _limits_of(decision)
    exceeded = [limit for limit in limits if limit.exceeded]
    if decision.reason_code in ANSWERS:
        why, tell, ways = ANSWERS[decision.reason_code](decision)
        tell = other_models(models) if models else tell
        return Explanation(
            headline=headline(decision), how="", why=why, limits=limits, tell=tell, ways=ways, vain=()
        )
    if exceeded and decision.reason_class in _OF_LIMITS:
        return by_limit.explain(decision, headline(decision), limits, exceeded, zone, now)
    return Explanation(
        headline=headline(decision),
        how="",
        why=decision.message,
        limits=limits,
        tell=f"That request could not be served. {NOTHING_CHARGED}",
        ways=(),
        vain=(),
    )


def headline(decision: BlockedDecision) -> str:
    """`ana: Daily request limit exceeded`"""
    return f"{decision.user_id}: {reason_words.of_code(decision.reason_code)}"


def _limits_of(decision: BlockedDecision) -> tuple[StoodLimit, ...]:
    """What only another version knows is left out."""
    found = []
    for state in decision.limit_state:
        try:
            found.append(_limit(decision, state))
        except (KeyError, TypeError, ValueError):
            continue
    return tuple(sorted(found, key=lambda limit: not limit.exceeded))


def _limit(decision: BlockedDecision, state: dict[str, Any]) -> StoodLimit:
    metric, window = Metric(state["metric"]), Window(state["window"])
    limit, used, held = (counted(metric, state[name]) for name in ("limit", "used", "held"))
    resets_at = state.get("resets_at")
    return StoodLimit(
        policy=str(state["policy"]),
        metric=metric,
        window=window,
        per=Per(state["per"]),
        models=tuple(map(str, state.get("models", ()))),
        limit=limit,
        boosted=counted(metric, state.get("boosted_by") or 0),
        used=used,
        held=held,
        needed=_needed(decision, metric),
        resets_at=None if resets_at is None else datetime.fromisoformat(str(resets_at)),
        exceeded=bool(state["exceeded"]),
    )


def _needed(decision: BlockedDecision, metric: Metric) -> int | None:
    if metric in (Metric.REQUESTS, Metric.CONCURRENCY):
        return 1
    if metric is Metric.COST_USD:
        return decision.needed_cost_nano
    parts = [getattr(decision, f"needed_{column}") for column in METRICS[metric].columns]
    return None if None in parts else sum(parts)
