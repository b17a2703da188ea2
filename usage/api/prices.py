"""`GET /v1/prices` and `PUT /v1/prices/{provider}/{model}`: the tenant's own prices."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import msgspec
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample
from msgspec import Meta
from rest_framework.request import Request

from tenants import scopes
from tenants.api import cursors, editions, http, problems, queries
from tenants.api.http import Reason
from tenants.api.openapi import operation
from tenants.api.queries import PAGE_DEFAULT, CursorText, PageSize
from tenants.models import Environment
from usage.api.key_view import KeyView
from usage.ledger.periods import Instant, checked
from usage.money import NANO, USD_TEXT_LENGTH_MAX, parse_usd
from usage.prices import overrides
from usage.prices.cost import UNDATED
from usage.prices.models import ModelPrice
from usage.prices.tiers import RATE_FIELDS

_Rate = Annotated[
    str, Meta(max_length=USD_TEXT_LENGTH_MAX, description='USD per million tokens, such as "2.50".')
]


class PriceQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`GET /v1/prices`."""

    limit: PageSize = PAGE_DEFAULT
    cursor: CursorText | None = None


class PriceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cached input, cache writes and reasoning that are left out cost that of their total. `active` false: the row is
    ignored."""

    effective_from: Annotated[
        Instant | None, Meta(description="The first instant of the price; without it: always.")
    ] = None
    input_per_million: Annotated[
        _Rate | None, Meta(description="Null: the model is not billed by tokens, and these have no price.")
    ]
    output_per_million: Annotated[_Rate | None, Meta(description="Likewise.")]
    cached_input_per_million: _Rate | None = None
    cache_write_per_million: _Rate | None = None
    reasoning_per_million: _Rate | None = None
    batch_input_per_million: _Rate | None = None
    batch_output_per_million: _Rate | None = None
    batch_cached_input_per_million: _Rate | None = None
    batch_cache_write_per_million: _Rate | None = None
    other_rates: Annotated[
        dict[str, str],
        Meta(
            description="USD of other quantities (docs/quantities.md): tokens and characters per million, seconds per "
            "hour, all else per thousand. What has no rate is not priced."
        ),
    ] = {}
    service_tiers: Annotated[
        dict[str, dict[str, str]],
        Meta(description="By tier of service the rates that differ, by the quantity's name."),
    ] = {}
    regions: Annotated[
        dict[str, str], Meta(description="By region the factor of what tokens cost there, such as 1.1.")
    ] = {}
    active: bool = True
    reason: Reason


class OwnPriceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`effective_from` null: always."""

    provider: str
    model: str
    effective_from: Instant | None
    input_per_million: str | None
    output_per_million: str | None
    cached_input_per_million: str | None
    cache_write_per_million: str | None
    reasoning_per_million: str | None
    batch_input_per_million: str | None
    batch_output_per_million: str | None
    batch_cached_input_per_million: str | None
    batch_cache_write_per_million: str | None
    other_rates: dict[str, str]
    service_tiers: dict[str, dict[str, str]]
    regions: dict[str, str]
    active: bool


class OwnPricePage(msgspec.Struct, frozen=True, kw_only=True):
    """The latest made first."""

    prices: tuple[OwnPriceAnswer, ...]
    next_cursor: str | None


PRICE_REQUEST = {"input_per_million": "2", "output_per_million": "7.5", "reason": "Our contract of 2026"}
PRICE_ANSWER: dict[str, Any] = {
    "provider": "openai",
    "model": "gpt-4o",
    "effective_from": None,
    **dict.fromkeys(RATE_FIELDS),
    "input_per_million": "2",
    "output_per_million": "7.5",
    "other_rates": {},
    "service_tiers": {},
    "regions": {},
    "active": True,
}
_asked = OpenApiExample("price", PRICE_REQUEST, summary="What we pay", request_only=True)
_put = OpenApiExample("own", PRICE_ANSWER, summary="It is charged", response_only=True)
_listed = OpenApiExample(
    "listed", {"prices": [PRICE_ANSWER], "next_cursor": None}, summary="One price", response_only=True
)
_body = msgspec.json.Decoder(PriceRequest)


class PricesView(KeyView):
    scope = scopes.MANAGE

    @operation(
        "listOwnPrices",
        "The tenant's own prices",
        tag="prices",
        description="They win over the shared ones, in all environments of the tenant. `ETag` is the revision.",
        query=PriceQuery,
        answers={200: OwnPricePage},
        examples=[_listed],
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, PriceQuery)
        found = ModelPrice.objects.filter(tenant_id=self.counting.tenant_id)
        if query.cursor is not None:
            found = found.filter(TupleLessThan(Tuple("created_at", "id"), cursors.read(query.cursor)))
        page = cursors.page(
            found.order_by("-created_at", "-id"), query.limit, lambda price: (price.created_at, price.pk)
        )
        answer = OwnPricePage(prices=tuple(map(_answer, page.rows)), next_cursor=page.next_cursor)
        return editions.tagged(http.json_response(answer), self.environment_id)


class PriceView(KeyView):
    scope = scopes.MANAGE

    @operation(
        "putOwnPrice",
        "Set a price of the tenant's own",
        tag="prices",
        description="For calls from the next one on, in **all environments of the tenant**, not only that of the key. "
        "Each `effective_from` is a row of its own. Sent again it changes nothing.",
        path={"provider": "Such as openai.", "model": "Percent-encoded, slashes included."},
        query=queries.NoParameters,
        body=PriceRequest,
        answers={200: OwnPriceAnswer},
        problems=(412,),
        examples=[_asked, _put],
    )
    def put(self, request: Request, provider: str, model: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        provider, model = queries.path_name("provider", provider), queries.path_name("model", model)
        body = http.decode(request._request, _body)
        if not body.reason.strip():
            raise problems.invalid_field("reason", "say why; colleagues read it in the audit log")
        rates = {name: _rate(name, getattr(body, name)) for name in RATE_FIELDS}
        tenant_id = Environment.objects.get(pk=self.environment_id).tenant_id
        try:
            with transaction.atomic():
                overrides.lock(tenant_id)
                with editions.expected(request._request, self.environment_id):
                    price = overrides.put(
                        tenant_id,
                        provider,
                        model,
                        effective_from=checked("effective_from", body.effective_from) or UNDATED,
                        rates=rates,
                        other_rates=body.other_rates,
                        service_tiers=body.service_tiers,
                        regions=body.regions,
                        active=body.active,
                        reason=body.reason,
                        actor=self.actor,
                    )
        except ValidationError as error:
            raise problems.refused(error) from error
        return editions.tagged(http.json_response(_answer(price)), self.environment_id)


def _rate(name: str, text: str | None) -> Decimal | None:
    """Raises Problem 422."""
    try:
        return None if text is None else Decimal(parse_usd(text)) / NANO
    except ValueError as error:
        raise problems.invalid_field(name, str(error)) from error


def _answer(price: ModelPrice) -> OwnPriceAnswer:
    given = {name: getattr(price, name) for name in RATE_FIELDS}
    rates: dict[str, Any] = {
        name: None if rate is None else f"{rate.normalize():f}" for name, rate in given.items()
    }
    return OwnPriceAnswer(
        provider=price.provider,
        model=price.model,
        effective_from=None if price.effective_from == UNDATED else price.effective_from,
        other_rates=price.other_rates,
        service_tiers=price.service_tiers,
        regions=price.regions,
        active=price.active,
        **rates,
    )
