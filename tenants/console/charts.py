"""Charts as inline SVG, made on the server: no script draws them, and a table beside each says the same.

Shapes are in a box of WIDTH by HEIGHT that is stretched to the page; words stand outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 1000, 200
# Of a column, so that neighbours are told apart.
_GAP = 0.15
# Series have a colour of their own each; the last one is of all others.
SERIES_MAX = 6
# An odd number, so that every other one can be left out where there is little room.
DATES_MAX = 5


@dataclass(frozen=True, slots=True)
class Piece:
    """A rectangle. `says` its number in words, on hover."""

    x: str
    y: str
    width: str
    height: str
    series: int
    says: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Numbers over time, stacked: `names` from the bottom up. `most`: what the full height stands for."""

    pieces: tuple[Piece, ...]
    names: tuple[str, ...]
    most: int
    # Some of the labels, the first and the last among them, as far from each other as can be.
    dates: tuple[str, ...]
    width: int = WIDTH
    height: int = HEIGHT


def stacked(
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[int]]],
    says: Callable[[str, str, int], str],
) -> Columns:
    """A column for each label; each of the series, SERIES_MAX at most, has a number for each of them, 0 or more.

    `says(label, name, number)` is shown on hover.
    """
    sums = [sum(numbers) for numbers in zip(*(numbers for _, numbers in series), strict=True)]
    most = max(sums, default=0)
    step = WIDTH / max(1, len(labels))
    pieces = []
    for column, label in enumerate(labels):
        below = 0
        for place, (name, numbers) in enumerate(series):
            number = numbers[column]
            if number <= 0:
                continue
            below += number
            pieces.append(
                Piece(
                    x=_place((column + _GAP / 2) * step),
                    y=_place(HEIGHT * (1 - below / most)),
                    width=_place((1 - _GAP) * step),
                    height=_place(HEIGHT * number / most),
                    series=place + 1,
                    says=says(label, name, number),
                )
            )
    names = tuple(name for name, _ in series)
    return Columns(tuple(pieces), names, most, _dates(labels))


def _dates(labels: Sequence[str]) -> tuple[str, ...]:
    shown = min(len(labels), DATES_MAX)
    return tuple(labels[place * (len(labels) - 1) // max(1, shown - 1)] for place in range(shown))


def points(numbers: Iterable[tuple[float, float]], across: float, most: float) -> str:
    """Of a line or an area: how far of `across`, and how high of `most`; what is beyond stands at the edge."""
    return " ".join(
        f"{_place(WIDTH * _part(far, across))},{_place(HEIGHT * (1 - _part(high, most)))}"
        for far, high in numbers
    )


def _part(number: float, of: float) -> float:
    return min(1.0, max(0.0, number / of)) if of > 0 else 0.0


def _place(number: float) -> str:
    return f"{number:.2f}"
