"""When a boost ends, as people say it."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from policies.admin.boost_ends import Until, ends_at

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("begins", "until", "ends"),
    [
        # A Wednesday.
        ("2026-11-18T14:30", Until.HOUR, "2026-11-18T15:30:00"),
        ("2026-11-18T14:30:59", Until.HOUR, "2026-11-18T15:30:00"),
        ("2026-11-18T14:30", Until.TODAY, "2026-11-18T23:59:59"),
        ("2026-11-18T14:30", Until.FRIDAY, "2026-11-20T23:59:59"),
        ("2026-11-18T14:30", Until.MONTH, "2026-11-30T23:59:59"),
        # On a Friday it is this one, on a Saturday the next.
        ("2026-11-20T08:00", Until.FRIDAY, "2026-11-20T23:59:59"),
        ("2026-11-21T08:00", Until.FRIDAY, "2026-11-27T23:59:59"),
        ("2028-02-29T08:00", Until.MONTH, "2028-02-29T23:59:59"),
        ("2026-12-31T23:59", Until.MONTH, "2026-12-31T23:59:59"),
    ],
)
def test_it_ends_in_days_of_the_tenants_zone(begins: str, until: Until, ends: str) -> None:
    begun = datetime.fromisoformat(begins).replace(tzinfo=BERLIN)
    found = ends_at(until, begun.astimezone(ZoneInfo("UTC")), BERLIN)
    assert found == datetime.fromisoformat(ends).replace(tzinfo=BERLIN)
