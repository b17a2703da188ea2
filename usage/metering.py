"""What counting and charging need to know of an environment, at one of its revisions; kept in the process."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from tenants.models import Environment
from usage import counters, price_book
from usage.amounts import Pair, Per
from usage.counter_store import StoreUnavailable
from usage.counters import Tracked
from usage.pricing import PriceBook
from usage.windows import Window

RELOADS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    environment_id: int
    tenant_id: int
    revision: int
    tracked: Tracked
    prices: PriceBook


_meterings: dict[int, Metering] = {}


def current(environment_id: int) -> Metering:
    """As this process knows it; the counter store tells by the revision whether that still holds."""
    known = _meterings.get(environment_id)
    return known if known is not None else reload(environment_id)


def at_revision(environment_id: int, revision: int) -> Metering:
    """As it is at a revision that was just read from PostgreSQL, or later."""
    known = current(environment_id)
    return known if known.revision >= revision else reload(environment_id)


def reload(environment_id: int) -> Metering:
    # The revision is read first: a change in between makes the rest newer than it says, which `is_in_force` tells.
    environment = Environment.objects.select_related("tenant").get(pk=environment_id)
    rows = environment.tracked_pairs.values_list("per", "window")
    pairs = frozenset(Pair(Per(per), Window(window)) for per, window in rows)
    metering = Metering(
        environment_id=environment_id,
        tenant_id=environment.tenant_id,
        revision=environment.revision,
        tracked=Tracked(environment_id, ZoneInfo(environment.tenant.timezone), pairs),
        prices=price_book.load(environment.tenant_id),
    )
    _meterings[environment_id] = metering
    return metering


def is_in_force(metering: Metering) -> bool:
    """Whether PostgreSQL knows no later revision. If so, all that was read since is of this one."""
    environments = Environment.objects.filter(pk=metering.environment_id)
    return environments.filter(revision=metering.revision).exists()


def introduce(metering: Metering) -> bool:
    """Tells the counter store the revision and what it tracks. False: it knows a later one. Raises StoreUnavailable."""
    tracked = metering.tracked
    return counters.sync(metering.environment_id, metering.revision, tracked.pairs, tracked.zone.key)


def renew(environment_id: int) -> Metering:
    """Reads the environment again and tells the store; after it called a revision stale. Raises StoreUnavailable."""
    for _ in range(RELOADS_MAX):
        metering = reload(environment_id)
        if is_in_force(metering) and introduce(metering):
            return metering
    raise StoreUnavailable("the environment changes faster than it can be read")


def forget_all() -> None:
    """As in a new process."""
    _meterings.clear()
