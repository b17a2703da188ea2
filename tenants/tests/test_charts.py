"""Charts as they are drawn on the server."""

from __future__ import annotations

import pytest

from tenants.console.charts import DATES_MAX, stacked


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, []), (1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3, 4]), (30, [0, 7, 14, 21, 29])],
)
def test_some_dates_stand_below_the_first_and_the_last_among_them(count: int, shown: list[int]) -> None:
    chart = stacked([str(each) for each in range(count)], [("a", [1] * count)], lambda *said: "")
    assert chart.dates == tuple(map(str, shown))
    assert len(chart.dates) <= DATES_MAX
