"""How a limit stands, as the API says it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta

from usage.amounts import Per
from usage.assessment import Assessment, LimitRef
from usage.instants import from_ms
from usage.metrics import Metric
from usage.money import format_usd, parse_usd
from usage.windows import Window

Amount = int | str


def one_of(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


class LimitState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts are integers, money a decimal string of USD. `remaining` = limit - used - held, never below 0."""

    policy: Annotated[str, Meta(description="Name of the policy the limit belongs to.")]
    metric: Annotated[str, Meta(description=f"{one_of(Metric)}.")]
    window: Annotated[str, Meta(description=f"{one_of(Window)}.")]
    per: Annotated[
        str,
        Meta(description=f"Whose calls are counted together: {one_of(Per)}."),
    ]
    limit: Annotated[
        Amount,
        Meta(
            description="What a window allows: a count; for cost_usd a decimal string in USD. So the next three."
        ),
    ]
    used: Annotated[Amount, Meta(description="What reported calls took.")]
    held: Annotated[Amount, Meta(description="What calls hold that are not reported yet.")]
    remaining: Annotated[Amount, Meta(description="limit - used - held, never below 0.")]
    resets_at: Annotated[
        datetime | None, Meta(description="When the window ends (RFC 3339, UTC); null if it never does.")
    ]
    exceeded: Annotated[
        bool,
        Meta(
            description="Whether the limit stands against the call; after a report: whether nothing remains."
        ),
    ]
    models: Annotated[
        Sequence[str],
        Meta(
            description="Patterns of the models that it counts; calls to others are free of it. Left out if it counts "
            "calls to all."
        ),
    ] = ()
    boosted_by: Annotated[
        Amount | None,
        Meta(
            description="Of `limit`, what boosts add for the time being; without it the limit is the policy's. Left "
            "out if none runs."
        ),
    ] = None


def nothing_remains(limit: LimitRef, used: int, held: int) -> bool:
    """Whether no further call fits that takes anything of the metric. A receipt and GET /v1/limits both say so."""
    return used + held >= limit.amount


def state(assessment: Assessment, limit: LimitRef, used: int, held: int, *, exceeded: bool) -> LimitState:
    return LimitState(
        policy=assessment.policies[limit.policy].name,
        metric=limit.metric,
        window=limit.window,
        per=limit.per,
        limit=present(limit.metric, limit.amount),
        used=present(limit.metric, used),
        held=present(limit.metric, held),
        remaining=present(limit.metric, max(0, limit.amount - used - held)),
        resets_at=instant(limit.resets_at_ms),
        exceeded=exceeded,
        models=limit.models,
        boosted_by=_boosted_by(assessment, limit),
    )


def _boosted_by(assessment: Assessment, limit: LimitRef) -> Amount | None:
    more = assessment.boosted_by(limit)
    return present(limit.metric, more) if more else None


@lru_cache(maxsize=65_536)
def present(metric: Metric, amount: int) -> Amount:
    return format_usd(amount) if metric is Metric.COST_USD else amount


def counted(metric: Metric, amount: object) -> int:
    """What `present` made of it, read again: a count, or nano-USD. Raises TypeError, ValueError."""
    if metric is Metric.COST_USD:
        return parse_usd(str(amount))
    if not isinstance(amount, int):
        raise TypeError(amount)
    return amount


@lru_cache(maxsize=1024)
def instant(ms: int | None) -> datetime | None:
    # Whole seconds: windows begin on them, and a caller reads them better.
    return None if ms is None else from_ms(ms - ms % 1000)
