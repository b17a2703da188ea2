"""Exports in the columns of FOCUS: AWS Data Exports, Azure Cost Management, and whoever else writes them.

Columns: focus.finops.org, 1.0 to 1.2; what Azure adds: learn.microsoft.com/en-us/cloud-computing/finops/focus/metadata
(`x_SkuMeterName`, `x_BilledCostInUsd`); the usage types of Bedrock, as in `x_UsageType`:
docs.aws.amazon.com/bedrock/latest/userguide/cost-mgmt-understanding-cur-data.html.

No column is there for the model. Those that may name it are tried in turn: the resource (on Bedrock the id of the
model), the meter (`gpt 4o 0806 Inp glbl Tokens`, without the words that say what is metered), the service
(`Claude Sonnet 4.5 (Amazon Bedrock Edition)`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal

from usage.analytics.provider_exports.lines import (
    COUNT_MAX,
    Export,
    Line,
    Refused,
    day_of,
    decimal,
    export,
    instant,
    usd_only,
)
from usage.prices.names import canonical_provider

KIND = "a FOCUS file"
COSTS = ("BilledCost", "EffectiveCost")
PROVIDERS = {
    "amazon web services": "aws",
    "amazon web services, inc.": "aws",
    "aws": "aws",
    "google cloud": "google",
    "microsoft": "azure",
    "microsoft azure": "azure",
}
SOLD_BY = ("ServiceProviderName", "ProviderName", "InvoiceIssuerName")
# In which the name of the model is looked for, the likeliest first.
NAMED_IN = (
    *("x_Model", "SkuMeter", "x_SkuMeterName", "x_UsageType", "ResourceId", "ResourceName", "SkuId"),
    "ServiceName",
)
# A service of which each model is one: `Claude Sonnet 4.5 (Amazon Bedrock Edition)`.
EDITION = " Edition)"
METERED_IN = ("SkuMeter", "x_SkuMeterName", "x_UsageType", "ChargeDescription", "SkuId")
AI_CATEGORY = "AI and Machine Learning"
AI_SERVICES = re.compile(r"bedrock|openai|cognitive services|foundry|vertex|\bclaude\b", re.I)
_FOCUS = {
    *("AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType"),
    *("BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "CapacityReservationId"),
    *("CapacityReservationStatus", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency"),
    *("ChargePeriodEnd", "ChargePeriodStart", "CommitmentDiscountCategory", "CommitmentDiscountId"),
    *("CommitmentDiscountName", "CommitmentDiscountQuantity", "CommitmentDiscountStatus"),
    *("CommitmentDiscountType", "CommitmentDiscountUnit", "ConsumedQuantity", "ConsumedUnit"),
    *("ContractedCost", "ContractedUnitPrice", "EffectiveCost", "HostProviderName", "InvoiceId"),
    *("InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingCurrency"),
    *("PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice"),
    *("PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "RegionId", "RegionName"),
    *("ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "ServiceProviderName"),
    *("ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId"),
    *("SubAccountName", "SubAccountType", "Tags", "x_BilledCostInUsd", "x_EffectiveCostInUsd"),
    *NAMED_IN,
    *METERED_IN,
}
_OUTPUT = re.compile(r"\b(?:outp|outpt|out|opt|output)\b|outputtoken", re.I)
_CACHED = re.compile(r"cache-?read|\b(?:cchd|cached|cd)\b", re.I)
_INPUT = re.compile(r"\b(?:inp|inpt|in|input)\b|inputtoken|cache-?write|cache-?read|\bcached\b", re.I)
_TIERS = {tier: re.compile(rf"\b{tier}\b", re.I) for tier in ("batch", "flex", "priority")}
# What a meter says beside the model.
_METERED = re.compile(
    r"\b(?:inp|inpt|in|input|outp|outpt|out|opt|output|cchd|cached|cd|glbl|gl|global|regnl|regional|rgnl|dzone|dz|"
    r"data zone|batch|flex|priority|cache|read|write|count|tokens?|1k|1m)\b",
    re.I,
)
_AFTER_MODEL = re.compile(r"\s*\(.*\)\s*$")
_VERSION = re.compile(r"-[0-9]{4}$")
_SIZES = {
    "": 1,
    "1": 1,
    "1k": 1_000,
    "1000": 1_000,
    "thousand": 1_000,
    "1m": 10**6,
    "1000000": 10**6,
    "million": 10**6,
}
_UNIT = re.compile(r"\s*([0-9]+[km]?|thousand|million|)\s*tokens?\s*", re.I)


def is_header(columns: Sequence[str]) -> bool:
    return "ChargePeriodStart" in columns


def of_rows(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> Export:
    """Raises Refused."""
    cost = next((name for name in COSTS if name in columns), None)
    if cost is None or not {*SOLD_BY, "ServiceName"} & {*columns}:
        missing = "BilledCost or EffectiveCost" if cost is None else "ProviderName or ServiceName"
        raise Refused(f"It is {KIND} without the column {missing}.")
    days: list[date] = []
    left_out: dict[str, Decimal] = defaultdict(Decimal)
    lines = list(_lines(rows, cost, days, left_out))
    notes = [f"Not compared: {usd.normalize():f} USD of {what}." for what, usd in sorted(left_out.items())]
    providers = {line.provider for line in lines}
    return export(KIND, lines, days, providers=providers, unknown={*columns} - _FOCUS, notes=notes)


def _lines(
    rows: Iterable[Mapping[str, str]], cost: str, days: list[date], left_out: dict[str, Decimal]
) -> Iterator[Line]:
    for number, row in enumerate(rows, start=2):
        where = f"line {number}"
        usd = _usd(row, cost, where)
        what = _left_out(row)
        if what is not None:
            left_out[what] += usd
            continue
        day = _day(row, where)
        days.append(day)
        yield Line(
            day=day,
            provider=_provider(row),
            names=tuple(_names(row)),
            tier=_tier(row),
            cost=usd,
            used=_used(row, where),
        )


def _usd(row: Mapping[str, str], cost: str, where: str) -> Decimal:
    in_usd = row.get(f"x_{cost}InUsd")
    if in_usd:
        return decimal(in_usd, f"{where}, x_{cost}InUsd")
    usd_only(row.get("BillingCurrency") or "USD", f"{where}, BillingCurrency")
    return decimal(row.get(cost), f"{where}, {cost}")


def _left_out(row: Mapping[str, str]) -> str | None:
    """What the row is, if it is no use of a model."""
    category = row.get("ChargeCategory") or "Usage"
    if category != "Usage":
        return f"the category {category}"
    service = row.get("ServiceName") or ""
    if row.get("ServiceCategory") == AI_CATEGORY or AI_SERVICES.search(service):
        return None
    return "other services"


def _day(row: Mapping[str, str], where: str) -> date:
    start = instant(row.get("ChargePeriodStart"), f"{where}, ChargePeriodStart")
    ending = row.get("ChargePeriodEnd")
    return day_of(start, instant(ending, f"{where}, ChargePeriodEnd") if ending else None, where)


def _provider(row: Mapping[str, str]) -> str:
    name = next((row[column] for column in SOLD_BY if row.get(column)), "").strip().lower()
    return PROVIDERS.get(name) or canonical_provider(name)


def _names(row: Mapping[str, str]) -> Iterator[str]:
    """The first is what the row is called if none of them is known."""
    service = (row.get("ServiceName") or "").strip()
    if service.endswith(EDITION):
        yield from _spellings(service)
    for column in NAMED_IN:
        given = (row.get(column) or "").strip()
        if given and column in METERED_IN:
            yield from _spellings(_METERED.sub(" ", given))
        if given:
            yield given


def _spellings(given: str) -> Iterator[str]:
    words = re.split(r"[\s-]+", _AFTER_MODEL.sub("", given).lower())
    name = "-".join(word for word in words if word)
    yield from dict.fromkeys(each for each in (name, _VERSION.sub("", name), name.replace(".", "-")) if each)


def _metered(row: Mapping[str, str]) -> str:
    return " ".join(row.get(column) or "" for column in METERED_IN)


def _tier(row: Mapping[str, str]) -> str:
    said = _metered(row)
    return next((tier for tier, pattern in _TIERS.items() if pattern.search(said)), "")


def _used(row: Mapping[str, str], where: str) -> dict[str, int]:
    """Tokens, where unit and meter say of which kind they are; our own files say it in columns of their own."""
    own = {
        "x_InputTokens": "input_tokens",
        "x_OutputTokens": "output_tokens",
        "x_CachedInputTokens": "cached_input_tokens",
    }
    if all(row.get(column) for column in own):
        return {ours: int(decimal(row[column], f"{where}, {column}")) for column, ours in own.items()}
    unit = _UNIT.fullmatch(row.get("ConsumedUnit") or "")
    size = None if unit is None else _SIZES.get(unit[1].lower())
    if size is None or not row.get("ConsumedQuantity"):
        return {}
    number = int(decimal(row["ConsumedQuantity"], f"{where}, ConsumedQuantity") * size)
    if not 0 <= number <= COUNT_MAX:
        return {}
    said = _metered(row)
    if _OUTPUT.search(said):
        return {"output_tokens": number}
    if _CACHED.search(said):
        return {"input_tokens": number, "cached_input_tokens": number}
    return {"input_tokens": number} if _INPUT.search(said) else {}
