"""What counting and charging need to know of an environment, at one of its revisions; kept in the process.

Its API keys too: reports are let in by them, and the counter store verifies the revision before they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from tenants import missed, revisions
from tenants.api.authentication import Credential
from tenants.models import ApiKey, Environment
from usage.amounts import Pair, Per
from usage.counting.store import store
from usage.counting.sync import Asked, ask, sync
from usage.counting.tracked import TrackedPairs
from usage.prices import stored_book
from usage.prices.book import PriceBook
from usage.prices.model_groups import ModelGroups
from usage.windows import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingRules:
    environment_id: int
    tenant_id: int
    revision: int
    edition: str
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


def at_edition(environment_id: int, edition: str) -> CountingRules:
    """As it is at an edition that was just read from PostgreSQL, or later."""
    known = current(environment_id)
    return known if known.edition == edition else reload(environment_id)


def latest(known: CountingRules) -> CountingRules:
    """As PostgreSQL knows the environment now; one query if that is what this process knows."""
    return at_edition(known.environment_id, edition_in_force(known.environment_id))


def edition_in_force(environment_id: int) -> str:
    environments = Environment.objects.filter(pk=environment_id)
    return revisions.edition(*environments.values_list("revision", "revision_token").get())


@contextmanager
def at_one_moment() -> Iterator[None]:
    """All that is read inside is of one moment, so that a change is seen as a whole or not at all."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def reload(environment_id: int) -> CountingRules:
    with at_one_moment():
        return read(environment_id)


def read(environment_id: int) -> CountingRules:
    """Inside `at_one_moment`."""
    environment = Environment.objects.select_related("tenant").get(pk=environment_id)
    rows = environment.tracked_pairs.values_list("per", "window", "models")
    pairs = frozenset(Pair(Per(per), Window(window), tuple(models)) for per, window, models in rows)
    prices = stored_book.of_environment(environment)
    counting = CountingRules(
        environment_id=environment_id,
        tenant_id=environment.tenant_id,
        revision=environment.revision,
        edition=environment.edition,
        tracked=_tracked(environment, pairs, ModelGroups(lambda: prices)),
        prices=prices,
        credentials={
            key.key_id: Credential.of(key)
            for key in environment.api_keys.select_related("environment").filter(revoked_at=None)
        },
    )
    _known[environment_id] = counting
    _environment_of_key.update(dict.fromkeys(counting.credentials, environment_id))
    return counting


def tracked(environment: Environment, pairs: frozenset[Pair]) -> TrackedPairs:
    """As if the environment tracked these. Queries only where a pair names models."""
    return _tracked(environment, pairs, model_groups(environment))


def model_groups(environment: Environment) -> ModelGroups:
    """By its price book, which is read once a limit names models."""
    return ModelGroups(lambda: stored_book.of_environment(environment))


def _tracked(environment: Environment, pairs: frozenset[Pair], groups: ModelGroups) -> TrackedPairs:
    return TrackedPairs(environment.pk, ZoneInfo(environment.tenant.timezone), pairs, groups)


def introduce(counting: CountingRules, asked: Asked, under_way: tuple[str, ...] = ()) -> None:
    """Tells the store what was read since it was asked. Raises StoreUnavailable."""
    tracked, environment_id = counting.tracked, counting.environment_id
    synced = sync(
        environment_id,
        counting.edition,
        map(tracked.told, tracked.pairs),
        asked,
        under_way=under_way,
        zone=tracked.zone.key,
    )
    if synced.restarted:
        missed.note_or_remember(environment_id, missed.HOLDS)
        store.outages += 1


def renew(environment_id: int) -> CountingRules:
    """Reads the environment again and tells the store, after that called an edition stale; go on with JUST_READ.

    Raises StoreUnavailable, DatabaseError.
    """
    asked = ask(environment_id)
    under_way = revisions.under_way(asked.changing)
    counting = reload(environment_id)
    introduce(counting, asked, under_way)
    return counting


def forget_outdated(more: set[int]) -> dict[int, str]:
    """Forgets what PostgreSQL does not know as in force. The editions that are, of all known here and of `more`."""
    rows = Environment.objects.filter(pk__in={*_known} | more).only("revision", "revision_token")
    in_force = {row.pk: row.edition for row in rows}
    for environment_id, known in list(_known.items()):
        if known.edition != in_force.get(environment_id):
            _known.pop(environment_id, None)
    return in_force


def forget_all() -> None:
    """As in a new process."""
    _known.clear()
    _environment_of_key.clear()
