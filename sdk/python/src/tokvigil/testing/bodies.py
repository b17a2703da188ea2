"""What the server refuses of a request's body, so that a test meets it before production does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokvigil.checked import (
    METADATA_CHARS_MAX,
    METADATA_KEY_CHARS_MAX,
    METADATA_KEYS_MAX,
    METADATA_NUMBER_MAX,
    NAME_CHARS_MAX,
    REQUEST_ID_CHARS_MAX,
)
from tokvigil.prices import TOKENS_MAX

TEXTS_CHARS_MAX = {"request_id": REQUEST_ID_CHARS_MAX} | dict.fromkeys(
    ("user_id", "model", "feature", "plan", "run_id", "provider"), NAME_CHARS_MAX
)
COUNTS = (
    "input_tokens",
    "output_tokens",
    "max_output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


def first_error(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first field that is wrong, and what it must be; of what may be left out, None is as good as nothing."""
    return next(_errors(body), None)


def _errors(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, chars_max in TEXTS_CHARS_MAX.items():
        if body.get(name) is not None and not _is_text(body[name], chars_max):
            yield name, f"must be a text of 1 to {chars_max} characters without NUL"
    for name in COUNTS:
        if body.get(name) is not None and not _is_integer(body[name], 0, TOKENS_MAX):
            yield name, f"must be an integer from 0 to {TOKENS_MAX}"
    metadata = body.get("metadata")
    if metadata is not None and not _is_metadata(metadata):
        yield (
            "metadata",
            f"must be at most {METADATA_KEYS_MAX} flat pairs of short texts, integers and booleans",
        )


def _is_text(value: Any, chars_max: int, chars_min: int = 1) -> bool:
    return isinstance(value, str) and chars_min <= len(value) <= chars_max and "\0" not in value


def _is_integer(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_metadata(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= METADATA_KEYS_MAX
        and all(_is_text(name, METADATA_KEY_CHARS_MAX) for name in value)
        and all(_is_flat(item) for item in value.values())
    )


def _is_flat(item: Any) -> bool:
    return (
        item is None
        or isinstance(item, bool)
        or _is_integer(item, -METADATA_NUMBER_MAX, METADATA_NUMBER_MAX)
        or _is_text(item, METADATA_CHARS_MAX, chars_min=0)
    )
