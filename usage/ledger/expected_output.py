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
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from django.db import DatabaseError, InterfaceError, connection

from usage.timebox import patience
from usage.timebox.background import Background, TooSlow

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

# Of the time a caller has for PostgreSQL, the part it spends here on a subject without a history. Then it takes the
# default.
WAIT_SHARE = 0.4
READS_WAITING_MAX = 1000

Subject = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class _Known:
    tokens: int | None
    read_anew_at: float


_known: OrderedDict[Subject, _Known] = OrderedDict()
_lock = threading.Lock()
_reading = Background("expected-output", threads=2, threads_per_group=1, waiting_max=READS_WAITING_MAX)


def expected_output(environment_id: int, feature: str, model: str) -> int:
    """Tokens. A known answer costs no query: one that grew old is still given, and read anew in the background.

    So is one that is not known, for which the caller waits a moment.
    """
    subject = (environment_id, feature, model)
    known = _known.get(subject)
    if known is None or known.read_anew_at <= time.monotonic():
        with suppress(TooSlow):
            job = _reading.start(environment_id, subject, partial(_refresh, subject, known))
            if known is None or known.tokens is None:
                with patience.within_share(WAIT_SHARE):
                    known = job.result()
    return WITHOUT_HISTORY if known is None or known.tokens is None else known.tokens


def forget_all() -> None:
    """As in a new process."""
    _known.clear()


def _refresh(subject: Subject, before: _Known | None) -> _Known:
    """What could not be read is not asked for again at once: what was known before is kept like an answer."""
    try:
        tokens = _read(*subject)
        kept_s = ABSENCE_KEPT_S if tokens is None else KEPT_S
    except (DatabaseError, InterfaceError) as error:
        logger.warning("no history of output tokens: %s", error)
        tokens, kept_s = None if before is None else before.tokens, KEPT_S
    known = _Known(tokens, time.monotonic() + kept_s)
    with _lock:
        _known[subject] = known
        _known.move_to_end(subject)
        while len(_known) > KEPT_MAX:
            _known.popitem(last=False)
    return known


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
