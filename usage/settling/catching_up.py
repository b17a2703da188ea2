"""What the counter store missed while it was away, made good.

An environment's counters are not used before: the next evaluate of it in a process that saw the outage looks first
(`before_use`). For those that did not see it, every web process and the worker's schedule make good for all that is
noted (`catch_up`). Each environment is on its own: one that cannot be made good keeps no other waiting.
"""

from __future__ import annotations

import logging
import threading
import time

from django.db import DatabaseError, InterfaceError

from tenants import missed
from tenants.missed import Miss
from usage.counting.distrust import distrust
from usage.counting.reservations import open_count
from usage.counting.store import store
from usage.settling import charging

logger = logging.getLogger("tokvigil.catching_up")

# Without PostgreSQL it is not known who missed something; so often is asked again.
ASK_AGAIN_S = 1.0
# With more holds open than this, those that should have ended are left to `catch_up`.
HOLDS_OF_ONE_CALL_MAX = 200


class _Waiting:
    """The environments that this process knows to have missed something, as of an outage of the store."""

    def __init__(self) -> None:
        self.outages = -1
        self.environments: frozenset[int] = frozenset()
        self.ask_again_at = 0.0
        self.lock = threading.Lock()


_waiting = _Waiting()
_turns: dict[int, threading.Lock] = {}


def before_use(environment_id: int) -> None:
    """Makes good for one environment what was missed in the outages that this process saw.

    After each of them one query for all environments; else none. Raises StoreUnavailable, DatabaseError.
    """
    if _waiting.outages != store.outages:
        _look()
    looked_after = _waiting.outages
    if environment_id in _waiting.environments:
        _make_good(environment_id, HOLDS_OF_ONE_CALL_MAX)
        with _waiting.lock:
            # Another caller may have looked again meanwhile, and found what was missed since.
            if _waiting.outages == looked_after:
                _waiting.environments -= {environment_id}


def catch_up() -> None:
    """Makes good for all environments that missed something. Raises DatabaseError."""
    for environment_id in sorted({miss.environment_id for miss in _misses()}):
        try:
            _make_good(environment_id, None)
        except Exception:
            logger.exception("environment %s is not made good yet, to be tried again", environment_id)


def _look() -> None:
    now = time.monotonic()
    with _waiting.lock:
        outages = store.outages
        if _waiting.outages == outages or now < _waiting.ask_again_at:
            return
        try:
            misses = _misses()
            _waiting.outages = outages
        except (DatabaseError, InterfaceError) as error:
            logger.warning("not known which environments missed something: %s", error)
            misses = missed.remembered()
            _waiting.ask_again_at = now + ASK_AGAIN_S
        _waiting.environments = frozenset(miss.environment_id for miss in misses)


def _misses(environment_id: int | None = None) -> list[Miss]:
    return missed.noted(environment_id) + missed.remembered(environment_id)


def _make_good(environment_id: int, holds_max: int | None) -> None:
    # Of callers that find the same environment waiting one does it, and the others find it done.
    with _turns.setdefault(environment_id, threading.Lock()):
        changes = [miss for miss in _misses(environment_id) if miss.what == missed.CHANGE]
        if changes:
            # A charge that was missed leaves its hold open.
            missed.note_or_remember(environment_id, missed.HOLDS)
            distrust(environment_id)
        # At once, so that no other process does the same meanwhile.
        for miss in changes:
            missed.made_good(miss)
        holds = [miss for miss in _misses(environment_id) if miss.what == missed.HOLDS]
        if holds and (holds_max is None or open_count(environment_id) <= holds_max):
            charging.settle_reported(environment_id)
            for miss in holds:
                missed.made_good(miss)


def forget_all() -> None:
    """As in a new process."""
    global _waiting
    _waiting = _Waiting()
    missed.forget_all()
