"""Usage on its way to TokVigil: written down at once, sent in the background, kept until it is confirmed."""

from __future__ import annotations

import atexit
import logging
import random
import time
import weakref
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING
from urllib.parse import quote

from tokvigil.background import Background
from tokvigil.delivery import BATCH_EVENTS_MAX, Delivery
from tokvigil.errors import NotFoundError, TokVigilError
from tokvigil.in_flight import EXTEND_EVERY_S, RETRY_WITHIN_S, InFlight
from tokvigil.models import UsageEvent
from tokvigil.pending import PendingUsage
from tokvigil.spool import Spool
from tokvigil.steps import Steps
from tokvigil.transport import Transport, is_retryable

if TYPE_CHECKING:
    from tokvigil.open_call import OpenCall

logger = logging.getLogger("tokvigil")

# A batch goes out when it is full, or this long after its first event: until then its calls are still held.
SEND_WITHIN_S = 0.05
# While calls keep coming, this long after the batch before: each costs the control plane as much as two dozen events.
BATCHES_APART_S = 0.25
# While the control plane works, what is left over is looked for this often.
LOOK_AGAIN_S = 1.0
CATCH_UP_STEP_S = 0.005
BACKOFF_S_FIRST = 1.0
BACKOFF_S_MAX = 60.0
# How often events of processes that died are looked for.
ADOPT_EVERY_S = 60.0
FLUSH_S = 30.0
EXIT_S_MAX = 5.0
# However long the work under way has taken.
CLOSE_S_MIN = 0.5
RETRY_PAUSE_S = 0.2


class Reporter:
    """Safe to share between threads and event loops, and in forked children. Nothing here raises for an event."""

    def __init__(self, store: PendingUsage | Spool, transport: Transport) -> None:
        self.store = store
        self._transport = transport
        self._delivery = Delivery(store, transport)
        self._in_flight = InFlight()
        self._background = Background(self._work, "tokvigil-reports")
        self._since_sent = 0
        self._sendings_begun = 0
        self._sendings_ended = 0
        self._failures = 0
        self._send_from = 0.0
        self._batch_from = 0.0
        self._adopt_from = time.monotonic() + ADOPT_EVERY_S
        self._closing = False
        self._closed = False
        _reporters.add(self)
        if store.has_pending():
            self._background.within(0)

    @property
    def is_closing(self) -> bool:
        """No call may begin any more."""
        return self._closing

    def expect(self, call: OpenCall) -> None:
        """About to ask for a decision. Should this process die before it knows, what may then be held is given back."""
        self.store.hold(call.cancelled())

    def forget(self, call: OpenCall) -> None:
        """It does not go out, and nothing is held for it."""
        self.store.remove((call.request_id,))

    def begin(self, call: OpenCall) -> None:
        """A call is about to go out: written down as what it may use, its hold kept open until its report."""
        self.store.hold(call.unknown())
        self._in_flight.began(call)
        self._background.within(EXTEND_EVERY_S)

    def report(self, event: UsageEvent) -> None:
        """Write an event down; it is sent at once, in the background."""
        if self._closed:
            # A call that was open at the close has been handed over as what it may use.
            logger.error("usage of request %s came after close() and is not reported", event.request_id)
            return
        self._in_flight.ended(event.request_id)
        overflowed = self.store.add(event)
        if overflowed is not None:
            logger.error("usage of request %s is lost: too many reports are pending", overflowed.request_id)
        self._since_sent += 1
        self._background.within(0 if self._since_sent >= BATCH_EVENTS_MAX else self._next_batch_in_s())

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
        """Have something done for a call in the background. Takes no lock, so that it is safe in a `__del__`."""
        self._in_flight.defer(request_id, act)
        self._background.nudge()

    def send_now(self) -> None:
        """Send in the background without waiting any longer: the control plane is back."""
        self._send_from = 0.0
        self._background.within(0)

    def catch_up(self, deadline: float) -> Steps[bool]:
        """Waits until what is pending by now was sent, not past the deadline (of time.monotonic).

        False: nothing is pending, or it was not sent.
        """
        if not self.store.has_pending():
            return False
        sending = self._sendings_begun + 1
        self.send_now()
        while self._sendings_ended < sending and time.monotonic() < deadline:
            yield CATCH_UP_STEP_S
        return self._sendings_ended >= sending and not self._failures

    def flush(self, timeout_s: float = FLUSH_S) -> int:
        """Send what is pending, with retries; returns how many events are left. Waits as long as `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        self._in_flight.do_deferred()
        self.store.adopt()
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                self._delivery.send_all(deadline, to_the_last=self._closing)
                self._succeeded()
                break
            except TokVigilError as error:
                left = len(self.store)
                if time.monotonic() + pause_s >= deadline or not is_retryable(error):
                    logger.warning("not reported yet: usage of %d calls: %s", left, error)
                    break
            time.sleep(pause_s)
            pause_s *= 2
        return len(self.store)

    def close(self, timeout_s: float) -> None:
        """Report open calls as they stand and send what can be sent in that time; what is left stays in the spool."""
        if self not in _reporters:
            return
        self._closing = True
        _reporters.discard(self)
        deadline = time.monotonic() + timeout_s
        self._background.stop(timeout_s)
        while True:
            self._in_flight.do_deferred()
            for call in self._in_flight.given_up(all_of_them=True):
                call.report_failed()
            for call in self._in_flight.open_calls():
                call.report_as_it_stands()
            left = self.flush(max(CLOSE_S_MIN, deadline - time.monotonic()))
            # Calls that were being decided when this began may have begun meanwhile.
            if not self._in_flight.open_calls() or time.monotonic() >= deadline:
                break
        self._closed = True
        lost = self.store.close()
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
            self._sendings_begun += 1
            self._try_to_send()
            self._sendings_ended = self._sendings_begun
        self._extend_long_holds()
        return self._next_in_s()

    def _try_to_send(self) -> None:
        try:
            self._delivery.send_all()
        except TokVigilError as error:
            # Spread, so that many processes do not come back together.
            delay_s = min(BACKOFF_S_MAX, BACKOFF_S_FIRST * 2.0**self._failures) * random.uniform(0.5, 1.0)  # noqa: S311
            self._failures += 1
            self._send_from = time.monotonic() + delay_s
            logger.warning("not reported yet: usage of %d calls: %s", len(self.store), error)
        else:
            self._succeeded()

    def _succeeded(self) -> None:
        self._failures = 0
        self._send_from = 0.0

    def _next_batch_in_s(self) -> float:
        return max(SEND_WITHIN_S, self._batch_from - time.monotonic())

    def _next_in_s(self) -> float:
        now = time.monotonic()
        due = [self._adopt_from - now, self._in_flight.next_due_s()]
        if self.store.has_pending():
            due.append(max(self._send_from - now, LOOK_AGAIN_S))
        return max(0.0, min(delay_s for delay_s in due if delay_s is not None))

    def _extend_long_holds(self) -> None:
        for request_id in self._in_flight.due_for_extension():
            path = f"/v1/reservations/{quote(request_id, safe='')}/extend"
            try:
                self._transport.request("POST", path, retry=False)
            except NotFoundError:
                logger.warning("request %s is held no longer, so its hold is not extended", request_id)
                self._in_flight.stop_extending(request_id)
            except TokVigilError as error:
                logger.warning("the holds of long calls are not extended this time: %s", error)
                return


_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()


@atexit.register
def _send_at_exit() -> None:
    """What clients that were not closed have left."""
    deadline = time.monotonic() + EXIT_S_MAX
    for reporter in list(_reporters):
        reporter.close(max(0.0, deadline - time.monotonic()))
