"""Work that costs little more for several than for one.

Whoever comes while it is being done waits, and has it done together with all who wait by then. Nobody waits for others
to come. One at a time does the work of a group; the first of those who came meanwhile does it next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from usage.timebox import patience
from usage.timebox.background import TooSlow
from usage.timebox.gate import Full

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Turn(Generic[Item, Answer]):
    __slots__ = ("answers", "is_tried", "item", "woken")

    def __init__(self, item: Item) -> None:
        self.item = item
        # Whether the work was begun for it; and its answer, once there is one.
        self.is_tried = False
        self.answers: list[Answer] = []
        self.woken = threading.Lock()
        self.woken.acquire()


class Together(Generic[Item, Answer]):
    """`work` takes at most so many items of one group, no two of one name, and returns an answer for each, in order.

    What it raises for several says nothing of each of them: then everybody has it done for its own item alone.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        group: Callable[[Item], Hashable],
        name: Callable[[Item], Hashable],
        most: int,
    ) -> None:
        self._work, self._group, self._name, self._most = work, group, name, most
        self._lock = threading.Lock()
        # Of each group whose work is being done, those who came meanwhile.
        self._waiting: dict[Hashable, deque[_Turn[Item, Answer]]] = {}

    def do(self, item: Item) -> Answer:
        """The answer for this item. Raises what the work raises for it alone, and TooSlow.

        Whoever waits takes a place among those who wait for PostgreSQL (patience.within), for the work is its.
        """
        try:
            patience.begin_to_wait()
        except Full as error:
            raise TooSlow("too many wait already") from error
        group, turn = self._group(item), _Turn[Item, Answer](item)
        if self._must_wait(group, turn):
            turn.woken.acquire()
        if not turn.is_tried:
            self._lead(group, turn)
        return turn.answers[0] if turn.answers else self._work([item])[0]

    def _must_wait(self, group: Hashable, turn: _Turn[Item, Answer]) -> bool:
        with self._lock:
            waiting = self._waiting.get(group)
            if waiting is None:
                self._waiting[group] = deque()
                return False
            waiting.append(turn)
            return True

    def _lead(self, group: Hashable, first: _Turn[Item, Answer]) -> None:
        turns = self._taken(group, first)
        try:
            for turn, answer in zip(turns, self._work([turn.item for turn in turns]), strict=True):
                turn.answers.append(answer)
        except Exception:
            if len(turns) == 1:
                raise
        finally:
            for turn in turns[1:]:
                turn.woken.release()
            self._hand_over(group)

    def _taken(self, group: Hashable, first: _Turn[Item, Answer]) -> list[_Turn[Item, Answer]]:
        """The first, and as many of those who wait as can share its turn."""
        turns = {self._name(first.item): first}
        with self._lock:
            waiting = self._waiting[group]
            for _ in range(len(waiting)):
                turn = waiting.popleft()
                if len(turns) == self._most or turns.setdefault(self._name(turn.item), turn) is not turn:
                    waiting.append(turn)
        for turn in turns.values():
            turn.is_tried = True
        return list(turns.values())

    def _hand_over(self, group: Hashable) -> None:
        with self._lock:
            waiting = self._waiting[group]
            if waiting:
                waiting.popleft().woken.release()
            else:
                del self._waiting[group]
