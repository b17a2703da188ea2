"""What the Explorer shows of an answer: rows of its table with where they lead to, and its chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import zip_longest
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.urls import reverse

from usage import wording
from usage.admin.asked import MAY_LACK
from usage.admin.explorer_form import NONE, TOPS, ExplorerAsked
from usage.analytics import chart, measures, period_words
from usage.analytics.answers import Answer, Line
from usage.analytics.cells import added
from usage.analytics.chart import OWN_MAX, Chart, Series
from usage.analytics.questions import Measure, Question, Rank, Sums
from usage.analytics.shown_period import Days, Named, ShownPeriod
from usage.instants import from_ms
from usage.ledger.buckets import Range
from usage.ledger.periods import Period
from usage.windows import Window

# The row of those that are left out of the table and of the count of the others.
NO_CALLS = "Without calls in this period"
_DAYS_OR_LONGER = (Window.DAY, Window.WEEK, Window.MONTH)


@dataclass(frozen=True, slots=True)
class Row:
    """`pattern`: of its blocks in the chart; 0: it has none. `url`: of its calls; Other leads to all names.

    `user_url`: of the page of the user that it is; "": it is none.

    `calls_change` and `per_call_change` say what the change is made of.

    `is_named`: its name is one that calls have. `is_idle`: it is of those that made no call in the period.
    """

    name: str
    is_named: bool
    is_idle: bool
    is_part: bool
    pattern: int
    url: str
    user_url: str
    calls: str
    spent: str
    amount: str
    in_full: str
    share: str
    width: float
    before: str
    change: str
    per_call: str
    calls_change: str
    per_call_change: str


@dataclass(frozen=True, slots=True)
class StepRow:
    label: str
    url: str | None
    # `6 of 7 days, until now`; empty: the whole of it is shown.
    part: str
    amount: str
    before: str
    # Which days that is, where they are not as many steps earlier.
    before_days: str
    change: str


@dataclass(frozen=True, slots=True)
class Key:
    """Of the legend."""

    name: str
    pattern: int


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything of an answer that the page shows."""

    asked: ExplorerAsked
    question: Question
    answer: Answer
    period: ShownPeriod

    @property
    def zone(self) -> ZoneInfo:
        return self.asked.zone

    @property
    def is_mean(self) -> bool:
        """The chart is of the mean of a call, as the order is."""
        return self.question.rank is Rank.PER_CALL and self.question.measure is not Measure.CALLS

    def _charted(self, sums: Sums) -> int:
        amount = self.measure.of(sums)
        if not self.is_mean:
            return amount
        return round(amount / sums["requests"]) if sums["requests"] > 0 else 0

    @property
    def measure(self) -> Measure:
        return self.question.measure

    # The table

    def rows(self) -> Iterator[Row]:
        for place, line in enumerate(self.answer.lines):
            yield self._row(line, self.question.group, {}, pattern=self._pattern(place))
            for part in line.parts:
                named = self.named(line)
                yield self._row(part, self.question.part, named, is_part=True)

    def total(self) -> Row:
        return self._row(self.answer.total, None, {})

    def _row(
        self, line: Line, dimension: str | None, inside: dict[str, str | list[str]] | None, *,
        is_part: bool = False, pattern: int = 0,
    ) -> Row:  # fmt: skip
        now, before = self.measure.of(line.now), self.measure.of(line.before)
        whole = self.measure.of(self.answer.total.now)
        most = max((self.measure.of(each.now) for each in self.answer.lines), default=0)
        return Row(
            name=_name(line, dimension),
            is_named=bool(line.name),
            is_idle=dimension is not None and line.name is None and not line.others,
            is_part=is_part,
            pattern=pattern,
            url=self._url(line, dimension, inside),
            user_url=self.asked.user_url(line.name) if dimension == "user" and line.name else "",
            calls=wording.count(line.now["requests"]),
            spent=measures.in_column(Measure.COST, line.now["cost_nano"], self.answer.total.now["cost_nano"]),
            amount=self._in_column(now),
            in_full=measures.in_full(self.measure, now),
            share=wording.share(now, whole),
            width=round(100 * max(now, 0) / most, 2) if most > 0 else 0,
            before=self._in_column(before),
            change=self._change(now, before),
            per_call=measures.per_call(self.measure, line.now),
            calls_change=self._percent(line.now["requests"], line.before["requests"]),
            per_call_change=self._per_call_change(line),
        )

    def _in_column(self, amount: int) -> str:
        total = self.answer.total
        return measures.in_column(
            self.measure, amount, max(self.measure.of(total.now), self.measure.of(total.before))
        )

    def _of_a_step(self, amount: int) -> str:
        return measures.amount(self.measure, amount) if self.is_mean else self._in_column(amount)

    def _change(self, now: int, before: int) -> str:
        """In percent; where the largest rise comes first, that rise too: `+$3.20 · +15.9 %`."""
        percent = self._percent(now, before) or ("new" if now and not before and self._compares else "")
        if self.question.rank is not Rank.RISE or now == before:
            return percent
        rise = f"{'+' if now > before else ''}{self._in_column(now - before)}"
        return f"{rise} · {percent}" if percent else rise

    @property
    def _compares(self) -> bool:
        return self.asked.known_since is None

    def _percent(self, now: int, before: int) -> str:
        """Empty where there is nothing to compare with."""
        return (wording.change(now, before) or "") if self._compares else ""

    def _per_call_change(self, line: Line) -> str:
        return (
            (measures.change_of_a_call(self.measure, line.now, line.before) or "") if self._compares else ""
        )

    def named(self, line: Line) -> dict[str, str | list[str]] | None:
        """The filter that a line of the answer is, for an address; None: it is of several names."""
        return self._named(self.question.group, line)

    def _named(self, dimension: str | None, line: Line) -> dict[str, str | list[str]] | None:
        if dimension is None:
            return {}
        if line.name is None:
            return None
        if line.name:
            return {dimension: line.name}
        return {"without": [dimension]} if dimension in MAY_LACK else {}

    def _url(self, line: Line, dimension: str | None, inside: dict[str, str | list[str]] | None) -> str:
        """Of the ledger's rows under the same filters; of several names: of the page with all of them."""
        named = self._named(dimension, line)
        if named is None or inside is None:
            return self.asked.address(by=self.question.group or NONE, top=str(TOPS[-1]))
        without = [name for each in (inside, named) for name in each.get("without", [])]
        kept = self.asked.given.getlist("without")
        return _events(self.asked, {**inside, **named, "without": [*kept, *without]})

    # The chart

    def keys(self) -> list[Key]:
        own = [Key(_name(line, self.question.group), place + 1) for place, line in enumerate(self._own())]
        rest = self.answer.lines[OWN_MAX:]
        if not rest:
            return own
        return [*own, Key(self._rest_name(rest), OWN_MAX + 1)]

    def _rest_name(self, rest: Sequence[Line]) -> str:
        """As the table calls it; where the table has rows for some of them, it says so."""
        if len(rest) == 1:
            return _name(rest[0], self.question.group)
        count = sum(line.others if line.name is None else 1 for line in rest)
        return f"All after the first {OWN_MAX} ({count:,})"

    def _own(self) -> Sequence[Line]:
        return self.answer.lines[:OWN_MAX]

    def _pattern(self, place: int) -> int:
        """Rows that are one in the chart have no sign of their own."""
        is_own = place < OWN_MAX or len(self.answer.lines) == OWN_MAX + 1
        return place + 1 if self.question.step is not None and is_own else 0

    def chart(self) -> Chart | None:
        """None: the period is not cut into steps."""
        if self.question.step is None:
            return None
        labels = [self._label(step) for step in self.answer.steps]
        series = [
            self._series(place + 1, _name(line, self.question.group), line.series, labels)
            for place, line in enumerate(self._own())
        ]
        if rest := self.answer.lines[OWN_MAX:]:
            summed = [added(sums) for sums in zip(*(line.series for line in rest), strict=True)]
            series.append(self._series(OWN_MAX + 1, self._rest_name(rest), summed, labels))
        before = self._before() if self._compares else [None] * len(labels)
        says = [
            "" if amount is None else f"{label}, before: {measures.amount(self.measure, amount)}"
            for label, amount in zip(labels, before, strict=True)
        ]
        parts = [bool(self._part(step)) for step in self.answer.steps]
        return chart.chart(series, before, says, labels, parts, beside=self.is_mean)

    @property
    def has_parts(self) -> bool:
        """Some bars are of a part of a step."""
        return self.question.step is not None and any(map(self._part, self.answer.steps))

    def levels(self) -> list[str]:
        """The scale of the chart in words."""
        found = self.chart()
        return [] if found is None else [measures.in_full(self.measure, level) for level in found.levels]

    def _series(self, pattern: int, name: str, series: Sequence[Sums], labels: Sequence[str]) -> Series:
        amounts = self._amounts(series)
        says = [
            f"{label}{f' ({part})' if part else ''}, {name}: {measures.amount(self.measure, amount)}"
            for label, part, amount in zip(labels, map(self._part, self.answer.steps), amounts, strict=True)
        ]
        return Series(pattern, amounts, says)

    def _amounts(self, series: Sequence[Sums]) -> Sequence[int]:
        """Added up, if asked for, as far as the period has come."""
        amounts = [self._charted(sums) for sums in series]
        if self.is_mean or not self.asked.cleaned_data["cumulative"]:
            return amounts
        pairs = zip(self.answer.steps, chart.added_up(amounts), strict=True)
        return [amount if step.start <= self.period.now else 0 for step, amount in pairs]

    def _before(self) -> list[int | None]:
        """For each step of the period, what the one before it had, at the same time of the clock."""
        amounts: Sequence[int] = [self._charted(sums) for sums in self.answer.series_before]
        if self.asked.cleaned_data["cumulative"] and not self.is_mean:
            amounts = chart.added_up(amounts)
        if self._is_long:
            return [
                amount if self._lasted(step) == self._lasted(before) else None
                for step, before, amount in zip_longest(
                    self.answer.steps, self._steps_before(), amounts[: len(self.answer.steps)]
                )
            ]
        at = {
            self._clock(step) + self.period.shift: amount
            for step, amount in zip(self.answer.steps_before, amounts, strict=True)
        }
        return [at.get(self._clock(step)) for step in self.answer.steps]

    @property
    def _is_long(self) -> bool:
        """Of steps whose days the period before has in other steps."""
        return self.question.step in (Window.WEEK, Window.MONTH)

    def _steps_before(self) -> Sequence[Range]:
        return self.answer.steps_before[: len(self.answer.steps)]

    def _lasted(self, step: Range | None) -> timedelta | None:
        """By the clock, until now. None: there is none."""
        if step is None:
            return None
        end = max(step.start, min(step.end, self.period.now))
        return _read(end, self.zone) - _read(step.start, self.zone)

    def _part(self, step: Range) -> str:
        """What of its window a step is, if it is not all: `6 of 7 days, until now`."""
        if self.question.step is None:
            return ""
        window = Period(step.start, step.end).spans(self.question.step, self.zone)[0]
        assert window.end is not None
        days = _days(step, self.zone)
        of = _days(Range(from_ms(window.start), from_ms(window.end)), self.zone)
        parts = [
            f"{days} of {of} days" if self._is_long and days < of else "",
            "until now" if step.start <= self.period.now < step.end else "",
        ]
        return ", ".join(part for part in parts if part)

    def _clock(self, step: Range) -> datetime:
        return _read(step.start, self.zone)

    def _label(self, step: Range) -> str:
        here = step.start.astimezone(self.zone)
        if self.question.step is Window.HOUR:
            is_one_day = self.period.days.first == self.period.days.last
            return f"{here:%H:%M}" if is_one_day else f"{here.day} {here:%b %H:%M}"
        return f"{here:%b %Y}" if self.question.step is Window.MONTH else f"{here.day} {here:%b}"

    # The same as a table

    def step_rows(self) -> Iterator[StepRow]:
        if self.question.step is None:
            return
        amounts = self._amounts(self.answer.total.series)
        ranges = [*self._steps_before(), *[None] * len(amounts)] if self._is_long else [None] * len(amounts)
        for step, amount, before, of in zip(self.answer.steps, amounts, self._before(), ranges, strict=False):
            yield StepRow(
                label=self._label(step),
                url=self._step_url(step),
                part=self._part(step),
                amount=self._of_a_step(amount),
                before="" if before is None else self._of_a_step(before),
                before_days="" if before is None or of is None else self._days_in_words(of),
                change="" if before is None else self._percent(amount, before),
            )

    def _days_in_words(self, of: Range) -> str:
        first, last = _dates(of, self.zone)
        return period_words.days(Days(first, last, of))

    def _step_url(self, step: Range) -> str | None:
        if self.question.step not in _DAYS_OR_LONGER:
            return None
        first, last = _dates(step, self.zone)
        return _events(self.asked, {"period": Named.CUSTOM.value, "from": str(first), "to": str(last)})


def _read(at: datetime, zone: ZoneInfo) -> datetime:
    """As the zone's clocks read."""
    return at.astimezone(zone).replace(tzinfo=None)


def _dates(of: Range, zone: ZoneInfo) -> tuple[date, date]:
    """The first and the last day of it."""
    return of.start.astimezone(zone).date(), (of.end - timedelta(microseconds=1)).astimezone(zone).date()


def _days(of: Range, zone: ZoneInfo) -> int:
    first, last = _dates(of, zone)
    return (last - first).days + 1


def _events(asked: ExplorerAsked, changed: dict[str, str | list[str]]) -> str:
    query = urlencode(asked.parameters(**changed), doseq=True)
    return f"{reverse('admin:usage_usageevent_changelist')}?{query}"


def _name(line: Line, dimension: str | None) -> str:
    if line.name is None:
        if not dimension:
            return "Total"
        return f"Other ({line.others:,})" if line.others else NO_CALLS
    return line.name or (f"No {dimension}" if dimension else "All calls")
