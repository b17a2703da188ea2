"""`GET /v1/usage/summary`: totals of the ledger."""

from __future__ import annotations

from django.http import HttpResponse
from django.utils import timezone
from rest_framework.request import Request

from tenants import scopes
from tenants.api import http, queries
from tenants.api.openapi import operation
from usage.api.key_view import KeyView
from usage.ledger import totals
from usage.ledger.totals import Summary, SummaryQuery


class UsageSummaryView(KeyView):
    scope = scopes.USAGE_READ

    @operation(
        "summarizeUsage",
        "Totals by user, feature, model, plan, run and time",
        tag="usage",
        description="By default of this calendar month; hours, days, weeks and months are of the tenant's zone.",
        query=SummaryQuery,
        answers={200: Summary},
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, SummaryQuery)
        zone = self.counting.tracked.zone
        return http.json_response(totals.summarize(self.environment_id, query, timezone.now(), zone))
