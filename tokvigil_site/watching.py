"""What every web process does beside its calls: it looks once a second whether PostgreSQL knows more than it does.

A change binds the next call without this (tenants/revisions.py). This is for what could not be told: a change that the
counter store was not able to take, a charge that it missed, a hold that it may have made unheard, a commit that
PostgreSQL lost, a report that it gave no answer to. Two small queries a look.
"""

from __future__ import annotations

import logging
import threading
import time

from django.db import connections

from policies.deciding import snapshot
from usage.settling import catching_up, given_up, unanswered

logger = logging.getLogger("tokvigil.watching")

LOOK_EVERY_S = 1.0


def start() -> None:
    """One thread, which ends with the process."""
    threading.Thread(target=_watch, name="watching", daemon=True).start()


def look() -> None:
    """Raises DatabaseError."""
    given_up.give_back()
    snapshot.find_outdated()
    catching_up.catch_up()
    unanswered.write_again()


def _watch() -> None:
    while True:
        time.sleep(LOOK_EVERY_S)
        try:
            look()
        except Exception as error:
            logger.warning("PostgreSQL was not asked what changed: %s", error)
        finally:
            connections.close_all()
