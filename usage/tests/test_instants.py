"""Milliseconds and instants name each other exactly, over the whole calendar."""

from datetime import timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from usage.instants import EPOCH, from_ms, to_ms
from usage.windows import END_MS

# Microseconds since 1970, from 1900 to 9998.
MICROSECONDS = st.integers(-2_208_988_800_000_000, END_MS * 1000)


@given(st.integers(-2_208_988_800_000, END_MS))
def test_a_millisecond_is_itself(ms: int) -> None:
    assert to_ms(from_ms(ms)) == ms


@given(MICROSECONDS, st.integers(-14, 14))
def test_an_instant_lies_in_its_millisecond(microseconds: int, hours: int) -> None:
    at = EPOCH + timedelta(microseconds=microseconds)
    ms = to_ms(at.astimezone(timezone(timedelta(hours=hours))))
    assert ms == microseconds // 1000
    assert from_ms(ms) <= at < from_ms(ms + 1)
