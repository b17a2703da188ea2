"""Charging adjustments: each counter of a window of the calls gets the sum of what was adjusted in it, in one step.

Before the adjustments are committed, the same transaction notes that the counters miss them; the note is cleared once
they are charged. Whatever happens between, the counters are rebuilt from the ledger before they are used
(catching_up.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

from django.db import DatabaseError, InterfaceError

from tenants import missed
from tenants.missed import Miss
from usage.amounts import Amounts
from usage.counting import rules, settle
from usage.counting.keys import reservation_key
from usage.counting.rules import CountingRules
from usage.counting.settle import Charge, Settlement
from usage.counting.store import StoreUnavailable, store
from usage.counting.sync import JUST_READ
from usage.counting.tracked import Counter
from usage.instants import to_ms
from usage.ledger.adjustments import Written
from usage.settling.charging import TRIES_MAX

logger = logging.getLogger("tokvigil.charging")


def note(environment_id: int) -> Miss:
    """As the last thing of the transaction that writes adjustments: others that note something wait for it."""
    missed.note([environment_id], missed.CHANGE)
    (noted,) = [miss for miss in missed.noted(environment_id) if miss.what == missed.CHANGE]
    return noted


def charge(environment_id: int, written: Sequence[Written], noted: Miss) -> None:
    """Once they are committed. Raises nothing: what could not be told stays noted."""
    try:
        _charge(environment_id, written)
        if noted.times == 1:
            # Else the counters miss something of before too, such as what a run that was killed did not charge.
            missed.made_good(noted)
    except (StoreUnavailable, DatabaseError, InterfaceError) as error:
        logger.warning("environment %s not adjusted, to be recounted: %s", environment_id, error)
        store.outages += 1


def _charge(environment_id: int, written: Sequence[Written]) -> None:
    known = rules.current(environment_id)
    edition = known.edition
    for _ in range(TRIES_MAX):
        if _settle(known, edition, written):
            return
        known, edition = rules.renew(environment_id), JUST_READ
    raise StoreUnavailable("the counter store was emptied or started again, over and over")


def _settle(known: CountingRules, edition: str, written: Sequence[Written]) -> bool:
    """False: the edition is not in force any more. What was charged till then is remembered, and charged once."""
    waiting = iter(_settlements(known, written))
    done: list[str] = []
    while some := list(islice(waiting, settle.SETTLED_AT_ONCE_MAX)):
        if settle.settle_many(known.environment_id, edition, some) is None:
            return False
        done += (reservation_key(known.environment_id, each.request_id) for each in some)
    # Nobody repeats these: the store need not remember them.
    with suppress(StoreUnavailable):
        for first in range(0, len(done), settle.SETTLED_AT_ONCE_MAX):
            store.call(partial(_forget, keys=done[first : first + settle.SETTLED_AT_ONCE_MAX]))
    return True


def _forget(client: Any, keys: Sequence[str]) -> None:
    client.unlink(*keys)


def _settlements(known: CountingRules, written: Iterable[Written]) -> list[Settlement]:
    """One for each counter that is not forgotten yet."""
    now_ms = store.now_ms()
    sums: dict[str, tuple[Counter, int, int]] = {}
    for row in written:
        for counter in known.tracked.at(to_ms(row.charged_at)).counters(row.subjects, row.model):
            _, forget_at_ms, _ = counter.slot.arguments
            if forget_at_ms == 0 or forget_at_ms > now_ms:
                _, before, _ = sums.get(counter.key, (counter, 0, 0))
                sums[counter.key] = counter, before + row.difference_nano, row.xid
    return [
        Settlement(
            # No request has such an id.
            request_id=f"\0adjusted {xid} {key}",
            charges=(Charge(xid, Amounts(cost_nano=difference), (counter,)),),
        )
        for key, (counter, difference, xid) in sums.items()
    ]
