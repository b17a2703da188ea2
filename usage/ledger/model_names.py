"""By which names the ledger knows the models that a limit counts."""

from __future__ import annotations

from datetime import datetime

from django.db import connection

from usage.amounts import Models
from usage.ledger import sums
from usage.prices.model_groups import ModelGroups


def counted(
    environment_id: int, start: datetime, end: datetime, models: Models, groups: ModelGroups
) -> list[str] | None:
    """Of the models called in the period; None: a limit without patterns counts all. Raises DatabaseError."""
    if not models:
        return None
    group = groups.of(models)
    rows = sums.used(environment_id, [start, end], ("model",))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT model FROM ({rows.sql}) AS used", rows.values)  # noqa: S608 (our own names)
        return [name for (name,) in cursor.fetchall() if group.counts(name)]
