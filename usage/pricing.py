"""What a call costs: token counts, prices, and the book that finds the price of a model's name at an instant.

Pure values and functions. Rates are integers of nano-USD per million tokens, costs integers of nano-USD.

How a name finds its price (`PriceBook.find`), most certain first:

exact             the model's own name: `gpt-4o`
alias             another name that the book lists for it: `gpt-4o-2024-08-06`; also the base of a fine-tuned
                  name, if the book lists that as `ft:...`: `ft:gpt-4o-mini-2024-07-18:acme::abc`
snapshot_suffix   a listed name and a date: `gpt-4o-2025-03-01`, `claude-sonnet-4-20250514`,
                  `claude-3-opus@20240229`. The date must be a day of the calendar and not lie after the call:
                  a snapshot from the future does not exist.
override          the tenant's own price for that model; it wins whatever the name matched by

Case is ignored. A prefix that names a provider (`openai/gpt-4o`) is taken off and read as the provider.
Nothing is matched by prefix or likeness: a name that none of this fits has no price, and never that of a
neighbour.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

TOKENS_PER_RATE = 1_000_000
# With both bounds no call can cost more than the largest limit (money.MAX_LIMIT_NANO).
TOKENS_MAX = 100_000_000
RATE_MAX_NANO = 10_000 * 10**9

MODEL_LENGTH_MAX = 200
ALIASES_MAX = 64
TIERS_MAX = 8
# Names resolved before, per book. Callers choose the names, so the least recently used ones are dropped.
RESOLVED_NAMES_MAX = 4096

# The start of a price that was always in force, as far as its source knows.
UNDATED = datetime(1970, 1, 1, tzinfo=UTC)

# Who makes models, in the order in which a bare name is looked for. All others only host them at prices of
# their own.
MAKERS = (
    "openai",
    "anthropic",
    "google",
    "mistral",
    "deepseek",
    "x-ai",
    "cohere",
    "meta",
    "moonshotai",
    "minimax",
    "zai",
    "voyageai",
    "arcee",
    "perplexity",
)
# Whose list price applies to what a reseller does not list itself (`fallback_model_providers` of
# genai-prices).
RESOLD = {
    "azure": ("openai", "anthropic", "deepseek", "x-ai", "moonshotai"),
    "google": ("anthropic",),
}
PROVIDER_ALIASES = {
    "amazon-bedrock": "aws",
    "azure-openai": "azure",
    "azure_ai": "azure",
    "azure_openai": "azure",
    "bedrock": "aws",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "google-vertex": "google",
    "grok": "x-ai",
    "mistralai": "mistral",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "vertex": "google",
    "vertex_ai": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
    "z-ai": "zai",
}

_DATED_NAME = re.compile(r"(?P<base>.+)[-@](?:(\d{4})-(\d{2})-(\d{2})|(20\d{2})(\d{2})(\d{2}))", re.ASCII)
# A provider's day may begin before the UTC day of the call does.
_ZONE_SLACK = timedelta(days=1)

# No provider has these names: a provider's name is lower case.
_ANY_MAKER = "ANY MAKER"
_ANY_HOST = "ANY HOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUse:
    """The tokens of one call. Cached and cache-write tokens are parts of the input, reasoning of the output.

    Raises ValueError, naming the field, for a count below 0 or above TOKENS_MAX and for parts larger than
    their total.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        for name in (
            "input_tokens",
            "output_tokens",
            "cached_input_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        ):
            if not 0 <= getattr(self, name) <= TOKENS_MAX:
                raise ValueError(f"{name} must be from 0 to {TOKENS_MAX}.")
        if self.cached_input_tokens > self.input_tokens:
            raise ValueError("cached_input_tokens must not exceed input_tokens: they are a part of them.")
        if self.cached_input_tokens + self.cache_write_tokens > self.input_tokens:
            raise ValueError(
                "cache_write_tokens and cached_input_tokens together must not exceed input_tokens: "
                "they are separate parts of them."
            )
        if self.reasoning_tokens > self.output_tokens:
            raise ValueError("reasoning_tokens must not exceed output_tokens: they are a part of them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Nano-USD per million tokens; a part without a rate costs what its total costs. Raises ValueError."""

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached_input", "cache_write", "reasoning"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate <= RATE_MAX_NANO:
                raise ValueError(
                    f"The {name} rate must be from 0 to {RATE_MAX_NANO} nano-USD per million tokens."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """The rates of ALL tokens of a call whose total input, cached tokens included, is above the threshold."""

    above_input_tokens: int
    rates: Rates
    batch: Rates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs from an instant on. Raises ValueError for a naive instant or unsorted tiers."""

    provider: str
    model: str
    rates: Rates
    aliases: tuple[str, ...] = ()
    effective_from: datetime = UNDATED
    # The complete rates of a batch call; none: a batch call costs what any other costs.
    batch: Rates | None = None
    tiers: tuple[Tier, ...] = ()
    source: str = ""
    source_version: str = ""
    price_id: int | None = None

    def __post_init__(self) -> None:
        if self.effective_from.tzinfo is None:
            raise ValueError("effective_from must carry a time zone.")
        thresholds = [tier.above_input_tokens for tier in self.tiers]
        if thresholds != sorted(set(thresholds)):
            raise ValueError("tiers must have rising thresholds.")


class MatchKind(StrEnum):
    EXACT = "exact"
    ALIAS = "alias"
    SNAPSHOT_SUFFIX = "snapshot_suffix"
    OVERRIDE = "override"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A price, and how the model's name led to it."""

    price: Price
    kind: MatchKind


def cost_nano(price: Price, use: TokenUse, *, batch: bool = False) -> int:
    """The nano-USD of one call: the exact sum, rounded up once. 0 only for a free model or no tokens.

    Formula: (tokens x rate) summed over uncached input, cached input, cache writes, visible output and
    reasoning. Above a threshold of total input the tier's rates apply to every token of the call, as OpenAI,
    Anthropic and Google bill.
    """
    rates, batch_rates = price.rates, price.batch
    for tier in price.tiers:
        if use.input_tokens <= tier.above_input_tokens:
            break
        rates, batch_rates = tier.rates, tier.batch
    if batch and batch_rates is not None:
        rates = batch_rates

    cached_rate = rates.input if rates.cached_input is None else rates.cached_input
    cache_write_rate = rates.input if rates.cache_write is None else rates.cache_write
    reasoning_rate = rates.output if rates.reasoning is None else rates.reasoning
    total = (
        (use.input_tokens - use.cached_input_tokens - use.cache_write_tokens) * rates.input
        + use.cached_input_tokens * cached_rate
        + use.cache_write_tokens * cache_write_rate
        + (use.output_tokens - use.reasoning_tokens) * rates.output
        + use.reasoning_tokens * reasoning_rate
    )
    return -(-total // TOKENS_PER_RATE)


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

    @classmethod
    def of(cls, prices: Iterable[Price]) -> "_Catalogue":
        timelines: dict[tuple[str, str], list[Price]] = {}
        for price in prices:
            timelines.setdefault((_canonical_provider(price.provider), price.model.lower()), []).append(price)
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
        return cls(entries=entries, named=named | _without_provider(named))


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

    __slots__ = ("_overrides", "_providers", "_resolve", "_shared")

    def __init__(self, shared: _Catalogue, overrides: _Catalogue) -> None:
        self._shared = shared
        self._overrides = overrides
        self._providers = frozenset(
            {provider for provider, _ in (*shared.entries, *overrides.entries)} | {*RESOLD, *PROVIDER_ALIASES}
        )
        self._resolve = lru_cache(maxsize=RESOLVED_NAMES_MAX)(self._resolve_uncached)

    @classmethod
    def build(cls, rows: Iterable[Price], overrides: Iterable[Price] = ()) -> "PriceBook":
        """A book of shared rows and of one tenant's overrides."""
        return cls(_Catalogue.of(rows), _Catalogue.of(overrides))

    def with_overrides(self, overrides: Iterable[Price]) -> "PriceBook":
        """This book for a tenant with prices of its own; the shared part is not compiled again."""
        return PriceBook(self._shared, _Catalogue.of(overrides))

    def find(self, model: str, at: datetime, provider: str | None = None) -> Match | None:
        """The price in force at an aware instant for a name as callers write it; None: the model has no
        price.

        A price is not in force before its `effective_from`; the undated prices of genai-prices start at
        UNDATED. An override applies from its own start on, before that the shared price does. Without a
        provider a name means its maker's price; a name that only hosts sell, and more than one, then has
        none. A provider that the book does not know has no prices: what another one charges is not its price.
        """
        if len(model) > MODEL_LENGTH_MAX or (provider is not None and len(provider) > MODEL_LENGTH_MAX):
            return None
        resolved = self._resolve(model, provider)
        if resolved.snapshot is not None and resolved.snapshot > (at.astimezone(UTC) + _ZONE_SLACK).date():
            return None
        for timeline in resolved.timelines:
            for match in timeline:
                if match.price.effective_from <= at:
                    return match
        return None

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
        name = model.strip().lower()
        seller = None if provider is None else _canonical_provider(provider)
        for candidate, candidate_seller in self._readings(name, seller):
            for spelling, kind, snapshot in _spellings(candidate):
                resolved = self._look_up(spelling, candidate_seller, kind, snapshot)
                if resolved is not None:
                    return resolved
        return _UNKNOWN

    def _readings(self, name: str, seller: str | None) -> list[tuple[str, str]]:
        """The names and sellers to look for, best first: before a slash is a provider or part of the name."""
        prefix, slash, rest = name.partition("/")
        is_prefixed = bool(slash) and prefix in self._providers
        if seller is not None:
            return [(name, seller), (rest, seller)] if is_prefixed else [(name, seller)]
        anywhere = [(name, _ANY_MAKER), (name, _ANY_HOST)]
        return [(rest, _canonical_provider(prefix)), *anywhere] if is_prefixed else anywhere

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


def _canonical_provider(provider: str) -> str:
    name = provider.strip().lower()
    return PROVIDER_ALIASES.get(name, name)


def _named(catalogue: _Catalogue, name: str, seller: str) -> _Entry | None:
    for provider in (seller, *RESOLD.get(seller, ())):
        entry = catalogue.named.get((provider, name))
        if entry is not None:
            return entry
    return None


def _newest_first(entry: _Entry, kind: MatchKind) -> tuple[Match, ...]:
    return tuple(Match(price=price, kind=kind) for price in reversed(entry.prices))


def _spellings(name: str) -> list[tuple[str, MatchKind, date | None]]:
    """The listed names that a name may stand for, the most certain first."""
    spellings: list[tuple[str, MatchKind, date | None]] = [(name, MatchKind.EXACT, None)]
    if name.startswith("ft:") and name.count(":") > 1:
        # ft:<base model>:<organisation>:<name>:<id>; the price is the one listed for fine-tunes of the base
        # model.
        name = ":".join(name.split(":", 2)[:2])
        spellings.append((name, MatchKind.ALIAS, None))
    dated = _split_date(name)
    if dated is not None and _split_date(dated[0]) is None:
        spellings.append((dated[0], MatchKind.SNAPSHOT_SUFFIX, dated[1]))
    return spellings


def _split_date(name: str) -> tuple[str, date] | None:
    """A name without the date it ends in, and that date; None if it ends in none that the calendar has."""
    match = _DATED_NAME.fullmatch(name)
    if match is None:
        return None
    year, month, day = (int(part) for part in match.groups()[1:] if part is not None)
    try:
        return match["base"], date(year, month, day)
    except ValueError:
        return None


def discounted(rates: Rates, **batch: int | None) -> Rates | None:
    """The complete batch rates, from those that differ: a part without one keeps its own rate. None if none
    differs.

    Raises ValueError for a rate out of range.
    """
    given = {name: rate for name, rate in batch.items() if rate is not None}
    return replace(rates, **given) if given else None
