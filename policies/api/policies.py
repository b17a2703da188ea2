"""`GET /v1/policies` and `GET /v1/policies/{id}`."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework.request import Request

from policies.api import policy_listing
from policies.api.policy_listing import PolicyPage, PolicyQuery, PublishedPolicy
from tenants import scopes
from tenants.api import http, queries
from tenants.api.openapi import operation
from usage.api.key_view import KeyView


class PoliciesView(KeyView):
    scope = scopes.POLICIES_READ

    @operation(
        "listPolicies",
        "The policies in force, the oldest first",
        tag="policies",
        query=PolicyQuery,
        answers={200: PolicyPage},
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, PolicyQuery)
        return http.json_response(policy_listing.page(self.environment_id, query))


class PolicyView(KeyView):
    scope = scopes.POLICIES_READ

    @operation(
        "getPolicy",
        "One policy in force",
        tag="policies",
        path={"policy_id": "As decisions name it."},
        query=queries.NoParameters,
        answers={200: PublishedPolicy},
        problems=(404,),
    )
    def get(self, request: Request, policy_id: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        return http.json_response(policy_listing.one(self.environment_id, policy_id))
