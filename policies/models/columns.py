"""What columns of several models share."""

from __future__ import annotations

from usage.metrics import Metric

# Why something was published.
NOTE_LENGTH_MAX = 500


def choices(values: type) -> list[tuple[str, str]]:
    return [(value.value, value.value) for value in values]  # type: ignore[attr-defined]


def metrics() -> list[tuple[str, str]]:
    """Asked for when needed, so that a new metric changes no column."""
    return choices(Metric)
