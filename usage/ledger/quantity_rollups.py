"""Sums of the quantities that stand in the map of a row (usage/quantities.py), such as searches and seconds.

Each rollup has a twin, `usage_total_day_quantity` beside `usage_total_day`: its buckets and names, with a row for each
quantity that was used there. Nearly no call has such a quantity. Columns for them, or a map, would make the rollups of
all calls wider and every sum of them slower; twins have rows of those few calls alone, and are read only where
quantities are asked for. A twin is filled, made anew and compared with the ledger together with its rollup.
"""

from __future__ import annotations

from usage.ledger.rollup_tables import BUCKETS, RUN_KEY, TABLES, digest
from usage.ledger.rows import SIGN

QUANTITY, AMOUNT = "quantity", "amount"
# What stands beside a row of the ledger in a FROM, once for each of its quantities.
OF_A_ROW = "CROSS JOIN LATERAL jsonb_each_text(quantities) AS measured (quantity, number)"
# Such rows alone: few.
HAS_ANY = "quantities IS NOT NULL"
# What such a row adds. Estimates that are taken back count for nothing.
ADDED = f"{SIGN} * number::bigint"


def twin(table: str) -> str:
    return f"{table}_quantity"


TWINS = {twin(table): (size, (*key, QUANTITY)) for table, (size, key) in TABLES.items()}


def fresh(which: str) -> str:
    """The sums of such rows of an environment by the buckets of all sizes and all names."""
    grouped = ", ".join((*BUCKETS, *RUN_KEY, QUANTITY))
    return f"""
        SELECT {", ".join(f"{bucket} AS {size}" for size, bucket in BUCKETS.items())}, {", ".join(RUN_KEY)},
            {QUANTITY}, sum({ADDED}) AS {AMOUNT}
        FROM usage_event {OF_A_ROW} WHERE environment_id = %s AND {HAS_ANY} AND {which} GROUP BY {grouped}
    """  # noqa: S608 (our own names)


def insert(table: str) -> str:
    """Adds what is in `fresh` to a twin."""
    size, key = TWINS[table]
    names = ", ".join(key)
    return f"""
        INSERT INTO {table} (environment_id, start, digest, {names}, {AMOUNT})
        SELECT %s, {size}, {digest(key)}, {names}, sum({AMOUNT}) FROM fresh GROUP BY {size}, {names}
        ORDER BY 2, 3
        ON CONFLICT (environment_id, start, digest) DO UPDATE SET {AMOUNT} = {table}.{AMOUNT} + excluded.{AMOUNT}
    """  # noqa: S608 (our own names)
