"""Holds that the counter store may have made for calls which were blocked, for it did not answer in time.

The caller has its answer and will neither report the call nor give it back, so this process does, once the store
answers again. If the process ends before, the hold ends as that of a caller that died: by itself.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from usage.counting.release import AlreadyCharged, NotOpen, end_own
from usage.counting.store import StoreUnavailable

# After three that got no answer the breaker asks the store once in half a second, so this is more than an hour.
KEPT_MAX = 10_000
# What was sent may be carried out for as long after (reserve.ANSWER_AWAITED_MS, and what two clocks may differ).
UNDER_WAY_S = 2.0


@dataclass(frozen=True, slots=True)
class _Hold:
    environment_id: int
    request_id: str
    evaluation_id: str
    since: float = field(default_factory=time.monotonic)


_kept: deque[_Hold] = deque(maxlen=KEPT_MAX)


def keep(environment_id: int, request_id: str, evaluation_id: str) -> None:
    _kept.append(_Hold(environment_id, request_id, evaluation_id))


def give_back() -> None:
    """Those that are not under way any more, until the store does not answer. Raises nothing."""
    for _ in range(len(_kept)):
        hold = _kept.popleft()
        if time.monotonic() - hold.since < UNDER_WAY_S:
            _kept.appendleft(hold)
            return
        try:
            with suppress(NotOpen, AlreadyCharged):
                end_own(hold.environment_id, hold.request_id, hold.evaluation_id)
        except StoreUnavailable:
            _kept.appendleft(hold)
            return


def forget_all() -> None:
    """As in a new process."""
    _kept.clear()
