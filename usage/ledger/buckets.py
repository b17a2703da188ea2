"""Into which rolled-up buckets a period falls: whole UTC days, then quarter hours, then single rows at the edges.

A quarter hour is the finest bucket, because every time zone in use today differs from UTC by a multiple of it: so each
hour, day, week and month of every zone is made of whole buckets. Where a period is cut elsewhere (a query's `from` and
`to`, a zone of the past with an odd offset), the rows of the bucket that is cut are read themselves.

Where the buckets of a period are many, it is made of few: a month in Berlin is the month in UTC without its last hour
and with the hour before it (`pieces`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise

QUARTER = timedelta(minutes=15)
DAY = timedelta(days=1)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Range:
    """From `start` up to but not including `end`."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Parts:
    """What makes up a period, without gap or overlap: buckets of both sizes, and rows. Each in order of time."""

    days: tuple[Range, ...]
    quarters: tuple[Range, ...]
    rows: tuple[Range, ...]


def parts(bounds: Sequence[datetime]) -> Parts:
    """The parts between the first and the last of the rising bounds, such that none lies across a bound."""
    days: list[Range] = []
    quarters: list[Range] = []
    rows: list[Range] = []
    for start, end in pairwise(bounds):
        edges = list(_whole(start, end, QUARTER))
        for bucketed in edges:
            whole_days = list(_whole(bucketed.start, bucketed.end, DAY))
            days += whole_days
            quarters += _around(bucketed, whole_days)
        rows += _around(Range(start, end), edges)
    return Parts(_joined(days), _joined(quarters), _joined(rows))


class Size(StrEnum):
    MONTH = "month"
    DAY = "day"
    QUARTER = "quarter"

    def start_of(self, at: datetime) -> datetime:
        """When the bucket begins that it lies in."""
        if self is Size.MONTH:
            at = at.astimezone(UTC)
            return datetime(at.year, at.month, 1, tzinfo=UTC)
        return at - (at - _EPOCH) % (DAY if self is Size.DAY else QUARTER)

    def end_of(self, at: datetime) -> datetime:
        """Raises ValueError or OverflowError for the last bucket of the calendar."""
        start = self.start_of(at)
        if self is Size.MONTH:
            return datetime(start.year + start.month // 12, start.month % 12 + 1, 1, tzinfo=UTC)
        return start + (DAY if self is Size.DAY else QUARTER)


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole buckets of a size. `at`: the start of the period that they count for, if they do not all lie in it.

    `taken_off`: they are part of a larger one, and do not belong to the period.
    """

    size: Size
    range: Range
    at: datetime | None = None
    taken_off: bool = False


def pieces(
    bounds: Sequence[datetime], sizes: Sequence[Size], now: datetime, left_out: int = 0
) -> tuple[list[Piece], list[Range]]:
    """What makes up each period between two of the rising bounds, and the rows at its edges. As few as may be.

    A bucket that lies mostly inside is taken whole, and what lies outside is taken off. After `now` there is nothing
    to read. `left_out`: the number, from 1, of a period that is not asked for.
    """
    found: list[Piece] = []
    rows: list[Range] = []
    for number, (start, end) in enumerate(pairwise(bounds), start=1):
        if number == left_out:
            continue
        inside = list(_whole(start, end, QUARTER))
        for each in inside:
            found += _pieces(each, sizes, now, start, taken_off=False)
        rows += _around(Range(start, end), inside)
    return found, rows


def _pieces(
    period: Range, sizes: Sequence[Size], now: datetime, at: datetime, *, taken_off: bool
) -> Iterator[Piece]:
    size, *finer = sizes
    if not finer:
        yield Piece(size, period, at, taken_off)
        return
    for bucket in _touched(period, size):
        inside = Range(max(bucket.start, period.start), min(bucket.end, period.end))
        outside = _around(bucket, [inside])
        if not outside or sum((_passed(each, now) for each in outside), timedelta()) < _passed(inside, now):
            yield Piece(size, bucket, at, taken_off)
            for each in outside:
                yield from _pieces(each, finer, now, at, taken_off=not taken_off)
        else:
            yield from _pieces(inside, finer, now, at, taken_off=taken_off)


def _touched(period: Range, size: Size) -> Iterator[Range]:
    """The buckets that it touches: the first, those whole inside as one, and the last."""
    first, last = size.start_of(period.start), size.start_of(period.end)
    whole = Range(first if first == period.start else _end(size, first), last)
    if first < period.start:
        yield Range(first, whole.start)
    if whole.start < whole.end:
        yield whole
    if last < period.end and last >= whole.start:
        yield Range(last, _end(size, last))


def _end(size: Size, start: datetime) -> datetime:
    try:
        return size.end_of(start)
    except (ValueError, OverflowError):
        return datetime.max.replace(tzinfo=UTC)


def _passed(period: Range, now: datetime) -> timedelta:
    return max(timedelta(), min(period.end, now) - period.start)


def _whole(start: datetime, end: datetime, bucket: timedelta) -> Iterator[Range]:
    """The whole buckets between the two, if any, as one range."""
    first, last = start + (_EPOCH - start) % bucket, end - (end - _EPOCH) % bucket
    if first < last:
        yield Range(first, last)


def _around(outer: Range, inner: list[Range]) -> list[Range]:
    """What is left of a range without the one inside it."""
    if not inner:
        return [outer]
    (taken,) = inner
    left, right = Range(outer.start, taken.start), Range(taken.end, outer.end)
    return [part for part in (left, right) if part.start < part.end]


def _joined(ranges: list[Range]) -> tuple[Range, ...]:
    """With those that touch made one."""
    found: list[Range] = []
    for each in ranges:
        if found and found[-1].end == each.start:
            found[-1] = Range(found[-1].start, each.end)
        else:
            found.append(each)
    return tuple(found)
