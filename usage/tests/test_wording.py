"""How amounts and limits read."""

from __future__ import annotations

from decimal import Decimal

import pytest

from usage import wording
from usage.amounts import Amounts, Per
from usage.metrics import Metric
from usage.windows import Window


def test_every_metric_window_and_subject_has_words() -> None:
    for metric in Metric:
        for window in Window:
            for per in Per:
                assert wording.limit((metric, window, per, ()), 1)


@pytest.mark.parametrize(
    ("metric", "amount", "words"),
    [
        (Metric.REQUESTS, 1, "1 request"),
        (Metric.REQUESTS, 50, "50 requests"),
        (Metric.TOKENS, 2_000_000, "2,000,000 tokens"),
        (Metric.CONCURRENCY, 1, "1 call at once"),
        (Metric.COST_USD, 5_000_000_000, "$5.00"),
        (Metric.COST_USD, 1_234_567_500_000_000, "$1,234,567.50"),
        (Metric.COST_USD, 125_000, "$0.000125"),
        (Metric.COST_USD, 0, "$0.00"),
        (Metric.COST_USD, -12_400_000_000, "−$12.40"),
    ],
)
def test_an_amount_in_words(metric: Metric, amount: int, words: str) -> None:
    assert wording.amount(metric, amount) == words


def test_what_a_call_takes() -> None:
    assert wording.call(Amounts(1, 1, 1_044, 20_000_000), 20_000_000) == "1 token in, 1,044 out, $0.02"
    assert wording.call(Amounts(1, 374, 44, 0), None) == "374 tokens in, 44 out, without a price"


def test_a_column_of_sums_has_the_same_places() -> None:
    shown = [wording.number(Metric.COST_USD, nano) for nano in (0, 4_999_999, 5_000_001, 1_250_000_000)]
    assert shown == ["$0.00", "<$0.01", "$0.01", "$1.25"]
    assert wording.number(Metric.REQUESTS, -1_000) == "−1,000"


def test_a_share_of_what_is_not_nothing_is_not_nothing() -> None:
    for share in (wording.share, wording.share_of_limit):
        assert [share(*each) for each in ((82, 100), (1, 1_000), (0, 100), (0, 0), (1, 1))] == [
            "82 %",
            "<1 %",
            "0 %",
            "0 %",
            "100 %",
        ]


def test_a_share_of_a_sum_is_rounded_and_never_all_of_it_while_something_is_left() -> None:
    said = [wording.share(part, 1_000) for part in (857, 20, 46, 5, 4, 995, 999)]
    assert said == ["86 %", "2 %", "5 %", "1 %", "<1 %", ">99 %", ">99 %"]
    assert [wording.share(part, 3) for part in (1, 2)] == ["33 %", "67 %"]


def test_a_share_of_a_limit_is_cut_so_that_it_is_not_used_up_before_it_is() -> None:
    assert [wording.share_of_limit(part, 1_000) for part in (857, 999, 1_000, 1_005)] == [
        "85 %",
        "99 %",
        "100 %",
        "100 %",
    ]


def test_rows_of_the_ledger_that_are_no_calls() -> None:
    assert wording.rows_that_are_no_calls(5, 5) == ""
    assert wording.rows_that_are_no_calls(1_188, 1_159).startswith("29 rows more count as no call: failed")
    assert wording.rows_that_are_no_calls(2, 1).startswith("1 row more counts as no call")


def test_a_limit_in_words() -> None:
    spend, at_once = (
        (Metric.COST_USD, Window.MONTH, Per.ENVIRONMENT),
        (Metric.CONCURRENCY, Window.TOTAL, Per.USER),
    )
    assert wording.limit((*spend, ()), Decimal("0.5")) == "$0.50 a month, everybody together"
    assert wording.limit((*at_once, ()), 3) == "3 calls at once, each user"
    assert wording.limit((*spend, ("gpt-5*",)), 2) == "$2.00 a month with gpt-5*, everybody together"
    assert wording.limit((*at_once, ("a", "b", "c")), 3) == "3 calls at once with a, b and c, each user"
    assert wording.limit_name((*spend, ("gpt-5*",))) == "spend a month with gpt-5*, everybody together"


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    assert [wording.change(now, 10_000) for now in (9_999, 10_000, 10_001, 9_990)] == [
        "0.0 %",
        "0.0 %",
        "0.0 %",
        "−0.1 %",
    ]


def test_a_change_of_more_than_ten_times_as_much_is_a_factor() -> None:
    assert [wording.change(now, 100) for now in (1_100, 1_200, 64_782)] == ["+1,000.0 %", "× 12", "× 648"]
