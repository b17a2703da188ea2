"""What to decide while the control plane gives no usable answer, and how not to wait for it on every call.

A control plane that is away is decided for by `on_unreachable`. After `FAILURES_TO_OPEN` calls in a row that failed, it
is left alone for `OPEN_S`: calls are decided here at once. Then one call asks again, and the others go on being decided
here until it knows. One that is busy is there: calls that it cannot decide in time are blocked, and nothing is opened.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from tokvigil import forking
from tokvigil.errors import UnreachableError, UnreachableReason
from tokvigil.models import Decision

logger = logging.getLogger("tokvigil")

OnUnreachable = Literal["last_known", "allow", "block"]
ON_UNREACHABLE: tuple[OnUnreachable, ...] = ("last_known", "allow", "block")
Subject = tuple[str | None, ...]

FAILURES_TO_OPEN = 3
OPEN_S = 5.0
# What is logged when calls are decided here: at most once in so many seconds, and else for debugging.
SAY_EVERY_S = 60.0
AWAY, BUSY = "away", "busy"
RETRY_WHEN_BUSY_S = 1
# Blocks remembered, of the subjects that asked last.
REMEMBERED_MAX = 10_000
# Classes of blocks that say nothing of the next call.
OF_ONE_CALL = frozenset({"transient", "too_large"})
# With these a server that has too much to do turns calls away, or a proxy before it.
OVERLOAD_STATUSES = frozenset({408, 503, 504})


class Availability:
    """Safe to share between threads. `clock` is in seconds and never goes back."""

    def __init__(
        self,
        on_unreachable: OnUnreachable,
        clock: Callable[[], float] = time.monotonic,
        on_return: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_unreachable = on_unreachable
        # Called when the control plane answers again.
        self._on_return = on_return
        self.clock = clock
        self._lock = threading.RLock()
        self._failures = 0
        self._last_failure: UnreachableReason = "connect"
        self._open_until = 0.0
        self._answered_at = 0.0
        # In the outage that is going on.
        self._decided_here = 0
        self._said_at: dict[str, float] = {}
        # The last block of each subject, and when it was made.
        self._blocks: OrderedDict[Subject, tuple[Decision, float]] = OrderedDict()
        forking.register(self)

    def restart_in_child(self) -> None:
        """What is known stays true; a thread of the parent may have held the lock."""
        self._lock = threading.RLock()

    def admit(self) -> None:
        """Raises `UnreachableError` if the control plane is to be left alone just now."""
        with self._lock:
            if self._failures < FAILURES_TO_OPEN:
                return
            now = self.clock()
            if now < self._open_until:
                raise UnreachableError("TokVigil was away a moment ago", reason=self._last_failure)
            # This caller asks; the others are decided here until its answer is known.
            self._open_until = now + OPEN_S

    def answered(self) -> None:
        """The control plane is there."""
        with self._lock:
            self._answered_at = self.clock()
            was_away, self._failures = self._failures > 0, 0
            decided_here, self._decided_here = self._decided_here, 0
            self._said_at.pop(AWAY, None)
        if decided_here:
            logger.warning("TokVigil answers again; %d calls were decided without it", decided_here)
        if was_away:
            self._on_return()

    def failed(self, error: UnreachableError, asked_at: float) -> None:
        """A question of that time (of `clock`) got no usable answer, retries included.

        If others got answers meanwhile, TokVigil is not away but has too much to do: the error becomes "busy".
        """
        with self._lock:
            is_overload = error.reason == "timeout" or error.status_code in OVERLOAD_STATUSES
            if is_overload and self._answered_at >= asked_at:
                error.reason = "busy"
            if error.reason != "busy":
                self._last_failure = error.reason
                self._failures += 1
                self._open_until = self.clock() + OPEN_S

    def remember(self, subject: Subject, decision: Decision) -> None:
        """A decision of the control plane, for when it is away: blocks, but those that say nothing of the next call."""
        if self.on_unreachable != "last_known" or decision.degraded or decision.reason_class in OF_ONE_CALL:
            return
        with self._lock:
            if decision.allowed:
                self._blocks.pop(subject, None)
            else:
                self._blocks[subject] = (decision, self.clock())
                self._blocks.move_to_end(subject)
                if len(self._blocks) > REMEMBERED_MAX:
                    self._blocks.popitem(last=False)

    def forget(self) -> None:
        """What was decided so far holds for no one any more."""
        with self._lock:
            self._blocks.clear()

    def decide(self, subject: Subject, request_id: str, error: UnreachableError) -> Decision:
        """Busy: a block. Away: by `on_unreachable`; `last_known` repeats a block until its `retry_after` is over, and
        allows all else. What failed, the log says: a message may be shown to an end user."""
        if error.reason == "busy":
            return self._decide_while_busy(request_id, error)
        decision = self._repeated(subject, request_id) or self._made_up(request_id)
        with self._lock:
            self._decided_here += 1
        self._say(
            AWAY,
            "request %s is %s without TokVigil, as call %d since it went away (on_unreachable=%s): %s",
            decision.request_id,
            "allowed" if decision.allowed else "blocked",
            self._decided_here,
            self.on_unreachable,
            error,
        )
        return decision

    def _decide_while_busy(self, request_id: str, error: UnreachableError) -> Decision:
        self._say(BUSY, "request %s is blocked because TokVigil is busy: %s", request_id, error)
        return Decision(
            request_id=request_id,
            allowed=False,
            reason_code="DEGRADED_BLOCKED",
            reason_class="degraded",
            message="TokVigil is busy and could not decide in time; try again.",
            retry_after=max(RETRY_WHEN_BUSY_S, math.ceil(error.retry_after or 0)),
            degraded=True,
        )

    def _say(self, about: str, line: str, *values: object) -> None:
        """At most once a minute for each of both; the others are for debugging."""
        now = self.clock()
        with self._lock:
            is_due = now - self._said_at.get(about, -SAY_EVERY_S) >= SAY_EVERY_S
            if is_due:
                self._said_at[about] = now
        logger.log(logging.WARNING if is_due else logging.DEBUG, line, *values)

    def _made_up(self, request_id: str) -> Decision:
        allowed = self.on_unreachable != "block"
        return Decision(
            request_id=request_id,
            allowed=allowed,
            reason_code="DEGRADED_ALLOWED" if allowed else "DEGRADED_BLOCKED",
            reason_class="degraded",
            message=f"TokVigil cannot be reached; decided by the client's on_unreachable={self.on_unreachable}.",
            degraded=True,
        )

    def _repeated(self, subject: Subject, request_id: str) -> Decision | None:
        """The last known block, if it still holds."""
        with self._lock:
            found = self._blocks.get(subject)
        if found is None:
            return None
        block, decided_at = found
        retry_after = block.retry_after
        if retry_after is not None:
            retry_after = math.ceil(retry_after - (self.clock() - decided_at))
            if retry_after <= 0:
                return None
        return replace(
            block,
            request_id=request_id,
            reason_code="DEGRADED_BLOCKED",
            reason_class="degraded",
            message=f"{block.message} (The last known decision: TokVigil cannot be reached.)",
            retry_after=retry_after,
            reserved=None,
            suggested_model=None,
            degraded=True,
            trace=None,
        )
