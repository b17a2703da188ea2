"""Which features, plans and models were used in a period, to choose from."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection

from usage.ledger import sums
from usage.ledger.buckets import Range

OFFERED_MAX = 500
COLUMNS = ("feature", "plan", "model")


@dataclass(frozen=True, slots=True)
class Names:
    """In order of the alphabet, OFFERED_MAX of each at most. What a call has none of is left out."""

    feature: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    model: tuple[str, ...] = ()


def used_in(environment_id: int, period: Range) -> Names:
    """One statement. Raises DatabaseError."""
    used = sums.used(environment_id, [period.start, period.end], COLUMNS)
    named = ", ".join(
        f"(array_agg(DISTINCT {column}) FILTER (WHERE {column} <> ''))[:{OFFERED_MAX}]" for column in COLUMNS
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {named} FROM (SELECT DISTINCT {', '.join(COLUMNS)} FROM ({used.sql}) AS used) AS kind",  # noqa: S608
            used.values,
        )
        found = cursor.fetchone()
    assert found is not None
    return Names(*(tuple(names or ()) for names in found))
