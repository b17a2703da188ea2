"""Usage on its way to TokVigil: written down at once, sent in the background, kept until it is confirmed."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from functools import cache
from queue import Empty, SimpleQueue

from tokvigil import forking
from tokvigil.background import Background
from tokvigil.delivery import ATTEMPT_S_MAX, BATCH_EVENTS_MAX, Delivery
from tokvigil.errors import HoldNotFoundError, TokVigilError
from tokvigil.holds import EXTEND_AGAIN_S, EXTEND_EVERY_S, Holds, OpenCall
from tokvigil.journal import Journal
from tokvigil.journal_file import RENEW_EVERY_S
from tokvigil.question import Report
from tokvigil.retries import backoff_s
from tokvigil.steps import Steps
from tokvigil.transport import Transport, hold_path, is_retryable

logger = logging.getLogger("tokvigil")

# A batch goes out when it is full, or this long after its first report: until then its calls are still held.
SEND_WITHIN_S = 0.05
# While calls keep coming, this long after the batch before: each costs the control plane as much as two dozen reports.
BATCHES_APART_S = 0.25
# Then holds have their turn, and reports that came meanwhile.
SEND_FOR_S = 5.0
EXTEND_FOR_S = 1.0
# While the control plane works, what is left over is looked for this often.
LOOK_AGAIN_S = 1.0
# How often a blocked call looks whether this process's own reports have arrived; a longer wait looks less often.
LOOK_S_FIRST = 0.005
LOOK_S_MAX = 0.05
BACKOFF_S_FIRST = 1.0
BACKOFF_S_MAX = 60.0
# How often reports of processes that ended are looked for.
TAKE_OVER_EVERY_S = 60.0
# That reports are not sent yet is said this often.
SAY_EVERY_S = 60.0
FLUSH_S = 30.0
EXIT_S_MAX = 5.0
# However long the work under way has taken.
CLOSE_S_MIN = 0.5
# From 0 on, finalizers of multiprocessing run before the process waits for its own children.
FINALIZER_PRIORITY = 0
RETRY_PAUSE_S, RETRY_PAUSE_S_MAX = 0.2, 2.0


class Reporter:
    """Safe to share between threads and event loops, and in forked children. Nothing here raises for a report."""

    def __init__(self, journal: Journal, transport: Transport) -> None:
        self.journal = journal
        self._transport = transport
        self._delivery = Delivery(journal, transport)
        self._holds = Holds()
        self._background = Background(self, "tokvigil-reports")
        self._since_sent = 0
        self._failures = 0
        self._send_from = 0.0
        self._batch_from = 0.0
        self._take_over_from = 0.0
        self._say_from = 0.0
        self._closed = threading.Event()
        self._late: SimpleQueue[OpenCall] = SimpleQueue()
        self._ending_late = threading.RLock()
        _reporters.add(self)
        forking.register(self)
        if journal.directory is not None:
            self._background.within(0)

    def restart_in_child(self) -> None:
        """The parent's reports are the parent's, and so is a close that was under way."""
        _with_reports.discard(self)
        self._late = SimpleQueue()
        self._ending_late = threading.RLock()
        self._closed = threading.Event()
        if self.is_closing:
            self._closed.set()

    @property
    def is_closing(self) -> bool:
        """No call may begin any more."""
        return self._holds.is_closing

    def begin(self, call: OpenCall, report: Report | None) -> bool:
        """The call is about to go out; see `Journal.sent`. Its hold is kept open until its report. False: this is
        closing, and the call must not go out."""
        self.journal.sent(call.request_id, report)
        if not self._holds.began(call):
            return False
        _end_with_worker_pool(os.getpid())
        self._background.within(EXTEND_EVERY_S)
        return True

    def report(self, report: Report) -> None:
        """Write a report down; it is sent at once, in the background."""
        forking.notice()
        with self.journal.lock:
            if self._closed.is_set():
                # A call that was open at the close has been handed over as what it may use.
                logger.error("usage of request %s came after close() and is not reported", report.request_id)
                return
            lost = self.journal.report(report)
            _with_reports.add(self)
        self._holds.ended(report.request_id)
        if lost is not None:
            logger.error("usage of request %s is lost: too many reports are pending", lost)
        self._since_sent += 1
        _end_with_worker_pool(os.getpid())
        self._background.within(self._next_batch_in_s())

    def later(self, call: OpenCall) -> None:
        """Have `call.end_late` called in the background. Takes no lock: objects are collected at any time, also in a
        thread that holds one. A forked child that loses its copy of a parent's call does nothing for it."""
        if self._holds.has(call.request_id):
            self._late.put(call)
            self._background.nudge()

    def send_now(self) -> None:
        """Send in the background without waiting any longer: the control plane is back."""
        self._send_from = 0.0
        self._background.within(0)

    def catch_up(self, deadline: float) -> Steps[bool]:
        """Waits until what this process has reported by now has arrived, not past the deadline (of time.monotonic).

        False: there is nothing to wait for, or it was in vain.
        """
        reported = () if self._is_backing_off() else self.journal.reported()
        if not reported:
            return False
        self._background.within(0)
        look_s = LOOK_S_FIRST
        while time.monotonic() < deadline and not self._is_backing_off():
            yield look_s
            if not self.journal.has(reported):
                return True
            look_s = min(LOOK_S_MAX, 2 * look_s)
        return False

    def flush(self, timeout_s: float = FLUSH_S) -> int:
        """Send what is pending, with retries, also what processes that ended have left; returns how many reports are
        left. Takes no longer than `timeout_s`."""
        forking.notice()
        if self._closed.is_set():
            return 0
        deadline = time.monotonic() + timeout_s
        self._end_late_calls()
        pause_s = RETRY_PAUSE_S
        while True:
            try:
                is_more = not self.is_closing and self.journal.take_over()
                self._delivery.send_all(deadline, to_the_last=self.is_closing)
                self._succeeded()
                if not is_more or time.monotonic() >= deadline:
                    return len(self.journal)
                if not self.journal.has_pending():
                    time.sleep(LOOK_S_FIRST)  # another thread is reading what a process has left
            except TokVigilError as error:
                left = max(1, len(self.journal))
                if time.monotonic() + pause_s >= deadline or not is_retryable(error):
                    self._say_not_reported(left, error)
                    return left
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_PAUSE_S_MAX)

    def close(self, timeout_s: float) -> None:
        """Report open calls as they stand and send what can be sent in that time; the rest stays in the journal."""
        forking.notice()
        self._holds.let_none_begin()
        with self.journal.lock:
            is_first = self in _reporters
            _reporters.discard(self)
        if not is_first:
            # Another thread is closing it, and goes on to close what is needed for that.
            self._closed.wait(timeout_s + CLOSE_S_MIN)
            return
        deadline = time.monotonic() + timeout_s
        try:
            self._background.stop(timeout_s)
            self._end_late_calls()
            for call in self._holds.open_calls():
                call.end_as_it_stands()
            self.flush(max(CLOSE_S_MIN, deadline - time.monotonic()))
        finally:
            self._let_go()

    def _let_go(self) -> None:
        left, directory = len(self.journal), self.journal.directory
        with self.journal.lock:
            self._closed.set()
            lost = self.journal.close()
            _with_reports.discard(self)
        if lost:
            logger.error("not reported, and lost with this client: usage of %s", _calls(lost))
        if left > lost:
            logger.warning("not reported yet, and kept in %s: usage of %s", directory, _calls(left - lost))

    def work(self) -> float:
        """What is due in the background; returns in how many seconds something is again."""
        now = time.monotonic()
        self._end_late_calls()
        self.journal.tend()
        if now >= self._take_over_from:
            in_s = LOOK_AGAIN_S if self.journal.take_over() else TAKE_OVER_EVERY_S
            self._take_over_from = now + in_s
        if now >= self._send_from:
            self._since_sent = 0
            self._batch_from = now + BATCHES_APART_S
            self._try_to_send()
        self._extend_long_holds()
        return self._next_in_s()

    def _end_late_calls(self) -> None:
        """When it returns, all calls have ended whose end was put off before."""
        with self._ending_late:
            while True:
                try:
                    call = self._late.get_nowait()
                except Empty:
                    return
                call.end_late()

    def _try_to_send(self) -> None:
        stop_at = time.monotonic() + SEND_FOR_S
        try:
            self._delivery.send_all(stop_at + ATTEMPT_S_MAX, stop_at=stop_at)
        except TokVigilError as error:
            asked_s = min(BACKOFF_S_MAX, getattr(error, "retry_after", None) or 0.0)
            delay_s = backoff_s(self._failures, asked_s, first_s=BACKOFF_S_FIRST, max_s=BACKOFF_S_MAX)
            self._failures += 1
            self._send_from = time.monotonic() + delay_s
            self._say_not_reported(len(self.journal), error)
        else:
            self._succeeded()

    def _say_not_reported(self, left: int, error: TokVigilError) -> None:
        """At most once a minute; the others are for debugging."""
        now = time.monotonic()
        is_due = now >= self._say_from
        if is_due:
            self._say_from = now + SAY_EVERY_S
        level = logging.WARNING if is_due else logging.DEBUG
        logger.log(level, "not reported yet: usage of %s: %s", _calls(left), error)

    def _succeeded(self) -> None:
        self._failures = 0
        self._send_from = 0.0
        with self.journal.lock:
            if not self.journal.has_pending():
                _with_reports.discard(self)

    def _is_backing_off(self) -> bool:
        return time.monotonic() < self._send_from

    def _next_batch_in_s(self) -> float:
        now = time.monotonic()
        in_s = 0.0 if self._since_sent >= BATCH_EVENTS_MAX else max(SEND_WITHIN_S, self._batch_from - now)
        return max(in_s, self._send_from - now)

    def _next_in_s(self) -> float:
        now = time.monotonic()
        due = [max(self._take_over_from, self._send_from) - now, self._holds.next_due_s(), RENEW_EVERY_S]
        if self.journal.has_pending():
            due.append(max(self._send_from - now, LOOK_AGAIN_S))
        return max(0.0, min(delay_s for delay_s in due if delay_s is not None))

    def _extend_long_holds(self) -> None:
        until = time.monotonic() + EXTEND_FOR_S
        due = self._holds.due()
        for request_id in due:
            if time.monotonic() >= until:
                return
            try:
                self._transport.request("POST", f"{hold_path(request_id)}/extend", retry=False)
                self._holds.extend_in(request_id, EXTEND_EVERY_S)
            except HoldNotFoundError:
                logger.warning("request %s is held no longer, so its hold is not extended", request_id)
                self._holds.stop_extending(request_id)
            except TokVigilError as error:
                logger.warning("the holds of long calls are not extended this time: %s", error)
                for each in due:
                    self._holds.extend_in(each, EXTEND_AGAIN_S)
                return


def _calls(count: int) -> str:
    return f"{count} call{'' if count == 1 else 's'}"


_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()
# A client that its owner dropped lives on here until its reports are sent.
_with_reports: set[Reporter] = set()


@cache
def _end_with_worker_pool(pid: int) -> None:
    """A process that multiprocessing, or Celery's billiard, forked ends without `atexit`, and with finalizers of its
    own."""
    for name in ("multiprocessing", "billiard"):
        pool = sys.modules.get(f"{name}.process")
        util = sys.modules.get(f"{name}.util")
        if pool is None or util is None:
            continue
        parent = getattr(pool, "parent_process", None)
        is_child = parent() is not None if parent else pool.current_process().name != "MainProcess"
        if is_child:
            util.Finalize(None, _send_at_exit, exitpriority=FINALIZER_PRIORITY)
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        # A child of Celery's own pool runs no finalizers; this is sent in it at its end, and nowhere else.
        signals.worker_process_shutdown.connect(_send_at_exit, weak=False)


@atexit.register
def _send_at_exit(**_: object) -> None:
    """What clients that were not closed have left."""
    deadline = time.monotonic() + EXIT_S_MAX
    for reporter in list(_reporters):
        reporter.close(max(0.0, deadline - time.monotonic()))
