"""The buckets that a period falls into: none missing, none twice, none across a window's edge."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.ledger.buckets import DAY, QUARTER, Parts, Piece, Range, Size, parts, pieces
from usage.windows import Window, span

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = sorted(zoneinfo.available_timezones())
instants = st.integers(631_152_000_000_000, 2_208_988_800_000_000).map(
    lambda microseconds: EPOCH + timedelta(microseconds=microseconds)
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def everything(found: Parts) -> list[Range]:
    return sorted((*found.days, *found.quarters, *found.rows), key=lambda part: part.start)


def test_a_month_in_berlin_is_days_and_the_quarter_hours_at_its_ends() -> None:
    assert parts([at("2026-10-31T23:00"), at("2026-11-30T23:00")]) == Parts(
        days=(Range(at("2026-11-01"), at("2026-11-30")),),
        quarters=(
            Range(at("2026-10-31T23:00"), at("2026-11-01")),
            Range(at("2026-11-30"), at("2026-11-30T23:00")),
        ),
        rows=(),
    )


def test_a_cut_inside_a_bucket_leaves_rows_at_both_ends() -> None:
    assert parts([at("2026-11-01T10:07:30"), at("2026-11-01T11:01")]) == Parts(
        days=(),
        quarters=(Range(at("2026-11-01T10:15"), at("2026-11-01T11:00")),),
        rows=(
            Range(at("2026-11-01T10:07:30"), at("2026-11-01T10:15")),
            Range(at("2026-11-01T11:00"), at("2026-11-01T11:01")),
        ),
    )


def test_a_minute_is_rows_alone() -> None:
    assert parts([at("2026-11-01T10:14"), at("2026-11-01T10:15")]).rows == (
        Range(at("2026-11-01T10:14"), at("2026-11-01T10:15")),
    )


@given(st.lists(instants, min_size=2, max_size=6, unique=True).map(sorted))
def test_the_parts_are_the_period_without_gap_or_overlap_and_none_lies_across_a_bound(
    bounds: list[datetime],
) -> None:
    found = parts(bounds)
    inside = everything(found)

    assert inside[0].start == bounds[0]
    assert inside[-1].end == bounds[-1]
    assert all(before.end == after.start for before, after in pairwise(inside))
    for ranges, bucket in ((found.days, DAY), (found.quarters, QUARTER)):
        for each in ranges:
            assert (each.start - EPOCH) % bucket == (each.end - EPOCH) % bucket == timedelta()
            for bound in bounds:
                # A bucket may end or begin at a bound, but not hold one inside.
                assert not each.start < bound < each.end or (bound - EPOCH) % bucket == timedelta()


@given(
    st.sampled_from(ZONES),
    st.sampled_from([Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH]),
    st.integers(int(at("2000-01-01").timestamp() * 1000), int(at("2037-01-01").timestamp() * 1000)),
)
def test_every_window_of_every_zone_since_2000_is_made_of_whole_buckets(
    zone: str, window: Window, at_ms: int
) -> None:
    found = span(window, at_ms, zoneinfo.ZoneInfo(zone))
    assert found.end is not None

    cut = parts([EPOCH + timedelta(milliseconds=ms) for ms in (found.start, found.end)])

    assert cut.rows == ()


@pytest.mark.parametrize("end", [datetime.max.replace(tzinfo=UTC), at("9999-12-31")])
def test_a_window_that_never_ends_has_days_to_the_last(end: datetime) -> None:
    found = parts([EPOCH, end])

    assert found.days == (Range(EPOCH, at("9999-12-31")),)


SIZES = [Size.MONTH, Size.DAY, Size.QUARTER]


def test_a_month_in_berlin_is_the_month_without_its_last_hour_and_with_the_hour_before_it() -> None:
    start, end = at("2026-10-31T23:00"), at("2026-11-30T23:00")

    assert pieces([start, end], SIZES, now=at("2027-01-01")) == (
        [
            Piece(Size.QUARTER, Range(start, at("2026-11-01")), start),
            Piece(Size.MONTH, Range(at("2026-11-01"), at("2026-12-01")), start),
            Piece(Size.QUARTER, Range(end, at("2026-12-01")), start, taken_off=True),
        ],
        [],
    )


def test_of_what_is_to_come_there_is_nothing_to_read() -> None:
    """So the month is taken as soon as it has begun, and little of it has to be taken off."""
    start, end = at("2026-11-01"), at("2026-11-03T07:10")

    found, rows = pieces([start, end], SIZES, now=end)

    assert found[0] == Piece(Size.MONTH, Range(start, at("2026-12-01")), start)
    assert all(piece.taken_off for piece in found[1:])
    assert rows == [Range(at("2026-11-03T07:00"), end)]


@given(
    st.lists(instants, min_size=2, max_size=6, unique=True).map(sorted),
    instants,
    st.lists(instants, min_size=1, max_size=20),
)
def test_pieces_count_each_moment_of_a_period_once_and_no_other(
    bounds: list[datetime], now: datetime, others: list[datetime]
) -> None:
    found, rows = pieces(bounds, SIZES, now)

    # Also the moments about each bound.
    about = [bound + step for bound in bounds for step in (-QUARTER, timedelta(), QUARTER, DAY, -DAY)]
    for moment in (*others, *about):
        counted: dict[datetime, int] = {}
        for piece in found:
            assert piece.at is not None
            if piece.range.start <= moment < piece.range.end:
                counted[piece.at] = counted.get(piece.at, 0) + (-1 if piece.taken_off else 1)
        counted = {start: times for start, times in counted.items() if times}
        inside = [start for start, end in pairwise(bounds) if start <= moment < end]
        in_rows = any(row.start <= moment < row.end for row in rows)
        assert counted == ({} if in_rows else dict.fromkeys(inside, 1))
    for piece in found:
        for edge in (piece.range.start, piece.range.end):
            assert piece.size.start_of(edge) == edge


@pytest.mark.parametrize("end", [datetime.max.replace(tzinfo=UTC), at("9999-12-31")])
def test_a_window_that_never_ends_has_months_to_the_last(end: datetime) -> None:
    found, _ = pieces([EPOCH, end], SIZES, now=at("2026-11-01"))

    assert found[0] == Piece(Size.MONTH, Range(EPOCH, at("9999-12-01")), EPOCH)
