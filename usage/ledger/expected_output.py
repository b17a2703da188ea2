"""How many output tokens to hold for a call that does not say how many it may produce.

From the latest calls of its feature and model in the last 7 days: twice their 95th percentile. That is far less than
the most a model could write, so a burst of small calls does not fill a budget with what it will never use. Twice,
because the amount is also the cap handed to the provider: capped at the percentile itself one answer in twenty would be
cut, and the percentile, learnt from answers so cut, would sink from day to day (seen on a public trace: 15 % cut). At
twice the percentile hardly an answer is cut, and one that is does not move the percentile.
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
# Fewer calls say too little of the next one.
SAMPLE_MIN = 20
SAMPLE_MAX = 1000
HEADROOM = 2
EXPECTED_MIN = 64
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
            SELECT percentile_disc(0.95) WITHIN GROUP (ORDER BY output_tokens), count(*)
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
    assert row is not None
    percentile, sample = row
    return max(EXPECTED_MIN, HEADROOM * int(percentile)) if sample >= SAMPLE_MIN else None
