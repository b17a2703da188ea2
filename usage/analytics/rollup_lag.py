"""How far the rollups are behind the ledger, and up to where the ledger was read: its watermark."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from usage.ledger.leading import at_most
from usage.ledger.rollups import NEXT_XID

# Beyond these the rows are not counted further.
ROWS_COUNTED_MAX = 100_000
LEDGER_MS_MAX = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """`rows` are not rolled up yet, the oldest was recorded at `oldest_at`; of more than ROWS_COUNTED_MAX so many.

    `restored`: the database came from a dump, and sums wait for the next roll.
    """

    rows: int
    oldest_at: datetime | None
    restored: bool
    # Rows of earlier transactions are rolled up.
    mark_xid: int

    @property
    def is_more(self) -> bool:
        return self.rows >= ROWS_COUNTED_MAX


def lag(environment_id: int) -> Lag:
    """Raises DatabaseError."""
    with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT xid, floor_id, cluster <> system_identifier FROM usage_rollup_mark, pg_control_system()
            WHERE environment_id = %s
            """,
            [environment_id],
        )
        mark_xid, floor_id, restored = cursor.fetchone() or (0, 0, False)
        cursor.execute(
            f"""
            SELECT count(*), (array_agg(recorded_at))[1] FROM (
                SELECT recorded_at FROM usage_event
                WHERE environment_id = %s AND xid >= %s AND xid < {NEXT_XID} AND id > %s
                ORDER BY xid LIMIT %s
            ) AS tail
            """,  # noqa: S608 (our own text)
            [environment_id, mark_xid, floor_id, ROWS_COUNTED_MAX],
        )
        rows, oldest_at = cursor.fetchone() or (0, None)
    return Lag(rows=rows, oldest_at=oldest_at, restored=restored, mark_xid=mark_xid)
