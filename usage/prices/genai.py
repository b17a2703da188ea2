"""The shared price book from the data of the installed genai-prices package (MIT,
github.com/pydantic/genai-prices).

No network: the package carries its prices; a newer release of it brings newer ones. What its data becomes:

- Names: the package matches names by rules, some of them open ("starts with deepseek-chat"). Here a model
  gets its id, the names a rule spells out, and the literal text of a "starts with" as aliases, each of which
  the package itself must resolve to that model. Nothing open remains; dated names are the price book's own
  rule.
- Dates: one row per date on which a price of the model changed; the undated price starts at pricing.UNDATED.
- Time of day (DeepSeek): the dearest window, at all hours. It belongs to the last dated price, earlier ones
  had none.
- Quantities by their rows in usage/quantities.py, tiers and tiers of service as they are. The rates of a tier of
  service start on the day the package verified them; before, a batch or flex call costs the full price.
- Audio, images and video are billed as the list of their provider says (BILLED_AS_THEIR_TOTAL); by all others what
  has no rate of its own is not priced.
- What is left out is said with its reason (`left_out`), and printed by load_prices.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import version
from typing import Any

from django.db import transaction
from django.utils import timezone
from genai_prices.data import providers as genai_providers
from genai_prices.types import (
    ClauseAnd,
    ClauseEquals,
    ClauseOr,
    ClauseStartsWith,
    ModelInfo,
    Provider,
    StartDateConstraint,
    TieredPrices,
)
from genai_prices.types import ModelPrice as GenaiPrices

from audit import log as audit_log
from audit.log import Target
from tenants.lengths import NAME_LENGTH_MAX
from tenants.revisions import bump_all
from usage.prices import additions
from usage.prices.cost import ALIASES_MAX, RATES_OF, UNDATED
from usage.prices.models import ModelPrice
from usage.prices.names import HOSTS, MAKERS
from usage.prices.rates import BATCH_FIELDS
from usage.prices.tiers import RATE_FIELDS, TIER_RATES
from usage.quantities import CACHED, INPUT, OUTPUT, QUANTITIES, ServiceTier

SOURCE = "genai-prices"
# Whose rows a load rewrites.
SOURCES = (SOURCE, additions.SOURCE)
# The makers and the hosts people call directly. Not the aggregators, which resell the same models at changing
# prices.
PROVIDERS = (*MAKERS, *HOSTS)
BATCH_ROWS = 500

# Real names that the package only matches by an open rule. Each is taken only if the package prices it as
# that model.
KNOWN_NAMES = {
    "openai": (
        "computer-use-preview",
        "ft:gpt-3.5-turbo-0125",
        "ft:gpt-3.5-turbo-0613",
        "ft:gpt-3.5-turbo-1106",
        "omni-moderation-latest",
        "text-moderation-latest",
    ),
    "google": (
        "gemini-1.5-flash-001",
        "gemini-1.5-flash-002",
        "gemini-1.5-flash-latest",
        "gemini-1.5-pro-001",
        "gemini-1.5-pro-002",
        "gemini-1.5-pro-latest",
        "gemini-2.0-flash-001",
        "gemini-2.0-flash-lite-001",
        "gemini-2.5-flash-lite-preview-06-17",
        "gemini-2.5-flash-lite-preview-09-2025",
        "gemini-2.5-flash-preview-04-17",
        "gemini-2.5-flash-preview-05-20",
        "gemini-2.5-pro-preview-03-25",
        "gemini-2.5-pro-preview-05-06",
        "gemini-2.5-pro-preview-06-05",
    ),
    "mistral": (
        "magistral-medium-2506",
        "magistral-medium-2509",
        "magistral-medium-latest",
        "magistral-small-2506",
        "magistral-small-2509",
        "magistral-small-latest",
    ),
}

# The quantity that a rate of the package is of, the surest first: some it says twice.
_QUANTITY_OF = {key: name for name, row in QUANTITIES.items() for key in reversed(row.genai)}
# Whose list has one price for the input, or the output, of a model, whatever it is, unless it names another for a kind:
# https://ai.google.dev/gemini-api/docs/pricing; https://docs.x.ai/docs/models and
# https://platform.openai.com/docs/guides/images-vision, by which images count as tokens of the prompt.
BILLED_AS_THEIR_TOTAL = {
    "google": {
        "input_audio_tokens": INPUT,
        "input_image_tokens": INPUT,
        "input_video_tokens": INPUT,
        "cached_image_tokens": CACHED,
        "output_audio_tokens": OUTPUT,
        "output_image_tokens": OUTPUT,
        "output_video_tokens": OUTPUT,
    },
    **{
        provider: {"input_image_tokens": INPUT, "cached_image_tokens": CACHED}
        for provider in ("openai", "azure", "x-ai")
    },
}
# What a variant of a price is for, by what the package calls it.
_SERVED = {
    "processing": {"batch": ServiceTier.BATCH},
    "speed": {"fast": ServiceTier.FAST},
    "service_tier": {tier.value: tier for tier in (ServiceTier.FLEX, ServiceTier.PRIORITY, ServiceTier.FAST)},
}
# A variant that says what holds anyway.
_AS_USUAL = {"service_tier": "default"}
# "claude-sonnet-4-2025": the beginning of a date, not a name.
_CUT_NAME = re.compile(r".*(?:[-@._:]|-20\d\d)")

_ROW_FIELDS = (
    "source",
    "aliases",
    *RATE_FIELDS,
    "other_rates",
    "service_tiers",
    "regions",
    "tiers",
    "source_version",
    "active",
)

# One moment's rates by key of the package, tiers included.
_Prices = dict[str, Decimal | TieredPrices]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Counts rows; `kept` have another source and were left alone. `left_out`: what was, and why, a line each."""

    added: int
    changed: int
    unchanged: int
    retired: int
    kept: int
    left_out: tuple[str, ...]
    source_version: str

    @property
    def touched(self) -> int:
        return self.added + self.changed + self.retired


@transaction.atomic
def load_shared_prices() -> LoadReport:
    """Brings the shared book up to the installed package, and every environment to a new revision if that
    changed it.

    Idempotent. Rows of another source are never touched. A row of this source is rewritten to what the
    package says, and switched off if the package still knows the model but no longer this date. A model that
    the package dropped keeps its rows: late reports are priced by them.
    """
    rows, left_out = package_rows()
    stored = {_key(row): row for row in ModelPrice.objects.shared()}
    added: list[ModelPrice] = []
    changed: list[ModelPrice] = []
    unchanged = kept = 0
    for row in rows:
        known = stored.get(_key(row))
        if known is None:
            added.append(row)
        elif known.source not in SOURCES:
            kept += 1
        elif _differs(known, row):
            changed.append(row)
        else:
            unchanged += 1
    retired = _outdated(stored.values(), rows)
    _write(added + changed)
    ModelPrice.objects.filter(pk__in=[row.pk for row in retired]).update(
        active=False, updated_at=timezone.now()
    )
    report = LoadReport(
        added=len(added),
        changed=len(changed),
        unchanged=unchanged,
        retired=len(retired),
        kept=kept,
        left_out=tuple(left_out),
        source_version=version("genai-prices"),
    )
    if report.touched:
        bump_all()
        audit_log.log(
            "price.loaded",
            Target("usage.modelprice", f"genai-prices {report.source_version}"),
            tenant_id=None,
            added=report.added,
            changed=report.changed,
            switched_off=report.retired,
        )
    return report


def _key(row: ModelPrice) -> tuple[str, str, datetime]:
    return row.provider, row.model, row.effective_from


def _differs(known: ModelPrice, row: ModelPrice) -> bool:
    return any(getattr(known, name) != getattr(row, name) for name in _ROW_FIELDS)


def _outdated(stored: Iterable[ModelPrice], rows: Iterable[ModelPrice]) -> list[ModelPrice]:
    keys = {_key(row) for row in rows}
    models = {(provider, model) for provider, model, _ in keys}
    return [
        row
        for row in stored
        if row.source in SOURCES
        and row.active
        and (row.provider, row.model) in models
        and _key(row) not in keys
    ]


def _write(rows: list[ModelPrice]) -> None:
    # An upsert, so that two loads at once agree instead of one failing.
    ModelPrice.objects.bulk_create(
        rows,
        batch_size=BATCH_ROWS,
        update_conflicts=True,
        unique_fields=["tenant", "provider", "model", "effective_from"],
        update_fields=[*_ROW_FIELDS, "updated_at"],
    )


def package_rows() -> tuple[list[ModelPrice], list[str]]:
    """The unsaved rows of all models of PROVIDERS, with what we add, and what of the package is left out, and why."""
    rows: list[ModelPrice] = []
    left_out: list[str] = []
    for provider in genai_providers:
        if provider.id not in PROVIDERS:
            left_out.append(f"{provider.id}: {len(provider.models)} models, resold at prices that change")
            continue
        for model in provider.models:
            rows += _model_rows(provider, model)
            left_out += (f"{provider.id}/{model.id}: {what}" for what in _left_out(model))
    return list(additions.added_to(rows, version("genai-prices"))), left_out


def _left_out(model: ModelInfo) -> Iterator[str]:
    keys = {key for prices in _all_prices(model) for key in _priced(prices)}
    for variant in model.price_variants or ():
        if _served(variant.when) is None and variant.when != _AS_USUAL:
            said = ", ".join(f"{name} {value}" for name, value in variant.when.items())
            yield f"its rates for {said}, which no report says"
        keys |= _priced(variant.prices).keys()
    for key in sorted(keys - _QUANTITY_OF.keys()):
        yield f"its rate {key}, a quantity that no report has"
    if not keys:
        return
    if any(_is_time_of_day(getattr(price, "constraint", None)) for price in _dated(model)):
        yield "its cheaper hours: the dearest rate holds at all hours"


def _dated(model: ModelInfo) -> list[Any]:
    return [] if isinstance(model.prices, GenaiPrices) else list(model.prices)


def _all_prices(model: ModelInfo) -> list[GenaiPrices]:
    if isinstance(model.prices, GenaiPrices):
        return [model.prices]
    return [conditional.prices for conditional in model.prices]


def _priced(prices: GenaiPrices) -> _Prices:
    return {key: value for key, value in vars(prices).items() if value is not None}


def _model_rows(provider: Provider, model: ModelInfo) -> Iterator[ModelPrice]:
    aliases = _aliases(provider, model)
    for start in _starts(model):
        standard = _standard_prices(model, start)
        variants = {tier: _variant_prices(model, tier, start) for tier in ServiceTier}
        row = _rates_above(0, provider.id, standard, variants)
        own = {f"{name}_per_million": row.pop(name, None) for name in TIER_RATES}
        service_tiers = row.pop("service_tiers", {})
        yield ModelPrice(
            provider=provider.id,
            model=model.id.lower(),
            aliases=aliases,
            effective_from=_instant(start),
            **{name: None if rate is None else Decimal(rate) for name, rate in own.items()},
            other_rates=row,
            service_tiers=service_tiers,
            tiers=_tiers(provider.id, standard, variants),
            source=SOURCE,
            source_version=version("genai-prices"),
        )


def _instant(start: date | None) -> datetime:
    return UNDATED if start is None else datetime.combine(start, time(), UTC)


def _starts(model: ModelInfo) -> list[date | None]:
    """The dates on which a price of the model changed, after None for the undated price."""
    constraints = [price.constraint for price in _dated(model)]
    constraints += [variant.constraint for variant in model.price_variants or () if _served(variant.when)]
    return [None, *sorted({item.start_date for item in constraints if isinstance(item, StartDateConstraint)})]


def _served(when: dict[str, str]) -> ServiceTier | None:
    """The tier of service that a variant is for; None: it is for something else."""
    if len(when) != 1:
        return None
    ((name, value),) = when.items()
    return _SERVED.get(name, {}).get(value)


def _in_force(constraint: object, start: date | None) -> bool:
    if isinstance(constraint, StartDateConstraint):
        return start is not None and constraint.start_date <= start
    return constraint is None


def _standard_prices(model: ModelInfo, start: date | None) -> _Prices:
    if isinstance(model.prices, GenaiPrices):
        return _priced(model.prices)
    dated = [price for price in model.prices if not _is_time_of_day(price.constraint)]
    # As the package: the last that is in force, else the first.
    current = next((price for price in reversed(dated) if _in_force(price.constraint, start)), dated[0])
    prices = _priced(current.prices)
    if current is dated[-1]:
        for window in model.prices:
            if _is_time_of_day(window.constraint):
                prices = _dearest(prices, _priced(window.prices))
    return prices


def _is_time_of_day(constraint: object) -> bool:
    return constraint is not None and not isinstance(constraint, StartDateConstraint)


def _dearest(left: _Prices, right: _Prices) -> _Prices:
    return {key: max(left.get(key, right[key]), right[key], key=_base) for key in right} | {
        key: value for key, value in left.items() if key not in right
    }


def _base(price: Decimal | TieredPrices) -> Decimal:
    return price.base if isinstance(price, TieredPrices) else price


def _variant_prices(model: ModelInfo, tier: ServiceTier, start: date | None) -> _Prices:
    found: _Prices = {}
    for variant in model.price_variants or ():
        if _served(variant.when) is tier and _in_force(variant.constraint, start):
            # The package's order: the first variant that names a rate decides it.
            found = _priced(variant.prices) | found
    return found


def _rates_above(
    threshold: int, provider: str, standard: _Prices, variants: Mapping[ServiceTier, _Prices]
) -> dict[str, Any]:
    """The rates of a call with just over that much input, as a tier of `ModelPrice.tiers` writes them.

    Without an output rate (embeddings) output costs 0; without any rate the model is free. Where tokens have no rate
    but something else has (seconds, characters), tokens stay without one.
    """
    rates = _by_quantity(standard, threshold)
    if INPUT in rates or not rates:
        rates = {INPUT: Decimal(0), OUTPUT: Decimal(0)} | rates
    same = {name: total for name, total in BILLED_AS_THEIR_TOTAL.get(provider, {}).items() if INPUT in rates}
    row: dict[str, Any] = same | {RATES_OF.get(name, name): f"{rate:f}" for name, rate in rates.items()}
    service_tiers = {}
    for tier, prices in variants.items():
        by_quantity = {name: f"{rate:f}" for name, rate in _by_quantity(prices, threshold).items()}
        if tier is ServiceTier.BATCH:
            for name in BATCH_FIELDS.keys() & by_quantity.keys():
                row[f"batch_{RATES_OF[name]}"] = by_quantity.pop(name)
        if by_quantity:
            service_tiers[tier.value] = by_quantity
    return row | ({"service_tiers": service_tiers} if service_tiers else {})


def _by_quantity(prices: _Prices, threshold: int) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for key, price in prices.items():
        if key in _QUANTITY_OF:
            found.setdefault(_QUANTITY_OF[key], _at(price, threshold))
    return found


def _at(price: Decimal | TieredPrices, threshold: int) -> Decimal:
    if not isinstance(price, TieredPrices):
        return price
    reached = [tier.price for tier in price.tiers if tier.start <= threshold]
    return reached[-1] if reached else price.base


def _tiers(provider: str, standard: _Prices, variants: Mapping[ServiceTier, _Prices]) -> list[dict[str, Any]]:
    every = (*standard.values(), *(price for prices in variants.values() for price in prices.values()))
    thresholds = sorted(
        {tier.start for price in every if isinstance(price, TieredPrices) for tier in price.tiers}
    )
    return [
        {"above_input_tokens": threshold} | _rates_above(threshold, provider, standard, variants)
        for threshold in thresholds
    ]


def _aliases(provider: Provider, model: ModelInfo) -> list[str]:
    candidates = {text.lower() for text in _spelled_out(model.match)} | set(KNOWN_NAMES.get(provider.id, ()))
    names = sorted(
        name
        for name in candidates - {model.id.lower()}
        if len(name) <= NAME_LENGTH_MAX and provider.find_model(name) is model
    )
    return names[:ALIASES_MAX]


def _spelled_out(clause: object) -> Iterator[str]:
    """The complete names that a rule contains; "contains", "ends with" and patterns contain none."""
    if isinstance(clause, ClauseEquals):
        yield clause.equals
    elif isinstance(clause, ClauseStartsWith):
        if not _CUT_NAME.fullmatch(clause.starts_with):
            yield clause.starts_with
    elif isinstance(clause, ClauseOr):
        for part in clause.or_:
            yield from _spelled_out(part)
    elif isinstance(clause, ClauseAnd):
        for part in clause.and_:
            yield from _spelled_out(part)
