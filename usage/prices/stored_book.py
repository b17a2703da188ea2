"""The price book of a tenant, from the database; compiled again only when its rows changed."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Sum
from django.db.models.functions import Extract

from tenants.models import Environment
from usage.money import format_usd, format_usd_if_known
from usage.prices.book import Match, PriceBook
from usage.prices.cost import RATES_OF, Price, Rates, Tier
from usage.prices.models import ModelPrice
from usage.prices.names import MatchKind
from usage.quantities import QUANTITIES, ServiceTier


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    fingerprint: tuple[Any, ...]
    book: PriceBook


_compiled: _Compiled | None = None
_compiling = threading.Lock()


def load(tenant_id: int | None) -> PriceBook:
    """The book as the tenant sees it: the shared rows and its own; None: only the shared ones.

    Two small queries, one for no tenant. The shared part is compiled when its rows changed, else reused with
    all names that were looked up before.
    """
    book = _shared_book()
    if tenant_id is None:
        return book
    overrides = ModelPrice.objects.filter(tenant=tenant_id).active().prices()
    return book.with_overrides(overrides) if overrides else book


def of_environment(environment: Environment) -> PriceBook:
    """The book of its tenant, with the names that the environment has for models; one query more."""
    return load(environment.tenant_id).with_deployments(environment.deployments.values_list("name", "model"))


def _shared_book() -> PriceBook:
    global _compiled
    # Read before the rows: if they change in between, the next call sees another fingerprint and compiles
    # again.
    fingerprint = _fingerprint()
    compiled = _compiled
    if compiled is None or compiled.fingerprint != fingerprint:
        with _compiling:
            compiled = _compiled
            if compiled is None or compiled.fingerprint != fingerprint:
                book = PriceBook.build(ModelPrice.objects.shared().active().prices())
                compiled = _compiled = _Compiled(fingerprint=fingerprint, book=book)
    return compiled.book


def _fingerprint() -> tuple[Any, ...]:
    """Differs after any change of the shared rows.

    The latest change alone would not do: of two changes the one that began earlier may commit later, and its
    time is not the latest then. It does move the sum of all times.
    """
    changes = ModelPrice.objects.shared().aggregate(
        count=Count("pk"),
        last=Max("pk"),
        latest=Max("updated_at"),
        all_times=Sum(Extract("updated_at", "epoch")),
    )
    return tuple(changes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTier:
    """Rates of calls with more total input than the threshold; see ListedPrice."""

    above_input_tokens: int
    input_per_million: str | None
    output_per_million: str | None
    cached_input_per_million: str | None
    cache_write_per_million: str | None
    reasoning_per_million: str | None
    other_rates: dict[str, str]
    service_tiers: dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPrice:
    """A model's price in force, for people and programs to read: decimal strings, USD per million tokens.

    Rates are what is charged: cached input, cache writes and reasoning without a rate of their own show that of their
    total; null: it is not priced. `other_rates`: of other quantities, seconds per hour, what is no token or character
    per thousand. `service_tiers`: by tier the rates that differ. `regions`: by how much tokens cost more there.
    """

    provider: str
    model: str
    aliases: list[str]
    effective_from: datetime
    input_per_million: str | None
    output_per_million: str | None
    cached_input_per_million: str | None
    cache_write_per_million: str | None
    reasoning_per_million: str | None
    batch_input_per_million: str | None
    batch_output_per_million: str | None
    other_rates: dict[str, str]
    service_tiers: dict[str, dict[str, str]]
    regions: dict[str, str]
    tiers: list[ListedTier]
    source: str
    source_version: str
    override: bool


def current_models(tenant_id: int | None, at: datetime) -> list[ListedPrice]:
    """Every model with a price in force at an aware instant, sorted, as the tenant is charged."""
    return [_listed(match) for match in load(tenant_id).in_force(at)]


def _listed(match: Match) -> ListedPrice:
    price: Price = match.price
    batch = price.batch or price.rates
    return ListedPrice(
        provider=price.provider,
        model=price.model,
        aliases=list(price.aliases),
        effective_from=price.effective_from,
        **_charged(price.rates),
        batch_input_per_million=format_usd_if_known(batch.input),
        batch_output_per_million=format_usd_if_known(batch.output),
        other_rates=_others(price.rates),
        service_tiers=_by_service(price.rates, price.service_tiers),
        regions={region: f"{factor.normalize():f}" for region, factor in price.regions.items()},
        tiers=_listed_tiers(price.tiers),
        source=price.source,
        source_version=price.source_version,
        override=match.kind is MatchKind.OVERRIDE,
    )


def _listed_tiers(tiers: Iterable[Tier]) -> list[ListedTier]:
    return [
        ListedTier(
            above_input_tokens=tier.above_input_tokens,
            **_charged(tier.rates),
            other_rates=_others(tier.rates),
            service_tiers=_by_service(tier.rates, tier.service_tiers),
        )
        for tier in tiers
    ]


def _charged(rates: Rates) -> dict[str, str | None]:
    return {f"{own}_per_million": format_usd_if_known(rates.of(name)) for name, own in RATES_OF.items()}


def _others(rates: Rates) -> dict[str, str]:
    found = {name: rates.of(name) for name in rates.others}
    return {name: format_usd(rate) for name, rate in found.items() if rate is not None}


def _by_service(rates: Rates, service_tiers: Mapping[ServiceTier, Rates]) -> dict[str, dict[str, str]]:
    """What differs from the default."""
    return {
        tier.value: {
            name: format_usd(rate)
            for name in QUANTITIES
            if (rate := served.of(name)) is not None and rate != rates.of(name)
        }
        for tier, served in service_tiers.items()
    }
