import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.analytics.chart import LABELS_MAX, LEVELS, Series, added_up, chart, top


def series(pattern: int, *amounts: int) -> Series:
    return Series(pattern, amounts, [str(amount) for amount in amounts])


@pytest.mark.parametrize(
    ("most", "expected"), [(0, 5), (1, 5), (5, 5), (6, 10), (48, 50), (51, 60), (573, 600), (99, 100)]
)
def test_the_scale_ends_at_a_round_number(most: int, expected: int) -> None:
    assert top(most) == expected


@given(st.integers(0, 10**18))
def test_the_scale_holds_every_amount_and_has_whole_levels(most: int) -> None:
    assert most <= top(most)
    assert top(most) % LEVELS == 0


def test_blocks_stand_on_each_other_in_the_order_of_the_series() -> None:
    (bar,) = chart([series(1, 20), series(2, 30)], [None], [""], ["26"]).bars
    assert [(block.pattern, block.y, block.height) for block in bar.blocks] == [(1, 60, 40), (2, 0, 60)]
    assert bar.tick is None


def test_the_period_before_is_a_tick_at_its_height_and_may_be_the_highest() -> None:
    (bar,) = chart([series(1, 20)], [40], ["before"], ["26"]).bars
    assert bar.tick == 20


def test_an_amount_below_nothing_has_no_height() -> None:
    (bar,) = chart([series(1, -5), series(2, 10)], [-3], [""], ["26"]).bars
    assert [block.pattern for block in bar.blocks] == [2]
    assert bar.tick is None


def test_a_chart_is_empty_where_neither_period_has_anything() -> None:
    def is_empty(now: int, before: int | None) -> bool:
        return chart([series(1, now)], [before], [""], ["26"]).is_empty

    assert is_empty(0, None)
    assert is_empty(-5, 0)
    assert not is_empty(1, None)
    assert not is_empty(0, 1)


@given(st.integers(1, 400))
def test_no_more_labels_than_fit(count: int) -> None:
    bars = chart([series(1, *[1] * count)], [None] * count, [""] * count, ["x"] * count).bars
    labelled = [bar for bar in bars if bar.label]
    assert 1 <= len(labelled) <= LABELS_MAX
    assert len([bar for bar in labelled if not bar.is_spare]) <= LABELS_MAX // 2
    assert bars[-1].x + bars[-1].width <= 100


def test_adding_up_counts_each_step_with_all_before_it() -> None:
    assert added_up([1, 2, 3]) == (1, 3, 6)
