"""Which provider a model was bought from. The rollups do not keep it: it is that of the newest call of the period."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from tenants.models import Environment
from usage.ledger import sums
from usage.ledger.periods import Period
from usage.prices import stored_book
from usage.prices.book import PriceBook
from usage.prices.names import canonical_provider


@dataclass(frozen=True, slots=True)
class Providers:
    """Of an environment. What nobody sells that is known, the tenant offers itself."""

    reported: Mapping[tuple[str, str], str]
    book: PriceBook
    at: datetime
    tenant: str

    def provider(self, feature: str, model: str) -> str:
        """As its calls say, else whose price the model has, else the tenant."""
        return self.reported.get((feature, model)) or self.maker(model) or self.tenant

    def maker(self, model: str) -> str | None:
        """Whose price a model has that no provider is named with."""
        found = self.book.find(model, self.at)
        return None if found is None else found.price.provider


def providers_of(environment: Environment, period: Period) -> Providers:
    """Two statements at most, beside those of the price book. Raises DatabaseError."""
    return Providers(
        _reported(environment.pk, period),
        stored_book.of_environment(environment),
        period.end,
        environment.tenant.name,
    )


def _reported(environment_id: int, period: Period) -> dict[tuple[str, str], str]:
    """By feature and model; of a month whose rows are not in the ledger any more, none."""
    read = sums.used(environment_id, [period.start, period.end], ("feature", "model"))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT feature, model, (
                SELECT provider FROM usage_event AS event
                WHERE event.environment_id = %s AND event.feature = used.feature AND event.model = used.model
                  AND charged_at >= %s AND charged_at < %s
                ORDER BY charged_at DESC LIMIT 1
            ) FROM (SELECT DISTINCT feature, model FROM ({read.sql}) AS each) AS used
            """,  # noqa: S608 (our own names)
            [environment_id, period.start, period.end, *read.values],
        )
        return {
            (feature, model): canonical_provider(provider)
            for feature, model, provider in cursor.fetchall()
            if provider
        }
