"""`GET /v1/models`: the price book in force."""

from __future__ import annotations

import msgspec
from django.http import HttpResponse
from django.utils import timezone
from rest_framework.request import Request

from tenants import scopes
from tenants.api import http, queries
from tenants.api.http import Name
from tenants.api.openapi import operation
from usage.api.key_view import KeyView
from usage.prices import stored_book
from usage.prices.stored_book import ListedPrice


class ModelQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    provider: Name | None = None


class ModelsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every model with a price, by provider and name. A model that is not here is unpriced."""

    models: tuple[ListedPrice, ...]


class ModelsView(KeyView):
    scope = scopes.POLICIES_READ

    @operation(
        "listModels", "The prices in force", tag="prices", query=ModelQuery, answers={200: ModelsAnswer}
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, ModelQuery)
        listed = stored_book.current_models(self.counting.tenant_id, timezone.now())
        found = tuple(price for price in listed if query.provider in (None, price.provider))
        return http.json_response(ModelsAnswer(models=found))
