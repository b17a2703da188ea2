"""Sending pending reports in batches, and what each answer means for them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tokvigil import forking
from tokvigil.errors import InvalidRequestError, UnreachableError
from tokvigil.journal import Journal
from tokvigil.question import Report
from tokvigil.transport import Transport

logger = logging.getLogger("tokvigil")

BATCH_EVENTS_MAX = 100
BATCH_BYTES_MAX = 900_000  # the server takes 1 MiB
ATTEMPT_S_MAX = 10.0
# Too large, invalid. Any other refusal is about the request: a proxy's, or of a host that TokVigil does not know.
ABOUT_THE_EVENTS = frozenset({413, 422})

_TAKEN = frozenset({"recorded", "duplicate"})
_REFUSED = frozenset({"conflict", "invalid"})


class Delivery:
    """Safe to share between threads; one sends at a time."""

    def __init__(self, journal: Journal, transport: Transport) -> None:
        self._journal = journal
        self._transport = transport
        self.restart_in_child()
        forking.register(self)

    def restart_in_child(self) -> None:
        """A thread of the parent may have been sending."""
        self._sending = threading.Lock()

    def send_all(self, deadline: float, *, stop_at: float | None = None, to_the_last: bool = False) -> None:
        """Batch after batch, until as many are gone as were pending, or `stop_at` has come; a report leaves the journal
        only once TokVigil has answered for it. What is new by then waits for the next time, unless this is
        `to_the_last`: while calls keep coming there would be no end.

        Raises the `TokVigilError` that stopped it, UnreachableError also when the deadline (of time.monotonic)
        came. The rest is worth another try later.
        """
        left_s = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        if not self._sending.acquire(timeout=left_s):
            raise UnreachableError("another thread is sending, and has not come to an end in time")
        try:
            self._send_all(deadline, stop_at, to_the_last=to_the_last)
        finally:
            self._sending.release()

    def _send_all(self, deadline: float, stop_at: float | None, *, to_the_last: bool) -> None:
        was_settled = 1
        to_send = len(self._journal)
        while to_send > 0 or (to_the_last and self._journal.has_pending()):
            reports = _fitting(self._journal.pending(BATCH_EVENTS_MAX))
            settled = self._send(reports, deadline)
            if not reports or settled == was_settled == 0 or _has_come(stop_at):
                return
            to_send -= settled
            was_settled = settled

    def _send(self, batch: Sequence[Report], deadline: float) -> int:
        """How many of them are settled for good."""
        if not batch:
            return 0
        within_s = min(ATTEMPT_S_MAX, deadline - time.monotonic())
        body = b'{"events": [' + b", ".join(report.body for report in batch) + b"]}"
        try:
            answer = self._transport.request(
                "POST", "/v1/usage/batch", body=body, within_s=within_s, retry=False
            )
        except InvalidRequestError as error:
            if error.status_code not in ABOUT_THE_EVENTS:
                raise
            # One report spoils the whole batch: find it, so that the others go out.
            if len(batch) == 1:
                return self._settle(batch, {batch[0].request_id: (str(error), error.errors)})
            half = len(batch) // 2
            return self._send(batch[:half], deadline) + self._send(batch[half:], deadline)
        return self._settle(batch, _outcomes(answer))

    def _settle(self, batch: Sequence[Report], outcomes: Mapping[str, tuple[str, Any] | None]) -> int:
        """By request id: why TokVigil refused it, and which fields it names; None: it has the report."""
        reports = {report.request_id: report for report in batch}
        settled: dict[str, str | None] = {}
        for request_id, refused in outcomes.items():
            if request_id not in reports:
                continue
            if refused is None:
                settled[request_id] = None
            elif not self._is_sent_without_time(reports[request_id], *refused):
                logger.error("usage of request %s was refused: %s", request_id, refused[0])
                settled[request_id] = refused[0]
        if not settled and not outcomes.keys() & reports.keys():
            raise UnreachableError("the batch answer settles no event", reason="answer")
        self._journal.settle(settled)
        return len(settled)

    def _is_sent_without_time(self, report: Report, reason: str, problem: Any) -> bool:
        """If this machine's clock is wrong. Nothing was recorded, so the report may still change."""
        fields = json.loads(report.body)
        if "occurred_at" not in str(problem) or fields.pop("occurred_at", None) is None:
            return False
        logger.warning("usage of request %s: %s; sent without its time", report.request_id, reason)
        self._journal.replace(Report(report.request_id, json.dumps(fields).encode()))
        return True


def _has_come(moment: float | None) -> bool:
    return moment is not None and time.monotonic() >= moment


def _fitting(reports: Sequence[Report]) -> Sequence[Report]:
    """As many of the reports as one batch can carry, at least the first."""
    free_bytes = BATCH_BYTES_MAX
    for number, report in enumerate(reports):
        free_bytes -= len(report.body) + 2
        if free_bytes < 0 and number:
            return reports[:number]
    return reports


def _outcomes(answer: Mapping[str, Any]) -> dict[str, tuple[str, Any] | None]:
    """What the answer says of each report that it settles."""
    results = answer.get("results")
    if not isinstance(results, list):
        raise UnreachableError("the batch answer has no results", reason="answer")
    outcomes: dict[str, tuple[str, Any] | None] = {}
    for result in results:
        status = result.get("status") if isinstance(result, dict) else None
        if status in _TAKEN:
            outcomes[str(result.get("request_id"))] = None
        elif status in _REFUSED:
            problem = result.get("error")
            outcomes[str(result.get("request_id"))] = f"{status}: {problem}", problem
    return outcomes
