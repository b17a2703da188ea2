"""One table of metrics; all else is written from it."""

import pytest

from usage.amounts import Amounts
from usage.assessment import Assessment
from usage.ledger.models import UsageEvent
from usage.ledger.rows import COLUMNS
from usage.metrics import COLUMNS as COUNTED_COLUMNS
from usage.metrics import COUNTED, LETTERS, METRICS, Metric, lua_tables, sql_sums


def test_every_metric_has_its_row() -> None:
    assert set(METRICS) == set(Metric)


def test_letters_differ() -> None:
    assert len({row.letter for row in METRICS.values()}) == len(METRICS)
    assert all(len(letter) == 1 for letter in LETTERS)
    assert "b" not in LETTERS, "`hb` is another field of a counter: prelude.lua"


def test_amounts_have_a_field_for_each_counted_column_in_its_order() -> None:
    assert Amounts.__struct_fields__ == COUNTED_COLUMNS
    numbers = tuple(range(len(COUNTED_COLUMNS)))
    assert tuple(Amounts(*numbers)) == numbers


def test_a_hold_keeps_each_but_that_its_call_is_one() -> None:
    assert set(COUNTED_COLUMNS) - {"requests"} <= set(Assessment.__struct_fields__)


def test_the_ledger_has_a_column_for_each() -> None:
    assert set(COUNTED_COLUMNS) <= set(COLUMNS)
    assert set(COLUMNS) | {"id", "recorded_at", "xid"} == {
        field.attname for field in UsageEvent._meta.concrete_fields
    }


@pytest.mark.parametrize(
    ("metric", "amount"),
    [
        (Metric.REQUESTS, 1),
        (Metric.TOKENS, 22),
        (Metric.INPUT_TOKENS, 20),
        (Metric.OUTPUT_TOKENS, 2),
        (Metric.COST_USD, 7),
        (Metric.CONCURRENCY, 1),
    ],
)
def test_a_metric_is_the_sum_of_its_columns(metric: Metric, amount: int) -> None:
    assert Amounts(1, 20, 2, 7).of(metric) == amount
    assert Amounts().of(metric) == 0


def test_lua_and_sql_are_written_from_it() -> None:
    assert lua_tables() == (
        "local COUNTED = { 'r', 'i', 'o', 'c' }\n"
        "local PARTS = { r = { 'r' }, t = { 'i', 'o' }, i = { 'i' }, o = { 'o' }, c = { 'c' } }\n"
        "local FIELDS = { 'born', 'cold', 'ur', 'ui', 'uo', 'uc', 'hr', 'hi', 'ho', 'hc' }\n"
        "local BORN = 1\n"
        "local COLD = 2\n"
        "local USED = { r = 'ur', i = 'ui', o = 'uo', c = 'uc' }\n"
        "local HELD = { r = 'hr', i = 'hi', o = 'ho', c = 'hc' }\n"
        "local USED_PLACE = { r = 3, i = 4, o = 5, c = 6 }\n"
        "local HELD_PLACE = { r = 7, i = 8, o = 9, c = 10 }\n"
    )
    assert sql_sums("event.").count("coalesce(sum(event.") == len(COUNTED)
