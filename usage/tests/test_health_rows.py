from __future__ import annotations

from usage.admin.health_rows import CostRow
from usage.analytics.reported_costs import ModelCost


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    def share(charged: int) -> str:
        cost = ModelCost(model="m", calls=1, reported_nano=10_000, charged_nano=charged, unpriced=0)
        return CostRow(cost).share

    assert [share(charged) for charged in (9_999, 10_000, 10_001, 8_000)] == [
        "0.0 %",
        "0.0 %",
        "0.0 %",
        "−20.0 %",
    ]
