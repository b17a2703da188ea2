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
- Tiers and the batch discount as they are. A batch rate starts on the day the package verified it; before, a
  batch call costs the full price. Flex, priority and fast tiers of service are not taken over.
- Cache writes at the five-minute rate. Fees of tools (web search, storage) are no part of a price.
- Left out, so that they stay unpriced: models billed by what tokens do not show (hours, characters, pages,
  requests) and models that mainly read or write audio, images or video, whose rates are not those of text.
"""

import re
from collections.abc import Iterable, Iterator
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
from usage.prices.cost import ALIASES_MAX, UNDATED
from usage.prices.models import ModelPrice
from usage.prices.names import MAKERS
from usage.prices.tiers import RATE_FIELDS

SOURCE = "genai-prices"
# The makers and the hosts people call directly. Not the aggregators, which resell the same models at changing
# prices.
PROVIDERS = (*MAKERS, "azure", "aws", "groq", "cerebras", "together", "fireworks")
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

_RATES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "output_reasoning_mtok": "reasoning",
}
# Charged beside the tokens of a text call, or a dearer kind of them that a usage report does not tell apart.
_BESIDE_TEXT = {"cache_write_1h_mtok", "web_searches_kcount", "storage_searches_kcount"}
# Other inputs of a model that also takes text. The call is charged as text.
_OTHER_INPUT = re.compile(r"(input|cache)_(audio|image|video)(_read)?_mtok")
_OTHER_MEDIA_MODEL = re.compile(r"image|transcribe|banana")
# "claude-sonnet-4-2025": the beginning of a date, not a name.
_CUT_NAME = re.compile(r".*(?:[-@._:]|-20\d\d)")

_ROW_FIELDS = ("aliases", *RATE_FIELDS, "tiers", "source_version", "active")

# One moment's rates by key of the package, tiers included.
_Prices = dict[str, Decimal | TieredPrices]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Counts rows; `kept` have another source and were left alone. `skipped` counts models left out."""

    added: int
    changed: int
    unchanged: int
    retired: int
    kept: int
    skipped: int
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
    rows, skipped = package_rows()
    stored = {_key(row): row for row in ModelPrice.objects.shared()}
    added: list[ModelPrice] = []
    changed: list[ModelPrice] = []
    unchanged = kept = 0
    for row in rows:
        known = stored.get(_key(row))
        if known is None:
            added.append(row)
        elif known.source != SOURCE:
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
        skipped=skipped,
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
        if row.source == SOURCE
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


def package_rows() -> tuple[list[ModelPrice], int]:
    """The unsaved rows of all models the package prices by text tokens, and how many models are left out."""
    rows: list[ModelPrice] = []
    skipped = 0
    for provider in genai_providers:
        if provider.id in PROVIDERS:
            for model in provider.models:
                model_rows = list(_model_rows(provider, model)) if _is_priced_by_text_tokens(model) else []
                rows += model_rows
                skipped += not model_rows
    return rows, skipped


def _is_priced_by_text_tokens(model: ModelInfo) -> bool:
    keys = {key for prices in _all_prices(model) for key in _priced(prices)}
    others = keys - _RATES.keys() - _BESIDE_TEXT
    if any(not _OTHER_INPUT.fullmatch(key) for key in others):
        return False
    return not (others and _OTHER_MEDIA_MODEL.search(model.id)) and ("input_mtok" in keys or not keys)


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
        batch = _batch_prices(model, start)
        yield ModelPrice(
            provider=provider.id,
            model=model.id.lower(),
            aliases=aliases,
            effective_from=_instant(start),
            **{f"{name}_per_million": rate for name, rate in _rates_above(0, standard, batch).items()},
            tiers=_tiers(standard, batch),
            source=SOURCE,
            source_version=version("genai-prices"),
        )


def _instant(start: date | None) -> datetime:
    return UNDATED if start is None else datetime.combine(start, time(), UTC)


def _starts(model: ModelInfo) -> list[date | None]:
    """The dates on which the model's price or batch price changed, after None for the undated price."""
    conditional = [] if isinstance(model.prices, GenaiPrices) else model.prices
    constraints = [price.constraint for price in conditional]
    constraints += [variant.constraint for variant in model.price_variants or () if _is_batch(variant.when)]
    return [None, *sorted({item.start_date for item in constraints if isinstance(item, StartDateConstraint)})]


def _is_batch(when: dict[str, str]) -> bool:
    return when == {"processing": "batch"}


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


def _batch_prices(model: ModelInfo, start: date | None) -> _Prices:
    batch: _Prices = {}
    for variant in model.price_variants or ():
        if _is_batch(variant.when) and _in_force(variant.constraint, start):
            # The package's order: the first variant that names a rate decides it.
            batch = _priced(variant.prices) | batch
    return batch


def _rates_above(threshold: int, standard: _Prices, batch: _Prices) -> dict[str, Decimal]:
    """The rates of a call with just over that much input, by the names in TIER_RATES, USD per million tokens.

    Without an output rate (embeddings) output costs 0; without any rate the model is free.
    """
    rates = {_RATES[key]: _at(price, threshold) for key, price in standard.items() if key in _RATES}
    rates |= {f"batch_{_RATES[key]}": _at(price, threshold) for key, price in batch.items() if key in _RATES}
    return {"input": Decimal(0), "output": Decimal(0)} | rates


def _at(price: Decimal | TieredPrices, threshold: int) -> Decimal:
    if not isinstance(price, TieredPrices):
        return price
    reached = [tier.price for tier in price.tiers if tier.start <= threshold]
    return reached[-1] if reached else price.base


def _tiers(standard: _Prices, batch: _Prices) -> list[dict[str, Any]]:
    tiered = [price for price in (*standard.values(), *batch.values()) if isinstance(price, TieredPrices)]
    thresholds = sorted({tier.start for price in tiered for tier in price.tiers})
    return [
        {"above_input_tokens": threshold}
        | {name: f"{rate:f}" for name, rate in _rates_above(threshold, standard, batch).items()}
        for threshold in thresholds
    ]


def _aliases(provider: Provider, model: ModelInfo) -> list[str]:
    candidates = {text.lower() for text in _spelled_out(model.match)} | set(KNOWN_NAMES.get(provider.id, ()))
    names = sorted(
        name
        for name in candidates - {model.id.lower()}
        if len(name) <= NAME_LENGTH_MAX
        and not _CUT_NAME.fullmatch(name)
        and provider.find_model(name) is model
    )
    return names[:ALIASES_MAX]


def _spelled_out(clause: object) -> Iterator[str]:
    """The complete names that a rule contains; "contains", "ends with" and patterns contain none."""
    if isinstance(clause, ClauseEquals):
        yield clause.equals
    elif isinstance(clause, ClauseStartsWith):
        yield clause.starts_with
    elif isinstance(clause, ClauseOr):
        for part in clause.or_:
            yield from _spelled_out(part)
    elif isinstance(clause, ClauseAnd):
        for part in clause.and_:
            yield from _spelled_out(part)
