"""The last days begin when a day does, as on the other pages, and end now."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from policies.replaying.named_periods import Named, named
from usage.analytics import shown_period
from usage.analytics.shown_period import Named as Shown

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("name", "shown"), [(Named.LAST_7_DAYS, Shown.LAST_7_DAYS), (Named.LAST_30_DAYS, Shown.LAST_30_DAYS)]
)
@pytest.mark.parametrize(
    "day", [datetime(2026, 10, 28, 15, 30, tzinfo=BERLIN), datetime(2026, 11, 28, 0, 5, tzinfo=BERLIN)]
)
def test_the_last_days_are_those_of_the_other_pages(name: Named, shown: Shown, day: datetime) -> None:
    start, end = named(name, day, BERLIN)
    assert start == shown_period.shown_period(shown, day, BERLIN).start
    assert (start.astimezone(BERLIN).hour, end) == (0, day)


def test_months_are_whole() -> None:
    start, end = named(Named.LAST_MONTH, datetime(2026, 11, 28, 15, tzinfo=BERLIN), BERLIN)
    assert (start, end) == (datetime(2026, 10, 1, tzinfo=BERLIN), datetime(2026, 11, 1, tzinfo=BERLIN))
    assert named(Named.THIS_MONTH, end + timedelta(days=3), BERLIN)[0] == end
