"""Snapshots for callers who cannot wait long.

One thread at a time compiles an environment, and none waits for another environment's. Compiling goes on without a
caller whose time is over; whoever asks next finds it done.
"""

from __future__ import annotations

from functools import partial

from django.conf import settings
from django.db import InterfaceError, OperationalError

from policies.deciding import snapshot
from policies.deciding.snapshot import Snapshot
from usage.counting import rules
from usage.timebox import patience
from usage.timebox.background import Background, TooSlow

THREADS = 4
WAITING_MAX = 1000
# Of the time a caller has left for PostgreSQL, what it waits for: what it needs of the rest is all but the policies.
AWAITED_SHARE = 0.4

_compiling = Background(
    "compile",
    threads=THREADS,
    threads_per_group=1,
    waiting_max=WAITING_MAX,
    of_threads=settings.BACKGROUND_PATIENCE,
)


class Compiling(Exception):
    """Compiling this environment's policies takes long."""


def of_key(key_id: str) -> Snapshot | None:
    """That of the environment that an API key belongs to; None if no such key exists. Raises TooSlow."""
    environment_id = rules.environment_of(key_id)
    if environment_id is None:
        return None
    known = snapshot.known(environment_id)
    if known is not None:
        return _in_force(known) if snapshot.is_outdated(known) else known
    work = partial(snapshot.current, environment_id)
    return _compiling.start(environment_id, ("first", environment_id), work).result()


def _in_force(outdated: Snapshot) -> Snapshot:
    try:
        return latest(outdated)
    except (OperationalError, InterfaceError):
        # The store may know of the change by now. If not, nobody does who could be asked.
        return outdated


def latest(known: Snapshot) -> Snapshot:
    """As PostgreSQL knows the environment now; one query if that is what this process knows.

    Where compiling takes long, the policies of before with all else as it is now.
    """
    environment_id = known.environment_id
    edition = rules.edition_in_force(environment_id)
    if known.edition == edition:
        return known
    try:
        with patience.within_share(AWAITED_SHARE):
            work = partial(snapshot.at_edition, edition, known)
            return _compiling.start(environment_id, ("latest", environment_id, edition), work).result()
    except TooSlow:
        return snapshot.all_but_policies(known)


def renew(stale: Snapshot) -> tuple[Snapshot, str]:
    """As `snapshot.renew`. Raises Compiling, StoreUnavailable."""
    work = partial(snapshot.renew, stale)
    try:
        with patience.within_share(AWAITED_SHARE):
            key = ("renew", stale.environment_id, stale.edition)
            job = _compiling.start(stale.environment_id, key, work)
            renewed, edition = job.result()
    except TooSlow as error:
        raise Compiling from error
    # What another caller had begun may be older than this call: the store shall verify it.
    return renewed, edition if job.work is work else renewed.edition
