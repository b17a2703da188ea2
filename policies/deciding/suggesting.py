"""Another model for a blocked call: one that the policies name, and that would be allowed as things stand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from policies.deciding.decision import Verdict, decide
from policies.reasons import BY_MODEL, WINDOW_CODES, Reason
from usage.assessment import Assessment, LimitRef, Reading
from usage.metrics import Metric

# Reasons that switching the model can avoid.
_AVOIDABLE = frozenset(
    {
        *(reason.value for reason in BY_MODEL),
        Reason.REQUEST_COST_EXCEEDED.value,
        *(code for (_, metric), code in WINDOW_CODES.items() if metric is Metric.COST_USD),
    }
)
# A block is answered as fast as an allowed call is.
TRIED_MAX = 8


def suggested_model(
    verdict: Verdict,
    limits: Iterable[LimitRef],
    named: Iterable[str],
    assess: Callable[[str], tuple[Assessment, Sequence[Reading]] | None],
    now_ms: int,
) -> str | None:
    """The first of the named models that would have been allowed.

    `limits` are those of the call; `assess` is the same call with another model, with the readings of its limits, or
    None if these are not known.
    """
    if verdict.allowed:
        return None
    if verdict.reason_code not in _AVOIDABLE and not any(limit.models for limit in limits):
        return None
    for model in islice(named, TRIED_MAX):
        found = assess(model)
        if found is not None and decide(*found, now_ms).verdict.allowed:
            return model
    return None
