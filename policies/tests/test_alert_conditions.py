"""What fires, given what was read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from policies.alerting import anomaly, conditions, messages
from policies.alerting.conditions import CallsReading, Finding, LimitReading, SpendReading, UnpricedReading
from usage.amounts import Per
from usage.metrics import Metric
from usage.money import NANO
from usage.windows import Window

NOW = datetime(2026, 11, 18, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def limit(**fields: Any) -> LimitReading:
    known: dict[str, Any] = {
        "policy_id": "p", "policy": "Free plan", "metric": Metric.REQUESTS, "window": Window.DAY,
        "per": Per.ENVIRONMENT, "subject": "", "subject_words": "everybody", "used": 0, "held": 0, "limit": 10,
        "begins_at": NOW - timedelta(hours=12), "resets_at": NOW + timedelta(hours=12), "runs_out_at": None,
        "monitored": False,
    }  # fmt: skip
    return LimitReading(**{**known, **fields})


def reached(*levels: int, **fields: Any) -> list[tuple[int, bool]]:
    found = conditions.thresholds_reached([limit(**fields)], levels)
    return [(each.threshold, each.fires) for each in found]


def test_a_threshold_is_reached_by_what_is_used_and_held() -> None:
    assert reached(80, used=7) == []
    assert reached(80, used=7, held=1) == [(80, True)]
    assert reached(100, 50, 80, used=10) == [(50, True), (80, True), (100, True)]


def test_a_share_that_is_no_whole_percent_is_compared_exactly() -> None:
    assert reached(80, used=799, limit=1000) == []
    assert reached(80, used=800, limit=1000) == [(80, True)]
    assert reached(33, used=10**17 // 3, limit=10**17) == [(33, True)]


def test_a_limit_of_0_has_no_thresholds() -> None:
    assert reached(50, limit=0, used=0) == []


def test_without_a_window_that_ends_it_stands_until_it_fell_well_below() -> None:
    endless = {"begins_at": None, "resets_at": None}
    assert reached(80, used=8, **endless) == [(80, True)]
    assert reached(80, used=7, **endless) == [(80, False)]
    assert reached(80, used=6, **endless) == []


@pytest.mark.parametrize(
    ("fields", "fires"),
    [
        ({"used": 3}, True),
        ({"used": 1}, False),
        ({"used": 3, "runs_out_at": None}, False),
        ({"used": 3, "window": Window.HOUR}, False),
    ],
    ids=["on its way", "hardly used", "not before it resets", "too short a window"],
)
def test_a_forecast_is_told_of_a_limit_that_is_used_in_earnest(fields: dict[str, Any], fires: bool) -> None:
    known = {"runs_out_at": NOW + timedelta(hours=3), **fields}
    assert len(list(conditions.run_outs([limit(**known)]))) == fires


def spike(**fields: int) -> list[tuple[int, bool]]:
    known = {"blocked": 40, "made": 60, "blocked_before": 100, "made_before": 9_900}
    found = conditions.spikes(CallsReading(**{**known, **fields}), [20])
    return [(each.threshold, each.fires) for each in found]


def test_a_spike_is_a_share_that_is_large_and_new() -> None:
    assert spike() == [(20, True)]
    assert spike(blocked=19, made=0) == [(20, False)], "too few calls"
    assert spike(blocked=20, made=90) == [(20, False)], "18 % is below the threshold, and above half of it"
    assert spike(blocked=20, made=300) == []
    assert spike(blocked_before=3_000, made_before=7_000) == [(20, False)], "as usual"
    assert spike(blocked_before=0, made_before=0) == [(20, True)], "the first calls at all"


def hours(*spent: int) -> list[int]:
    return [each * NANO for each in spent]


def verdict(spent: int, before: list[int], minimum: int = 1) -> tuple[bool, bool]:
    found = anomaly.judge(spent * NANO, before, minimum * NANO)
    return found.fires, found.stays


def test_an_hour_is_compared_with_42_hours_of_the_last_14_days() -> None:
    compared = anomaly.compared_hours(NOW)
    assert len(set(compared)) == 42
    assert compared[:3] == [NOW - timedelta(hours=23), NOW - timedelta(hours=24), NOW - timedelta(hours=25)]
    assert compared[-1] == NOW - timedelta(days=14, hours=1)


def test_an_hour_far_above_the_usual_fires() -> None:
    usual = hours(*[10, 11, 9] * 14)
    assert verdict(11, usual) == (False, False)
    assert verdict(14, usual) == (False, False)
    assert verdict(16, usual) == (False, True), "unusual, but not twice the usual"
    assert verdict(21, usual) == (True, True)


def test_hours_that_scatter_widely_need_more() -> None:
    scattered = hours(*[0, 20, 10] * 14)
    assert verdict(40, scattered) == (False, False)
    assert verdict(110, scattered) == (True, True)


def test_one_bad_hour_does_not_hide_the_next() -> None:
    assert verdict(100, hours(*[10] * 40, 5_000, 5_000)) == (True, True)


def test_who_never_spent_fires_from_the_minimum_on() -> None:
    assert verdict(4, hours(*[0] * 42), minimum=5) == (False, True)
    assert verdict(5, hours(*[0] * 42), minimum=5) == (True, True)


def test_a_small_amount_is_not_told_however_unusual() -> None:
    assert verdict(4, hours(*[1] * 42), minimum=5)[0] is False


def test_nothing_is_said_of_a_short_history() -> None:
    assert verdict(1_000, hours(*[1] * 8)) == (False, False)
    assert verdict(1_000, hours(*[1] * 9)) == (True, True)


def said(finding: Finding) -> messages.Message:
    return messages.of(finding, now=NOW, zone=BERLIN)


def test_a_budget_says_how_it_stands_in_the_zone_of_the_tenant() -> None:
    reading = limit(
        metric=Metric.COST_USD, window=Window.MONTH, used=80 * NANO, held=NANO // 2, limit=100 * NANO,
        runs_out_at=NOW + timedelta(hours=2),
    )  # fmt: skip
    message = said(Finding(about=reading.about, reading=reading, threshold=80))
    assert message.title == "80 % of $100.00 a month: everybody together (Free plan)"
    assert message.text.splitlines() == [
        "$80.00 of $100.00 a month used, $0.50 more held by calls that are not reported yet.",
        "It resets Thursday 19 November 01:00 (Europe/Berlin), in 12 h.",
        "At the pace so far it runs out Wednesday 18 November 15:00 (Europe/Berlin).",
    ]
    assert (message.data["used"], message.data["held"], message.data["limit"]) == ("80.00", "0.50", "100.00")


def test_a_limit_that_is_used_up_says_what_becomes_of_calls() -> None:
    used_up, watched = (limit(used=10, monitored=monitored) for monitored in (False, True))
    assert said(Finding(about=(), reading=used_up, threshold=100)).text.endswith("are blocked.")
    assert said(Finding(about=(), reading=watched, threshold=100)).text.endswith("calls go on.")


def test_names_that_callers_choose_begin_no_line_of_their_own() -> None:
    reading = limit(per=Per.USER, subject_words="ana\r\nBcc: all@example.com\u2028x", used=9)
    message = said(Finding(about=(), reading=reading, threshold=80))
    assert message.title == "90 % of 10 requests a day: ana Bcc: all@example.com x (Free plan)"


def test_an_anomaly_says_with_what_it_was_compared() -> None:
    found = anomaly.judge(30 * NANO, hours(*[10] * 42), NANO)
    reading = SpendReading(
        of="feature", name="chat", words="The feature chat", hour=NOW, calls=12, verdict=found
    )
    message = said(Finding(about=(), reading=reading))
    assert message.title == "The feature chat spent $30.00 in an hour; usual is $10.00"
    assert "the median of 42 hours" in message.text
    assert message.data["spent_usd"] == "30.00"


def test_a_model_without_a_price_says_what_became_of_its_calls() -> None:
    reading = UnpricedReading(model="new", features=("chat", ""), calls=3, blocked=1, first_at=NOW)
    assert said(Finding(about=(), reading=reading)).text.splitlines()[0] == (
        "In the last 24 hours 3 calls went into no sum of costs and 1 call was blocked for it: "
        "chat, calls of no feature."
    )
