"""`GET /v1/decisions`: the blocked calls."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework.request import Request

from policies.blocked import decision_listing
from policies.blocked.decision_listing import DecisionPage, DecisionQuery
from tenants import scopes
from tenants.api import http, queries
from tenants.api.openapi import operation
from usage.api.key_view import KeyView


class DecisionsView(KeyView):
    scope = scopes.USAGE_READ

    @operation(
        "listDecisions",
        "The blocked calls, newest first",
        tag="usage",
        description="Allowed calls are in the ledger: `GET /v1/usage`.",
        query=DecisionQuery,
        answers={200: DecisionPage},
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, DecisionQuery)
        return http.json_response(decision_listing.page(self.environment_id, query))
