"""What callers reported that their providers charge, beside what we charged by the price book."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from usage.ledger.leading import at_most

# Rollups do not have what was reported, so the newest rows are read themselves.
ROWS_READ = 20_000
LEDGER_MS_MAX = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """Of rows that have both costs, in nano-USD. `unpriced`: rows with a reported cost and no price of ours."""

    model: str
    calls: int
    reported_nano: int
    charged_nano: int
    unpriced: int

    @property
    def difference_nano(self) -> int:
        return self.charged_nano - self.reported_nano


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """Of the newest `rows` of the ledger, which are all there are or ROWS_READ; the first is of `since`."""

    rows: int
    since: datetime | None
    models: tuple[ModelCost, ...]

    @property
    def is_all(self) -> bool:
        return self.rows < ROWS_READ


def reported(environment_id: int) -> Reported:
    """Models whose costs differ most first. Raises DatabaseError."""
    with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
        cursor.execute(
            """
            WITH newest AS MATERIALIZED (
                SELECT charged_at, request_id, model, cost_nano, reported_cost_nano FROM usage_event
                WHERE environment_id = %s ORDER BY charged_at DESC, id DESC LIMIT %s
            ), call AS (
                -- With what was adjusted of it; an estimate that was taken back is nothing.
                SELECT model, count(*) AS rows, min(charged_at) AS charged_at,
                    sum(cost_nano) AS cost_nano, sum(reported_cost_nano) AS reported_cost_nano
                FROM newest GROUP BY request_id, model
            )
            SELECT model, sum(rows)::bigint, min(charged_at), count(cost_nano + reported_cost_nano),
                coalesce(sum(reported_cost_nano) FILTER (WHERE cost_nano IS NOT NULL), 0),
                coalesce(sum(cost_nano) FILTER (WHERE reported_cost_nano IS NOT NULL), 0),
                count(reported_cost_nano) FILTER (WHERE cost_nano IS NULL)
            FROM call GROUP BY model
            """,
            [environment_id, ROWS_READ],
        )
        found = cursor.fetchall()
    models = [
        ModelCost(
            model=model, calls=calls, reported_nano=int(theirs), charged_nano=int(ours), unpriced=unpriced
        )
        for model, _, _, calls, theirs, ours, unpriced in found
        if calls or unpriced
    ]
    models.sort(key=lambda each: (-abs(each.difference_nano), each.model))
    return Reported(
        rows=sum(row[1] for row in found),
        since=min((row[2] for row in found), default=None),
        models=tuple(models),
    )


def total(models: Iterable[ModelCost]) -> ModelCost:
    """Of all of them together; it has no name."""
    every = list(models)
    return ModelCost(
        model="",
        calls=sum(each.calls for each in every),
        reported_nano=sum(each.reported_nano for each in every),
        charged_nano=sum(each.charged_nano for each in every),
        unpriced=sum(each.unpriced for each in every),
    )
