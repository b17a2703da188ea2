"""What to decide while the control plane gives no usable answer, and how not to wait for it on every call.

After `FAILURES_TO_OPEN` calls in a row that failed, the control plane is left alone for `OPEN_S`: calls are decided
here at once. Then one call asks again, and the others go on being decided here until it knows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tokvigil import forking
from tokvigil.errors import TokVigilUnavailableError
from tokvigil.models import Decision

logger = logging.getLogger("tokvigil")

OnUnavailable = Literal["last_known", "allow", "block"]
ON_UNAVAILABLE: tuple[OnUnavailable, ...] = ("last_known", "allow", "block")

FAILURES_TO_OPEN = 3
OPEN_S = 5.0
# In an outage, each decision that is made here is worth a line at most so often; the others are for debugging.
SAY_EVERY_S = 60.0
# Decisions remembered, of the subjects that asked last.
REMEMBERED_MAX = 10_000


class LeftAloneError(TokVigilUnavailableError):
    """Nothing was asked: the control plane was away a moment ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a decision was about."""

    user_id: str
    feature: str | None
    model: str
    plan: str | None


class Availability:
    """Safe to share between threads. `clock` is in seconds and never goes back."""

    def __init__(
        self,
        on_unavailable: OnUnavailable,
        clock: Callable[[], float] = time.monotonic,
        on_return: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_unavailable = on_unavailable
        # Called when the control plane answers again.
        self._on_return = on_return
        self._clock = clock
        self._lock = threading.RLock()
        self._failures = 0
        self._open_until = 0.0
        # In the outage that is going on.
        self._decided_here = 0
        self._said_at: float | None = None
        self._known: OrderedDict[Asked, tuple[Decision, float]] = OrderedDict()
        forking.register(self)

    def restart_in_child(self) -> None:
        """What is known stays true; a thread of the parent may have held the lock."""
        self._lock = threading.RLock()

    def admit(self) -> None:
        """Raises `LeftAloneError` if the control plane is to be left alone just now."""
        with self._lock:
            if self._failures < FAILURES_TO_OPEN:
                return
            now = self._clock()
            if now < self._open_until:
                raise LeftAloneError("TokVigil was away a moment ago")
            # This caller asks; the others are decided here until its answer is known.
            self._open_until = now + OPEN_S

    def answered(self) -> None:
        """The control plane is there."""
        with self._lock:
            was_away, self._failures = self._failures > 0, 0
            decided_here, self._decided_here, self._said_at = self._decided_here, 0, None
        if decided_here:
            logger.warning("TokVigil answers again; %d calls were decided without it", decided_here)
        if was_away:
            self._on_return()

    def remember(self, asked: Asked, decision: Decision) -> None:
        """A decision of the control plane, for when it is away. Calls in flight say nothing of later."""
        if self.on_unavailable != "last_known" or decision.degraded or decision.reason_class == "transient":
            return
        with self._lock:
            self._known[asked] = (decision, self._clock())
            self._known.move_to_end(asked)
            if len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)

    def failed(self) -> None:
        """The control plane gave no usable answer, retries included."""
        with self._lock:
            self._failures += 1
            self._open_until = self._clock() + OPEN_S

    def forget(self) -> None:
        """What was decided so far holds for no one any more."""
        with self._lock:
            self._known.clear()

    def decide(self, asked: Asked, request_id: str, error: TokVigilUnavailableError) -> Decision:
        """By `on_unavailable`. `last_known` repeats a block until its `retry_after` is over, and allows all else."""
        decision = self._decided(asked, request_id, error)
        self._say(decision, error)
        return decision

    def _say(self, decision: Decision, error: TokVigilUnavailableError) -> None:
        now = self._clock()
        with self._lock:
            self._decided_here += 1
            is_due = self._said_at is None or now - self._said_at >= SAY_EVERY_S
            if is_due:
                self._said_at = now
        logger.log(
            logging.WARNING if is_due else logging.DEBUG,
            "request %s is %s without TokVigil, as call %d since it went away (on_unavailable=%s): %s",
            decision.request_id,
            "allowed" if decision.allowed else "blocked",
            self._decided_here,
            self.on_unavailable,
            error,
        )

    def _decided(self, asked: Asked, request_id: str, error: TokVigilUnavailableError) -> Decision:
        known = self._last_known_block(asked)
        if known is not None:
            return replace(
                known,
                request_id=request_id,
                reason_code="DEGRADED_BLOCKED",
                reason_class="degraded",
                message=f"{known.message} (The last known decision, {known.reason_code}: {error}.)",
                reserved=None,
                suggested_model=None,
                degraded=True,
                trace=None,
            )
        allowed = self.on_unavailable != "block"
        return Decision(
            request_id=request_id,
            allowed=allowed,
            reason_code="DEGRADED_ALLOWED" if allowed else "DEGRADED_BLOCKED",
            reason_class="degraded",
            message=f"Decided by the client's on_unavailable={self.on_unavailable}: {error}",
            degraded=True,
        )

    def _last_known_block(self, asked: Asked) -> Decision | None:
        with self._lock:
            found = self._known.get(asked)
            if found is None or found[0].allowed:
                return None
            decision, decided_at = found
            if decision.retry_after is None:
                return decision
            left_s = decision.retry_after - (self._clock() - decided_at)
            return replace(decision, retry_after=-int(-left_s // 1)) if left_s > 0 else None
