"""What fires, given what was read. Pure.

limit.threshold      What is used and held reaches so many percent of the limit. Of a limit without a window that ends
                     (in all, calls at once) it stands until that falls REARM_POINTS below the threshold.
limit.runs_out       A limit ends before its window does, as all pages say it (policies/standing/runs_out.py), and at
                     least FORECAST_PERCENT of it is taken. Only of windows of a day or longer: of shorter ones the
                     warning comes too late.
calls.blocked_spike  Of the calls of the last SPIKE_MINUTES at least BLOCKED_MIN were blocked, these are the threshold's
                     share of all of them, and the share is SPIKE_FACTOR times that of the SPIKE_BEFORE before. It
                     stands until the share is below half of the threshold.
spend.anomaly        The last full hour cost far more than the same hours of the days before (anomaly.py).
counters.drift       A counter differs from the ledger, twice in a row by the same amount.
model.unpriced       A model without a price was called since UNPRICED_SINCE; it stands until that is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from policies.alerting.anomaly import Verdict
from usage.amounts import Models, Per
from usage.metrics import Metric
from usage.windows import Window

REARM_POINTS = 10
FORECAST_PERCENT = 20
FORECAST_WINDOWS = frozenset({Window.DAY, Window.WEEK, Window.MONTH})
SPIKE_MINUTES = timedelta(minutes=15)
SPIKE_BEFORE = timedelta(hours=24)
BLOCKED_MIN = 20
SPIKE_FACTOR = 2
UNPRICED_SINCE = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReading:
    """How a limit of one subject stands. Costs in nano-USD. Without `resets_at` its window never ends."""

    policy_id: str
    policy: str
    metric: Metric
    window: Window
    per: Per
    models: Models = ()
    # As it is counted, and as people say it.
    subject: str
    subject_words: str
    used: int
    held: int
    limit: int
    begins_at: datetime | None
    resets_at: datetime | None
    # At the pace so far, or by the forecast of a budget; None: not before it resets, or used up already.
    runs_out_at: datetime | None
    by_forecast: bool = False
    # It blocks nothing.
    monitored: bool

    @property
    def taken(self) -> int:
        return self.used + self.held

    @property
    def percent(self) -> int:
        """Rounded down, as the console's bars say it."""
        return self.taken * 100 // self.limit

    def reaches(self, percent: int) -> bool:
        return self.taken * 100 >= percent * self.limit

    @property
    def about(self) -> tuple[str, ...]:
        """With its amount: a limit that was raised is reached anew."""
        of = (self.policy_id, self.metric.value, self.window.value, self.per.value, self.subject)
        return ("limit", *of, str(self.limit), *self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsReading:
    """Calls that were blocked and that were made, of the last minutes and of the time before them."""

    blocked: int
    made: int
    blocked_before: int
    made_before: int

    @property
    def percent(self) -> int:
        return _percent(self.blocked, self.made)

    @property
    def percent_before(self) -> int:
        return _percent(self.blocked_before, self.made_before)

    def reaches(self, percent: int) -> bool:
        all_calls, all_before = self.blocked + self.made, self.blocked_before + self.made_before
        share = self.blocked * 100 >= percent * all_calls
        rose = self.blocked * all_before >= SPIKE_FACTOR * self.blocked_before * all_calls
        return self.blocked >= BLOCKED_MIN and share and rose

    def stays(self, percent: int) -> bool:
        return self.blocked > 0 and self.blocked * 200 >= percent * (self.blocked + self.made)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendReading:
    """What a feature or a key spent in the hour that ended last. `of`: feature or key."""

    of: str
    name: str
    words: str
    hour: datetime
    calls: int
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReading:
    counters: int
    checked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedReading:
    model: str
    features: tuple[str, ...]
    # Made, and blocked for want of the price.
    calls: int
    blocked: int
    first_at: datetime


Reading = LimitReading | CallsReading | SpendReading | DriftReading | UnpricedReading


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What stands now. Not `fires`: it only goes on standing if it fired before.

    With `begins_at` it fires once in the window that begins then; without, once until it is over.
    """

    about: tuple[str, ...]
    reading: Reading
    threshold: int = 0
    fires: bool = True
    begins_at: datetime | None = None
    ends_at: datetime | None = None


def thresholds_reached(readings: Iterable[LimitReading], thresholds: Iterable[int]) -> Iterator[Finding]:
    levels = sorted(set(thresholds))
    for reading in readings:
        for level in levels if reading.limit > 0 else ():
            fires = reading.reaches(level)
            stays = reading.resets_at is None and reading.reaches(level - REARM_POINTS)
            if fires or stays:
                yield _of_limit(reading, threshold=level, fires=fires)


def run_outs(readings: Iterable[LimitReading]) -> Iterator[Finding]:
    for reading in readings:
        if (
            reading.limit > 0
            and reading.window in FORECAST_WINDOWS
            and reading.runs_out_at is not None
            and reading.reaches(FORECAST_PERCENT)
        ):
            yield _of_limit(reading)


def _of_limit(reading: LimitReading, *, threshold: int = 0, fires: bool = True) -> Finding:
    ends = reading.resets_at is not None
    return Finding(
        about=reading.about,
        reading=reading,
        threshold=threshold,
        fires=fires,
        begins_at=reading.begins_at if ends else None,
        ends_at=reading.resets_at,
    )


def spikes(reading: CallsReading, thresholds: Iterable[int]) -> Iterator[Finding]:
    for level in sorted(set(thresholds)):
        fires = reading.reaches(level)
        if fires or reading.stays(level):
            yield Finding(about=("calls",), reading=reading, threshold=level, fires=fires)


def anomalies(readings: Iterable[SpendReading]) -> Iterator[Finding]:
    for reading in readings:
        if reading.verdict.fires or reading.verdict.stays:
            yield Finding(
                about=("spend", reading.of, reading.name), reading=reading, fires=reading.verdict.fires
            )


def drifts(reading: DriftReading) -> Iterator[Finding]:
    if reading.counters:
        yield Finding(about=("counters",), reading=reading)


def unpriced(readings: Iterable[UnpricedReading]) -> Iterator[Finding]:
    for reading in readings:
        yield Finding(about=("model", reading.model), reading=reading)


def _percent(blocked: int, made: int) -> int:
    return blocked * 100 // (blocked + made) if blocked + made else 0
