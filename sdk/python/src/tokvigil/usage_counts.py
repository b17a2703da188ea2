"""Counts as answers write them: whole numbers, also as 512.0, and fractions, which are rounded up.

What is no count is left out, and becomes one of the `doubts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tokvigil.checked import TOKENS_MAX
from tokvigil.usage_forms import Path, Term, values


def term(spellings: Term, block: Mapping[str, Any], doubts: list[str]) -> int | None:
    """By the first spelling that says more than zero; None if none is said."""
    said = None
    for way in spellings:
        found = [count(each, way, doubts) for each in values(block, way)]
        amounts = [amount for amount in found if amount is not None]
        if amounts:
            said = sum(amounts)
            if said:
                return said
    return said


def count(said: Any, way: Path, doubts: list[str]) -> int | None:
    if isinstance(said, float) and not said.is_integer() and math.isfinite(said):
        said = math.ceil(said)
    amount = whole(said)
    if amount is None and said is not None:
        doubts.append(f"{way[-1].names[0]} is no count")
    return amount


def whole(said: Any) -> int | None:
    """A count, also one that is written as 512.0."""
    if isinstance(said, float) and said.is_integer():
        said = int(said)
    is_count = isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= TOKENS_MAX
    return said if is_count else None
