"""The revision of an environment: one number that grows with every change of what its decisions depend on.

PostgreSQL holds the truth. The counter store holds a copy that every evaluate compares with the revision its process
compiled, so that a change binds the very next call. The copy is published when the change commits; if the store is
away then, `publish_all` (a beat task) and every reload of a snapshot make good for it.
"""

import logging
from collections.abc import Iterable

from django.db import transaction
from django.db.models import F
from django_redis import get_redis_connection
from redis.exceptions import RedisError

logger = logging.getLogger("tokvigil.revisions")

# KEYS[1] the environment's hash; ARGV[1] revision. Never goes back: a slow publisher must not undo a later one.
_PUBLISH = """
local known = tonumber(redis.call('HGET', KEYS[1], 'rev') or 0)
if tonumber(ARGV[1]) > known then redis.call('HSET', KEYS[1], 'rev', ARGV[1]) end
"""


def environment_key(environment_id: int) -> str:
    """The hash that carries the environment's revision; its hash tag is that of all counters of the environment."""
    return f"tv:{{{environment_id}}}:env"


def bump(environment_id: int) -> None:
    """Call in the transaction of the change."""
    from tenants.models import Environment

    Environment.objects.filter(pk=environment_id).update(revision=F("revision") + 1)
    revision = Environment.objects.values_list("revision", flat=True).get(pk=environment_id)
    transaction.on_commit(lambda: publish([(environment_id, revision)]))


def bump_all(tenant_id: int | None = None) -> None:
    """For a change that all environments (of a tenant) depend on, such as prices."""
    from tenants.models import Environment

    environments = (
        Environment.objects.all() if tenant_id is None else Environment.objects.filter(tenant_id=tenant_id)
    )
    # A fixed order of locks, so that two bumps never deadlock.
    for environment_id in environments.order_by("pk").values_list("pk", flat=True):
        bump(environment_id)


def publish(revisions: Iterable[tuple[int, int]]) -> None:
    """Copies (environment id, revision) pairs to the counter store; a store that is away is logged, not raised."""
    try:
        pipeline = get_redis_connection("counters").pipeline(transaction=False)
        for environment_id, revision in revisions:
            pipeline.eval(_PUBLISH, 1, environment_key(environment_id), revision)
        pipeline.execute()
    except RedisError as error:
        logger.warning("revisions not published, the next reconciliation will: %s", error)


def publish_all() -> None:
    from tenants.models import Environment

    publish(Environment.objects.values_list("pk", "revision"))
