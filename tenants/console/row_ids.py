"""Whether a text from an address or a form can be the id of a row, which PostgreSQL can be asked for."""

from __future__ import annotations

# One less than the largest has.
_DIGITS_MAX = 18


def is_row_id(text: str) -> bool:
    return text.isdecimal() and len(text) <= _DIGITS_MAX
