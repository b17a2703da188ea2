"""The book that finds the price of a model's name at an instant.

How a name finds its price (`PriceBook.find`), most certain first:

exact             the model's own name: `gpt-4o`
alias             another name that the book lists for it: `gpt-4o-2024-08-06`; the same model spelled otherwise:
                  `claude-sonnet-5@default`, `gemini-2.5-flash-001`, `us.anthropic.claude-opus-5-v1:0`; also the
                  base of a fine-tuned name, if the book lists that as `ft:...`:
                  `ft:gpt-4o-mini-2024-07-18:acme::abc`
snapshot_suffix   a listed name and a date: `gpt-4o-2025-03-01`, `claude-sonnet-4-20250514`,
                  `claude-3-opus@20240229`. The date must be a day of the calendar and not lie after the call:
                  a snapshot from the future does not exist.
override          the tenant's own price for that model; it wins whatever the name matched by

Case is ignored. What stands before the name is taken off, and tells who sells the model if it names anybody
(`prefixes`): `openai/gpt-4o`, `models/gemini-2.5-flash`, `bedrock/us-east-1/anthropic.claude-opus-5`.
Nothing is matched by prefix or likeness: a name that none of this fits has no price, and never that of a
neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from tenants.lengths import NAME_LENGTH_MAX
from usage.prices.cost import Price
from usage.prices.names import MAKERS, PROVIDER_ALIASES, RESOLD, MatchKind, canonical_provider, spellings
from usage.prices.prefixes import cut_seller, readings

# Names resolved before, per book. Callers choose the names, so the least recently used ones are dropped.
RESOLVED_NAMES_MAX = 4096
# A provider's day may begin before the UTC day of the call does.
_ZONE_SLACK = timedelta(days=1)
# No provider has these names: a provider's name is lower case.
_ANY_MAKER = "ANY MAKER"
_ANY_HOST = "ANY HOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A price, and how the model's name led to it."""

    price: Price
    kind: MatchKind


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """All prices of one model of one provider, oldest first."""

    provider: str
    model: str
    prices: tuple[Price, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Catalogue:
    """Prices by provider and name; _ANY_MAKER and _ANY_HOST are what a name without a provider means."""

    entries: Mapping[tuple[str, str], _Entry]
    named: Mapping[tuple[str, str], _Entry]
    # Who sells something under a name.
    sellers: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, prices: Iterable[Price]) -> _Catalogue:
        timelines: dict[tuple[str, str], list[Price]] = {}
        for price in prices:
            timelines.setdefault((canonical_provider(price.provider), price.model.lower()), []).append(price)
        entries = {
            key: _Entry(
                provider=key[0],
                model=key[1],
                prices=tuple(sorted(timeline, key=lambda price: price.effective_from)),
            )
            for key, timeline in timelines.items()
        }
        # A model's own name beats another model's alias; among aliases the newest price that lists one has
        # it.
        named: dict[tuple[str, str], _Entry] = {}
        aliases = [
            (price.effective_from, entry.provider, alias.lower(), entry)
            for entry in entries.values()
            for price in entry.prices
            for alias in price.aliases
        ]
        for _, provider, alias, entry in sorted(aliases, key=lambda row: (row[0], row[3].model)):
            named[provider, alias] = entry
        named.update(entries)
        sellers: dict[str, tuple[str, ...]] = {}
        for provider, name in named:
            sellers[name] = (*sellers.get(name, ()), provider)
        return cls(entries=entries, named=named | _without_provider(named), sellers=sellers)


def _without_provider(named: Mapping[tuple[str, str], _Entry]) -> dict[tuple[str, str], _Entry]:
    """What bare names mean: the price of the first maker, or of the host that is the only one to sell it."""
    makers: dict[str, list[_Entry]] = {}
    hosts: dict[str, list[_Entry]] = {}
    for (provider, name), entry in named.items():
        (makers if provider in MAKERS else hosts).setdefault(name, []).append(entry)
    made = {(_ANY_MAKER, name): min(entries, key=_maker_rank) for name, entries in makers.items()}
    hosted = {(_ANY_HOST, name): entries[0] for name, entries in hosts.items() if len(entries) == 1}
    return made | hosted


def _maker_rank(entry: _Entry) -> int:
    return MAKERS.index(entry.provider)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resolved:
    """The matches a name can give, newest first, the tenant's before the book's, and the date it names."""

    timelines: tuple[tuple[Match, ...], ...]
    snapshot: date | None


_UNKNOWN = _Resolved(timelines=(), snapshot=None)


class PriceBook:
    """The prices of the shared book and of one tenant, compiled for look-up. Immutable, safe for threads."""

    __slots__ = ("_deployments", "_overrides", "_providers", "_resolve", "_shared", "_sold_elsewhere")

    def __init__(
        self, shared: _Catalogue, overrides: _Catalogue, deployments: Mapping[str, str] | None = None
    ) -> None:
        self._shared = shared
        self._overrides = overrides
        # By their names in lower case.
        self._deployments = deployments or {}
        self._providers = frozenset(
            {provider for provider, _ in (*shared.entries, *overrides.entries)} | {*RESOLD, *PROVIDER_ALIASES}
        )
        self._resolve = lru_cache(maxsize=RESOLVED_NAMES_MAX)(self._resolve_uncached)
        self._sold_elsewhere = lru_cache(maxsize=RESOLVED_NAMES_MAX)(self._sold_elsewhere_uncached)

    @classmethod
    def build(cls, rows: Iterable[Price], overrides: Iterable[Price] = ()) -> PriceBook:
        """A book of shared rows and of one tenant's overrides."""
        return cls(_Catalogue.of(rows), _Catalogue.of(overrides))

    def with_overrides(self, overrides: Iterable[Price]) -> PriceBook:
        """This book for a tenant with prices of its own; the shared part is not compiled again."""
        return PriceBook(self._shared, _Catalogue.of(overrides))

    def with_deployments(self, deployments: Iterable[tuple[str, str]]) -> PriceBook:
        """This book for an environment that has names of its own for models: those come before any other name."""
        named = {name.strip().lower(): model for name, model in deployments}
        return PriceBook(self._shared, self._overrides, named) if named else self

    def deployed(self, model: str) -> str | None:
        """The model behind the name of a deployment, alone or after its provider; None: it is none."""
        if not self._deployments:
            return None
        return self._deployed(model.strip().lower())[0]

    def _deployed(self, name: str) -> tuple[str | None, str | None]:
        """And the provider that stands before it."""
        model = self._deployments.get(name)
        if model is not None:
            return model, None
        cut = cut_seller(name, self._providers)
        if cut is not None and cut[1] in self._deployments:
            return self._deployments[cut[1]], cut[0]
        return None, None

    def aliases(self) -> Iterator[tuple[str, str]]:
        """Other names that are listed for models, in lower case, each with the model's own."""
        for catalogue in (self._shared, self._overrides):
            for (provider, name), entry in catalogue.named.items():
                if provider not in (_ANY_MAKER, _ANY_HOST) and name != entry.model:
                    yield name, entry.model

    @property
    def deployments(self) -> Mapping[str, str]:
        """The models behind names of the environment's own, which are in lower case."""
        return self._deployments

    def find(self, model: str, at: datetime, provider: str | None = None) -> Match | None:
        """The price in force at an aware instant for a name as callers write it; None: the model has no
        price.

        A price is not in force before its `effective_from`; the undated prices of genai-prices start at
        UNDATED. An override applies from its own start on, before that the shared price does. Without a
        provider a name means its maker's price; a name that only hosts sell, and more than one, then has
        none. A provider that the book does not know has no prices: what another one charges is not its price.
        """
        if len(model) > NAME_LENGTH_MAX or (provider is not None and len(provider) > NAME_LENGTH_MAX):
            return None
        return _in_force(self._resolve(model, provider), at)

    def candidates(
        self, model: str, at: datetime, provider: str | None = None
    ) -> tuple[Match | None, tuple[Match, ...]]:
        """What `find` says, and the other prices that a call may be charged by: where no provider is named, those of
        everybody else who sells a model under this name. The tenant's own price for the name stands alone.
        """
        match = self.find(model, at, provider)
        stands_alone = provider is not None or (match is not None and match.kind is MatchKind.OVERRIDE)
        if stands_alone or len(model) > NAME_LENGTH_MAX:
            return match, ()
        elsewhere = (_in_force(resolved, at) for resolved in self._sold_elsewhere(model))
        return match, tuple([each for each in elsewhere if each is not None])

    @property
    def names_remembered(self) -> int:
        """How many names this book keeps resolved; never more than RESOLVED_NAMES_MAX."""
        return self._resolve.cache_info().currsize

    def in_force(self, at: datetime) -> list[Match]:
        """The price of every model at an instant, by provider and model; kind is exact or override."""
        keys = sorted({*self._shared.entries, *self._overrides.entries})
        matches = (self._at(key, at) for key in keys)
        return [match for match in matches if match is not None]

    def _at(self, key: tuple[str, str], at: datetime) -> Match | None:
        for catalogue, kind in ((self._overrides, MatchKind.OVERRIDE), (self._shared, MatchKind.EXACT)):
            entry = catalogue.entries.get(key)
            for match in () if entry is None else _newest_first(entry, kind):
                if match.price.effective_from <= at:
                    return match
        return None

    def _resolve_uncached(self, model: str, provider: str | None) -> _Resolved:
        deployed, seller_said = self._deployed(model.strip().lower())
        if deployed is not None:
            model, provider = deployed, provider or seller_said
        seller = None if provider is None else canonical_provider(provider)
        for name, sold_by in readings(model.strip().lower(), seller, self._providers):
            for anywhere in (_ANY_MAKER, _ANY_HOST) if sold_by is None else (sold_by,):
                for spelling, kind, snapshot in spellings(name):
                    resolved = self._look_up(spelling, anywhere, kind, snapshot)
                    if resolved is not None:
                        return resolved
        return _UNKNOWN

    def _sold_elsewhere_uncached(self, model: str) -> tuple[_Resolved, ...]:
        """What the name means at each of those who sell it, other than without a provider."""
        deployed, seller_said = self._deployed(model.strip().lower())
        if seller_said is not None:
            return ()
        found: list[_Resolved] = []
        charged = [_charged(self._resolve(model, None))]
        for seller in self._sellers(deployed or model):
            resolved = self._resolve(model, seller)
            # Most resell at the same price, which need not be looked at twice.
            if resolved.timelines and _charged(resolved) not in charged:
                found.append(resolved)
                charged.append(_charged(resolved))
        return tuple(found)

    def _sellers(self, model: str) -> list[str]:
        """Who sells something under the name, or under what it stands for, if it names no seller itself."""
        name = model.strip().lower()
        found: dict[str, None] = {}
        for reading, sold_by in readings(name, None, self._providers):
            if sold_by is None:
                found.update(dict.fromkeys(self._selling(reading)))
        cut = cut_seller(name, self._providers)
        if found and cut is not None:
            # `openai/gpt-oss-120b`: with some it is the whole name, others know it without the maker.
            found.update(dict.fromkeys(self._selling(cut[1])))
        return list(found)

    def _selling(self, name: str) -> Iterator[str]:
        for spelling, _, _ in spellings(name):
            yield from self._shared.sellers.get(spelling, ())
            yield from self._overrides.sellers.get(spelling, ())

    def _look_up(self, name: str, seller: str, kind: MatchKind, snapshot: date | None) -> _Resolved | None:
        override = _named(self._overrides, name, seller)
        shared = _named(self._shared, name, seller)
        if override is None and seller == _ANY_MAKER:
            # The tenant's price for a hosted model also beats the maker's.
            override = _named(self._overrides, name, _ANY_HOST)
        if override is None and shared is not None:
            # The tenant's price for a model holds for every name that the shared book gives that model.
            override = self._overrides.entries.get((shared.provider, shared.model))
        if override is None and shared is None:
            return None
        timelines = []
        if override is not None:
            timelines.append(_newest_first(override, MatchKind.OVERRIDE))
        if shared is not None:
            is_alias = kind is MatchKind.EXACT and name != shared.model
            timelines.append(_newest_first(shared, MatchKind.ALIAS if is_alias else kind))
        return _Resolved(timelines=tuple(timelines), snapshot=snapshot)


def _in_force(resolved: _Resolved, at: datetime) -> Match | None:
    if resolved.snapshot is not None and resolved.snapshot > (at.astimezone(UTC) + _ZONE_SLACK).date():
        return None
    for timeline in resolved.timelines:
        for match in timeline:
            if match.price.effective_from <= at:
                return match
    return None


def _charged(resolved: _Resolved) -> list[Price]:
    """What is charged, whoever sells it."""
    return [
        replace(match.price, provider="", model="", aliases=(), source="", source_version="", price_id=None)
        for timeline in resolved.timelines
        for match in timeline
    ]


def _named(catalogue: _Catalogue, name: str, seller: str) -> _Entry | None:
    for provider in (seller, *RESOLD.get(seller, ())):
        entry = catalogue.named.get((provider, name))
        if entry is not None:
            return entry
    return None


def _newest_first(entry: _Entry, kind: MatchKind) -> tuple[Match, ...]:
    return tuple(Match(price=price, kind=kind) for price in reversed(entry.prices))
