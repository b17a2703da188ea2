"""What a call costs by list price, without a network: a snapshot of the server's shared price book.

Names are read as the server reads them (`model_names`), most certain first: the model's own name; another name that
the book lists for it, or the same one spelled otherwise, also as the base of a fine-tuned name
(`ft:gpt-4o-mini-2024-07-18:acme::abc`); a listed name and the date of a snapshot (`claude-sonnet-4-20250514`) that does
not lie after the call. Case is ignored, and what stands before the name (`openai/gpt-4o`, `models/gemini-2.5-flash`,
`bedrock/us-east-1/...`) tells who sells it. Nothing is matched by likeness: any other name has no price, and never that
of a neighbour.

The server is the authority: it may have newer prices, and a tenant's own. `scripts/build_prices.py` writes
the snapshot.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from tokvigil.checked import TOKENS_MAX
from tokvigil.errors import ConfigurationError
from tokvigil.model_names import NameRules
from tokvigil.models import COUNTS, Usage, contradiction

NANO_DIGITS = 9
TOKENS_PER_RATE = 1_000_000
NAME_LENGTH_MAX = 200

# A provider's day may begin before the UTC day of the call does.
_ZONE_SLACK_DAYS = 1

# No provider has these names: a provider's name is lower case.
_ANY_MAKER = "ANY MAKER"
_ANY_HOST = "ANY HOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Nano-USD per million tokens, of each part of a call. They are those of ALL tokens of a call whose total input,
    cached tokens included, is above the threshold."""

    above_input_tokens: int
    input: int
    output: int
    cached_input: int
    cache_write: int
    reasoning: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs from an instant on. `tiers` have rising thresholds; the first is below any input."""

    effective_from: datetime
    tiers: tuple[Rates, ...]


@dataclass(frozen=True, slots=True)
class _Book:
    """The snapshot, compiled: each model's prices, newest first, by (provider, name)."""

    version: str
    names: NameRules
    resold: Mapping[str, tuple[str, ...]]
    named: Mapping[tuple[str, str], tuple[Price, ...]]


def version() -> str:
    """The source of the prices and its version, such as "genai-prices 0.2.3"."""
    return _book().version


def newest(at: datetime) -> datetime:
    """When the newest of the prices in force at an instant came into force: the snapshot is no older than that."""
    instant = at.astimezone(UTC)
    return max(
        price.effective_from
        for timeline in _book().named.values()
        for price in timeline
        if price.effective_from <= instant
    )


def cost(model: str, usage: Usage, at: datetime, *, provider: str | None = None) -> Decimal | None:
    """The USD of one call at an instant, exact and rounded up once to a nano-USD; None: the model has no price, or the
    call used what this snapshot has no rate for: `quantities`, a service tier, a region, another model.

    Formula: tokens x rate, summed over uncached input, cached input, cache writes, visible output and
    reasoning. Above a threshold of total input the tier's rates apply to every token of the call, as OpenAI,
    Anthropic and Google bill.

    Raises `ConfigurationError` for a count below 0 or above TOKENS_MAX and for parts larger than their total.
    """
    if any(not 0 <= getattr(usage, name) <= TOKENS_MAX for name in COUNTS):
        raise ConfigurationError(f"each token count must be from 0 to {TOKENS_MAX}")
    if reason := contradiction(usage):
        raise ConfigurationError(reason)
    price = find(model, at, provider)
    if price is None or usage.quantities or usage.service_tier or usage.region or usage.other_models:
        return None
    return _usd(_cost_nano(price, usage))


def find(model: str, at: datetime, provider: str | None = None) -> Price | None:
    """The price in force at an instant for a name as callers write it; None: the model has no price.

    Without a provider a name means its maker's price; a name that only hosts sell, and more than one, then
    has none. An instant without a zone is taken as local time, as `datetime.timestamp` does.
    """
    if len(model) > NAME_LENGTH_MAX or (provider is not None and len(provider) > NAME_LENGTH_MAX):
        return None
    instant = at.astimezone(UTC)
    timeline, snapshot = _resolve(_book(), model.strip().lower(), provider)
    if snapshot is not None and snapshot.toordinal() > instant.toordinal() + _ZONE_SLACK_DAYS:
        return None
    price = next((price for price in timeline if price.effective_from <= instant), None)
    return price if price is not None and price.tiers else None


def _cost_nano(price: Price, usage: Usage) -> int:
    rates = next(tier for tier in reversed(price.tiers) if usage.input_tokens > tier.above_input_tokens)
    total = (
        (usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens) * rates.input
        + usage.cached_input_tokens * rates.cached_input
        + usage.cache_write_tokens * rates.cache_write
        + (usage.output_tokens - usage.reasoning_tokens) * rates.output
        + usage.reasoning_tokens * rates.reasoning
    )
    return -(-total // TOKENS_PER_RATE)


def _usd(nano: int) -> Decimal:
    """Exact whatever the caller's decimal context is; two decimals at least, no further zeros."""
    text = f"{nano:0{NANO_DIGITS + 1}d}"
    whole, fraction = text[:-NANO_DIGITS], text[-NANO_DIGITS:]
    return Decimal(f"{whole}.{fraction[:2]}{fraction[2:].rstrip('0')}")


def _resolve(book: _Book, name: str, provider: str | None) -> tuple[tuple[Price, ...], date | None]:
    """The prices of the model that a name stands for, and the date that the name carries."""
    for candidate, sold_by in book.names.readings(name, provider):
        for seller in (_ANY_MAKER, _ANY_HOST) if sold_by is None else (sold_by,):
            for spelling, snapshot in book.names.spellings(candidate):
                for seen in (seller, *book.resold.get(seller, ())):
                    timeline = book.named.get((seen, spelling))
                    if timeline is not None:
                        return timeline, snapshot
    return (), None


@cache
def _book() -> _Book:
    """Read at the first question, about 10 ms; two threads that ask at once read the same twice."""
    packed = files("tokvigil").joinpath("prices.json.gz").read_bytes()
    data = json.loads(gzip.decompress(packed))
    listed = _listed(data["prices"])
    resold = {provider: tuple(makers) for provider, makers in data["resold"].items()}
    return _Book(
        version=data["version"],
        names=NameRules.of(data, {provider for provider, _ in listed}),
        resold=resold,
        named=listed | _without_provider(listed, data["makers"]),
    )


def _listed(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[Price, ...]]:
    timelines: dict[tuple[str, str], list[Price]] = {}
    aliases: list[tuple[datetime, str, str, str]] = []
    for row in rows:
        provider, model, price = row["provider"], row["model"], _price(row)
        timelines.setdefault((provider, model), []).append(price)
        aliases += [
            (price.effective_from, model, provider, alias.lower()) for alias in row.get("aliases", ())
        ]
    own = {
        key: tuple(sorted(timeline, key=lambda price: price.effective_from, reverse=True))
        for key, timeline in timelines.items()
    }
    # A model's own name beats another model's alias; among aliases the newest price that lists one has it.
    return {(provider, alias): own[provider, model] for _, model, provider, alias in sorted(aliases)} | own


def _price(row: Mapping[str, Any]) -> Price:
    # Without rates the model is billed by something else than tokens alone: its name is known, its price is not.
    tiers = ({"above": -1, **row}, *row.get("tiers", ())) if "rates" in row else ()
    return Price(effective_from=datetime.fromisoformat(row["from"]), tiers=tuple(map(_rates, tiers)))


def _rates(tier: Mapping[str, Any]) -> Rates:
    """A part without a rate of its own costs what its total costs."""
    said = tier["rates"]
    return Rates(
        above_input_tokens=tier["above"],
        input=said["input"],
        output=said["output"],
        cached_input=said.get("cached_input", said["input"]),
        cache_write=said.get("cache_write", said["input"]),
        reasoning=said.get("reasoning", said["output"]),
    )


def _without_provider(
    listed: Mapping[tuple[str, str], tuple[Price, ...]], makers: list[str]
) -> dict[tuple[str, str], tuple[Price, ...]]:
    """What bare names mean: the price of the first maker, or of the host that is the only one to sell it."""
    sellers: dict[str, list[str]] = {}
    for provider, name in listed:
        sellers.setdefault(name, []).append(provider)
    bare = {}
    for name, providers in sellers.items():
        made = [provider for provider in makers if provider in providers]
        hosted = [provider for provider in providers if provider not in makers]
        if made:
            bare[_ANY_MAKER, name] = listed[made[0], name]
        if len(hosted) == 1:
            bare[_ANY_HOST, name] = listed[hosted[0], name]
    return bare
