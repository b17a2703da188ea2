"""Which request ids are taken: for KEPT at least, and in bounded space.

An id must be taken once, whatever month its row is charged to, so the ledger's own partitions cannot tell. Ids are kept
by *generation* instead: the month in which they were claimed. A claim goes to the newest generation unless an older one
has the id (`NOT_TAKEN`). In one generation the primary key keeps two claims of an id apart; in older ones nothing is
claimed any more. Only the turn from one generation to the next must not overlap with a claim: it takes a lock that
waits until the claims under way have ended, and the claims after it see the new generation.

A generation leaves in O(1), KEPT after its last claim. By then no report repeats it: one may be 35 days late at most.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import date, datetime, timedelta

from django.db import connection, transaction

from usage.ledger.months import SHORT_LOCK_TIMEOUT_MS, Monthly, StillRead, month_of, patiently

KEPT = timedelta(days=70)
# Claims queue up behind the turn while it waits, once a month; so it waits for a short time, more often.
_TURN_TRIES = 6

TABLE = Monthly("usage_request")

# Follows an INSERT INTO usage_request (environment_id, request_id, body_digest, charged_at, generation) SELECT ... FROM
# a row source named `claim` that holds environment_id and request_id.
GENERATION = "(SELECT max(generation) FROM usage_request_generation)"
# By an older generation; in the newest ON CONFLICT tells. OFFSET 0 has each id looked up by the primary key: else a
# plan that was made while there were few rows reads all there are by now.
NOT_TAKEN = f"""NOT EXISTS (
    SELECT FROM usage_request AS taken
    WHERE taken.environment_id = claim.environment_id AND taken.request_id = claim.request_id
      AND taken.generation < {GENERATION}
    OFFSET 0
)"""


def turn(now: datetime) -> bool:
    """Begins the generation of this month, if it has not begun; whether it did. Raises OperationalError."""
    month = month_of(now)
    if current() is not None and month <= current():  # type: ignore[operator]
        return False
    TABLE.ensure([month])
    patiently(lambda: _begin(month), tries=_TURN_TRIES)
    return True


def current() -> date | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT max(generation) FROM usage_request_generation")
        found: date | None = cursor.fetchone()[0]
        return found


@transaction.atomic
def _begin(month: date) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {SHORT_LOCK_TIMEOUT_MS}")
        cursor.execute("LOCK TABLE usage_request IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(
            "INSERT INTO usage_request_generation (generation, began_at) VALUES (%s, clock_timestamp())"
            " ON CONFLICT DO NOTHING",
            [month],
        )


def drop_old(now: datetime) -> list[str]:
    """Deletes the generations that nobody can repeat any more; the names of those gone."""
    dropped: list[str] = []
    for generation in _over(now):
        with suppress(StillRead), connection.cursor() as cursor:
            dropped += TABLE.drop(generation)
            cursor.execute("DELETE FROM usage_request_generation WHERE generation = %s", [generation])
    return dropped


def _over(now: datetime) -> list[date]:
    """The generations whose last claim, which is the first of the next one, is long enough ago."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT generation FROM (
                SELECT generation, lead(began_at) OVER (ORDER BY generation) AS ended_at FROM usage_request_generation
            ) AS each WHERE ended_at < %s ORDER BY generation
            """,
            [now - KEPT],
        )
        return [generation for (generation,) in cursor.fetchall()]
