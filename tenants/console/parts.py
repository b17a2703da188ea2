"""Parts that pages of the console share: states and limit bars. `{% load console %}` has them for templates.

A state is a shape, a word and a tint, never colour alone. A bar is always the same: used solid, held hatched, left
empty, a dotted tick at the warning, a solid one where the amount stands without boosts; the numbers stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# Of a limit; from here on it is near.
WARN_PERCENT = 80
FULL_PERCENT = 100


class State(StrEnum):
    FINE = "fine"
    NEAR = "near"
    FULL = "full"
    OVER = "over"
    WATCHED = "watched"
    FROZEN = "frozen"
    BOOSTED = "boosted"
    ALLOWED = "allowed"
    BLOCKED = "blocked"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class Bar:
    """How much of a limit is used and held. `standing` is the amount without boosts, if there are any.

    `watched`: the limit blocks nothing.
    """

    used: int
    held: int
    limit: int
    standing: int | None = None
    watched: bool = False

    @property
    def left(self) -> int:
        """Below 0: more was used than the limit allows."""
        return self.limit - self.used - self.held

    @property
    def percent(self) -> int:
        """Rounded down, so that a limit with something left never reads 100."""
        if self.limit <= 0:
            return FULL_PERCENT
        return (self.used + self.held) * 100 // self.limit

    @property
    def state(self) -> State:
        if self.watched and self.left < 0:
            return State.OVER
        if self.left <= 0:
            return State.FULL
        return State.NEAR if self.percent >= WARN_PERCENT else State.FINE

    @property
    def word(self) -> str:
        return {State.OVER: "Over", State.FULL: "At limit", State.NEAR: "Near"}.get(self.state, "Fine")

    @property
    def summary(self) -> str:
        """`Near 84 %`"""
        return f"{self.word} {self.percent} %"

    @property
    def used_width(self) -> str:
        """Of the bar, in percent."""
        return self._width(self.used)

    @property
    def held_width(self) -> str:
        return self._width(min(self.held, max(0, self.limit - self.used)))

    @property
    def standing_place(self) -> str | None:
        return None if self.standing is None else self._width(self.standing)

    @property
    def warn_place(self) -> str:
        return f"{WARN_PERCENT}"

    def _width(self, amount: int) -> str:
        if self.limit <= 0:
            return f"{FULL_PERCENT}"
        return f"{min(FULL_PERCENT, 100 * amount / self.limit):.2f}"
