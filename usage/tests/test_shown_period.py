from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.analytics import period_words
from usage.analytics.shown_period import LAST_DAY, Named, NotAPeriod, ShownPeriod, shown_period

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Havana",
    "UTC",
]
MOMENTS = st.integers(0, 12 * 365 * 86_400).map(
    lambda second: datetime(2019, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
)
NAMED = [named for named in Named if named is not Named.CUSTOM]


def berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def shown(named: Named, now: str, first: str = "", last: str = "") -> ShownPeriod:
    days = [date.fromisoformat(text) if text else None for text in (first, last)]
    return shown_period(named, berlin(now), BERLIN, *days)


def local(period: ShownPeriod) -> list[str]:
    """Start and end, and those of the period before, as the clocks of Berlin read them."""
    bounds = [period.start, period.end, period.before.range.start, period.before.range.end]
    return [f"{bound.astimezone(BERLIN):%m-%d %H:%M}" for bound in bounds]


def test_today_is_compared_with_yesterday_until_the_same_time() -> None:
    assert local(shown(Named.TODAY, "2026-11-26T14:32")) == [
        "11-26 00:00",
        "11-27 00:00",
        "11-25 00:00",
        "11-25 14:32",
    ]


def test_yesterday_is_over_and_is_compared_with_the_whole_day_before() -> None:
    period = shown(Named.YESTERDAY, "2026-11-26T14:32")
    assert local(period) == ["11-25 00:00", "11-26 00:00", "11-24 00:00", "11-25 00:00"]
    assert not period.is_running


@pytest.mark.parametrize("now", ["2026-11-02T00:00", "2026-11-05T14:32", "2026-11-08T23:59"])
def test_last_week_is_the_one_from_monday_to_sunday_before_this_one(now: str) -> None:
    """The one before it has an hour more: the clocks of Berlin were set back on 25 October."""
    period = shown(Named.LAST_WEEK, now)
    assert local(period) == ["10-26 00:00", "11-02 00:00", "10-19 00:00", "10-26 00:00"]
    assert not period.is_running
    assert period_words.shown(period) == "26 Oct to 1 Nov 2026"


def test_the_last_seven_days_are_today_and_six_before_it() -> None:
    period = shown(Named.LAST_7_DAYS, "2026-11-26T14:32")
    assert local(period) == ["11-20 00:00", "11-27 00:00", "11-13 00:00", "11-19 14:32"]
    assert period.is_running
    assert (period.days.first, period.days.last) == (date(2026, 11, 20), date(2026, 11, 26))
    assert (period.before.first, period.before.last) == (date(2026, 11, 13), date(2026, 11, 19))


def test_this_month_is_compared_with_the_last_until_as_much_had_passed() -> None:
    assert local(shown(Named.THIS_MONTH, "2026-11-26T14:32")) == [
        "11-01 00:00",
        "12-01 00:00",
        "10-01 00:00",
        "10-26 14:32",
    ]


def test_a_day_that_the_last_month_did_not_have_is_compared_with_all_of_it() -> None:
    assert local(shown(Named.THIS_MONTH, "2026-03-30T14:32"))[2:] == ["02-01 00:00", "03-01 00:00"]


def test_the_last_month_is_whole_and_so_is_the_one_before_it() -> None:
    assert local(shown(Named.LAST_MONTH, "2026-03-30T14:32")) == [
        "02-01 00:00",
        "03-01 00:00",
        "01-01 00:00",
        "02-01 00:00",
    ]


def test_both_days_of_a_custom_period_are_included() -> None:
    period = shown(Named.CUSTOM, "2026-11-26T14:32", "2026-10-24", "2026-10-25")
    assert local(period) == ["10-24 00:00", "10-26 00:00", "10-22 00:00", "10-24 00:00"]
    # The clocks of Berlin were set back on the 25th.
    assert period.end - period.start == timedelta(hours=49)


def test_a_custom_period_of_one_day_needs_no_last_day() -> None:
    assert local(shown(Named.CUSTOM, "2026-11-26T14:32", "2026-03-29"))[:2] == ["03-29 00:00", "03-30 00:00"]


def test_as_much_had_passed_by_the_clock_where_it_was_changed_between() -> None:
    """26 October has 24 hours, the day before it 25."""
    assert local(shown(Named.TODAY, "2026-10-26T14:32"))[3] == "10-25 14:32"


def test_an_hour_that_the_day_before_skipped_ends_where_the_clocks_went_on() -> None:
    until = shown(Named.TODAY, "2026-03-30T02:30").before.range.end
    assert until.astimezone(UTC) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_a_day_that_clocks_repeat_an_hour_of_over_midnight_is_today_from_its_first_midnight() -> None:
    """Havana sets its clocks from 1:00 back to 0:00; nothing of the new day is the old one's."""
    zone = ZoneInfo("America/Havana")
    now = datetime(2026, 11, 1, 0, 30, tzinfo=zone).replace(fold=1)
    assert shown_period(Named.TODAY, now, zone).days.first == date(2026, 11, 1)


@pytest.mark.parametrize(
    ("first", "last", "field", "says"),
    [
        ("", "2026-11-01", "from", "Say the first day."),
        ("2026-11-02", "2026-11-01", "to", "before the first day, 2026-11-02"),
        ("2024-11-02", "2026-11-01", "from", "At most 400 days"),
        ("1969-12-31", "1969-12-31", "from", "between 1970-01-03"),
        ("2026-11-02", "9999-12-31", "to", f"and {LAST_DAY}"),
    ],
)
def test_days_that_are_no_period_name_the_one_to_change(first: str, last: str, field: str, says: str) -> None:
    with pytest.raises(NotAPeriod, match=says) as caught:
        shown(Named.CUSTOM, "2026-11-26T14:32", first, last)
    assert caught.value.field == field


def test_a_day_that_a_zone_never_had_is_no_period() -> None:
    apia = ZoneInfo("Pacific/Apia")
    with pytest.raises(NotAPeriod, match="never had this day"):
        shown_period(Named.CUSTOM, datetime(2026, 1, 1, tzinfo=UTC), apia, date(2011, 12, 30))


def test_a_period_and_the_one_before_it_in_words() -> None:
    running = shown(Named.LAST_7_DAYS, "2026-11-26T14:32")
    assert period_words.shown(running) == "20 to 26 Nov 2026, until now"
    assert period_words.compared(running, BERLIN) == "13 to 19 Nov 2026, until 14:32"
    over = shown(Named.CUSTOM, "2026-11-26T14:32", "2025-12-30", "2026-01-02")
    assert period_words.shown(over) == "30 Dec 2025 to 2 Jan 2026"
    assert period_words.compared(over, BERLIN) == "26 to 29 Dec 2025"
    assert period_words.compared(shown(Named.TODAY, "2026-11-26T14:32"), BERLIN) == "25 Nov 2026, until 14:32"
    all_of_it = shown(Named.THIS_MONTH, "2026-03-30T14:32")
    assert period_words.compared(all_of_it, BERLIN) == "1 to 28 Feb 2026"


@given(
    st.sampled_from(NAMED),
    MOMENTS,
    st.sampled_from(ZONES),
)
def test_the_period_before_ends_where_the_period_begins_or_earlier_and_both_begin_at_a_day(
    named: Named, at: datetime, zone_name: str
) -> None:
    zone, now = ZoneInfo(zone_name), at
    period = shown_period(named, now, zone)
    before = period.before.range
    assert before.start <= before.end <= period.start < period.end
    assert period.is_running == (named not in (Named.YESTERDAY, Named.LAST_WEEK, Named.LAST_MONTH))
    for day, start in ((period.days.first, period.start), (period.before.first, before.start)):
        assert start.astimezone(zone).date() == day
        assert (start - timedelta(seconds=1)).astimezone(zone).date() <= day
    if not period.is_running:
        assert before.end == period.start


@given(MOMENTS, st.sampled_from(ZONES))
def test_days_follow_each_other_without_a_gap(at: datetime, zone_name: str) -> None:
    zone, now = ZoneInfo(zone_name), at
    days = [
        shown_period(Named.CUSTOM, now, zone, at.date() + timedelta(days=ahead)).days.range
        for ahead in range(5)
    ]
    assert all(earlier.end == later.start for earlier, later in pairwise(days))
    assert all(day.start < day.end for day in days)
