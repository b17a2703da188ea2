"""The months of the ledger: each is a partition of its own, so an old one leaves in O(1)."""

from collections.abc import Iterable
from datetime import UTC, datetime

from django.db import connection, transaction

from audit import roles

AHEAD_MONTHS = 3
# One writer at a time makes partitions; the others wait for it and then find them made.
_LOCK_ID = 0x746B7667
_MISSING_SQLSTATE = "23514"


def is_missing(error: Exception) -> bool:
    """Whether an insert failed because there is no partition for its month."""
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) == _MISSING_SQLSTATE and "no partition of relation" in str(cause)


def ensure(times: Iterable[datetime]) -> list[str]:
    """Makes the partitions that hold these times; the names of the new ones."""
    months = sorted({(time.astimezone(UTC).year, time.astimezone(UTC).month) for time in times})
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_ID])
        return [name for month in months if (name := _ensure_month(cursor, *month))]


def ensure_ahead(now: datetime, months: int = AHEAD_MONTHS) -> list[str]:
    """Makes the partitions of last month, this one and the next ones."""
    first = now.astimezone(UTC).year * 12 + now.astimezone(UTC).month - 1
    return ensure(
        datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in range(first - 1, first + months + 1)
    )


def detach(month: datetime) -> str:
    """Takes a month out of the ledger without touching its rows; its table stays. Raises LookupError.

    Takes the ledger's owner (MIGRATION_DATABASE_URL), and not inside a transaction.
    """
    name = _name(month.year, month.month)
    with roles.as_owner(), connection.cursor() as cursor:
        if not _exists(cursor, name):
            raise LookupError(f"there is no partition {name}")
        cursor.execute(f"ALTER TABLE usage_event DETACH PARTITION {name}")
    return name


def names() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_event'::regclass ORDER BY 1"
        )
        return [name for (name,) in cursor.fetchall()]


def _name(year: int, month: int) -> str:
    return f"usage_event_{year:04d}_{month:02d}"


def _exists(cursor, name: str) -> bool:  # type: ignore[no-untyped-def]
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [name])
    return bool(cursor.fetchone()[0])


def _ensure_month(cursor, year: int, month: int) -> str | None:  # type: ignore[no-untyped-def]
    """With the rights of the ledger's owner, which the application has not."""
    cursor.execute("SELECT usage_event_make_month(%s, %s)", [year, month])
    name: str | None = cursor.fetchone()[0]
    return name
