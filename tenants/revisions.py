"""The revision of an environment, and how a change of it binds the very next call.

PostgreSQL holds the truth: a number that grows with every change of what decisions depend on, and a random token that
makes it unique (`edition` is both). The counter store holds the edition that processes compiled, and every evaluate
compares. A change announces itself **before it commits**: it leaves the number of its transaction with the store. From
then on the store refuses what processes compiled, so that each asks PostgreSQL, until one has found the transaction
ended, committed or not, and said so to the store (`usage/counting/sync.lua`). Nothing has to be told after the commit,
so nothing that happens then, such as the end of the process, can lose the change.

If the store cannot be told before the commit, the change is noted as missed in the same transaction (missed.py), and
`standing` says that it is not in force everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from django.db import DataError, connection, transaction
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from tenants import missed

if TYPE_CHECKING:
    from tenants.models import Environment

logger = logging.getLogger("tokvigil.revisions")

# One round trip tells so many environments.
ANNOUNCED_AT_ONCE_MAX = 500
# Longer than a transaction lasts: what was announced must not be forgotten before its outcome is known.
ANNOUNCED_KEPT_S = 3600

# KEYS[1] the hash of an environment or of an end user; ARGV[1] the transaction that changes it; ARGV[2] how long to
# keep the hash, s (0: for good). Written also when the store's memory is full. The latest transactions are kept: those
# before them have ended, for each waited for a lock of the other.
ANNOUNCE = """#!lua flags=allow-oom
local KEPT = 8
local kept = {}
for xid in string.gmatch(redis.call('HGET', KEYS[1], 'changing') or '', '%d+') do
  if xid ~= ARGV[1] then kept[#kept + 1] = xid end
end
if #kept >= KEPT then table.remove(kept, 1) end
kept[#kept + 1] = ARGV[1]
local t = redis.call('TIME')
local turn = math.max(t[1] * 1000, tonumber(redis.call('HGET', KEYS[1], 'turn') or 0) + 1)
redis.call('HSET', KEYS[1], 'changing', table.concat(kept, ' '), 'turn', string.format('%.0f', turn))
if ARGV[2] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
"""


def edition(number: int, token: str) -> str:
    return f"{number}.{token}"


def environment_key(environment_id: int) -> str:
    """The hash that carries the environment's edition; its hash tag is that of all counters of the environment."""
    return f"tv:{{{environment_id}}}:env"


def bump(environment_id: int, *, policies: bool = True) -> None:
    """Call in the transaction of the change. `policies`: whether its policies or plans may have changed."""
    _bump("id = %s", [environment_id], policies=policies)


def bump_all(tenant_id: int | None = None) -> None:
    """For a change that all environments (of a tenant) depend on, such as prices."""
    where, values = ("true", []) if tenant_id is None else ("tenant_id = %s", [tenant_id])
    _bump(where, values, policies=False)


_RANDOM = "left(replace(gen_random_uuid()::text, '-', ''), 16)"


def _bump(where: str, values: Sequence[int], *, policies: bool) -> None:
    more = f", policies_token = {_RANDOM}" if policies else ""
    with transaction.atomic(), connection.cursor() as cursor:
        # A fixed order of locks, so that two bumps never deadlock.
        cursor.execute(
            f"""
            UPDATE tenants_environment
            SET revision = revision + 1, revision_token = {_RANDOM}, revised_at = clock_timestamp(){more}
            WHERE id IN (SELECT id FROM tenants_environment WHERE {where} ORDER BY id FOR NO KEY UPDATE)
            RETURNING id, pg_current_xact_id()::text
            """,  # noqa: S608 (constants of this module)
            values,
        )
        bumped = cursor.fetchall()
        if bumped:
            _announce_all(sorted(environment_id for environment_id, _ in bumped), xid=bumped[0][1])


def _announce_all(environment_ids: Sequence[int], xid: str) -> None:
    keys = [environment_key(environment_id) for environment_id in environment_ids]
    if not announce(keys, xid):
        missed.note(environment_ids, missed.CHANGE)
        # The store may only have been slow.
        transaction.on_commit(partial(announce, keys, xid))


def announce(keys: Sequence[str], xid: str, kept_s: int = 0) -> bool:
    """Tells the store that this transaction changes what stands under these keys; whether it heard of all."""
    try:
        client = get_redis_connection("counters")
        for first in range(0, len(keys), ANNOUNCED_AT_ONCE_MAX):
            pipeline = client.pipeline(transaction=False)
            for key in keys[first : first + ANNOUNCED_AT_ONCE_MAX]:
                pipeline.eval(ANNOUNCE, 1, key, xid, kept_s)
            pipeline.execute()
    except RedisError as error:
        logger.warning("the counter store was not told of a change of %s: %s", ", ".join(keys[:3]), error)
        return False
    return True


def announce_change_of(key: str, environment_id: int) -> None:
    """Of something else than the environment itself. Call in its transaction, once that holds a lock of its row."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()::text")
        row = cursor.fetchone()
    assert row is not None
    if not announce([key], row[0], ANNOUNCED_KEPT_S):
        missed.note([environment_id], missed.CHANGE)
        transaction.on_commit(partial(announce, [key], row[0], ANNOUNCED_KEPT_S))


def under_way(xids: Sequence[str]) -> tuple[str, ...]:
    """Those of these transactions that have not ended. What is read after this shows what the others committed."""
    if not xids:
        return ()
    with connection.cursor() as cursor:
        cursor.execute(
            # A snapshot does not name the transaction that looks.
            "SELECT xid FROM unnest(%s::text[]) AS xid"
            " WHERE NOT pg_visible_in_snapshot(xid::xid8, pg_current_snapshot())"
            " OR xid = pg_current_xact_id_if_assigned()::text",
            [list(xids)],
        )
        unseen = [xid for (xid,) in cursor.fetchall()]
    return tuple(xid for xid in unseen if _is_in_progress(xid))


def _is_in_progress(xid: str) -> bool:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_xact_status(%s::xid8) = 'in progress'", [xid])
            row = cursor.fetchone()
    except DataError:
        # PostgreSQL was restored from before it, so that this number is still to come.
        return False
    return bool(row and row[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whether the latest change of an environment binds every call."""

    revision: int
    revised_at: datetime
    # None: the counter store cannot be asked.
    in_force: bool | None

    def __str__(self) -> str:
        revision = f"revision {self.revision} of {self.revised_at:%Y-%m-%d %H:%M:%S} UTC"
        if self.in_force is None:
            return f"{revision}: the counter store cannot be reached; calls are decided without it, by this revision"
        if self.in_force:
            return f"{revision} is in force everywhere"
        return f"{revision} is NOT in force everywhere yet: the counter store was not told and will be, once it can be"

    @property
    def from_when(self) -> str:
        """For people who do not know of revisions: `from the very next call on`."""
        if self.in_force is None:
            return "for calls that are decided without the counters too, which cannot be reached"
        if self.in_force:
            return "from the very next call on"
        return "but not for every call yet: that will be so once the counters can be told"


def standing(environment: Environment) -> Standing:
    """How the environment stands, with its revision as PostgreSQL has it now."""
    row = type(environment).objects.only("revision", "revision_token", "revised_at").get(pk=environment.pk)
    return Standing(revision=row.revision, revised_at=row.revised_at.astimezone(UTC), in_force=_binds(row))


def _binds(environment: Environment) -> bool | None:
    try:
        client = get_redis_connection("counters")
        synced, changing = client.hmget(environment_key(environment.pk), "synced", "changing")
    except RedisError:
        return None
    # Whoever holds another edition is refused; unless the store takes that one for the one in force.
    return bool(synced is None or changing is not None or synced.decode() == environment.edition)


# Refuses what processes compiled, if it still is what the caller saw. KEYS[1] the environment's hash; ARGV[1] edition.
_REFUSE = "if redis.call('HGET', KEYS[1], 'synced') == ARGV[1] then redis.call('HDEL', KEYS[1], 'synced') end"


def reconcile() -> list[int]:
    """Has the store refuse every edition that PostgreSQL does not know as the one in force; of which environments.

    No change leaves one behind. PostgreSQL does, where it lost a commit: it was restored or failed over to before it.
    Raises RedisError.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, revision, revision_token FROM tenants_environment ORDER BY id")
        known = [(environment_id, edition(number, token)) for environment_id, number, token in cursor]
    client = get_redis_connection("counters")
    lost = []
    for first in range(0, len(known), ANNOUNCED_AT_ONCE_MAX):
        some = known[first : first + ANNOUNCED_AT_ONCE_MAX]
        pipeline = client.pipeline(transaction=False)
        for environment_id, _ in some:
            pipeline.hget(environment_key(environment_id), "synced")
        for (environment_id, in_force), synced in zip(some, pipeline.execute(), strict=True):
            if synced is not None and synced.decode() != in_force:
                client.eval(_REFUSE, 1, environment_key(environment_id), synced)
                lost.append(environment_id)
    return lost
