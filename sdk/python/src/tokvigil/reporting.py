"""Usage on its way to TokVigil: written down at once, sent in the background, kept until it is confirmed."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from functools import cache
from typing import TYPE_CHECKING

from tokvigil import forking, spool_rows
from tokvigil.background import Background
from tokvigil.delivery import BATCH_EVENTS_MAX, Delivery
from tokvigil.errors import NotFoundError, TokVigilError
from tokvigil.in_flight import EXTEND_AGAIN_S, EXTEND_EVERY_S, RETRY_WITHIN_S, InFlight
from tokvigil.models import UsageEvent
from tokvigil.pending import PendingUsage
from tokvigil.retries import jitter
from tokvigil.spool import Spool, SpoolBusyError
from tokvigil.steps import Steps
from tokvigil.transport import Transport, hold_path, is_retryable

if TYPE_CHECKING:
    from tokvigil.open_call import OpenCall

logger = logging.getLogger("tokvigil")

# A batch goes out when it is full, or this long after its first event: until then its calls are still held.
SEND_WITHIN_S = 0.05
# While calls keep coming, this long after the batch before: each costs the control plane as much as two dozen events.
BATCHES_APART_S = 0.25
# While the control plane works, what is left over is looked for this often.
LOOK_AGAIN_S = 1.0
# How often a blocked call looks whether this process's own reports have arrived; a longer wait looks less often.
LOOK_S_FIRST = 0.005
LOOK_S_MAX = 0.05
# Of so many the latest.
CAUGHT_UP_MAX = spool_rows.IDS_MAX
BACKOFF_S_FIRST = 1.0
BACKOFF_S_MAX = 60.0
DOUBLINGS_MAX = 10
# How often events of processes that died are looked for.
ADOPT_EVERY_S = 60.0
FLUSH_S = 30.0
EXIT_S_MAX = 5.0
# However long the work under way has taken.
CLOSE_S_MIN = 0.5
# From 0 on, finalizers run before the process waits for its own children.
FINALIZER_PRIORITY = 0
RETRY_PAUSE_S, RETRY_PAUSE_S_MAX = 0.2, 2.0
# Reports wait meanwhile; the rest has its turn after them.
EXTEND_FOR_S = 1.0


class Reporter:
    """Safe to share between threads and event loops, and in forked children. Nothing here raises for an event."""

    def __init__(self, store: PendingUsage | Spool, transport: Transport) -> None:
        self.store = store
        self._transport = transport
        self._delivery = Delivery(store, transport)
        self._in_flight = InFlight()
        self._background = Background(self._work, "tokvigil-reports")
        self._since_sent = 0
        self._failures = 0
        self._send_from = 0.0
        self._batch_from = 0.0
        self._adopt_from = time.monotonic() + ADOPT_EVERY_S
        # The latest that this process has reported, whoever sends them.
        self._reported: deque[str] = deque(maxlen=CAUGHT_UP_MAX)
        self._closed = threading.Event()
        _reporters.add(self)
        forking.register(self)
        if store.has_pending():
            self._background.within(0)
        elif isinstance(store, Spool):
            self._background.within(ADOPT_EVERY_S)

    def restart_in_child(self) -> None:
        """The parent's reports are the parent's, and so is a close that was under way."""
        self._reported.clear()
        self._closed = threading.Event()
        if self.is_closing:
            self._closed.set()

    @property
    def is_closing(self) -> bool:
        """No call may begin any more."""
        return self._in_flight.is_closing

    def expect(self, call: OpenCall) -> None:
        """About to ask for a decision. Should this process die before it knows, what may then be held is given back."""
        self.store.hold(call.cancelled())

    def forget(self, call: OpenCall) -> None:
        """It does not go out, and nothing is held for it."""
        self.store.withdraw(call.request_id)

    def begin(self, call: OpenCall) -> bool:
        """A call is about to go out: written down as what it may use, its hold kept open until its report. False: this
        is closing, and it must not go out."""
        self.store.hold(call.unknown())
        if not self._in_flight.began(call):
            return False
        _end_with_multiprocessing(os.getpid())
        self._background.within(EXTEND_EVERY_S)
        return True

    def report(self, event: UsageEvent) -> None:
        """Write an event down; it is sent at once, in the background."""
        with self.store.lock:
            if self._closed.is_set():
                # A call that was open at the close has been handed over as what it may use.
                logger.error("usage of request %s came after close() and is not reported", event.request_id)
                return
            overflowed = self.store.add(event)
        self._in_flight.ended(event.request_id)
        if overflowed is not None:
            logger.error("usage of request %s is lost: too many reports are pending", overflowed.request_id)
        self._reported.append(event.request_id)
        self._since_sent += 1
        _end_with_multiprocessing(os.getpid())
        self._background.within(self._next_batch_in_s())

    def pause(self, key: Hashable, call: OpenCall) -> None:
        """See `InFlight.pause`. Until the call is taken up again it counts as failed."""
        self.store.hold(call.failed())
        self._in_flight.pause(key, call)
        self._background.within(RETRY_WITHIN_S)

    def resume(self, key: Hashable) -> OpenCall | None:
        call = self._in_flight.resume(key)
        if call is not None:
            self.store.hold(call.unknown())
        return call

    def later(self, request_id: str, act: Callable[[], object]) -> None:
        """Have something done for a call in the background. Safe in a `__del__`: see `InFlight.defer` and `nudge`."""
        self._in_flight.defer(request_id, act)
        self._background.nudge()

    def send_now(self) -> None:
        """Send in the background without waiting any longer: the control plane is back."""
        self._send_from = 0.0
        self._background.within(0)

    def catch_up(self, deadline: float) -> Steps[bool]:
        """Waits until what this process has reported by now has arrived, not past the deadline (of time.monotonic).

        False: there is nothing to wait for, or it was in vain.
        """
        reported = tuple(self._reported)
        if not reported or self._is_backing_off() or self.store.count_of(reported) == 0:
            return False
        self._background.within(0)
        look_s = LOOK_S_FIRST
        while time.monotonic() < deadline and not self._is_backing_off():
            yield look_s
            if self.store.count_of(reported) == 0:
                return True
            look_s = min(LOOK_S_MAX, 2 * look_s)
        return False

    def flush(self, timeout_s: float = FLUSH_S) -> int:
        """Send what is pending, with retries, and wait for what other processes send of this one's; returns how many
        events are left. Takes no longer than `timeout_s`.
        """
        if self._closed.is_set():
            return 0
        deadline = time.monotonic() + timeout_s
        self._in_flight.do_deferred()
        reported = tuple(self._reported)
        self.store.adopt()
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                self._delivery.send_all(deadline, to_the_last=self.is_closing)
                self._succeeded()
                left = len(self.store)
                elsewhere = 0 if self.is_closing else self.store.count_of(reported)
                if not elsewhere:
                    return left
                if time.monotonic() + pause_s >= deadline:
                    logger.warning("not reported yet: usage of %d calls, which others send", elsewhere)
                    return max(left, elsewhere)
            except TokVigilError as error:
                left = max(1, len(self.store))
                may_pass = isinstance(error, SpoolBusyError) or is_retryable(error)
                if time.monotonic() + pause_s >= deadline or not may_pass:
                    logger.warning("not reported yet: usage of %d calls: %s", left, error)
                    return left
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_PAUSE_S_MAX)

    def close(self, timeout_s: float) -> None:
        """Report open calls as they stand and send what can be sent in that time; what is left stays in the spool."""
        if self not in _reporters:
            # Another thread is closing it, and goes on to close what is needed for that.
            self._closed.wait(timeout_s + CLOSE_S_MIN)
            return
        self._in_flight.let_none_begin()
        _reporters.discard(self)
        deadline = time.monotonic() + timeout_s
        try:
            self._background.stop(timeout_s)
            self._in_flight.do_deferred()
            for call in self._in_flight.given_up(all_of_them=True):
                call.report_failed()
            for call in self._in_flight.open_calls():
                _report_as_it_stands(call)
            self.flush(max(CLOSE_S_MIN, deadline - time.monotonic()))
        finally:
            self._let_go()

    def _let_go(self) -> None:
        left = len(self.store)
        with self.store.lock:
            lost = self.store.close()
            self._closed.set()
        if lost:
            logger.error("not reported, and lost with this client: usage of %d calls", lost)
        if left > lost and isinstance(self.store, Spool):
            logger.warning(
                "not reported yet, and kept in %s: usage of %d calls", self.store.path, left - lost
            )

    def _work(self) -> float:
        now = time.monotonic()
        self._in_flight.do_deferred()
        for call in self._in_flight.given_up():
            call.report_failed()
        if now >= self._adopt_from:
            self._adopt_from = now + ADOPT_EVERY_S
            self.store.adopt()
        if now >= self._send_from:
            self._since_sent = 0
            self._batch_from = now + BATCHES_APART_S
            self._try_to_send()
        self._extend_long_holds()
        return self._next_in_s()

    def _try_to_send(self) -> None:
        try:
            self._delivery.send_all()
        except TokVigilError as error:
            # Spread, so that many processes do not come back together.
            doubled_s = BACKOFF_S_FIRST * 2.0 ** min(self._failures, DOUBLINGS_MAX)
            delay_s = min(BACKOFF_S_MAX, doubled_s) * jitter()
            asked_s = getattr(error, "retry_after", None) or 0.0
            self._failures += 1
            self._send_from = time.monotonic() + max(delay_s, min(BACKOFF_S_MAX, asked_s))
            logger.warning("not reported yet: usage of %d calls: %s", len(self.store), error)
        else:
            self._succeeded()

    def _succeeded(self) -> None:
        self._failures = 0
        self._send_from = 0.0

    def _is_backing_off(self) -> bool:
        return time.monotonic() < self._send_from

    def _next_batch_in_s(self) -> float:
        now = time.monotonic()
        in_s = 0.0 if self._since_sent >= BATCH_EVENTS_MAX else max(SEND_WITHIN_S, self._batch_from - now)
        return max(in_s, self._send_from - now)

    def _next_in_s(self) -> float:
        now = time.monotonic()
        due = [self._adopt_from - now, self._in_flight.next_due_s()]
        if self.store.has_pending():
            due.append(max(self._send_from - now, LOOK_AGAIN_S))
        return max(0.0, min(delay_s for delay_s in due if delay_s is not None))

    def _extend_long_holds(self) -> None:
        until = time.monotonic() + EXTEND_FOR_S
        due = self._in_flight.due_for_extension()
        for request_id in due:
            if time.monotonic() >= until:
                return
            try:
                self._transport.request("POST", f"{hold_path(request_id)}/extend", retry=False)
                self._in_flight.extend_in(request_id, EXTEND_EVERY_S)
            except NotFoundError:
                logger.warning("request %s is held no longer, so its hold is not extended", request_id)
                self._in_flight.stop_extending(request_id)
            except TokVigilError as error:
                logger.warning("the holds of long calls are not extended this time: %s", error)
                for each in due:
                    self._in_flight.extend_in(each, EXTEND_AGAIN_S)
                return


def _report_as_it_stands(call: OpenCall) -> None:
    try:
        call.report_as_it_stands()
    except Exception:
        logger.exception(
            "request %s: what came of it cannot be read; what it may use is reported", call.request_id
        )
        call.report_unknown()


_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()


@cache
def _end_with_multiprocessing(pid: int) -> None:
    """A process that multiprocessing forked ends without `atexit`, and with finalizers of its own."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _send_at_exit, exitpriority=FINALIZER_PRIORITY)


@atexit.register
def _send_at_exit() -> None:
    """What clients that were not closed have left."""
    deadline = time.monotonic() + EXIT_S_MAX
    for reporter in list(_reporters):
        reporter.close(max(0.0, deadline - time.monotonic()))
