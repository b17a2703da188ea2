"""Whether an hour cost far more than usual. Pure.

The hour is compared with the same hour of the day, and the hours before and after it, of each of the DAYS before: up to
42 hours, of which one without a call counts as 0. Of these the median says what is usual, and the median distance from
it (times 1.4826, so that it is a standard deviation where the hours scatter normally) how far they scatter. Medians,
because one bad hour last week must not hide the next.

The score is how many of these deviations the hour lies above the usual. A deviation counts as at least a tenth of the
usual, and as at least MINIMUM / SCORE_MIN, so that hours that are all alike do not make an alert of a few cents. It
fires from SCORE_MIN on, if the hour cost at least the minimum more than usual and twice the usual; it stands until the
score is below half of that.

Nothing is said before there are HOURS_MIN hours to compare with: a bit over three days. Hours are those of UTC; the
hours beside make good for a change of the clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

DAYS = 14
BESIDE = timedelta(hours=1)
HOURS_MIN = 9
SCORE_MIN = 6
TIMES_MIN = 2
_TO_DEVIATION = 1.4826
_OF_USUAL = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Costs in nano-USD. `score`: rounded down. `compared`: with how many hours."""

    spent: int
    usual: int
    score: int
    compared: int
    fires: bool
    stays: bool


def compared_hours(hour: datetime) -> list[datetime]:
    """The latest first."""
    return [
        hour - timedelta(days=day) + beside
        for day in range(1, DAYS + 1)
        for beside in (BESIDE, timedelta(0), -BESIDE)
    ]


def judge(spent: int, before: Sequence[int], minimum: int) -> Verdict:
    """`before`: what the compared hours cost of which it is known. Nano-USD."""
    if len(before) < HOURS_MIN:
        return Verdict(spent=spent, usual=0, score=0, compared=len(before), fires=False, stays=False)
    usual = median(before)
    scatter = _TO_DEVIATION * median(abs(each - usual) for each in before)
    deviation = max(scatter, _OF_USUAL * usual, minimum / SCORE_MIN, 1.0)
    score = (spent - usual) / deviation
    much = spent - usual >= minimum and spent >= TIMES_MIN * usual and spent > 0
    return Verdict(
        spent=spent,
        usual=round(usual),
        score=max(0, int(score)),
        compared=len(before),
        fires=score >= SCORE_MIN and much,
        stays=score >= SCORE_MIN / 2,
    )
