"""What the ledger charged on each UTC day, by model, provider and tier: our side of a provider's bill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from django.db import connection

from usage.ledger import retention
from usage.ledger.adjustments import PARTLY_PRICED_REQUESTS, UNPRICED_REQUESTS
from usage.ledger.leading import at_most
from usage.ledger.periods import Period
from usage.ledger.rows import SIGN

LEDGER_MS_MAX = 120_000
ROWS_MAX = 200_000

# A row counts as many calls as it has requests: none, if it failed and used nothing; -1, if it takes an estimate back.
_SUMS = {
    "requests": "requests",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cached_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": f"{SIGN} * (quantities->>'cache_write_1h_tokens')::bigint",
    "web_searches": f"{SIGN} * (quantities->>'web_searches')::bigint",
}


class TooMany(Exception):
    """Models, providers and tiers of the days are more than are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """Of calls of one model, provider and tier on a day. `used`: by the names of quantities, and `requests`.

    Of the calls `unpriced` have no price, `partly_priced` used something without a rate, and `estimated` were never
    reported: they are charged what was held.
    """

    day: date
    model: str
    provider: str
    tier: str
    cost_nano: int
    unpriced: int
    partly_priced: int
    estimated: int
    used: Mapping[str, int]


def charged(environment_id: int, first: date, last: date) -> list[Charged]:
    """Of the rows in the ledger; see `months_gone`. One statement. Raises DatabaseError, TooMany."""
    period = _period(first, last)
    sums = ", ".join(f"coalesce(sum({each}), 0)::bigint" for each in _SUMS.values())
    with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT (date_trunc('day', charged_at, 'UTC') AT TIME ZONE 'UTC')::date AS day,
                model, provider, service_tier,
                coalesce(sum(cost_nano), 0)::bigint,
                {UNPRICED_REQUESTS},
                {PARTLY_PRICED_REQUESTS},
                coalesce(sum(requests) FILTER (WHERE status IN ('unsettled', 'reversal')), 0)::bigint,
                {sums}
            FROM usage_event WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s
            GROUP BY day, model, provider, service_tier LIMIT %s
            """,  # noqa: S608 (our own names)
            [environment_id, period.start, period.end, ROWS_MAX + 1],
        )
        rows = cursor.fetchall()
    if len(rows) > ROWS_MAX:
        raise TooMany(f"more than {ROWS_MAX} models, providers and tiers of service in these days")
    return [
        Charged(
            day=day,
            model=model,
            provider=provider,
            tier=tier or "default",
            cost_nano=cost_nano,
            unpriced=unpriced,
            partly_priced=partly_priced,
            estimated=estimated,
            used=dict(zip(_SUMS, used, strict=True)),
        )
        for day, model, provider, tier, cost_nano, unpriced, partly_priced, estimated, *used in rows
    ]


def months_gone(environment_id: int, first: date, last: date) -> list[date]:
    """Months of these days whose single calls have left the ledger."""
    return retention.gone([environment_id], _period(first, last))


def _period(first: date, last: date) -> Period:
    start = datetime.combine(first, time(), UTC)
    return Period(start, datetime.combine(last, time(), UTC) + timedelta(days=1))
