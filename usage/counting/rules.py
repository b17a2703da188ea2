"""What counting and charging need to know of an environment, at one of its revisions; kept in the process.

Its API keys too: reports are let in by them, and the counter store verifies the revision before they are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from tenants.api.authentication import Credential
from tenants.models import ApiKey, Environment
from usage.amounts import Pair, Per
from usage.counting.store import StoreUnavailable
from usage.counting.sync import sync
from usage.counting.tracked import TrackedPairs
from usage.prices import stored_book
from usage.prices.book import PriceBook
from usage.windows import Window

RELOADS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingRules:
    environment_id: int
    tenant_id: int
    revision: int
    tracked: TrackedPairs
    prices: PriceBook
    # By key id, revoked ones left out.
    credentials: dict[str, Credential]


_known: dict[int, CountingRules] = {}
# A key never moves to another environment.
_environment_of_key: dict[str, int] = {}


def of_key(key_id: str) -> CountingRules | None:
    """Those of the environment that an API key belongs to; None if no such key exists."""
    environment_id = environment_of(key_id)
    return None if environment_id is None else current(environment_id)


def environment_of(key_id: str) -> int | None:
    """The environment that an API key belongs to; one query for a key this process does not know."""
    environment_id = _environment_of_key.get(key_id)
    if environment_id is None:
        # Without an order, which joins tables: an unknown id would be told from a known one by its time.
        found = ApiKey.objects.filter(key_id=key_id).order_by()
        environment_id = next(iter(found.values_list("environment_id", flat=True)), None)
        if environment_id is not None:
            _environment_of_key[key_id] = environment_id
    return environment_id


def current(environment_id: int) -> CountingRules:
    """As this process knows it; the counter store tells by the revision whether that still holds."""
    known = _known.get(environment_id)
    return known if known is not None else reload(environment_id)


def at_revision(environment_id: int, revision: int) -> CountingRules:
    """As it is at a revision that was just read from PostgreSQL, or later."""
    known = current(environment_id)
    return known if known.revision >= revision else reload(environment_id)


def latest(known: CountingRules) -> CountingRules:
    """As PostgreSQL knows the environment now; one query if that is what this process knows."""
    environments = Environment.objects.filter(pk=known.environment_id)
    return at_revision(known.environment_id, environments.values_list("revision", flat=True).get())


def reload(environment_id: int) -> CountingRules:
    # The revision is read first: a change in between makes the rest newer than it says, which `is_in_force` tells.
    environment = Environment.objects.select_related("tenant").get(pk=environment_id)
    rows = environment.tracked_pairs.values_list("per", "window")
    pairs = frozenset(Pair(Per(per), Window(window)) for per, window in rows)
    counting = CountingRules(
        environment_id=environment_id,
        tenant_id=environment.tenant_id,
        revision=environment.revision,
        tracked=TrackedPairs(environment_id, ZoneInfo(environment.tenant.timezone), pairs),
        prices=stored_book.load(environment.tenant_id),
        credentials={
            key.key_id: Credential.of(key)
            for key in environment.api_keys.select_related("environment").filter(revoked_at=None)
        },
    )
    _known[environment_id] = counting
    return counting


def is_in_force(counting: CountingRules) -> bool:
    """Whether PostgreSQL knows no later revision. If so, all that was read since is of this one."""
    environments = Environment.objects.filter(pk=counting.environment_id)
    return environments.filter(revision=counting.revision).exists()


def introduce(counting: CountingRules) -> bool:
    """Tells the counter store the revision and what it tracks. False: it knows a later one. Raises StoreUnavailable."""
    tracked = counting.tracked
    return sync(counting.environment_id, counting.revision, tracked.pairs, tracked.zone.key)


def renew(environment_id: int) -> CountingRules:
    """Reads the environment again and tells the store; after it called a revision stale. Raises StoreUnavailable."""
    for _ in range(RELOADS_MAX):
        counting = reload(environment_id)
        if is_in_force(counting) and introduce(counting):
            return counting
    raise StoreUnavailable("the environment changes faster than it can be read")


def forget_all() -> None:
    """As in a new process."""
    _known.clear()
    _environment_of_key.clear()
