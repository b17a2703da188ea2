"""The price book: what models cost from when on, for everyone or for one tenant."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q, QuerySet
from django.utils import timezone

from tenants.lengths import NAME_LENGTH_MAX
from usage.money import NANO, to_nano
from usage.prices.cost import ALIASES_MAX, RATE_MAX_NANO, Price
from usage.prices.rates import (
    parse_other_rates,
    parse_regions,
    parse_service_tiers,
    rates_of,
    validate_other_rates,
    validate_regions,
    validate_service_tiers,
)
from usage.prices.tiers import RATE_FIELDS, parse_tiers, validate_tiers

logger = logging.getLogger("tokvigil.prices")
RATE_MAX = Decimal(RATE_MAX_NANO) / NANO
SOURCE_LENGTH_MAX = 100
SOURCE_VERSION_LENGTH_MAX = 50


class ModelPriceQuerySet(QuerySet["ModelPrice"]):
    def shared(self) -> ModelPriceQuerySet:
        """The rows for everyone, switched-off ones included."""
        return self.filter(tenant=None)

    def active(self) -> ModelPriceQuerySet:
        return self.filter(active=True)

    def prices(self) -> list[Price]:
        """All rows as values; one query. A row that is no price is logged, its model unpriced."""
        prices = []
        for row in self:
            try:
                prices.append(row.to_price())
            except ValueError as error:
                logger.error("price row %s (%s) is ignored: %s", row.pk, row, error)
        return prices


def _rate_field(help_text: str) -> models.DecimalField[Any, Any]:
    return models.DecimalField(
        max_digits=20,
        decimal_places=9,
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(RATE_MAX)],
        help_text=help_text,
    )


class ModelPrice(models.Model):
    """What a model of a provider costs from an instant on, until the next row of the same model. USD per
    million tokens.

    Rows are history: a new price is a new row with its start, so that late reports are charged what was in
    force.
    """

    tenant = models.ForeignKey(
        "tenants.Tenant",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="model_prices",
        help_text="Whose own price this is; it wins over the shared book. Empty: the shared book.",
    )
    provider = models.CharField(max_length=NAME_LENGTH_MAX, help_text="openai, anthropic, azure, ...")
    model = models.CharField(max_length=NAME_LENGTH_MAX)
    aliases = ArrayField(
        models.CharField(max_length=NAME_LENGTH_MAX),
        size=ALIASES_MAX,
        default=list,
        blank=True,
        help_text="Other names of exactly this model, without wildcards. One a line.",
    )
    effective_from = models.DateTimeField(help_text="The first instant at which the price is in force.")

    input_per_million = _rate_field(
        "USD per million input tokens. Empty: the model is not billed by tokens, and these have no price."
    )
    output_per_million = _rate_field("USD per million output tokens. Empty: likewise.")
    cached_input_per_million = _rate_field("Empty: as input.")
    cache_write_per_million = _rate_field("Empty: as input.")
    reasoning_per_million = _rate_field("Empty: as output.")
    batch_input_per_million = _rate_field("Empty: as outside of a batch; so for the other batch rates.")
    batch_output_per_million = _rate_field("")
    batch_cached_input_per_million = _rate_field("")
    batch_cache_write_per_million = _rate_field("")
    other_rates = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        validators=[validate_other_rates],
        help_text='USD of other quantities: {"input_audio_tokens": "32", "web_searches": "10"}. Tokens and characters '
        "per million, seconds per hour, all else per thousand. What has no rate is not priced.",
    )
    service_tiers = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        validators=[validate_service_tiers],
        help_text='Rates of other tiers of service: {"priority": {"input_tokens": "0.45", "output_tokens": "3.6"}}.',
    )
    regions = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        validators=[validate_regions],
        help_text='By how much tokens cost more in a region: {"us": "1.1"}.',
    )
    tiers = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_tiers],
        help_text='Long calls: [{"above_input_tokens": 200000, "input": "6", "output": "22.5"}].',
    )

    source = models.CharField(
        max_length=SOURCE_LENGTH_MAX,
        default="manual",
        help_text="load_prices rewrites the rows of genai-prices; to keep an edit, give it another source.",
    )
    source_version = models.CharField(max_length=SOURCE_VERSION_LENGTH_MAX, blank=True)
    active = models.BooleanField(default=True, help_text="Off: the row is ignored, as if it were not there.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ModelPriceQuerySet.as_manager()

    class Meta:
        ordering = ["provider", "model", "-effective_from"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "provider", "model", "effective_from"],
                name="model_price_unique",
                nulls_distinct=False,
            ),
            *(
                models.CheckConstraint(
                    # NULL passes a check: an optional rate may be absent.
                    condition=Q(**{f"{name}__gte": 0, f"{name}__lte": RATE_MAX}),
                    name=f"model_price_{name.removesuffix('_per_million')}_in_range",
                )
                for name in RATE_FIELDS
            ),
            models.CheckConstraint(condition=~Q(provider="") & ~Q(model=""), name="model_price_is_named"),
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model} from {self.effective_from:%Y-%m-%d}"

    def clean(self) -> None:
        # Django runs no validators on what is empty.
        if not isinstance(self.tiers, list):
            raise ValidationError({"tiers": "Tiers must be a list."})
        for name in ("other_rates", "service_tiers", "regions"):
            if not isinstance(getattr(self, name), dict):
                raise ValidationError({name: "This must be an object."})
        for name in ("input_per_million", "output_per_million"):
            if getattr(self, name) is None and not self.other_rates:
                raise ValidationError({name: "Give a rate; 0, if it is free."})

    def to_price(self) -> Price:
        """The row as a value. Raises ValueError if what it holds as JSON is no such thing."""
        given = {name: getattr(self, name) for name in RATE_FIELDS}
        rates = {
            name.removesuffix("_per_million"): to_nano(Decimal(rate))
            for name, rate in given.items()
            if rate is not None
        }
        standard, service_tiers = rates_of(
            rates, parse_other_rates(self.other_rates), parse_service_tiers(self.service_tiers)
        )
        return Price(
            provider=self.provider,
            model=self.model,
            aliases=tuple(self.aliases),
            effective_from=self.effective_from,
            rates=standard,
            service_tiers=service_tiers,
            regions=parse_regions(self.regions),
            tiers=parse_tiers(self.tiers),
            source=self.source,
            source_version=self.source_version,
            price_id=self.pk,
        )
