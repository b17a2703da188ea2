"""The cost of a month in the columns of FOCUS 1.2 (https://focus.finops.org), for chargeback.

A row stands for what one user used of one model, by one feature and on one plan, in a month or a day of it. It is read
from the rollups and the tail, so it is the ledger to the nano-dollar, and is there when the rows of the month are not
any more. `ServiceProviderName` and `HostProviderName` are those of FOCUS 1.3. Columns of our own begin with `x_`.

What a call cost is not kept by quantity, so a row is not split by them: its cost is that of all that its columns count.

Calls without a price have no cost that could be charged back. FOCUS allows no empty cost, so it is 0 there, and
`x_UnpricedCalls` and `ChargeDescription` of the row say how many calls it leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from zoneinfo import ZoneInfo

from django.db import connection

from tenants.exporting import Row
from tenants.models import Environment
from usage import wording
from usage.analytics.providers import Providers, providers_of
from usage.instants import from_ms
from usage.ledger import periods, sums
from usage.ledger.periods import Period
from usage.metrics import COUNTS, TOKEN_PARTS
from usage.quantities import MAPPED, QUANTITIES, amount_of
from usage.windows import Window

VERSION = "1.2"
BATCH = 2_000
# Of the map (usage/quantities.py): "x_WebSearches".
_OF_QUANTITIES = {
    name: f"x_{''.join(word[0].upper() + word[1:] for word in name.split('_'))}" for name in MAPPED
}
COLUMNS = (
    "BillingAccountId", "BillingAccountName", "BillingAccountType", "SubAccountId", "SubAccountName", "SubAccountType",
    "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd",
    "BilledCost", "EffectiveCost", "ListCost", "ContractedCost",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency",
    "CommitmentDiscountStatus", "ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit", "PricingCategory",
    "ProviderName", "PublisherName", "InvoiceIssuerName", "InvoiceId", "ServiceProviderName", "HostProviderName",
    "ServiceCategory", "ServiceSubcategory", "ServiceName", "ResourceId", "ResourceName", "ResourceType", "SkuId",
    "Tags",
    "x_UserId", "x_Feature", "x_Plan", "x_Model", "x_Calls", "x_UnpricedCalls", "x_InputTokens", "x_OutputTokens",
    "x_CachedInputTokens", "x_CacheWriteTokens", "x_ReasoningTokens", *_OF_QUANTITIES.values(),
)  # fmt: skip
_KEY = ("user_id", "feature", "plan", "model")
_COUNTED = (*COUNTS, *TOKEN_PARTS, "unpriced")
_NANO_DIGITS = 9


class By(StrEnum):
    """Of what length the charge periods are."""

    MONTH = "month"
    DAY = "day"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Used:
    user_id: str
    feature: str
    plan: str
    model: str
    cost_nano: int
    unpriced: int
    counts: Mapping[str, int]
    quantities: Mapping[str, int]

    @property
    def consumed(self) -> tuple[int, str]:
        """How much, and of what: tokens; where none were used, the one thing that was; else requests."""
        if tokens := self.counts["input_tokens"] + self.counts["output_tokens"]:
            return tokens, "Tokens"
        beside = [name for name in self.quantities if QUANTITIES[name].unit != "tokens"]
        if len(beside) != 1:
            return self.counts["requests"], "Requests"
        (name,) = beside
        unit = QUANTITIES[name].unit
        return self.quantities[name], (amount_of(name) if unit == "each" else unit).title()


@dataclass(slots=True)
class Totals:
    """Of the rows read so far."""

    rows: int = 0
    cost_nano: int = 0
    unpriced: int = 0


@dataclass(slots=True)
class Focus:
    """The rows of environments of one tenant, each read when it is asked for; `totals` of those that were."""

    environments: Sequence[Environment]
    month: date
    by: By = By.MONTH
    totals: Totals = field(default_factory=Totals)

    @property
    def period(self) -> Period:
        return periods.of_month(self.month, self._zone)

    @property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.environments[0].tenant.timezone)

    def rows(self) -> Iterator[Row]:
        """By environment, then in order of time. Raises DatabaseError."""
        for environment in self.environments:
            yield from self._of(environment)

    def _of(self, environment: Environment) -> Iterator[Row]:
        period = self.period
        window = Window.DAY if self.by is By.DAY else Window.MONTH
        starts = [from_ms(span.start) for span in period.spans(window, self._zone)]
        bounds = [*starts, period.end]
        providers = providers_of(environment, period)
        for number, used in _used(environment.pk, bounds):
            charged = Period(bounds[number], bounds[number + 1])
            self.totals.rows += 1
            self.totals.cost_nano += used.cost_nano
            self.totals.unpriced += used.unpriced
            yield _row(environment, self.month, charged, used, providers)


def _used(environment_id: int, bounds: Sequence[datetime]) -> Iterator[tuple[int, _Used]]:
    """With the number of the part of the period, from 0. What was taken back in full is left out."""
    mark = sums.mark_before(environment_id)
    read = sums.used(environment_id, bounds, _KEY, mark=mark)
    measured = sums.quantities(environment_id, bounds, _KEY, mark=mark)
    names = ("cost_nano", *_COUNTED)
    key, summed = ", ".join(_KEY), ", ".join(f"sum({name}) AS {name}" for name in names)
    says_something = " OR ".join(f"{name} <> 0" for name in names)
    # Kept by the server: neither it nor this process has all rows in memory, and no transaction stays open meanwhile.
    cursor = connection.chunked_cursor()
    cursor.execute(
        f"""
        WITH counted AS (
            SELECT width_bucket(at, %s::timestamptz[]) AS number, {key}, {summed}
            FROM ({read.sql}) AS used GROUP BY number, {key}
        ),
        measured AS (
            SELECT number, {key}, jsonb_object_agg(quantity, amount) FILTER (WHERE amount <> 0) AS quantities FROM (
                SELECT width_bucket(at, %s::timestamptz[]) AS number, {key}, quantity, sum(amount) AS amount
                FROM ({measured.sql}) AS used GROUP BY number, {key}, quantity
            ) AS each GROUP BY number, {key}
        )
        SELECT number, {key}, quantities, {", ".join(names)} FROM counted LEFT JOIN measured USING (number, {key})
        WHERE {says_something} OR quantities IS NOT NULL ORDER BY number, {key}
        """,  # noqa: S608 (our own names)
        [list(bounds[:-1]), *read.values, list(bounds[:-1]), *measured.values],
    )
    while found := cursor.fetchmany(BATCH):
        for number, user_id, feature, plan, model, quantities, cost_nano, *counted in found:
            counts = dict(zip(_COUNTED, map(int, counted), strict=True))
            yield (
                number - 1,
                _Used(
                    user_id=user_id,
                    feature=feature,
                    plan=plan,
                    model=model,
                    cost_nano=int(cost_nano),
                    unpriced=counts["unpriced"],
                    counts=counts,
                    quantities=json.loads(quantities or "{}"),
                ),
            )
    # Not in a `finally`: whoever reads no further lets go of this at any time, also amid another statement of the same
    # connection, where to close it would wait for ever. It ends with the connection then.
    cursor.close()


def _row(environment: Environment, month: date, charged: Period, used: _Used, providers: Providers) -> Row:
    billed = periods.of_month(month, ZoneInfo(environment.tenant.timezone))
    tenant, cost = environment.tenant, Decimal(used.cost_nano).scaleb(-_NANO_DIGITS)
    sold_by = providers.provider(used.feature, used.model)
    quantity, unit = used.consumed
    feature_id = f"{environment}/{used.feature}" if used.feature else None
    return {
        "BillingAccountId": tenant.slug,
        "BillingAccountName": tenant.name,
        "BillingAccountType": "Tenant",
        "SubAccountId": str(environment),
        "SubAccountName": environment.slug,
        "SubAccountType": "Environment",
        "BillingCurrency": "USD",
        "BillingPeriodStart": _instant(billed.start),
        "BillingPeriodEnd": _instant(billed.end),
        "ChargePeriodStart": _instant(charged.start),
        "ChargePeriodEnd": _instant(charged.end),
        "BilledCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        "ContractedCost": cost,
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": _description(used),
        "ChargeFrequency": "Usage-Based",
        # Nobody has any; the rules of the quantities ask for it.
        "CommitmentDiscountStatus": None,
        "ConsumedQuantity": _decimal(quantity),
        "ConsumedUnit": unit,
        "PricingQuantity": _decimal(quantity),
        "PricingUnit": unit,
        "PricingCategory": "Standard",
        "ProviderName": sold_by,
        "PublisherName": providers.maker(used.model) or sold_by,
        # Not the tenant: FOCUS wants a BilledCost of 0 where another than the provider is paid.
        "InvoiceIssuerName": sold_by,
        # Which invoice of the provider a call will be on is not known here, nor is there one of ours to correct.
        "InvoiceId": None,
        "ServiceProviderName": sold_by,
        "HostProviderName": sold_by,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": f"{sold_by} API",
        "ResourceId": feature_id,
        "ResourceName": used.feature or None,
        "ResourceType": "Feature" if used.feature else None,
        "SkuId": f"{sold_by}/{used.model}",
        "Tags": _tags(used),
        "x_UserId": used.user_id,
        "x_Feature": used.feature or None,
        "x_Plan": used.plan or None,
        "x_Model": used.model,
        "x_Calls": used.counts["requests"],
        "x_UnpricedCalls": used.unpriced,
        "x_InputTokens": used.counts["input_tokens"],
        "x_OutputTokens": used.counts["output_tokens"],
        "x_CachedInputTokens": used.counts["cached_input_tokens"],
        "x_CacheWriteTokens": used.counts["cache_write_tokens"],
        "x_ReasoningTokens": used.counts["reasoning_tokens"],
        **{column: used.quantities.get(name, 0) for name, column in _OF_QUANTITIES.items()},
    }


def _decimal(quantity: int) -> Decimal:
    """With a decimal point: a reader that guesses types takes it for what FOCUS says it is."""
    return Decimal(f"{quantity}.0")


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _description(used: _Used) -> str:
    calls = wording.counted(used.counts["requests"], "call")
    said = f"{calls} of {used.model}" + (f" by {used.feature}" if used.feature else "")
    if not used.unpriced:
        return said
    return f"{said}. {wording.count(used.unpriced)} without a price: what they cost is not in this row"


def _tags(used: _Used) -> str:
    tags = {"feature": used.feature, "user": used.user_id, "plan": used.plan, "model": used.model}
    return json.dumps({name: text for name, text in tags.items() if text}, ensure_ascii=False)
