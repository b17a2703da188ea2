"""The buckets that a period falls into: none missing, none twice, none across a window's edge."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.ledger.buckets import DAY, QUARTER, Parts, Range, parts
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
