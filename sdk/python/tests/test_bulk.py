"""What is kept of large answers."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil.dialects import bulk
from tokvigil.dialects.bulk import Condensed

BULK = [
    "QUJD" * 400,
    "data:image/png;base64," + "a+/_" * 500 + "==",
    [0.017, -1e-05, 7, 2.5e12] * 300,
    [1] * 2_000,
]
SMALL = ["A word", 'say "A\\/"', "größer\n", "x" * 900, 7, -0.5, None, True, [], [1, 2], "[1,2]"]
VALUES = st.recursive(
    st.sampled_from([*BULK, *SMALL]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["data", "text"]), inner, max_size=2)
    ),
    max_leaves=12,
)


def without_bulk(value: Any) -> Any:
    """Of a string cut in pieces, some may be left."""
    if value == [] or value in BULK:
        return "bulk"
    if isinstance(value, str):
        return "bulk" if not value.removeprefix("data:image/png;base64,").strip("QUJDa+/_=") else value
    if isinstance(value, dict):
        return {name: without_bulk(item) for name, item in value.items()}
    return [without_bulk(item) for item in value] if isinstance(value, list) else value


@given(VALUES, st.sampled_from([None, 1]), st.lists(st.integers(0, 20_000), max_size=6))
def test_json_without_its_bulk_says_all_else_wherever_it_is_cut(
    value: Any, indent: int | None, cuts: list[int]
) -> None:
    raw = json.dumps({"data": value, "usage": 7}, indent=indent).encode()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    kept = Condensed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "LARGE_BYTES", 0)
        for start, end in pairwise(bounds):
            kept._condense_at = 0
            kept.add(raw[start:end])
    said = json.loads(kept)
    assert said["usage"] == 7
    assert without_bulk(said["data"]) == without_bulk(value)


def test_little_is_kept_of_what_is_large() -> None:
    vectors = json.dumps({"data": [{"embedding": [0.123456789] * 1_536}] * 200, "usage": 7}).encode()
    pictures = json.dumps({"data": [{"b64_json": "QUJD" * 500_000}] * 3, "usage": 7}).encode()
    for raw in (vectors, pictures):
        kept, most = Condensed(), 0
        for at in range(0, len(raw), 65_536):
            kept.add(raw[at : at + 65_536])
            most = max(most, len(kept))
        assert len(raw) > 3 * bulk.LARGE_BYTES
        assert most <= bulk.LARGE_BYTES
        assert json.loads(kept)["usage"] == 7


def test_small_answers_are_kept_as_they_come() -> None:
    kept = Condensed()
    kept.add(b'"' + b"A" * 100_000 + b'"')
    assert len(kept) == 100_002
