from __future__ import annotations

import pytest

from usage.admin.health_verdict import verdict
from usage.analytics.counter_checks import Checked

EQUAL = Checked(at_ms=1, took_ms=1, compared=3, cold=0, differing=0, drifts=())


@pytest.mark.parametrize(
    ("store", "ledger", "says"),
    [
        (False, True, "The counter store did not answer"),
        (True, False, "The ledger did not answer"),
        (False, False, "The counter store and the ledger did not answer"),
    ],
)
def test_nothing_is_claimed_while_something_does_not_answer(store: bool, ledger: bool, says: str) -> None:
    found = verdict(EQUAL, store_answers=store, ledger_answers=ledger, unpriced=0)
    assert found.word == "Not known"
    assert found.says.startswith(says)


def test_calls_without_a_price_are_counted_and_in_no_sum_of_money() -> None:
    one, two = (verdict(EQUAL, store_answers=True, ledger_answers=True, unpriced=number) for number in (1, 2))
    assert "But 1 model without a price is in no sum of money." in one.says
    assert "But 2 models without a price are in no sum of money." in two.says
    all_priced = verdict(EQUAL, store_answers=True, ledger_answers=True, unpriced=0)
    assert all_priced.word == "All counted"


def test_counters_that_were_not_compared_are_not_said_to_be_equal() -> None:
    some = Checked(at_ms=1, took_ms=1, compared=5, cold=102, differing=0, drifts=())
    found = verdict(some, store_answers=True, ledger_answers=True, unpriced=0)
    assert "the 5 counters that could be compared held the same" in found.says
    assert "102 more are rebuilt from it before their next use" in found.says


def test_where_no_counter_could_be_compared_none_is_said_to_be_equal() -> None:
    cold = Checked(at_ms=1, took_ms=1, compared=0, cold=63, differing=0, drifts=())
    found = verdict(cold, store_answers=True, ledger_answers=True, unpriced=0)
    assert "each counter is rebuilt from it before its next use" in found.says
    assert "held the same" not in found.says
