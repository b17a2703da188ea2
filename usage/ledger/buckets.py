"""Into which rolled-up buckets a period falls: whole UTC days, then quarter hours, then single rows at the edges.

A quarter hour is the finest bucket, because every time zone in use today differs from UTC by a multiple of it: so each
hour, day, week and month of every zone is made of whole buckets. Where a period is cut elsewhere (a query's `from` and
`to`, a zone of the past with an odd offset), the rows of the bucket that is cut are read themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
