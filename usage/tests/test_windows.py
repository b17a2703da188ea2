from datetime import date, datetime, timedelta
from io import BytesIO
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.windows import END_MS, Span, Window, number_met, span

ZONES = [
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "America/Havana",
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Apia",
    "UTC",
]
CALENDAR = [window for window in Window if window is not Window.TOTAL]
DAY_MS = 86_400_000
# From far enough after 1970 for any window that holds it to begin later, to about 2050.
FROM_MS, TO_MS = 400 * DAY_MS, 80 * 365 * DAY_MS


def offset_changes_ms(name: str) -> list[int]:
    """Where the zone's offset changes, found without the code under test."""
    zone = ZoneInfo(name)

    def offset(at: int) -> timedelta | None:
        return datetime.fromtimestamp(at, zone).utcoffset()

    changes, step = [], 10 * 86_400  # Ramadan, the shortest season of any zone, lasts longer
    for start in range(FROM_MS // 1000, TO_MS // 1000, step):
        before, after = start, start + step
        if offset(before) == offset(after):
            continue
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if offset(middle) == offset(before) else (before, middle)
        changes.append(after * 1000)
    return changes


OFFSET_CHANGES_MS = {name: offset_changes_ms(name) for name in ZONES}


@st.composite
def zoned_instants(draw: st.DrawFn) -> tuple[ZoneInfo, int]:
    """Anywhere in time, and in half of the cases within two days of a change of the clocks."""
    name = draw(st.sampled_from(ZONES))
    changes = OFFSET_CHANGES_MS[name]
    if draw(st.booleans()) and changes:
        at_ms = draw(st.sampled_from(changes)) + draw(st.integers(-2 * DAY_MS, 2 * DAY_MS))
    else:
        at_ms = draw(st.integers(FROM_MS, TO_MS))
    return ZoneInfo(name), at_ms


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


def between(start: str, end: str) -> Span:
    return Span(ms(start), ms(end))


def ends(found: Span) -> int:
    assert found.end is not None
    return found.end


@given(zoned_instants(), st.sampled_from(CALENDAR))
def test_every_instant_belongs_to_exactly_one_window(zoned: tuple[ZoneInfo, int], window: Window) -> None:
    zone, at_ms = zoned
    found = span(window, at_ms, zone)
    end = ends(found)

    assert found.start <= at_ms < end
    assert span(window, found.start, zone) == found
    assert span(window, end - 1, zone) == found
    assert span(window, end, zone).start == end
    assert span(window, found.start - 1, zone).end == found.start


@given(zoned_instants(), st.sampled_from([Window.DAY, Window.WEEK, Window.MONTH]))
def test_a_dated_window_starts_when_clocks_first_read_its_date(
    zoned: tuple[ZoneInfo, int], window: Window
) -> None:
    zone, at_ms = zoned
    start_ms = span(window, at_ms, zone).start
    first = datetime.fromtimestamp(start_ms // 1000, zone)
    before = datetime.fromtimestamp(start_ms // 1000 - 1, zone)
    assert before.date() < first.date()

    def named(day: date) -> tuple[int, ...]:
        return {
            Window.DAY: (day.toordinal(),),
            Window.WEEK: day.isocalendar()[:2],
            Window.MONTH: (day.year, day.month),
        }[window]

    local = datetime.fromtimestamp(at_ms // 1000, zone)
    # A clock may read the date before again, if it was set back soon after midnight.
    assert named(local.date()) in {named(first.date()), named(before.date())}
    if named(local.date()) == named(before.date()):
        assert at_ms - start_ms < 2 * 3_600_000


@given(zoned_instants())
def test_windows_nest(zoned: tuple[ZoneInfo, int]) -> None:
    zone, at_ms = zoned
    nestings = [("minute", "hour"), ("hour", "day"), ("day", "week"), ("day", "month"), ("month", "total")]
    for inner, outer in nestings:
        small, large = span(Window(inner), at_ms, zone), span(Window(outer), at_ms, zone)
        assert large.start <= small.start
        assert large.end is None or ends(small) <= large.end


@given(zoned_instants())
def test_no_hour_is_longer_than_an_hour_and_a_shorter_one_touches_a_change(
    zoned: tuple[ZoneInfo, int],
) -> None:
    zone, at_ms = zoned
    for window, length in [(Window.HOUR, 3_600_000), (Window.MINUTE, 60_000)]:
        found = span(window, at_ms, zone)
        end = ends(found)
        offsets = {
            datetime.fromtimestamp(at // 1000, zone).utcoffset()
            for at in (found.start - 1000, found.start, end)
        }
        assert end - found.start == length or (end - found.start < length and len(offsets) > 1)


@pytest.mark.parametrize(
    ("name", "at", "start", "end"),
    [
        # 23 and 25 hours
        ("Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ("America/New_York", "2026-03-08T12:00-04:00", "2026-03-08T00:00-05:00", "2026-03-09T00:00-04:00"),
        ("America/New_York", "2026-11-01T12:00-05:00", "2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00"),
        # 23 hours 30 minutes and 24 hours 30 minutes
        ("Australia/Lord_Howe", "2026-10-04T12:00+11:00", "2026-10-04T00:00+10:30", "2026-10-05T00:00+11:00"),
        ("Australia/Lord_Howe", "2026-04-05T12:00+10:30", "2026-04-05T00:00+11:00", "2026-04-06T00:00+10:30"),
        # half-hour and 45-minute offsets
        ("Asia/Kolkata", "2026-05-01T00:00+05:30", "2026-05-01T00:00+05:30", "2026-05-02T00:00+05:30"),
        ("Asia/Kathmandu", "2026-05-01T23:59+05:45", "2026-05-01T00:00+05:45", "2026-05-02T00:00+05:45"),
        # midnight does not exist: the day starts at 01:00
        ("Africa/Cairo", "2026-04-24T12:00+03:00", "2026-04-24T01:00+03:00", "2026-04-25T00:00+03:00"),
        ("Africa/Cairo", "2026-04-23T23:59+02:00", "2026-04-23T00:00+02:00", "2026-04-24T01:00+03:00"),
        ("Asia/Beirut", "2026-03-29T12:00+03:00", "2026-03-29T01:00+03:00", "2026-03-30T00:00+03:00"),
        ("America/Sao_Paulo", "2018-11-04T12:00-02:00", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"),
        # set back at midnight: 23:00 to 24:00 twice, both in the old day
        ("America/Sao_Paulo", "2018-02-17T23:30-03:00", "2018-02-17T00:00-02:00", "2018-02-18T00:00-03:00"),
        # midnight twice: the first one counts
        ("America/Havana", "2026-11-01T00:30-05:00", "2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00"),
        # set back from 00:01 to 23:01: the new day, once begun, goes on
        ("America/St_Johns", "2010-11-06T23:30-03:30", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"),
        # 30 December 2011 never was
        ("Pacific/Apia", "2011-12-29T12:00-10:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
        ("Pacific/Apia", "2011-12-31T00:00+14:00", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"),
    ],
)
def test_days(name: str, at: str, start: str, end: str) -> None:
    assert span(Window.DAY, ms(at), ZoneInfo(name)) == between(start, end)


def test_a_gap_around_midnight_starts_the_day_where_clocks_land() -> None:
    """No zone has done this since 1970 (Toronto did in 1919), so this one is made up: 23:30 becomes 00:30."""
    block = b"TZif2" + bytes(31) + (1).to_bytes(4) + (4).to_bytes(4) + bytes(6) + b"AAA\0"
    zone = ZoneInfo.from_file(BytesIO(block + block + b"\nAAA0BBB,M3.2.0/23:30,M11.1.0/3\n"))

    change = "2026-03-08T23:30+00:00"
    assert span(Window.DAY, ms(change) - 1, zone) == between("2026-03-08T00:00+00:00", change)
    assert span(Window.DAY, ms(change), zone) == between(change, "2026-03-10T00:00+01:00")


@pytest.mark.parametrize(
    ("name", "at", "start", "end"),
    [
        ("Europe/Berlin", "2026-03-29T01:30+01:00", "2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00"),
        # the repeated hour is two windows
        ("Europe/Berlin", "2026-10-25T02:30+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"),
        ("Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
        ("Asia/Kolkata", "2026-05-01T10:10+05:30", "2026-05-01T10:00+05:30", "2026-05-01T11:00+05:30"),
        ("Asia/Kathmandu", "2026-05-01T10:10+05:45", "2026-05-01T10:00+05:45", "2026-05-01T11:00+05:45"),
        # a shift by half an hour leaves half an hour
        ("Australia/Lord_Howe", "2026-04-05T01:59+11:00", "2026-04-05T01:00+11:00", "2026-04-05T02:00+11:00"),
        ("Australia/Lord_Howe", "2026-04-05T01:59+10:30", "2026-04-05T01:30+10:30", "2026-04-05T02:00+10:30"),
        ("Australia/Lord_Howe", "2026-10-04T02:45+11:00", "2026-10-04T02:30+11:00", "2026-10-04T03:00+11:00"),
        # set back from 00:01 to 23:01
        ("America/St_Johns", "2010-11-07T00:00-02:30", "2010-11-07T00:00-02:30", "2010-11-07T00:01-02:30"),
        ("America/St_Johns", "2010-11-06T23:30-03:30", "2010-11-06T23:01-03:30", "2010-11-07T00:00-03:30"),
    ],
)
def test_hours(name: str, at: str, start: str, end: str) -> None:
    assert span(Window.HOUR, ms(at), ZoneInfo(name)) == between(start, end)


@pytest.mark.parametrize(
    ("window", "name", "at", "start", "end"),
    [
        (
            "minute",
            "Asia/Kolkata",
            "2026-05-01T10:10+05:30",
            "2026-05-01T10:10+05:30",
            "2026-05-01T10:11+05:30",
        ),
        (
            "week",
            "Europe/Berlin",
            "2026-03-29T23:59+02:00",
            "2026-03-23T00:00+01:00",
            "2026-03-30T00:00+02:00",
        ),
        (
            "week",
            "America/New_York",
            "2027-01-01T00-05:00",
            "2026-12-28T00:00-05:00",
            "2027-01-04T00:00-05:00",
        ),
        (
            "week",
            "Pacific/Apia",
            "2011-12-31T12:00+14:00",
            "2011-12-26T00:00-10:00",
            "2012-01-02T00:00+14:00",
        ),
        (
            "month",
            "Europe/Berlin",
            "2026-10-25T12:00+01:00",
            "2026-10-01T00:00+02:00",
            "2026-11-01T00:00+01:00",
        ),
        (
            "month",
            "Asia/Kathmandu",
            "2028-02-29T23:59+05:45",
            "2028-02-01T00:00+05:45",
            "2028-03-01T00:00+05:45",
        ),
        ("month", "UTC", "2026-12-31T23:59+00:00", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
    ],
)
def test_other_windows(window: str, name: str, at: str, start: str, end: str) -> None:
    assert span(Window(window), ms(at), ZoneInfo(name)) == between(start, end)


def test_total_holds_everything_and_never_resets() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert span(Window.TOTAL, 0, berlin) == span(Window.TOTAL, END_MS - 1, berlin) == Span(0, None)


@pytest.mark.parametrize("at_ms", [-1, END_MS])
def test_an_instant_out_of_range_is_refused(at_ms: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        span(Window.DAY, at_ms, ZoneInfo("UTC"))


@pytest.mark.parametrize("name", ["Etc/GMT-14", "Etc/GMT+12", "Europe/Berlin"])
@pytest.mark.parametrize("window", CALENDAR)
def test_the_first_and_the_last_instant_have_a_window(window: Window, name: str) -> None:
    for at_ms in (0, END_MS - 1):
        found = span(window, at_ms, ZoneInfo(name))
        assert found.start <= at_ms < ends(found)


@pytest.mark.parametrize(
    ("window", "begun", "ended", "met"),
    [
        ("day", "2026-11-28T10:00+01:00", "2026-12-04T00:00+01:00", 6),
        ("day", "2026-11-28T10:00+01:00", "2026-12-04T00:01+01:00", 7),
        ("month", "2026-11-28T10:00+01:00", "2026-12-01T00:00+01:00", 1),
        ("week", "2026-11-28T10:00+01:00", "2026-12-01T00:00+01:00", 2),
        ("hour", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00", 25),
        ("total", "2026-11-28T10:00+01:00", "2027-11-28T10:00+01:00", 1),
        ("hour", "2026-11-28T10:00+01:00", "2026-11-28T10:00+01:00", 0),
        ("minute", "2026-11-28T10:00+01:00", "2026-11-28T11:41+01:00", None),
    ],
)
def test_the_windows_that_a_stretch_of_time_touches_are_counted(
    window: str, begun: str, ended: str, met: int | None
) -> None:
    assert number_met(Window(window), ms(begun), ms(ended), ZoneInfo("Europe/Berlin"), 100) == met
