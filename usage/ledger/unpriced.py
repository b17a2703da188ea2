"""Models without a price that calls used lately: what they cost is in no sum."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError, connection

from usage.ledger import sums
from usage.ledger.leading import at_most

logger = logging.getLogger("tokvigil.prices")

ROWS_MAX = 200
# Calls of a model that are looked at for what had no rate.
LATEST_MAX = 200
LEDGER_MS_MAX = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedUse:
    """Of a model by a feature, which may be empty. `first_at` is the start of its day or quarter hour."""

    model: str
    feature: str
    calls: int
    first_at: datetime
    blocked: bool = False


def recorded_unpriced(environment_id: int, since: datetime, now: datetime) -> list[UnpricedUse]:
    """The most frequent; none if it takes too long to find out."""
    try:
        return found_unpriced(environment_id, since, now)
    except DatabaseError as error:
        logger.warning("unpriced models of environment %s: %s", environment_id, error)
        return []


def found_unpriced(environment_id: int, since: datetime, now: datetime) -> list[UnpricedUse]:
    """The most frequent. Raises DatabaseError, also if it takes too long."""
    used = sums.used(environment_id, [since, now + timedelta(days=1)], ("model", "feature"))
    with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT model, feature, sum(unpriced)::bigint, min(at) FROM ({used.sql}) AS used WHERE unpriced > 0
            GROUP BY model, feature ORDER BY sum(unpriced) DESC, model, feature LIMIT %s
            """,  # noqa: S608 (our own names)
            [*used.values, ROWS_MAX],
        )
        return [
            UnpricedUse(model=model, feature=feature, calls=calls, first_at=first_at)
            for model, feature, calls, first_at in cursor.fetchall()
        ]


def models_without_price(environment_id: int, since: datetime, now: datetime) -> list[str]:
    """By the calls without a price that are left of them, the most first. Raises DatabaseError."""
    used = sums.used(environment_id, [since, now], ("model",))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT model FROM ({used.sql}) AS used WHERE unpriced <> 0 AND model <> ''
            GROUP BY model HAVING sum(unpriced) > 0 ORDER BY sum(unpriced) DESC, model LIMIT %s
            """,  # noqa: S608 (our own names)
            [*used.values, ROWS_MAX],
        )
        return [model for (model,) in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Without:
    """What calls of a model had no rate for: quantities by name, and the tiers of service that they were served as."""

    quantities: tuple[str, ...] = ()
    service_tiers: tuple[str, ...] = ()


def without_rate(environment_id: int, models: Sequence[str], since: datetime) -> dict[str, Without]:
    """By model, of its latest calls; nothing if it takes too long to find out."""
    try:
        with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT model, array_agg(DISTINCT name ORDER BY name) FILTER (WHERE name <> 'service_tier'),
                    array_agg(DISTINCT service_tier ORDER BY service_tier) FILTER (WHERE name = 'service_tier')
                FROM unnest(%s::text[]) AS named (model), LATERAL (
                    SELECT unpriced_quantities, service_tier FROM usage_event AS event
                    WHERE environment_id = %s AND event.model = named.model AND charged_at >= %s
                      AND unpriced_quantities IS NOT NULL
                    ORDER BY charged_at DESC LIMIT %s
                ) AS latest, jsonb_array_elements_text(unpriced_quantities) AS name GROUP BY model
                """,
                [list(models), environment_id, since, LATEST_MAX],
            )
            return {
                model: Without(tuple(quantities or ()), tuple(tiers or ()))
                for model, quantities, tiers in cursor.fetchall()
            }
    except DatabaseError as error:
        logger.warning("unpriced quantities of environment %s: %s", environment_id, error)
        return {}
