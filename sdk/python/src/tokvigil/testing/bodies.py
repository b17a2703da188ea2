"""What the server refuses of a request's body, so that a test meets it before production does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TEXTS_CHARS_MAX = {"request_id": 128} | dict.fromkeys(
    ("user_id", "model", "feature", "plan", "run_id", "provider"), 255
)
COUNTS = (
    "input_tokens",
    "output_tokens",
    "max_output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
COUNT_MAX = 100_000_000
METADATA_PAIRS_MAX = 16
METADATA_KEY_CHARS_MAX = 64
METADATA_TEXT_CHARS_MAX = 512
METADATA_INTEGER_MAX = 2**53


def first_error(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first field that is wrong, and what it must be; of what may be left out, None is as good as nothing."""
    return next(_errors(body), None)


def _errors(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, chars_max in TEXTS_CHARS_MAX.items():
        if body.get(name) is not None and not _is_text(body[name], chars_max):
            yield name, f"must be a text of 1 to {chars_max} characters without NUL"
    for name in COUNTS:
        if body.get(name) is not None and not _is_integer(body[name], 0, COUNT_MAX):
            yield name, f"must be an integer from 0 to {COUNT_MAX}"
    metadata = body.get("metadata")
    if metadata is not None and not _is_metadata(metadata):
        yield (
            "metadata",
            f"must be at most {METADATA_PAIRS_MAX} flat pairs of short texts, integers and booleans",
        )


def _is_text(value: Any, chars_max: int, chars_min: int = 1) -> bool:
    return isinstance(value, str) and chars_min <= len(value) <= chars_max and "\0" not in value


def _is_integer(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_metadata(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= METADATA_PAIRS_MAX
        and all(_is_text(name, METADATA_KEY_CHARS_MAX) for name in value)
        and all(_is_flat(item) for item in value.values())
    )


def _is_flat(item: Any) -> bool:
    return (
        item is None
        or isinstance(item, bool)
        or _is_integer(item, -METADATA_INTEGER_MAX, METADATA_INTEGER_MAX)
        or _is_text(item, METADATA_TEXT_CHARS_MAX, chars_min=0)
    )
