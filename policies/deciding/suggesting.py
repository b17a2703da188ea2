"""Another model for a blocked call: one that the policies name, and that would be allowed as things stand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from policies.deciding.decision import Verdict, decide
from policies.reasons import BY_MODEL, WINDOW_CODES, Reason
from usage.assessment import Assessment, Reading
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
    named: Iterable[str],
    assess: Callable[[str], Assessment],
    readings: Sequence[Reading],
    now_ms: int,
) -> str | None:
    """The first of the named models that would have been allowed, `assess` being the same call with another model."""
    if verdict.reason_code not in _AVOIDABLE:
        return None
    tried = islice(named, TRIED_MAX)
    return next((model for model in tried if decide(assess(model), readings, now_ms).verdict.allowed), None)
