"""Rates that the package lacks, from a file of our own (`additions.yaml`), each with two pages that say it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path

import msgspec

from usage.prices.cost import UNDATED
from usage.prices.models import ModelPrice

SOURCE = "tokvigil"
_FILE = Path(__file__).with_name("additions.yaml")


class Addition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`new`: its models are none of the package's, and `rates` are by the names of a tier's rates."""

    provider: str
    models: tuple[str, ...]
    source: str
    # Another that says the same rates: none is here by one page's word.
    confirmed_by: str
    aliases: tuple[str, ...] = ()
    new: bool = False
    rates: dict[str, str] = {}
    other_rates: dict[str, str] = {}
    service_tiers: dict[str, dict[str, str]] = {}
    regions: dict[str, str] = {}


@cache
def additions() -> tuple[Addition, ...]:
    return msgspec.yaml.decode(_FILE.read_bytes(), type=tuple[Addition, ...])


def sources(provider: str, model: str) -> list[str]:
    """The pages that what was added to this model is from."""
    found = [each for each in additions() if each.provider == provider and model in each.models]
    return [page for each in found for page in (each.source, each.confirmed_by)]


def added_to(rows: list[ModelPrice], version: str) -> Iterator[ModelPrice]:
    """The package's rows with what they lack, and those of other models. What a row says already stays."""
    for row in rows:
        for each in additions():
            if not each.new and each.provider == row.provider and row.model in each.models:
                row.other_rates = each.other_rates | row.other_rates
                row.service_tiers = each.service_tiers | row.service_tiers
                row.regions = each.regions | row.regions
                row.source_version = f"{version}, {SOURCE}"
        yield row
    known = {(row.provider, row.model) for row in rows}
    for each in additions():
        for model in each.models:
            if each.new and (each.provider, model) not in known:
                yield _row(each, model, version)


def _row(addition: Addition, model: str, version: str) -> ModelPrice:
    return ModelPrice(
        provider=addition.provider,
        model=model,
        aliases=list(addition.aliases),
        effective_from=UNDATED,
        **{f"{name}_per_million": Decimal(rate) for name, rate in addition.rates.items()},
        other_rates=addition.other_rates,
        service_tiers=addition.service_tiers,
        regions=addition.regions,
        source=SOURCE,
        source_version=version,
    )
