"""Sending pending usage in batches, and what each answer means for it."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokvigil import forking
from tokvigil.errors import MalformedAnswerError, TokVigilUnavailableError, ValidationError
from tokvigil.models import UsageEvent
from tokvigil.pending import PendingUsage
from tokvigil.spool import Spool
from tokvigil.transport import Transport

logger = logging.getLogger("tokvigil")

BATCH_EVENTS_MAX = 100
BATCH_BYTES_MAX = 900_000  # the server takes 1 MiB
ATTEMPT_S_MAX = 10.0
# Too large, invalid. Any other refusal is about the request: a proxy's, of a host that TokVigil does not know.
ABOUT_THE_EVENTS = frozenset({413, 422})

_TAKEN = frozenset({"recorded", "duplicate"})
_REFUSED = frozenset({"conflict", "invalid"})
_SETTLED = _TAKEN | _REFUSED


class Delivery:
    """Safe to share between threads; one sends at a time."""

    def __init__(self, store: PendingUsage | Spool, transport: Transport) -> None:
        self._store = store
        self._transport = transport
        self._sending = threading.Lock()
        forking.register(self)

    def restart_in_child(self) -> None:
        """A thread of the parent may have been sending."""
        self._sending = threading.Lock()

    def send_all(self, deadline: float | None = None, *, to_the_last: bool = False) -> None:
        """Batch after batch, until as many are gone as were pending; an event leaves the store only once TokVigil has
        answered for it. What is new by then waits for the next time, unless this is `to_the_last`: while calls keep
        coming there would be no end.

        Raises the `TokVigilError` that stopped it, TokVigilUnavailableError also when the deadline (of time.monotonic)
        came. The rest is worth another try later: the control plane back, the key mended, the spool free.
        """
        left_s = -1 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._sending.acquire(timeout=min(left_s, threading.TIMEOUT_MAX)):
            raise TokVigilUnavailableError("another thread is sending, and has not come to an end in time")
        was_settled = 1
        try:
            to_send = max(1, len(self._store))
            while to_send > 0 or to_the_last:
                sent, settled = self._send_some(deadline)
                if not sent or settled == was_settled == 0:
                    return
                to_send -= settled
                was_settled = settled
        finally:
            self._sending.release()

    def _send_some(self, deadline: float | None) -> tuple[int, int]:
        """How many events there were, and how many of them are settled for good."""
        events: tuple[UsageEvent, ...] = ()
        try:
            events = self._store.claim(BATCH_EVENTS_MAX)
            written = [each for event in events if (each := self._write(event)) is not None]
            refused = len(events) - len(written)
            return len(events), refused + self._send(_fitting(written), deadline)
        finally:
            self._store.put_back([event.request_id for event in events])

    def _write(self, event: UsageEvent) -> _Written | None:
        """None: it cannot be sent, and is given up."""
        try:
            return _Written(event, json.dumps(event.to_wire(), allow_nan=False).encode())
        except (TypeError, ValueError, RecursionError) as error:
            self._refused(event, f"it cannot be written as JSON: {error}", None)
            return None

    def _send(self, batch: list[_Written], deadline: float | None) -> int:
        if not batch:
            return 0
        within_s = ATTEMPT_S_MAX if deadline is None else min(ATTEMPT_S_MAX, deadline - time.monotonic())
        body = b'{"events": [' + b", ".join(each.body for each in batch) + b"]}"
        try:
            answer = self._transport.request(
                "POST", "/v1/usage/batch", body=body, within_s=within_s, retry=False
            )
        except ValidationError as error:
            if error.status_code not in ABOUT_THE_EVENTS:
                raise
            # One event spoils the whole batch: find it, so that the others go out.
            if len(batch) == 1:
                return self._refused(batch[0].event, str(error), error.errors)
            half = len(batch) // 2
            return self._send(batch[:half], deadline) + self._send(batch[half:], deadline)
        return self._settle(batch, answer)

    def _settle(self, batch: list[_Written], answer: Mapping[str, Any]) -> int:
        by_id = {each.event.request_id: each.event for each in batch}
        results = [result for result in _results(answer) if result[0] in by_id and result[1] in _SETTLED]
        if not results:
            raise MalformedAnswerError("the batch answer settles no event")
        given_up = sum(
            self._refused(by_id[request_id], f"{status}: {problem}", problem)
            for request_id, status, problem in results
            if status in _REFUSED
        )
        taken = [request_id for request_id, status, _ in results if status in _TAKEN]
        self._store.remove(taken)
        return given_up + len(taken)

    def _refused(self, event: UsageEvent, reason: str, problem: Any) -> int:
        """1 if it is given up, 0 if it is to be sent again."""
        if event.occurred_at is not None and "occurred_at" in str(problem):
            # This machine's clock is wrong. Nothing was recorded, so the event may still change.
            logger.warning("usage of request %s: %s; sent without its time", event.request_id, reason)
            self._store.replace(dataclasses.replace(event, occurred_at=None))
            return 0
        logger.error("usage of request %s was refused: %s", event.request_id, reason)
        self._store.give_up(event.request_id, reason)
        return 1


@dataclass(frozen=True, slots=True)
class _Written:
    """An event, and as JSON."""

    event: UsageEvent
    body: bytes


def _fitting(events: Iterable[_Written]) -> list[_Written]:
    """As many of the events as one batch can carry, at least the first."""
    batch: list[_Written] = []
    free_bytes = BATCH_BYTES_MAX
    for each in events:
        free_bytes -= len(each.body) + 2
        if free_bytes < 0 and batch:
            break
        batch.append(each)
    return batch


def _results(answer: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    results = answer.get("results")
    if not isinstance(results, list):
        raise MalformedAnswerError("the batch answer has no results")
    return [
        (str(result["request_id"]), str(result.get("status")), result.get("error"))
        for result in results
        if isinstance(result, dict) and "request_id" in result
    ]
