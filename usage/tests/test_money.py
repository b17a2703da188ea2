from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.money import MAX_LIMIT_NANO, NANO, format_usd, parse_usd, to_nano

amounts = st.integers(0, MAX_LIMIT_NANO)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("0.000198", 198_000),
        ("5.00", 5 * NANO),
        ("9000000", MAX_LIMIT_NANO),
        ("1E-7", 100),
        ("2.5e2", 250 * NANO),
        ("0.000000001", 1),
        ("00.50", NANO // 2),
    ],
)
def test_an_amount_is_read_exactly(text: str, nano: int) -> None:
    assert parse_usd(text) == nano


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0.0000000001", 1),
        ("0.0000000011", 2),
        ("1.0000000000000000000000000000000001", NANO + 1),
        ("1e-50", 1),
    ],
)
def test_what_does_not_fit_a_nano_is_rounded_up(text: str, nano: int) -> None:
    assert parse_usd(text) == nano


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "NaN", "sNaN", "Infinity", "-inf", "-1", "-0", "+1", "1 ", " 1", "1,5", "1_000",
        "1e999999999", "1e-999", "1e99", "9000000.000000001", "0x10", ".5", "5.", "٣", "1" * 41,
        "0." + "0" * 39, "1\n", "5 USD",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ValueError, match=r"write a decimal|give at most"):
        parse_usd(text)


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity", "-0.1", "1E+999999", "1E-999999"])
def test_a_decimal_that_is_no_amount_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="give"):
        to_nano(Decimal(value))


def test_a_zero_of_any_exponent_is_zero() -> None:
    assert to_nano(Decimal("0E+999999")) == 0
    assert to_nano(Decimal("-0")) == 0


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (198_000, "0.000198"),
        (5 * NANO, "5.00"),
        (1_500_000_000, "1.50"),
        (1_050_000_000, "1.05"),
        (1_005_000_000, "1.005"),
        (MAX_LIMIT_NANO, "9000000.00"),
        (-10_000_000, "-0.01"),
    ],
)
def test_an_amount_is_written_with_two_decimals_or_as_many_as_it_has(nano: int, text: str) -> None:
    assert format_usd(nano) == text


@given(amounts)
def test_writing_and_reading_gives_the_same_amount(nano: int) -> None:
    assert parse_usd(format_usd(nano)) == nano


@given(st.decimals(0, 9_000_000, allow_nan=False, places=20))
def test_rounding_up_adds_less_than_a_nano(value: Decimal) -> None:
    difference = Decimal(to_nano(value)).scaleb(-9) - value
    assert 0 <= difference < Decimal("1e-9")
