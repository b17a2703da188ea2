"""The bars of a chart, in percent of its plot, so that it can be drawn in any size. Pure.

Bars are stacked in the order of the legend. What the period before had is a tick on each bar: a line over stacks cannot
be read. Amounts below 0, where more was taken back than charged, have no height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

# Lines that have a pattern of their own; the others are one.
OWN_MAX = 5
LEVELS = 5
# Of a step, how much its bar fills.
_WIDTH = 0.8
LABELS_MAX = 8
# Tenths; of numbers below 10 those that are whole.
_NICE = (10, 12, 15, 20, 25, 30, 40, 50, 60, 100)


@dataclass(frozen=True, slots=True)
class Block:
    """`pattern`: from 1, that of its line. `says`: all of it, on hover."""

    pattern: int
    y: float
    height: float
    says: str


@dataclass(frozen=True, slots=True)
class Bar:
    """`tick`: where the period before stood. `is_part`: it is of a part of a step."""

    x: float
    width: float
    middle: float
    blocks: tuple[Block, ...]
    tick: float | None
    tick_says: str
    label: str
    # A label that is left out where there is little room.
    is_spare: bool
    is_part: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """`levels`: amounts of the lines across, from the top to 0."""

    bars: tuple[Bar, ...]
    levels: tuple[int, ...]

    @property
    def is_empty(self) -> bool:
        """There is nothing to draw: then a scale would say nothing either."""
        return all(not bar.blocks and bar.tick is None for bar in self.bars)


@dataclass(frozen=True, slots=True)
class Series:
    """An amount for each step, and the same in words."""

    pattern: int
    amounts: Sequence[int]
    says: Sequence[str]


def chart(
    series: Sequence[Series],
    before: Sequence[int | None],
    before_says: Sequence[str],
    labels: Sequence[str],
    parts: Sequence[bool] = (),
    *,
    beside: bool = False,
) -> Chart:
    """`before`: for each step, what the period before had in it. There is no tick where that was nothing.

    `parts`: whether the step is only a part of one. `beside`: the series stand side by side, for means do not add up.
    """
    if beside:
        return _beside(series, labels, parts)
    stacks = [sum(max(each.amounts[step], 0) for each in series) for step in range(len(labels))]
    most = top(max([*stacks, *(amount or 0 for amount in before)], default=0))
    width = 100 / max(len(labels), 1)
    return Chart(
        bars=tuple(
            Bar(
                x=round(width * (step + (1 - _WIDTH) / 2), 3),
                width=round(width * _WIDTH, 3),
                middle=round(width * (step + 0.5), 3),
                blocks=tuple(_blocks(series, step, most)),
                tick=None if (amount := before[step] or 0) <= 0 else round(100 - 100 * amount / most, 3),
                tick_says=before_says[step],
                label=labels[step] if _is_labelled(step, len(labels)) else "",
                is_spare=_is_labelled(step, len(labels))
                and not _is_labelled(step, len(labels), LABELS_MAX // 2),
                is_part=bool(parts) and parts[step],
            )
            for step in range(len(labels))
        ),
        levels=tuple(most * level // LEVELS for level in range(LEVELS, -1, -1)),
    )


def _beside(series: Sequence[Series], labels: Sequence[str], parts: Sequence[bool]) -> Chart:
    """A bar for each series in each step. The label of a step stands below its first."""
    most = top(max((amount for each in series for amount in each.amounts), default=0))
    width = 100 / max(len(labels), 1)
    own = width * _WIDTH / max(len(series), 1)
    return Chart(
        bars=tuple(
            Bar(
                x=round(width * (step + (1 - _WIDTH) / 2) + own * place, 3),
                width=round(own, 3),
                middle=round(width * (step + 0.5), 3),
                blocks=tuple(_blocks([each], step, most)),
                tick=None,
                tick_says="",
                label=labels[step] if place == 0 and _is_labelled(step, len(labels)) else "",
                is_spare=not _is_labelled(step, len(labels), LABELS_MAX // 2),
                is_part=bool(parts) and parts[step],
            )
            for step in range(len(labels))
            for place, each in enumerate(series)
        ),
        levels=tuple(most * level // LEVELS for level in range(LEVELS, -1, -1)),
    )


def _blocks(series: Sequence[Series], step: int, most: int) -> list[Block]:
    below, found = 0, []
    for each in series:
        amount = max(each.amounts[step], 0)
        below += amount
        if amount:
            found.append(
                Block(
                    each.pattern,
                    round(100 - 100 * below / most, 3),
                    round(100 * amount / most, 3),
                    each.says[step],
                )
            )
    return found


def top(most: int) -> int:
    """The least amount that is not below it, and of which a LEVELS-th is a round number."""
    least = max(-(-most // LEVELS), 1)
    power: int = 10 ** (len(str(least)) - 1)
    levels = (power * nice // 10 for nice in _NICE if power * nice % 10 == 0)
    return LEVELS * next(level for level in levels if level >= least)


def _is_labelled(step: int, count: int, labels_max: int = LABELS_MAX) -> bool:
    return step % -(-count // labels_max) == 0


def added_up(amounts: Sequence[int]) -> tuple[int, ...]:
    """Each with all before it."""
    return tuple(accumulate(amounts))
