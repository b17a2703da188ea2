"""How many output tokens a call of this feature and model will produce, if the caller does not say.

The 95th percentile of its latest calls of the last 7 days: enough for nearly all, and far less than the most a model
could write, so that a burst of small calls does not fill a budget with what it will never use.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from django.db import DatabaseError, connection

logger = logging.getLogger("tokvigil.expected_output")

WITHOUT_HISTORY = 1024
HISTORY_DAYS = 7
SAMPLE_MAX = 1000
KEPT_S = 60.0
# Without a history every call is over-held, so look again soon.
ABSENCE_KEPT_S = 1.0
# Callers choose feature and model names: the least recently used ones are dropped.
KEPT_MAX = 10_000

Subject = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class _Known:
    tokens: int | None
    read_at: float


_known: OrderedDict[Subject, _Known] = OrderedDict()
_refreshing: set[Subject] = set()
_lock = threading.Lock()
_refresher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="expected-output")


def expected_output(environment_id: int, feature: str, model: str) -> int:
    """Tokens. A known answer costs no query: one that grew old is still given, and read anew in the background."""
    subject = (environment_id, feature, model)
    known = _known.get(subject)
    age = float("inf") if known is None else time.monotonic() - known.read_at
    if known is None or (known.tokens is None and age > ABSENCE_KEPT_S):
        return _or_default(_refresh(subject))
    if age > KEPT_S:
        _refresh_later(subject)
    return _or_default(known.tokens)


def forget_all() -> None:
    """As in a new process."""
    _known.clear()


def _or_default(tokens: int | None) -> int:
    return WITHOUT_HISTORY if tokens is None else tokens


def _refresh_later(subject: Subject) -> None:
    with _lock:
        if subject in _refreshing:
            return
        _refreshing.add(subject)
    _refresher.submit(_refresh_in_background, subject)


def _refresh_in_background(subject: Subject) -> None:
    try:
        _refresh(subject)
    finally:
        with _lock:
            _refreshing.discard(subject)
        connection.close()


def _refresh(subject: Subject) -> int | None:
    try:
        tokens = _read(*subject)
    except DatabaseError as error:
        logger.warning("no history of output tokens: %s", error)
        return None
    with _lock:
        _known[subject] = _Known(tokens, time.monotonic())
        _known.move_to_end(subject)
        while len(_known) > KEPT_MAX:
            _known.popitem(last=False)
    return tokens


def _read(environment_id: int, feature: str, model: str) -> int | None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT percentile_disc(0.95) WITHIN GROUP (ORDER BY output_tokens)
            FROM (
                SELECT output_tokens FROM usage_event
                WHERE environment_id = %s AND feature = %s AND model = %s
                  AND charged_at > now() - make_interval(days => %s) AND status = 'succeeded'
                ORDER BY charged_at DESC LIMIT %s
            ) AS latest
            """,
            [environment_id, feature, model, HISTORY_DAYS, SAMPLE_MAX],
        )
        row = cursor.fetchone()
    return None if row is None or row[0] is None else int(row[0])
