"""What `up` runs is looked after: whatever ends by itself is started again, later each time that does not last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tokvigil_site.embedded.errors import StackError

LOOK_S = 0.25
# Before each start in a row; after the last one nobody starts it again.
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0)
# Whatever ran for so long had started well; its next end is not one in a row.
STEADY_S = 10.0

Say = Callable[[str], object]


class Supervised(Protocol):
    """A child process or an embedded server."""

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Path: ...

    def ended(self) -> str | None:
        """How it ended, None while it runs."""

    def start(self) -> None:
        """Returns soon. Raises OSError or StackError."""


class GaveUp(Exception):
    """Something ends again whenever it is started. The message names it and its log."""


@dataclass(slots=True)
class _Watched:
    it: Supervised
    started_s: float
    starts_in_a_row: int = 0
    due_s: float | None = None


class Supervision:
    """Starts again what ended, and says so in one line each. One thread looks after all: the one that started them."""

    def __init__(self, supervised: Iterable[Supervised], say: Say) -> None:
        now_s = time.monotonic()
        self._watched = [_Watched(each, now_s) for each in supervised]
        self._say = say

    def watch(self) -> None:
        """Until it is interrupted. Raises GaveUp."""
        while True:
            self.look(time.monotonic())
            time.sleep(LOOK_S)

    def look(self, now_s: float) -> None:
        """One look at each; `now_s` is in seconds of a clock that only goes forward. Raises GaveUp."""
        for watched in self._watched:
            if watched.due_s is None:
                self._notice(watched, now_s)
            if watched.due_s is not None and now_s >= watched.due_s:
                self._start(watched, now_s)

    def _notice(self, watched: _Watched, now_s: float) -> None:
        how = watched.it.ended()
        if how is None:
            return
        if now_s - watched.started_s >= STEADY_S:
            watched.starts_in_a_row = 0
        if watched.starts_in_a_row == len(BACK_OFF_S):
            raise GaveUp(
                f"{_sentence_case(watched.it.name)} {how}, and {len(BACK_OFF_S)} starts in a row did not help. "
                f"{watched.it.log} says why."
            )
        pause_s = BACK_OFF_S[watched.starts_in_a_row]
        watched.starts_in_a_row += 1
        watched.due_s = now_s + pause_s
        when = f"in {pause_s:.0f} s" if pause_s else "now"
        self._tell(f"{watched.it.name} {how}; it is started again {when}. Its log is {watched.it.log}")

    def _start(self, watched: _Watched, now_s: float) -> None:
        watched.due_s, watched.started_s = None, now_s
        try:
            watched.it.start()
        except (OSError, StackError) as error:
            # The next look finds that it does not run.
            self._tell(f"{watched.it.name} could not be started: {str(error).splitlines()[0]}")

    def _tell(self, what: str) -> None:
        # A terminal that was closed is no reason to let things lie.
        with suppress(OSError):
            self._say(f"{datetime.now(UTC):%H:%M:%S} {_sentence_case(what)}")


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
